"""The kernels of multi-head attention on a GPU, against the float64 oracle.

Results are poisoned before each call: every element is checked, and none may be left
over from before.
"""

import functools
import itertools
import unittest

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import jax_flash_mla as fm
from jax_flash_mla import _ffi
from kernels import mha_problem
from kernels.device_load import loaded_device
from kernels.mha_problem import (
    D_V,
    HAS_GRADIENTS,
    MhaTest,
    Problem,
    run_backward_alone,
    run_backward_poisoned,
    run_poisoned,
    runs_the_kernel,
)
from kernels.poison import POISONS, bits
from kernels.repeated import as_integers, different_replays, same_calls_of_threads

REPLAYS = 5000
CALLS = 100  # of each thread
SIZES = (1, 63, 64, 65, 127, 128, 129, 500, 1111)


@runs_the_kernel
class MhaKernelTest(MhaTest):
    def check(self, problem, poison=np.nan):
        self.assert_right(problem, run_poisoned(problem, poison))
        for deterministic in (False, True) if HAS_GRADIENTS else ():
            backward = functools.partial(run_backward_poisoned, problem, poison=poison, deterministic=deterministic)
            self.assert_gradients_right(problem, np.random.default_rng(99), backward)

    @parameterized.parameters(range(25))
    def test_random(self, seed):
        """Ten problems, each with another poison in what the calls overwrite."""
        rng = np.random.default_rng(seed)
        for poison in np.resize(list(POISONS.values()), 10):
            self.check(Problem.random(rng), poison)

    @parameterized.product(q_length=SIZES, causal=(False, True))
    def test_lengths(self, q_length, causal):
        for d in (192, 128):
            rng = np.random.default_rng(q_length)
            lengths = dict(q_lengths=[q_length] * len(SIZES), kv_lengths=SIZES)
            self.check(Problem(rng, **lengths, h_q=4, h_kv=2, d=d, causal=causal))

    def test_long_sequence(self):
        self.check(Problem(np.random.default_rng(0), q_lengths=[9000], kv_lengths=[9000], h_q=1, causal=True))

    def test_many_sequences(self):
        lengths = np.random.default_rng(1).integers(0, 5, (1, 70_000))
        self.check(Problem(np.random.default_rng(2), q_lengths=lengths, kv_lengths=lengths, h_q=1, d=128, causal=True))

    @parameterized.parameters(False, True)
    def test_bounds_that_make_no_sense(self, keys):
        problem = Problem(np.random.default_rng(3), q_lengths=[[90] * 5] * 4, kv_lengths=[[90] * 5] * 4, padding=3)
        cu = problem.cu_kv if keys else problem.cu_q
        cu[0, 2] = 3  # decreases
        cu[1, 3] = 2**31 - 1  # leaves the tokens
        cu[2, 1] = -5
        cu[3, 5] = 600
        self.check(problem)

    @parameterized.parameters(0.0, -0.3, 1e-30, 3.0)
    def test_scales(self, scale):
        problem = Problem(np.random.default_rng(4), q_lengths=[400], kv_lengths=[500], causal=True)
        problem.scale = scale
        self.check(problem)

    def test_huge_scale(self):
        problem = Problem(np.random.default_rng(4), q_lengths=[400], kv_lengths=[500], causal=True)
        problem.scale = 1e30
        self.assert_right(problem, run_poisoned(problem, np.nan))

    def test_growing_logits(self):
        """Each block's maximum passes the one before by much, or by little."""
        for step in (0.01, 0.5, 3.0, 40.0):
            problem = Problem(np.random.default_rng(5), q_lengths=[400], kv_lengths=[1500], h_q=1)
            problem.q[..., 191] = 24.0
            problem.k[..., 191] = -np.arange(1500)[:, None] * step / 16
            self.assert_right(problem, run_poisoned(problem, np.nan))

    def test_nan_stays_in_its_sequence(self):
        problem = Problem(np.random.default_rng(6), q_lengths=[40, 300, 50], kv_lengths=[40, 300, 50], h_q=1)
        want = run_poisoned(problem, 0.0)
        problem.k[0, 45] = problem.v[0, 45] = np.nan
        got = run_poisoned(problem, 0.0)
        touched = (np.arange(390) >= 40) & (np.arange(390) < 340)
        for x, y in zip(got, want):
            np.testing.assert_array_equal(x[:, ~touched], y[:, ~touched])
            self.assertTrue(np.isnan(x[:, touched].astype(np.float32)).all())

    def test_more_than_two_to_the_31_elements(self):
        """The last of many packs, and the first, by themselves."""
        shape = (9, 16384, 128, 128)
        key = jax.random.key(0)
        q = jax.random.normal(key, shape, jnp.bfloat16)
        k = v = jax.random.normal(key, (9, 200, 1, 128), jnp.bfloat16)
        out, lse = fm.flash_attn_func(q, k, v, implementation="cuda")
        for i in (0, 8):
            one = fm.flash_attn_func(q[i : i + 1, -200:], k[i : i + 1], v[i : i + 1], implementation="cuda")
            for x, y in zip((out, lse), one):
                np.testing.assert_array_equal(np.asarray(x[i, -200:]), np.asarray(y[0]))

    def test_the_kernel_is_what_runs(self):
        q, k, v = (jnp.zeros((1, 100, 2, d), jnp.bfloat16) for d in (192, 192, D_V))
        for implementation, calls in ((None, True), ("cuda", True), ("xla", False)):

            def call(q, k, v, implementation=implementation):
                return fm.flash_attn_func(q, k, v, implementation=implementation)

            text = jax.jit(call).lower(q, k, v).compile().as_text()
            self.assertEqual(_ffi.MHA_FORWARD in text, calls, implementation)


