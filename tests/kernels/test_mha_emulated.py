"""The kernels of multi-head attention in the emulator: one small case for each of their features."""

import functools
import unittest

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import jax_flash_mla as fm
from jax_flash_mla import _ffi
from kernels import mha_problem
from kernels.mha_emulated import FEATURES, ForwardTest
from kernels.mha_problem import Problem, run_backward_alone, run_backward_poisoned, run_poisoned
from kernels.poison import POISONS, bits


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class MhaEmulatedTest(ForwardTest):
    __test__ = True

    def call(self, problem, poison):
        return run_poisoned(problem, poison, emulated=True)

    def check_gradients(self, problem, deterministic=False):
        def run(*operands):
            return run_backward_poisoned(problem, *operands, np.nan, deterministic, emulated=True)

        self.assert_gradients_right(problem, np.random.default_rng(99), run)

    @FEATURES
    def test_gradients(self, options):
        problem = Problem(np.random.default_rng(0), **options)
        problem.spoil_unused(np.nan)
        self.check_gradients(problem)

    @FEATURES
    def test_gradients_in_one_order(self, options):
        problem = Problem(np.random.default_rng(0), **options)
        problem.spoil_unused(np.nan)
        self.check_gradients(problem, deterministic=True)

    @parameterized.product(causal=(False, True), deterministic=(False, True))
    def test_gradients_of_more_tiles_than_thread_blocks(self, causal, deterministic):
        lengths = dict(q_lengths=[[20, 330, 30]] * 12, kv_lengths=[[30, 280, 150]] * 12)
        problem = Problem(np.random.default_rng(14), **lengths, padding=3, h_q=4, h_kv=2, d=128, causal=causal)
        problem.spoil_unused(np.nan)
        self.check_gradients(problem, deterministic)

    def test_gradients_of_queries_that_see_nothing(self):
        """None, beside such as see a key that is NaN."""
        problem = Problem(np.random.default_rng(15), q_lengths=[60], kv_lengths=[20], h_q=1, causal=True)
        problem.k[0, 5] = np.nan
        d_q = run_backward_alone(problem, np.nan, emulated=True)[0].astype(np.float32)
        self.assertTrue((d_q[:, :40] == 0).all() and np.isnan(d_q[:, 50:]).all())

    @parameterized.parameters(False, True)
    def test_same_gradients_whatever_was_there_before(self, causal):
        problem = Problem(
            np.random.default_rng(16), q_lengths=[150, 200], kv_lengths=[300, 100], padding=4, causal=causal
        )
        first, *others = (bits(run_backward_alone(problem, poison, True, emulated=True)) for poison in POISONS.values())
        for other in others:
            for x, y in zip(first, other):
                np.testing.assert_array_equal(x, y)

    def test_float16(self):
        problem = Problem(np.random.default_rng(1), q_lengths=[70], kv_lengths=[170], d=128, dtype=np.float16)
        self.check(problem)
        self.check_gradients(problem)

    def test_under_grad(self):
        """Through both results, beside pure JAX."""
        problem = Problem(np.random.default_rng(12), q_lengths=[70], kv_lengths=[90], h_q=2, d=128, causal=True)
        operands = [jnp.asarray(x) for x in (problem.q, problem.k, problem.v)]

        def loss(options, *operands):
            out, lse = fm.flash_attn_func(*operands, causal=True, **options)
            return (out.astype(jnp.float32) ** 2).sum() + jnp.where(lse > -1e30, lse, 0).sum()

        want, *others = (
            jax.jit(jax.grad(functools.partial(loss, options), argnums=(0, 1, 2)))(*operands)
            for options in (
                dict(implementation="xla"),
                dict(implementation="emulated"),
                dict(implementation="emulated", deterministic=True),
            )
        )
        for got in others:
            for x, y in zip(got, want):
                x, y = (np.asarray(z, np.float32) for z in (x, y))
                self.assertLess(np.abs(x - y).max(), 0.02 * np.abs(y).max())


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class MhaHandlerEmulatedTest(mha_problem.HandlerTest):
    __test__ = True
    emulated = True
