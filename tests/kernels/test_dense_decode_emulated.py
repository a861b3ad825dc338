"""The dense decode kernel in the emulator: one small case for each of its features."""

import os
import pathlib
import re
import subprocess
import sys
import time
import unittest
from unittest import mock

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from absl.testing import parameterized

import jax_flash_mla as fm
from jax_flash_mla import _ffi
from kernels.dense_decode_problem import DenseDecodeTest, Problem, run_poisoned
from kernels.poison import POISONS
from kernels.recorded_dense_decode import PROBLEMS, about_recorded, problem, recorded, sources_hash, steps_apart

ROOT = pathlib.Path(__file__).parents[2]


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class DenseDecodeEmulatedTest(DenseDecodeTest):
    @parameterized.named_parameters(
        ("one_tile", dict(lengths=[512], h_q=64)),
        ("split", dict(lengths=[700], h_q=16)),
        ("two_tiles_of_one_head", dict(lengths=[130, 64], h_q=16, s_q=5, causal=True)),
        ("many_tiles", dict(lengths=[70], h_q=128, s_q=4)),
        ("grouped", dict(lengths=[70, 129], h_q=6, h_kv=3, s_q=2, causal=True, sink=True)),
        ("small_pages", dict(lengths=[100], page_size=16)),
        ("odd_pages", dict(lengths=[150, 7], page_size=48)),
        ("large_pages", dict(lengths=[200], page_size=256)),
        ("float16", dict(lengths=[100], dtype=np.float16, sink=True)),
        ("empty_requests", dict(lengths=[0, 65, 0], sink=True)),
        ("more_requests_than_threads", dict(lengths=[1] * 300, h_q=1)),
        ("more_queries_than_keys", dict(lengths=[3, 0], s_q=7, causal=True)),
    )
    def test_feature(self, options):
        made = Problem(np.random.default_rng(0), **options)
        made.spoil_unused(np.nan)
        self.assert_right(made, run_poisoned(made, np.nan, emulated=True))

    def test_page_outside_the_pool(self):
        made = Problem(np.random.default_rng(1), lengths=[70, 130, 90], s_q=2)
        made.block_table[1, 1] = 10**9
        self.assert_right(made, run_poisoned(made, np.nan, emulated=True))

    def test_length_out_of_range(self):
        made = Problem(np.random.default_rng(2), lengths=[70, 130, 90])
        made.cache_seqlens[1] = 2**31 - 1
        self.assert_right(made, run_poisoned(made, np.nan, emulated=True))

    def test_same_bits_whatever_was_there_before(self):
        made = Problem(np.random.default_rng(3), lengths=[700, 20], s_q=2, causal=True)
        first, *others = (run_poisoned(made, poison, emulated=True) for poison in POISONS.values())
        for other in others:
            for x, y in zip(first, other):
                np.testing.assert_array_equal(x.view(np.uint8), y.view(np.uint8))

    @parameterized.parameters(*PROBLEMS)
    def test_as_on_an_h200(self, name):
        if about_recorded()["sources"] != sources_hash():
            self.skipTest("The recording is of another kernel. Run recorded_dense_decode.py on an H200.")
        made, checksum = problem(name)
        out, lse, recorded_checksum = recorded(name)
        self.assertEqual(checksum, recorded_checksum, "the operands are others than those that were recorded")
        got_out, got_lse = run_poisoned(made, np.nan, emulated=True)
        steps = steps_apart(got_out, out)
        where = f"recorded on {about_recorded()}"
        self.assertLessEqual(steps.max(), 2, where)
        self.assertLessEqual((steps > 1).mean(), 0.001, where)
        np.testing.assert_allclose(got_lse, lse, rtol=2e-6, atol=2e-6)

    def test_steps_are_units_of_the_last_place(self):
        for dtype in (ml_dtypes.bfloat16, np.float16):
            values = np.array([1.0, -3.0, 0.0, 30000.0], dtype)
            above, below = (np.nextafter(values, dtype(end)) for end in (np.inf, -np.inf))
            np.testing.assert_array_equal(steps_apart(values, above), 1)
            np.testing.assert_array_equal(steps_apart(above, below), 2)
        with self.assertRaises(AssertionError):
            steps_apart(values, values.astype(np.float32))

    def test_the_recording_says_where_it_comes_from(self):
        self.assertTrue(about_recorded()["machine"]["cards"])

    def test_many_items(self):
        made = Problem(
            np.random.default_rng(8), lengths=[700, 1000, 64, 0, 0, 333], h_q=40, s_q=2, causal=True, sink=True
        )
        made.spoil_unused(np.nan)
        self.assert_right(made, run_poisoned(made, np.nan, emulated=True))

    @parameterized.parameters(1, 2, 7)
    def test_few_multiprocessors(self, sms):
        """So that a thread block has many items, and many blocks of each."""
        self.run_tests(["-k", "test_many_items", __file__], JAX_FLASH_MLA_EMULATOR_SMS=str(sms))

    def run_tests(self, arguments, exit_status=0, **environment):
        """The output of pytest in a process of its own."""
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.assertEqual(ran.returncode, exit_status, ran.stdout[-2000:])
        return ran.stdout

    def test_under_jit_and_vmap(self):
        rng = np.random.default_rng(4)
        problems = [Problem(rng, lengths=[70, 65], h_q=4) for _ in range(2)]
        pools = min(p.k_cache.shape[0] for p in problems)
        q, cache = (np.stack(x) for x in zip(*((p.q, p.k_cache[:pools]) for p in problems)))
        table, lengths = np.arange(2 * (pools // 2), dtype=np.int32).reshape(2, -1), np.array([70, 65], np.int32)

        @jax.jit
        @jax.vmap
        def call(q, cache):
            return fm.flash_mla_with_kvcache(q, cache, table, lengths, implementation="emulated")

        out, lse = call(jnp.asarray(q), jnp.asarray(cache))
        for i, made in enumerate(problems):
            made.k_cache, made.block_table = cache[i], table
            self.assert_right(made, [np.asarray(out[i]), np.asarray(lse[i])])

    def test_what_no_kernel_takes_is_refused(self):
        made = Problem(np.random.default_rng(6), lengths=[20], page_size=16)
        q, k_cache, table, lengths, _ = made.arrays()
        with self.assertRaisesRegex(
            NotImplementedError, 'implementation="emulated" was asked for, but the dense_decode'
        ):
            fm.flash_mla_with_kvcache(
                q.astype(jnp.float32), k_cache.astype(jnp.float32), table, lengths, implementation="emulated"
            )

    def test_a_report_is_a_jax_exception(self):
        """No operands make the kernel go wrong, so it is stopped."""
        made = Problem(np.random.default_rng(7), lengths=[70], h_q=4)
        q, k_cache, table, lengths, _ = made.arrays()
        call = jax.jit(lambda *operands: fm.flash_mla_with_kvcache(*operands, implementation="emulated"))
        stop = mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_STOP="cta=0,0,0 op=wgmma.mma_async")
        with stop, self.assertRaises(jax.errors.JaxRuntimeError) as caught:
            jax.block_until_ready(call(q, k_cache, table, lengths))
        report = str(caught.exception)
        self.assertIn("launching dense_decode: cudaErrorLaunchFailure, Stopped as JAX_FLASH_MLA_EMULATOR_STOP", report)
        self.assertRegex(report, r"kernel .*dense_decode_kernel.*\n  CTA \(0, 0, 0\), warp \d+, lanes 0-31\n")
        self.assertRegex(report, r"at \S+:\d+, inlined at .*kernel\.cuh:\d+; PTX line \d+: 'wgmma.mma_async")
        out, lse = call(q, k_cache, table, lengths)  # the next one is none the worse
        self.assert_right(made, [np.asarray(out), np.asarray(lse)])

    @parameterized.parameters(
        ("JAX_FLASH_MLA_EMULATOR_TRACE", r"\[CTA 0,0,0 warp \d+ lanes ffffffff\] \S+:\d+ wgmma.mma_async\S* %", 0),
        ("JAX_FLASH_MLA_EMULATOR_STOP", r"64 rows of 64 bf16:\n( \S+){64}\n", 1),
    )
    def test_the_documented_examples(self, variable, expected, exit_status):
        text = (ROOT / "docs" / "emulator.md").read_text()
        value, command = re.search(rf'^{variable}="([^"]*)" pytest (.*)$', text, re.MULTILINE).groups()
        self.assertRegex(self.run_tests(command.split(), exit_status, **{variable: value}), expected)

    def test_a_tile_over_512_keys_takes_seconds(self):
        """By one thread, so that none waits for another one that the machine has no time for."""
        made = Problem(np.random.default_rng(5), lengths=[512], h_q=64, dtype=ml_dtypes.bfloat16)
        times = []
        with mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_THREADS="1"):
            for _ in range(3):
                start = time.process_time()
                run_poisoned(made, np.nan, emulated=True)
                times.append(time.process_time() - start)
        self.assertLess(min(times), 10)
