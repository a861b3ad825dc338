"""The sparse backward kernel on a GPU, against the float64 oracle.

Results are poisoned before each call: every element is checked, and none may be left
over from before.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import jax_flash_mla as fm
from jax_flash_mla import _ffi
from jax_flash_mla._sparse_prefill import order_of_places
from kernels import sparse_backward_problem
from kernels.device_load import loaded_device
from kernels.poison import POISONS
from kernels.repeated import as_integers, different_replays, same_bits, same_calls_of_threads
from kernels.sparse_backward_problem import Problem, SparseBackwardTest, run_ordered, run_poisoned, runs_the_kernel

REPLAYS = 500
CALLS = 50  # of each thread


@runs_the_kernel
class SparseBackwardKernelTest(SparseBackwardTest):
    def check(self, problem):
        got = run_poisoned(problem, np.nan)
        self.assert_right(problem, got)
        return got

    @parameterized.parameters(range(10))
    def test_random(self, seed):
        """Problems of any size, each with another poison in what the call overwrites."""
        rng = np.random.default_rng(seed)
        for poison in np.resize(list(POISONS.values()), 6):
            problem = Problem.random(rng)
            self.assert_right(problem, run_poisoned(problem, poison))

    @parameterized.parameters(1, 8, 63, 64, 65, 128, 300)
    def test_heads(self, h_q):
        for d_qk in (576, 512):
            self.check(Problem(np.random.default_rng(h_q), h_q=h_q, d_qk=d_qk, topk=300, sink=True))

    @parameterized.parameters(1, 63, 64, 65, 127, 128, 129, 2048, 5000)
    def test_topk(self, topk):
        self.check(Problem(np.random.default_rng(topk), s_q=20, s_kv=8000, topk=topk))

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

    def test_all_choose_the_same(self):
        """Every query token adds to the same few keys, many times."""
        self.check(Problem(np.random.default_rng(5), s_q=1000, s_kv=3, h_q=64, topk=64))

    def test_nothing_is_there(self):
        for options in (dict(s_kv=0), dict(topk=0), dict(s_q=0)):
            self.check(Problem(np.random.default_rng(6), **options))

    @parameterized.parameters(0.0, -0.3, 1e-30, 3.0)
    def test_scales(self, scale):
        problem = Problem(np.random.default_rng(7), h_q=20)
        problem.scale = scale
        self.check(problem)

    def test_the_kernel_is_what_runs(self):
        problem = Problem(np.random.default_rng(8))
        q, kv, indices = (jnp.asarray(x) for x in (problem.q, problem.kv[:, None], problem.indices[:, None]))
        for implementation, calls in ((None, True), ("cuda", True), ("xla", False)):

            def loss(q, kv, implementation=implementation):
                return fm.flash_mla_sparse_fwd(q, kv, indices, 0.1, implementation=implementation)[0].sum()

            text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(q, kv).compile().as_text()
            self.assertEqual(_ffi.SPARSE_BACKWARD in text, calls, implementation)


@runs_the_kernel
class RepeatedTest(SparseBackwardTest):
    """d_q has the same bits each time; d_kv is a sum in any order, and right each time."""

    def problems(self):
        return [
            Problem(np.random.default_rng(0), s_q=150, s_kv=9000, h_q=128, topk=500),
            Problem(np.random.default_rng(1), s_q=70, h_q=40, topk=200, d_qk=512, lengths=[0, 200, 130, 7], sink=True),
        ]

    def test_replays_with_changing_indices(self):
        """Iterations of a loop that XLA runs as replays of one captured graph."""
        problem = self.problems()[0]
        q, kv, indices, lengths, *rows = problem.operands()
        kinds = jnp.stack([jnp.roll(indices, i, axis=1).at[:, : 60 * i].set(-1) for i in range(8)])

        def call(indices):
            d_q, d_kv = _ffi.sparse_backward(q, kv, indices, lengths, *rows, scale=problem.scale)
            return *as_integers([d_q]), d_kv

        def differs(got, want):
            moved = jnp.abs(got[1] - want[1]).max() > 1e-5 * jnp.abs(want[1]).max()
            return jnp.any(got[0] != want[0]) | moved

        self.assertEqual(different_replays(call, kinds, REPLAYS, differs), 0)

    def test_two_threads_beside_another_stream(self):
        def same(got, want):
            near = np.abs(got[1] - want[1]).max() <= 1e-5 * np.abs(want[1]).max()
            return same_bits(got[:1], want[:1]) and bool(near)

        problems = self.problems()
        with loaded_device():
            self.assertEqual(same_calls_of_threads(problems, run_poisoned, CALLS, same), [CALLS] * len(problems))


@runs_the_kernel
class OrderedTest(SparseBackwardTest):
    """Sums in one order: right, and the same bits each time."""

    @parameterized.parameters(range(5))
    def test_random(self, seed):
        """In one chunk, and in as many as there are query tokens."""
        rng = np.random.default_rng(seed)
        for poison in np.resize(list(POISONS.values()), 4):
            problem = Problem.random(rng)
            got = run_ordered(problem, poison)
            self.assert_right(problem, got)
            least = -(-problem.q.shape[1] // 64) * problem.indices.shape[1] * problem.q.shape[2] * 2
            chunked = run_ordered(problem, poison, row_bytes=least)
            self.assert_right(problem, chunked)
            self.assertTrue(same_bits(got[:1], chunked[:1]))

    def test_all_choose_the_same(self):
        problem = Problem(np.random.default_rng(5), s_q=1000, s_kv=3, h_q=64, topk=64)
        self.assert_right(problem, run_ordered(problem, np.nan))

    def test_nothing_is_there(self):
        for options in (dict(s_kv=0), dict(topk=0), dict(s_q=0)):
            problem = Problem(np.random.default_rng(6), **options)
            self.assert_right(problem, run_ordered(problem, np.nan))

    def test_five_runs_beside_another_stream(self):
        """Of several chunks; sums in any order do differ."""
        problem = Problem(np.random.default_rng(7), s_q=512, s_kv=4096, h_q=128, topk=2048)
        operands = problem.ordered_operands()

        def runs(*operands):
            return [[np.asarray(x) for x in _ffi.sparse_backward(*operands, scale=problem.scale)] for _ in range(5)]

        with loaded_device():
            first, *others = runs(*operands)
            moving = runs(*operands[:8])
        self.assert_right(problem, first)
        self.assertTrue(all(same_bits(first, other) for other in others))
        self.assertFalse(all(same_bits(moving[0], other) for other in moving[1:]))

    def test_replays_with_changing_indices(self):
        """The sort and all launches are in the captured graph."""
        problem = Problem(np.random.default_rng(8), s_q=150, s_kv=900, h_q=128, topk=500)
        q, kv, indices, lengths, *rows = problem.operands()
        kinds = jnp.stack([jnp.roll(indices, i, axis=1).at[:, : 60 * i].set(-1) for i in range(8)])

        def call(indices):
            order = order_of_places(indices, None, len(kv))
            return as_integers(_ffi.sparse_backward(q, kv, indices, lengths, *rows, *order, scale=problem.scale))

        self.assertEqual(different_replays(call, kinds, REPLAYS), 0)

    @parameterized.parameters("cuda", "xla")
    def test_public_function(self, implementation):
        problem = Problem(np.random.default_rng(9), s_q=200, s_kv=100, h_q=16, topk=300)
        q, kv, indices = (jnp.asarray(x) for x in (problem.q, problem.kv[:, None], problem.indices[:, None]))
        sink = jnp.asarray(np.random.default_rng(10).standard_normal(16, np.float32))

        @jax.jit
        def gradients(q, kv, sink):
            def loss(q, kv, sink):
                options = dict(attn_sink=sink, deterministic=True, implementation=implementation)
                return fm.flash_mla_sparse_fwd(q, kv, indices, 0.05, **options)[0].astype(jnp.float32).sum()

            return jax.grad(loss, argnums=(0, 1, 2))(q, kv, sink)

        with loaded_device():
            first, *others = [[np.asarray(x) for x in gradients(q, kv, sink)] for _ in range(5)]
        self.assertTrue(all(same_bits(first, other) for other in others))


@runs_the_kernel
class SparseBackwardHandlerTest(sparse_backward_problem.HandlerTest):
    __test__ = True