@runs_the_kernel
class RepeatedTest(parameterized.TestCase):
    """A result that moves is a race. All comparisons here are of bits."""

    def problems(self):
        return [
            Problem(np.random.default_rng(0), q_lengths=[2000], kv_lengths=[2000], h_q=8, h_kv=2, causal=True),
            Problem(np.random.default_rng(1), q_lengths=[[300, 0, 77]] * 9, kv_lengths=[[500, 9, 77]] * 9, d=128),
        ]

    @unittest.skipUnless(HAS_GRADIENTS, "no kernel computes gradients on the GPUs here")
    def test_gradients_again(self):
        """Those of keys and values; where it is asked for, those of queries, too."""
        for problem, deterministic in itertools.product(self.problems(), (False, True)):
            want = bits(run_backward_alone(problem, 0.0, deterministic))
            for poison in itertools.islice(itertools.cycle(POISONS.values()), CALLS):
                got = bits(run_backward_alone(problem, poison, deterministic))
                for x, y in list(zip(got, want))[0 if deterministic else 1 :]:
                    np.testing.assert_array_equal(x, y)

    def test_replays_with_changing_bounds(self):
        """Iterations of a loop that XLA runs as replays of one captured graph."""
        problem = Problem(np.random.default_rng(2), q_lengths=[300, 500, 224], kv_lengths=[300, 500, 224], causal=True)
        q, k, v = (jnp.asarray(x[0]) for x in (problem.q, problem.k, problem.v))
        bounds = np.sort(np.random.default_rng(3).integers(0, 1025, (8, 4)), axis=1).astype(np.int32)
        bounds[3] = [0, 700, 600, 1024]  # one that makes no sense

        def call(bounds):
            def attend(q, k, v):
                options = dict(causal=True, deterministic=True, implementation="cuda")
                return fm.flash_attn_varlen_func(q, k, v, bounds, bounds, **options)

            results, pull = jax.vjp(attend, q, k, v)
            results = (*results, *pull(results))
            return as_integers(results)

        self.assertEqual(different_replays(call, bounds, REPLAYS), 0)

    def test_two_threads_beside_another_stream(self):
        problems = self.problems()
        with loaded_device():
            self.assertEqual(same_calls_of_threads(problems, run_poisoned, CALLS), [CALLS] * len(problems))


@runs_the_kernel
class MhaHandlerTest(mha_problem.HandlerTest):
    __test__ = True
