"""The sparse prefill kernel in the emulator: one small case for each of its features."""

import unittest

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import jax_flash_mla as fm
from jax_flash_mla import _ffi
from kernels.poison import POISONS, bits
from kernels.sparse_prefill_problem import Problem, SparsePrefillTest, run_poisoned


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class SparsePrefillEmulatedTest(SparsePrefillTest):
    def check(self, problem):
        got = run_poisoned(problem, np.nan, emulated=True)
        self.assert_right(problem, got)
        return got

    @parameterized.named_parameters(
        ("one_block", dict(topk=64)),
        ("odd_blocks", dict(topk=192)),
        ("less_than_a_block", dict(topk=7)),
        ("partial_block", dict(topk=130)),
        ("two_tiles_of_heads", dict(h_q=128)),
        ("partial_tile", dict(h_q=72, sink=True)),
        ("one_head", dict(h_q=1, base="e")),
        ("without_rotary_dims", dict(d_qk=512, topk=200, sink=True)),
        ("lengths", dict(s_q=6, topk=200, lengths=[0, 1, 64, 65, 200, 128], base="e")),
        ("lengths_out_of_range", dict(s_q=4, lengths=[-1, 129, 2**31 - 1, 128], sink=True)),
        ("one_token", dict(s_kv=1)),
        ("more_keys_than_are_cached", dict(s_kv=20_000, topk=300)),
        ("more_tokens_than_thread_blocks", dict(s_q=300, h_q=2, topk=3)),
    )
    def test_feature(self, options):
        problem = Problem(np.random.default_rng(0), **options)
        problem.spoil_unused(np.nan)
        self.check(problem)

    @parameterized.parameters(0.1, 0.9, 1.0)
    def test_indices_that_name_nothing(self, share):
        problem = Problem(np.random.default_rng(1), s_q=4, topk=150, sink=True)
        problem.invalidate(np.random.default_rng(2), share)
        problem.spoil_unused(np.nan)
        out, top, lse = self.check(problem)
        if share == 1:
            self.assertTrue((out == 0).all() and np.isneginf(top).all() and np.isneginf(lse).all())

    def test_indices_that_end_early(self):
        """As in a prompt: the first query tokens have fewer keys than there are indices."""
        problem = Problem(np.random.default_rng(8), s_q=6, topk=300, sink=True)
        for query, count in enumerate((0, 1, 64, 65, 130, 299)):
            problem.indices[query, count:] = -1 if query % 2 else len(problem.kv)
        problem.spoil_unused(np.nan)
        self.check(problem)

    def test_nothing_is_there(self):
        for options in (dict(s_kv=0), dict(topk=0), dict(s_q=0)):
            self.check(Problem(np.random.default_rng(3), **options))

    @parameterized.parameters(0.0, -0.3, 3.0)
    def test_scales(self, scale):
        problem = Problem(np.random.default_rng(4), h_q=5)
        problem.scale = scale
        self.check(problem)

    def test_infinite_sinks(self):
        problem = Problem(np.random.default_rng(5), h_q=4, sink=True)
        problem.attn_sink[:] = [np.inf, -np.inf, 0.0, 1e30]
        out, *_ = self.check(problem)
        self.assertTrue((out[:, 0] == 0).all())

    def test_nan_stays_with_its_query_tokens(self):
        problem = Problem(np.random.default_rng(6), s_q=5, s_kv=200)
        token = problem.indices[2, 3]
        problem.kv[token] = np.nan
        out, top, lse = run_poisoned(problem, 0.0, emulated=True)
        touched = np.array([token in problem.chosen(query) for query in range(5)])
        self.assertTrue(touched.any() and not touched.all())
        for x in (out.astype(np.float32), top, lse):
            self.assertTrue(np.isfinite(x[~touched]).all())
        self.assertTrue(np.isnan(out[touched].astype(np.float32)).all() and np.isnan(lse[touched]).all())

    def test_same_bits_whatever_was_there_before(self):
        problem = Problem(np.random.default_rng(7), topk=200, sink=True)
        first, *others = (bits(run_poisoned(problem, poison, emulated=True)) for poison in POISONS.values())
        for other in others:
            for x, y in zip(first, other):
                np.testing.assert_array_equal(x, y)

    def test_under_jit_and_vmap(self):
        rng = np.random.default_rng(8)
        problems = [Problem(rng, s_q=2, h_q=4, topk=70) for _ in range(2)]
        q, kv, indices = (np.stack(x) for x in zip(*((p.q, p.kv, p.indices) for p in problems)))

        @jax.jit
        @jax.vmap
        def call(q, kv, indices):
            scale = problems[0].scale
            return fm.flash_mla_sparse_fwd(q, kv[:, None], indices[:, None], scale, implementation="emulated")

        results = call(*map(jnp.asarray, (q, kv, indices)))
        for i, problem in enumerate(problems):
            self.assert_right(problem, [np.asarray(x[i]) for x in results])
