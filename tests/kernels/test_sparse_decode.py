"""The sparse decode kernel on a GPU, against the float64 oracle.

Results and scratch are poisoned before each call: every element is checked, and none may
be left over from before.
"""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from absl.testing import parameterized

import jax_flash_mla as fm
from jax_flash_mla import _ffi
from kernels import sparse_decode_problem
from kernels.device_load import loaded_device
from kernels.poison import POISONS
from kernels.repeated import as_integers, different_replays, same_calls_of_threads
from kernels.sparse_decode_problem import (
    D_V,
    FORMATS,
    POWERS,
    SCALES,
    Problem,
    SparseDecodeTest,
    assert_rounded_once,
    every_code_and_scale,
    run_poisoned,
    runs_the_kernel,
)

REPLAYS = 10_000
CALLS = 100  # of each thread


@runs_the_kernel
class SparseDecodeKernelTest(SparseDecodeTest):
    def check(self, problem):
        got = run_poisoned(problem, np.nan)
        self.assert_right(problem, got)
        return got

    @parameterized.parameters(range(25))
    def test_random(self, seed):
        """Twenty problems, each with another poison in what the call overwrites."""
        rng = np.random.default_rng(seed)
        for poison in np.resize(list(POISONS.values()), 20):
            problem = Problem.random(rng)
            self.assert_right(problem, run_poisoned(problem, poison))

    @parameterized.product(h_q=(1, 8, 63, 64, 65, 128, 300), fmt=tuple(FORMATS))
    def test_heads(self, h_q, fmt):
        self.check(Problem(np.random.default_rng(h_q), fmt=fmt, h_q=h_q, topk=300, pages=30, sink=True))

    @parameterized.product(topk=(1, 63, 64, 65, 127, 128, 129, 2048, 5000, 16384), fmt=tuple(FORMATS))
    def test_topk(self, topk, fmt):
        for b in (1, 20):
            self.check(Problem(np.random.default_rng(topk), fmt=fmt, b=b, h_q=20, pages=300, topk=topk))

    @parameterized.parameters(*FORMATS)
    def test_lengths(self, fmt):
        lengths = [0, 1, 63, 64, 65, 500, 512, -1, 513, 2**31 - 1, -(2**31)]
        options = dict(b=20, s_q=2, topk=512, lengths=lengths, extra_topk=100, extra_lengths=[100, 0, 65, 101, 7])
        self.check(Problem(np.random.default_rng(1), fmt=fmt, h_q=70, pages=30, sink=True, **options))

    @parameterized.parameters(0.01, 0.5, 0.99, 1.0)
    def test_indices_that_name_nothing(self, share):
        problem = Problem(np.random.default_rng(2), b=20, h_q=128, topk=300, pages=30, extra_topk=64)
        problem.invalidate(np.random.default_rng(3), share)
        problem.spoil_unused(np.nan)
        self.check(problem)

    @parameterized.product(page_size=(1, 2, 5, 16, 61, 256), fmt=tuple(FORMATS))
    def test_page_sizes(self, page_size, fmt):
        problem = Problem(np.random.default_rng(4), fmt=fmt, topk=500, pages=1500 // page_size, page_size=page_size)
        problem.spoil_unused(np.nan)
        self.check(problem)

    def test_many_query_tokens(self):
        self.check(Problem(np.random.default_rng(5), b=3, s_q=3000, h_q=4, topk=64, pages=30))

    def test_nothing_is_there(self):
        for options in (dict(pages=0), dict(topk=0), dict(topk=0, extra_topk=30), dict(extra_topk=0)):
            self.check(Problem(np.random.default_rng(6), h_q=3, **options))

    @parameterized.parameters(0.0, -0.3, 1e-30, 3.0, 1e30)
    def test_scales_of_scores(self, scale):
        problem = Problem(np.random.default_rng(7), h_q=20)
        problem.scale = scale
        self.check(problem)

    def test_any_code_and_scale(self):
        problem = every_code_and_scale(np.random.default_rng(8), "V32", SCALES)
        assert_rounded_once(run_poisoned(problem, np.nan)[0], problem)

    def test_any_code_and_power(self):
        problem = every_code_and_scale(np.random.default_rng(9), "MODEL1", POWERS)
        pool = problem.pools[0]
        want = pool.keys()[pool.indices[:, 0, 0], :D_V].astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(run_poisoned(problem, np.nan)[0][:, 0, 0], want)

    def test_caches_that_are_quantised(self):
        """From the library's own bytes, as pure JAX has it, to what rounding keys to bfloat16 allows."""
        rng = np.random.default_rng(10)
        for fmt in FORMATS.values():
            latent = jnp.asarray(rng.standard_normal((20, 64, fmt.latent_dim)), jnp.float32)
            rope = jnp.asarray(rng.standard_normal((20, 64, fmt.rope_dim)), jnp.float32)
            cache = fm.quantize_kv_cache(latent, rope, fmt)
            q = jnp.asarray(rng.standard_normal((4, 2, 64, fmt.d_qk)), jnp.bfloat16)
            indices = jnp.asarray(rng.integers(-1, 1280, (4, 2, 256)), jnp.int32)

            def call(implementation, q=q, cache=cache, indices=indices):
                options = dict(is_fp8_kvcache=True, indices=indices, implementation=implementation)
                return fm.flash_mla_with_kvcache(q, cache, None, None, **options)

            for got, want in zip(call("cuda"), call("xla")):
                got, want = (np.asarray(x, np.float32) for x in (got, want))
                self.assertLess(np.abs(got - want).max(), 0.01)

    @parameterized.product(fmt=tuple(FORMATS), part=("rope", "scales"))
    def test_nan_stays_with_its_query_tokens(self, fmt, part):
        problem = Problem(np.random.default_rng(11), fmt=fmt, b=50, pages=50, topk=100)
        want = run_poisoned(problem, 0.0)
        pool = problem.pools[0]
        slot = pool.indices[20, 0, 3]
        getattr(pool, part)[slot] = np.nan
        got = run_poisoned(problem, 0.0)
        touched = np.array([slot in pool.chosen((token, 0)) for token in range(50)])
        for x, y in zip(got, want):
            np.testing.assert_array_equal(x[~touched], y[~touched])
        self.assertTrue(np.isnan(got[1][touched]).all())

    def test_the_kernel_is_what_runs(self):
        q, cache, indices = Problem(np.random.default_rng(12)).arrays()[:3]
        for implementation, calls in ((None, True), ("cuda", True), ("xla", False)):

            def call(q, cache, indices, implementation=implementation):
                options = dict(is_fp8_kvcache=True, indices=indices, implementation=implementation)
                return fm.flash_mla_with_kvcache(q, cache, None, None, **options)

            text = jax.jit(call).lower(q, cache, indices).compile().as_text()
            self.assertEqual(_ffi.SPARSE_DECODE in text, calls, implementation)


@runs_the_kernel
class RepeatedTest(parameterized.TestCase):
    """A result that moves is a race. All comparisons here are of bits."""

    def problems(self):
        return [
            Problem(np.random.default_rng(0), b=1, h_q=128, pages=100, topk=2048),
            Problem(
                np.random.default_rng(1), fmt="MODEL1", b=70, h_q=40, topk=200, lengths=[0, 200, 130, 7], sink=True
            ),
        ]

    def test_replays_with_changing_indices(self):
        """Iterations of a loop that XLA runs as replays of one captured graph."""
        problem = Problem(np.random.default_rng(2), b=6, h_q=64, pages=60, topk=700, lengths=[700, 0, 64, 333])
        q, cache, indices, lengths, *others = problem.arrays()
        kinds = jnp.stack([jnp.roll(lengths, i, axis=0) for i in range(8)]).at[3].set(0).at[4, 2].set(701)

        def call(lengths):
            results = _ffi.sparse_decode(q, cache, indices, lengths, *others, d_v=D_V, scale=0.1)
            return as_integers(results)

        self.assertEqual(different_replays(call, kinds, REPLAYS), 0)

    def test_two_threads_beside_another_stream(self):
        problems = self.problems()
        with loaded_device():
            self.assertEqual(same_calls_of_threads(problems, run_poisoned, CALLS), [CALLS] * len(problems))


@runs_the_kernel
class SparseDecodeHandlerTest(sparse_decode_problem.HandlerTest):
    __test__ = True
