"""The sparse backward kernel in the emulator: one small case for each of its features."""

import functools
import unittest

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import jax_flash_mla as fm
from jax_flash_mla import _ffi
from kernels import sparse_backward_problem
from kernels.poison import POISONS, bits
from kernels.sparse_backward_problem import Problem, SparseBackwardTest, run_poisoned


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class SparseBackwardEmulatedTest(SparseBackwardTest):
    def check(self, problem):
        got = run_poisoned(problem, np.nan, emulated=True)
        self.assert_right(problem, got)
        return got

    @parameterized.named_parameters(
        ("one_block", dict(topk=64)),
        ("less_than_a_block", dict(topk=7)),
        ("partial_block", dict(topk=130)),
        ("two_tiles_of_heads", dict(s_q=2, h_q=128, topk=70)),
        ("partial_tile", dict(s_q=2, h_q=72, topk=70, sink=True)),
        ("one_head", dict(h_q=1)),
        ("without_rotary_dims", dict(d_qk=512, topk=130, sink=True)),
        ("lengths", dict(s_q=6, topk=130, lengths=[0, 1, 64, 65, 130, 128], sink=True)),
        ("lengths_out_of_range", dict(s_q=4, topk=70, lengths=[-1, 71, 2**31 - 1, 70])),
        ("one_token", dict(s_kv=1)),
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
        d_q, d_kv = self.check(problem)
        if share == 1:
            self.assertTrue((d_q == 0).all() and (d_kv == 0).all())

    def test_nothing_is_there(self):
        for options in (dict(s_kv=0), dict(topk=0), dict(s_q=0)):
            self.check(Problem(np.random.default_rng(3), **options))

    @parameterized.parameters(0.0, -0.3, 1e-30, 3.0)
    def test_scales(self, scale):
        problem = Problem(np.random.default_rng(4), h_q=20)
        problem.scale = scale
        self.check(problem)

    def test_nan_stays_with_its_query_tokens(self):
        """A key that is NaN makes NaN of the query tokens that chose it, and of what these add to."""
        problem = Problem(np.random.default_rng(5), s_q=4, s_kv=3000, h_q=3, topk=70)
        operands = problem.operands()
        token = problem.indices[2, 3]
        operands[1] = operands[1].at[token].set(jnp.nan)
        d_q, d_kv = (np.asarray(x, np.float32) for x in _ffi.sparse_backward(*operands, scale=0.04, emulated=True))
        touched = np.array([token in problem.chosen(query) for query in range(4)])
        self.assertTrue(np.isnan(d_q[touched]).all() and np.isfinite(d_q[~touched]).all())
        self.assertTrue(np.isnan(d_kv[token]).all() and np.isfinite(np.delete(d_kv, token, axis=0)).all())

    def test_same_d_q_whatever_was_there_before(self):
        problem = Problem(np.random.default_rng(6), s_q=3, topk=100, lengths=[0, 100, 60])
        first, *others = (bits(run_poisoned(problem, poison, emulated=True)) for poison in POISONS.values())
        for other in others:
            np.testing.assert_array_equal(first[0], other[0])

    @parameterized.parameters(2, "e")
    def test_under_grad(self, base):
        """Through out and lse, with a sink and lengths, mapped and compiled, beside pure JAX."""
        problems = [
            Problem(np.random.default_rng(seed), s_q=3, s_kv=90, h_q=3, topk=70, lengths=[70, 0, 30]) for seed in (7, 8)
        ]
        q, kv, indices, lengths = (
            jnp.asarray(np.stack([getattr(p, name) for p in problems]))
            for name in ("q", "kv", "indices", "topk_length")
        )
        sink = jnp.asarray([0.5, -jnp.inf, 3.0], jnp.float32)

        def loss(implementation, q, kv, sink):
            def one(q, kv, indices, lengths):
                out, _, lse = fm.flash_mla_sparse_fwd(
                    q,
                    kv[:, None],
                    indices[:, None],
                    0.05,
                    attn_sink=sink,
                    topk_length=lengths,
                    lse_base=base,
                    implementation=implementation,
                )
                return (out.astype(jnp.float32) ** 2).sum() + jnp.where(lse > -1e30, lse, 0).sum()

            return jax.vmap(one)(q, kv, indices, lengths).sum()

        got, want = (
            jax.jit(jax.grad(functools.partial(loss, implementation), argnums=(0, 1, 2)))(q, kv, sink)
            for implementation in ("emulated", "xla")
        )
        for x, y in zip(got, want):
            self.assertEqual(x.dtype, y.dtype)
            x, y = (np.asarray(z, np.float32) for z in (x, y))
            self.assertLess(np.abs(x - y).max(), 0.02 * np.abs(y).max())


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class SparseBackwardHandlerEmulatedTest(sparse_backward_problem.HandlerTest):
    __test__ = True
    emulated = True
