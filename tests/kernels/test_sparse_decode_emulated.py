"""The sparse decode kernel in the emulator: one small case for each of its features."""

import unittest

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from absl.testing import parameterized

import jax_flash_mla as fm
from jax_flash_mla import _ffi
from kernels import sparse_decode_problem
from kernels.poison import POISONS, bits
from kernels.sparse_decode_problem import (
    D_V,
    FORMATS,
    POWERS,
    SCALES,
    Problem,
    SparseDecodeTest,
    every_code_and_scale,
    run_poisoned,
)


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class SparseDecodeEmulatedTest(SparseDecodeTest):
    def check(self, problem):
        got = run_poisoned(problem, np.nan, emulated=True)
        self.assert_right(problem, got)
        return got

    @parameterized.named_parameters(
        (f"{name}_{fmt}", dict(options, fmt=fmt))
        for fmt in FORMATS
        for name, options in (
            ("one_block", dict(topk=64)),
            ("less_than_a_block", dict(topk=7, h_q=1)),
            ("odd_blocks", dict(topk=190, h_q=40)),
            ("two_tiles_of_heads", dict(b=1, h_q=128)),
            ("partial_tile", dict(b=1, h_q=72, sink=True)),
            ("four_tiles_of_heads", dict(b=2, h_q=200, topk=70)),
            ("three_tiles_of_heads", dict(b=2, h_q=130, topk=70)),
            ("pairs_with_pieces", dict(b=5, s_q=2, h_q=100, topk=700, lengths=[700, 3, 0, 64, 300, 129], sink=True)),
            ("pairs_of_two_caches", dict(b=3, topk=70, extra_topk=130, h_q=66, sink=True)),
            ("odd_pages", dict(page_size=5, pages=31)),
            ("pages_of_one", dict(page_size=1, pages=100, topk=70)),
            ("two_caches", dict(topk=70, extra_topk=130, h_q=20, sink=True)),
            ("lengths", dict(b=5, s_q=2, topk=200, h_q=5, lengths=[0, 1, 64, 65, 200, 128, 63, 129, 7, 0])),
            (
                "lengths_of_two_caches",
                dict(b=6, topk=100, lengths=[0, 100, 64, 0, 7], extra_topk=70, extra_lengths=[0, 70, 0, 65], h_q=9),
            ),
        )
    )
    def test_feature(self, options):
        problem = Problem(np.random.default_rng(0), **options)
        problem.spoil_unused(np.nan)
        self.check(problem)

    @parameterized.parameters(*FORMATS)
    def test_split_keys(self, fmt):
        """More thread blocks than query tokens: partial results of several are joined."""
        problem = Problem(np.random.default_rng(1), fmt=fmt, b=2, topk=700, h_q=70, extra_topk=200, sink=True)
        problem.invalidate(np.random.default_rng(2), 0.1)
        problem.spoil_unused(np.nan)
        self.check(problem)

    def test_many_tokens(self):
        """Thread blocks with several items each, of which some are split."""
        self.check(Problem(np.random.default_rng(3), b=70, s_q=3, h_q=2, topk=200, lengths=[200, 0, 7, 128, 65]))

    @parameterized.parameters(0.1, 0.9, 1.0)
    def test_indices_that_name_nothing(self, share):
        problem = Problem(np.random.default_rng(4), b=3, topk=150, h_q=10, extra_topk=20, sink=True)
        problem.invalidate(np.random.default_rng(5), share)
        problem.spoil_unused(np.nan)
        out, lse = self.check(problem)
        if share == 1:
            self.assertTrue((out == 0).all() and np.isneginf(lse).all())

    @parameterized.parameters(*FORMATS)
    def test_lengths_out_of_range(self, fmt):
        problem = Problem(np.random.default_rng(6), fmt=fmt, b=4, h_q=3, lengths=[-1, 129, 2**31 - 1, 128], sink=True)
        self.check(problem)

    def test_nothing_is_there(self):
        for options in (dict(pages=0), dict(topk=0), dict(topk=0, extra_topk=30), dict(extra_topk=0)):
            self.check(Problem(np.random.default_rng(7), h_q=3, **options))

    @parameterized.parameters(0.0, -0.3, 3.0)
    def test_scales_of_scores(self, scale):
        problem = Problem(np.random.default_rng(8), h_q=5)
        problem.scale = scale
        self.check(problem)

    def test_any_code_and_scale(self):
        """Within one rounding and a tenth; powers of two are exact."""
        problem = every_code_and_scale(np.random.default_rng(9), "V32", SCALES)
        out, _ = run_poisoned(problem, np.nan, emulated=True)
        sparse_decode_problem.assert_rounded_once(out, problem)

    def test_any_code_and_power(self):
        problem = every_code_and_scale(np.random.default_rng(10), "MODEL1", POWERS)
        out, _ = run_poisoned(problem, np.nan, emulated=True)
        pool = problem.pools[0]
        want = pool.keys()[pool.indices[:, 0, 0], :D_V].astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(out[:, 0, 0], want)

    def test_infinite_sinks(self):
        problem = Problem(np.random.default_rng(11), h_q=4, sink=True)
        problem.attn_sink[:] = [np.inf, -np.inf, 0.0, 1e30]
        out, _ = self.check(problem)
        self.assertTrue((out[:, :, 0] == 0).all())

    @parameterized.product(fmt=tuple(FORMATS), part=("rope", "scales"))
    def test_nan_stays_with_its_query_tokens(self, fmt, part):
        problem = Problem(np.random.default_rng(12), fmt=fmt, b=5, h_q=6, pages=4)
        pool = problem.pools[0]
        slot = pool.indices[2, 0, 3]
        getattr(pool, part)[slot] = np.nan
        out, lse = run_poisoned(problem, 0.0, emulated=True)
        touched = np.array([slot in pool.chosen((token, 0)) for token in range(5)])
        self.assertTrue(touched.any() and not touched.all())
        for x in (out.astype(np.float32), lse):
            self.assertTrue(np.isfinite(x[~touched]).all())
        self.assertTrue(np.isnan(lse[touched]).all())

    def test_same_bits_whatever_was_there_before(self):
        problem = Problem(np.random.default_rng(13), b=1, topk=500, h_q=9, sink=True)
        first, *others = (bits(run_poisoned(problem, poison, emulated=True)) for poison in POISONS.values())
        for other in others:
            for x, y in zip(first, other):
                np.testing.assert_array_equal(x, y)

    def test_under_jit_and_vmap(self):
        rng = np.random.default_rng(14)
        problems = [Problem(rng, b=1, s_q=2, h_q=4, topk=70) for _ in range(2)]
        q, cache, indices = (np.stack(x) for x in zip(*(p.arrays()[:3] for p in problems)))

        @jax.jit
        @jax.vmap
        def call(q, cache, indices):
            options = dict(is_fp8_kvcache=True, indices=indices, implementation="emulated")
            return fm.flash_mla_with_kvcache(q, cache, None, None, **options)

        results = call(*map(jnp.asarray, (q, cache, indices)))
        for i, problem in enumerate(problems):
            self.assert_right(problem, [np.asarray(x[i]) for x in results])


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class SparseDecodeHandlerEmulatedTest(sparse_decode_problem.HandlerTest):
    __test__ = True
    emulated = True
