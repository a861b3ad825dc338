"""The dense decode kernel on a GPU, against the float64 oracle.

Results and scratch are poisoned before each call: every element is checked, and none
may be left over from before.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import jax_flash_mla as fm
from jax_flash_mla import _ffi
from jax_flash_mla._check.tolerance import ARITHMETIC, ROUNDING
from kernels.dense_decode_problem import D_V, DenseDecodeTest, HandlerTest, Problem, run_poisoned, runs_the_kernel
from kernels.poison import POISONS, bits


@runs_the_kernel
class DenseDecodeKernelTest(DenseDecodeTest):
    def check(self, problem):
        got = run_poisoned(problem, np.nan)
        self.assert_right(problem, got)
        return got

    @parameterized.parameters(range(50))
    def test_random(self, seed):
        """Ten problems, each with another poison in what the call overwrites."""
        rng = np.random.default_rng(seed)
        for poison in np.resize(list(POISONS.values()), 10):
            problem = Problem.random(rng)
            self.assert_right(problem, run_poisoned(problem, poison))

    @parameterized.parameters(1, 8, 63, 64, 65, 128)
    def test_heads(self, h_q):
        for s_q in (1, 3):
            self.check(Problem(np.random.default_rng(h_q), lengths=[1000, 0, 64, 1], s_q=s_q, h_q=h_q))

    @parameterized.parameters((129, 1), (256, 1), (1000, 1), (32, 16), (40, 40), (320, 10), (128, 128))
    def test_many_heads(self, h_q, h_kv):
        """Requests of several tiles of heads, and of many groups."""
        for s_q in (1, 3):
            problem = Problem(np.random.default_rng(h_q), lengths=[300, 0, 64, 1], s_q=s_q, h_q=h_q, h_kv=h_kv)
            problem.causal = True
            self.check(problem)

    @parameterized.parameters(16, 32, 48, 64, 80, 96, 112, 128, 192, 256, 576)
    def test_page_sizes(self, page_size):
        problem = Problem(np.random.default_rng(page_size), lengths=[1, 15, 16, 17, 600, 1153], page_size=page_size)
        problem.spoil_unused(np.nan)
        self.check(problem)

    @parameterized.parameters(1, 2, 7, 130, 200, 1000)
    def test_batches(self, b):
        rng = np.random.default_rng(b)
        self.check(Problem(rng, lengths=rng.integers(0, 300, b), s_q=2, h_q=4, causal=True, page_size=16))

    def test_one_long_request(self):
        self.check(Problem(np.random.default_rng(0), lengths=[100_000], h_q=32))

    def test_many_queries(self):
        problem = Problem(np.random.default_rng(1), lengths=[300, 2000], s_q=700, h_q=4, h_kv=2, causal=True, sink=True)
        self.check(problem)

    def test_more_queries_than_keys(self):
        problem = Problem(np.random.default_rng(2), lengths=[3, 6, 0], s_q=70, h_q=3, causal=True, sink=True)
        out, lse = self.check(problem)
        self.assertTrue((out[0, :67] == 0).all() and np.isneginf(lse[0, :, :67]).all())

    def test_nan_stays_in_its_request(self):
        problem = Problem(np.random.default_rng(3), lengths=[500, 700, 900], s_q=2)
        problem.k_cache[problem.block_table[1, 3], 5] = np.nan
        out, lse = run_poisoned(problem, 0.0)
        self.assertTrue(np.isnan(out[1].astype(np.float32)).all() and np.isnan(lse[1]).all())
        others = np.array([0, 2])
        problem.k_cache[problem.block_table[1, 3], 5] = 0
        want_out, want_lse = run_poisoned(problem, 0.0)
        np.testing.assert_array_equal(out[others], want_out[others])
        np.testing.assert_array_equal(lse[others], want_lse[others])

    @parameterized.parameters(-1, 10**9, -(2**31), 2**31 - 1)
    def test_page_outside_the_pool(self, page):
        for lengths in ([500, 700, 900], [500, 20_000, 3]):
            problem = Problem(np.random.default_rng(4), lengths=lengths, s_q=3, h_q=40, causal=True, sink=True)
            problem.block_table[1, 2] = page
            self.check(problem)
        problem.block_table[1, 2] = problem.k_cache.shape[0]
        self.check(problem)

    @parameterized.parameters(-1, -(2**31), 2000, 2**31 - 1)
    def test_length_out_of_range(self, length):
        problem = Problem(np.random.default_rng(5), lengths=[500, 700, 900], s_q=3, sink=True, causal=True)
        problem.cache_seqlens[1] = length
        self.check(problem)

    @parameterized.parameters(0.0, -0.3, 1e-30, 1e-45, 3.0, 1e30)
    def test_scales(self, scale):
        """Under the large ones one key takes all the weight, and the result is a value as it stands.

        The largest leaves the scores finite: where they overflow no result is right.
        """
        problem = Problem(np.random.default_rng(6), lengths=[500, 70, 0, 1], h_q=20)
        problem.scale = scale
        self.check(problem)

    def test_overflowing_scale_of_zero_scores(self):
        problem = Problem(np.random.default_rng(7), lengths=[100, 3])
        problem.q[:] = 0
        problem.scale = 3e38
        self.check(problem)

    def test_infinite_sinks(self):
        problem = Problem(np.random.default_rng(8), lengths=[500, 0, 9000], h_q=4, sink=True)
        problem.attn_sink[:] = [np.inf, -np.inf, 0.0, 1e30]
        out, _ = self.check(problem)
        self.assertTrue((out[:, :, 0] == 0).all())

    def test_growing_scores(self):
        """Each block's maximum passes the one before by much, or by little."""
        for step in (0.01, 0.5, 3.0, 40.0):
            problem = Problem(np.random.default_rng(9), lengths=[1500, 640], h_q=8)
            ramp = np.arange(1500) * step / 64
            problem.q[..., 575] = 24.0
            for row, length in zip(problem.block_table, problem.cache_seqlens):
                at = np.arange(length)
                problem.k_cache[row[at // 64], at % 64, 0, 575] = ramp[:length]
            self.check(problem)

    @parameterized.parameters(1e-3, 30.0)
    def test_magnitudes(self, size):
        problem = Problem(np.random.default_rng(10), lengths=[700, 64], h_q=8)
        problem.k_cache *= np.asarray(size, problem.k_cache.dtype)
        problem.scale /= size
        out, lse = run_poisoned(problem, np.nan)
        want, want_lse, spread = problem.want()
        allowed = ROUNDING["bfloat16"] * (np.abs(want) + 4 * spread) + ARITHMETIC * size
        self.assertLessEqual((np.abs(out.astype(np.float64) - want) / allowed).max(), 1)
        np.testing.assert_allclose(lse, want_lse, rtol=1e-5, atol=1e-4)

    def test_contiguous_cache(self):
        problem = Problem(np.random.default_rng(11), lengths=[1000, 1008, 3], page_size=1008)
        self.check(problem)

    def test_sinks_of_groups_of_requests(self):
        """As vmap over sinks folds them."""
        problem = Problem(np.random.default_rng(12), lengths=[100, 200, 3, 9000], h_q=4)
        sinks = np.random.default_rng(13).standard_normal((2, 4)).astype(np.float32)
        arrays = problem.arrays()
        arrays[4] = jnp.asarray(sinks)
        out, lse = (np.asarray(x) for x in _ffi.dense_decode(*arrays, d_v=D_V, scale=problem.scale, causal=False))
        for half in (0, 1):
            rows = slice(2 * half, 2 * half + 2)
            part = Problem(np.random.default_rng(12), lengths=[1])
            part.q, part.k_cache, part.attn_sink = problem.q[rows], problem.k_cache, sinks[half]
            part.block_table, part.cache_seqlens = problem.block_table[rows], problem.cache_seqlens[rows]
            self.assert_right(part, (out[rows], lse[rows]))

    def test_same_bits_whatever_the_scratch_held(self):
        problem = Problem(np.random.default_rng(14), lengths=[9000, 300, 20_000], s_q=2, h_q=100, causal=True)
        results = [bits(run_poisoned(problem, poison)) for poison in [*POISONS.values(), 0.0] * 5]
        for other in results[1:]:
            for x, y in zip(results[0], other):
                np.testing.assert_array_equal(x, y)

    def test_metadata_changes_no_bit(self):
        problem = Problem(np.random.default_rng(15), lengths=[9000, 300, 2000], h_q=128)
        q, k_cache, table, lengths, _ = problem.arrays()

        @jax.jit
        def call(metadata, num_splits):
            return fm.flash_mla_with_kvcache(
                q, k_cache, table, lengths, D_V, metadata, num_splits, implementation="cuda"
            )

        plain = [np.asarray(x) for x in call(None, None)]
        for advised in (problem.cache_seqlens, [0, 0, 0], [2**31 - 1, -5, 7]):
            got = call(*fm.get_mla_metadata(jnp.asarray(advised, jnp.int32), 128, 1))
            for x, y in zip(bits(plain), bits([np.asarray(x) for x in got])):
                np.testing.assert_array_equal(x, y)


@runs_the_kernel
class DispatchTest(parameterized.TestCase):
    def test_the_kernel_is_what_runs(self):
        problem = Problem(np.random.default_rng(16), lengths=[100])
        q, k_cache, table, lengths, _ = problem.arrays()
        for implementation, calls in ((None, True), ("cuda", True), ("xla", False)):
            run = jax.jit(functools.partial(fm.flash_mla_with_kvcache, implementation=implementation))
            text = run.lower(q, k_cache, table, lengths).compile().as_text()
            self.assertEqual(_ffi.DENSE_DECODE in text, calls, implementation)
        self.assertEqual(fm.which_implementation("dense_decode", page_size=64)[0], "cuda")
        self.assertEqual(fm.which_implementation("dense_decode", page_size=24)[0], "xla")


@runs_the_kernel
class DenseDecodeHandlerTest(HandlerTest):
    __test__ = True
