"""The sparse prefill kernel on a GPU, against the float64 oracle.

Results are poisoned before each call: every element is checked, and none may be left
over from before.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import jax_flash_mla as fm
from jax_flash_mla import _ffi
from kernels import sparse_prefill_problem
from kernels.device_load import loaded_device
from kernels.poison import POISONS
from kernels.repeated import as_integers, different_replays, same_calls_of_threads
from kernels.sparse_prefill_problem import Problem, SparsePrefillTest, run_poisoned, runs_the_kernel

REPLAYS = 2000
CALLS = 100  # of each thread


@runs_the_kernel
class SparsePrefillKernelTest(SparsePrefillTest):
    def check(self, problem):
        got = run_poisoned(problem, np.nan)
        self.assert_right(problem, got)
        return got

    @parameterized.parameters(range(20))
    def test_random(self, seed):
        """Ten problems, each with another poison in what the call overwrites."""
        rng = np.random.default_rng(seed)
        for poison in np.resize(list(POISONS.values()), 10):
            problem = Problem.random(rng)
            self.assert_right(problem, run_poisoned(problem, poison))

    @parameterized.parameters(1, 8, 63, 64, 65, 128, 300)
    def test_heads(self, h_q):
        for d_qk in (576, 512):
            self.check(Problem(np.random.default_rng(h_q), h_q=h_q, d_qk=d_qk, topk=300, sink=True))

    @parameterized.parameters(1, 63, 64, 65, 127, 128, 129, 2048, 5000)
    def test_topk(self, topk):
        self.check(Problem(np.random.default_rng(topk), s_q=20, s_kv=8000, topk=topk, base="e"))

    def test_lengths(self):
        lengths = [0, 1, 63, 64, 65, 500, 512, -1, 513, 2**31 - 1, -(2**31)]
        self.check(Problem(np.random.default_rng(1), s_q=40, topk=512, lengths=lengths, sink=True))

    @parameterized.parameters(0.01, 0.5, 0.99, 1.0)
    def test_indices_that_name_nothing(self, share):
        problem = Problem(np.random.default_rng(2), s_q=40, h_q=128, topk=300)
        problem.invalidate(np.random.default_rng(3), share)
        problem.spoil_unused(np.nan)
        self.check(problem)

    def test_many_query_tokens(self):
        self.check(Problem(np.random.default_rng(4), s_q=5000, s_kv=3000, h_q=16, topk=64))

    def test_nothing_is_there(self):
        for options in (dict(s_kv=0), dict(topk=0), dict(s_q=0)):
            self.check(Problem(np.random.default_rng(5), **options))

    @parameterized.parameters(0.0, -0.3, 1e-30, 3.0, 1e30)
    def test_scales(self, scale):
        problem = Problem(np.random.default_rng(6), h_q=20)
        problem.scale = scale
        self.check(problem)

    def test_growing_logits(self):
        """Each block's maximum passes the one before by much, or by little."""
        for step in (0.01, 0.5, 3.0, 40.0):
            problem = Problem(np.random.default_rng(7), s_kv=1500, topk=1500, h_q=8)
            problem.indices[:] = np.arange(1500)
            problem.q[..., 575] = 24.0
            problem.kv[:, 575] = np.arange(1500) * step / 64
            self.check(problem)

    def test_nan_stays_with_its_query_tokens(self):
        problem = Problem(np.random.default_rng(8), s_q=50, s_kv=3000, topk=100)
        want = run_poisoned(problem, 0.0)
        token = problem.indices[20, 3]
        problem.kv[token] = np.nan
        got = run_poisoned(problem, 0.0)
        touched = np.array([token in problem.chosen(query) for query in range(50)])
        for x, y in zip(got, want):
            np.testing.assert_array_equal(x[~touched], y[~touched])
        self.assertTrue(np.isnan(got[0][touched].astype(np.float32)).all())

    def test_the_kernel_is_what_runs(self):
        problem = Problem(np.random.default_rng(9))
        q, kv, indices = (jnp.asarray(x) for x in (problem.q, problem.kv[:, None], problem.indices[:, None]))
        for implementation, calls in ((None, True), ("cuda", True), ("xla", False)):

            def call(q, kv, indices, implementation=implementation):
                return fm.flash_mla_sparse_fwd(q, kv, indices, 0.1, implementation=implementation)

            text = jax.jit(call).lower(q, kv, indices).compile().as_text()
            self.assertEqual(_ffi.SPARSE_PREFILL in text, calls, implementation)


@runs_the_kernel
class RepeatedTest(parameterized.TestCase):
    """A result that moves is a race. All comparisons here are of bits."""

    def problems(self):
        return [
            Problem(np.random.default_rng(0), s_q=150, s_kv=9000, h_q=128, topk=500),
            Problem(np.random.default_rng(1), s_q=70, h_q=40, topk=200, d_qk=512, lengths=[0, 200, 130, 7], sink=True),
        ]

    def test_replays_with_changing_indices(self):
        """Iterations of a loop that XLA runs as replays of one captured graph."""
        problem = self.problems()[0]
        q, kv, indices, lengths, sink = problem.arrays()
        kinds = jnp.stack([jnp.roll(indices, i, axis=0) for i in range(8)]).at[3].set(-1)

        def call(indices):
            results = _ffi.sparse_prefill(q, kv, indices, lengths, sink, d_v=512, scale=0.1, lse_base=2)
            return as_integers(results)

        self.assertEqual(different_replays(call, kinds, REPLAYS), 0)

    def test_two_threads_beside_another_stream(self):
        problems = self.problems()
        with loaded_device():
            self.assertEqual(same_calls_of_threads(problems, run_poisoned, CALLS), [CALLS] * len(problems))


@runs_the_kernel
class SparsePrefillHandlerTest(sparse_prefill_problem.HandlerTest):
    __test__ = True
