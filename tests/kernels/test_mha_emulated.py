"""The kernels of multi-head attention in the emulator: one small case for each of their features."""

import functools
import unittest

import jax
import jax.numpy as jnp
import numpy as np

import jax_flash_mla as fm
from jax_flash_mla import _ffi
from kernels import mha_problem
from kernels.mha_emulated import FEATURES, ForwardTest
from kernels.mha_problem import Problem, run_backward_poisoned, run_poisoned


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class MhaEmulatedTest(ForwardTest):
    __test__ = True

    def call(self, problem, poison):
        return run_poisoned(problem, poison, emulated=True)

    def check_gradients(self, problem):
        def run(*operands):
            return run_backward_poisoned(problem, *operands, np.nan, emulated=True)

        self.assert_gradients_right(problem, np.random.default_rng(99), run)

    @FEATURES
    def test_gradients(self, options):
        problem = Problem(np.random.default_rng(0), **options)
        problem.spoil_unused(np.nan)
        self.check_gradients(problem)

    def test_float16(self):
        problem = Problem(np.random.default_rng(1), q_lengths=[70], kv_lengths=[170], d=128, dtype=np.float16)
        self.check(problem)
        self.check_gradients(problem)

    def test_under_grad(self):
        """Through both results, beside pure JAX."""
        problem = Problem(np.random.default_rng(12), q_lengths=[70], kv_lengths=[90], h_q=2, d=128, causal=True)
        operands = [jnp.asarray(x) for x in (problem.q, problem.k, problem.v)]

        def loss(implementation, *operands):
            out, lse = fm.flash_attn_func(*operands, causal=True, implementation=implementation)
            return (out.astype(jnp.float32) ** 2).sum() + jnp.where(lse > -1e30, lse, 0).sum()

        got, want = (
            jax.jit(jax.grad(functools.partial(loss, implementation), argnums=(0, 1, 2)))(*operands)
            for implementation in ("emulated", "xla")
        )
        for x, y in zip(got, want):
            x, y = (np.asarray(z, np.float32) for z in (x, y))
            self.assertLess(np.abs(x - y).max(), 0.02 * np.abs(y).max())


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class MhaHandlerEmulatedTest(mha_problem.HandlerTest):
    __test__ = True
    emulated = True
