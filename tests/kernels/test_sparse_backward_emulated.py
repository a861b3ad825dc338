"""The sparse backward kernel in the emulator: one small case for each of its features."""

import concurrent.futures
import functools
import multiprocessing
import os
import unittest
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import jax_flash_mla as fm
from jax_flash_mla import _ffi, _support
from jax_flash_mla._sparse_prefill import order_of_places
from kernels import sparse_backward_problem
from kernels.poison import POISONS, bits
from kernels.sparse_backward_problem import Problem, SparseBackwardTest, run_ordered, run_poisoned


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


# Rows of two query tokens with a tile of heads and 130 indices.
TWO_QUERY_TOKENS = 2 * 130 * 576 * 2


def _on_device(sms, threads):
    """Bits of gradients, of kv in one order and in any, on a device of so many multiprocessors."""
    settings = {"JAX_FLASH_MLA_EMULATOR_SMS": str(sms), "JAX_FLASH_MLA_EMULATOR_THREADS": str(threads)}
    with mock.patch.dict(os.environ, settings):
        problem = Problem(np.random.default_rng(4), s_q=9, s_kv=40, topk=70, lengths=[70, 0, 33], h_q=128)
        return [bits(run(problem, np.nan, emulated=True)) for run in (run_ordered, run_poisoned)]


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class OrderedEmulatedTest(SparseBackwardTest):
    """Sums in one order: right, and the same bits whatever was there before and whoever comes first."""

    def check(self, problem, **options):
        problem.spoil_unused(np.nan)
        first, *others = (run_ordered(problem, poison, emulated=True, **options) for poison in POISONS.values())
        self.assert_right(problem, first)
        for other in others:
            for x, y in zip(bits(first), bits(other), strict=True):
                np.testing.assert_array_equal(x, y)
        return first

    @parameterized.named_parameters(
        ("one_block", dict(topk=64)),
        ("less_than_a_block", dict(topk=7)),
        ("chunks", dict(s_q=5, topk=130), TWO_QUERY_TOKENS),
        ("a_chunk_for_each", dict(s_q=3, topk=130, h_q=128), TWO_QUERY_TOKENS),
        ("two_tiles_of_heads", dict(s_q=2, h_q=128, topk=70)),
        ("three_tiles_of_heads", dict(s_q=2, h_q=130, topk=70, sink=True)),
        ("without_rotary_dims", dict(d_qk=512, topk=130, sink=True)),
        ("lengths", dict(s_q=6, topk=130, lengths=[0, 1, 64, 65, 130, 128], sink=True), TWO_QUERY_TOKENS),
        ("lengths_out_of_range", dict(s_q=4, topk=70, lengths=[-1, 71, 2**31 - 1, 70])),
        ("one_token", dict(s_kv=1, s_q=4, topk=130), TWO_QUERY_TOKENS),
        ("few_tokens", dict(s_kv=3, s_q=4, topk=130), TWO_QUERY_TOKENS),
    )
    def test_feature(self, options, row_bytes=None):
        self.check(Problem(np.random.default_rng(0), **options), row_bytes=row_bytes)

    @parameterized.parameters(0.1, 0.9, 1.0)
    def test_indices_that_name_nothing(self, share):
        problem = Problem(np.random.default_rng(1), s_q=4, topk=130, sink=True)
        problem.invalidate(np.random.default_rng(2), share)
        d_q, d_kv = self.check(problem, row_bytes=TWO_QUERY_TOKENS)
        if share == 1:
            self.assertTrue((d_q == 0).all() and (d_kv == 0).all())

    def test_nothing_is_there(self):
        for options in (dict(s_kv=0), dict(topk=0), dict(s_q=0)):
            self.check(Problem(np.random.default_rng(3), **options))

    def test_any_number_of_multiprocessors(self):
        """Other thread blocks have other work, and it is done in another order: sums in any order show it."""
        settings = [(1, 1), (3, 1), (16, 2), (3, 2)]
        context = multiprocessing.get_context("spawn")  # a process asks for the device once
        ordered, others = [], []
        for setting in settings:
            with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
                one, other = pool.submit(_on_device, *setting).result()
            ordered.append(one)
            others.append(other)
        for one in ordered[1:]:
            for x, y in zip(ordered[0], one, strict=True):
                np.testing.assert_array_equal(x, y)
        self.assertTrue(any((others[0][1] != other[1]).any() for other in others[1:]))

    def test_nan_stays_with_its_query_tokens(self):
        """A query token whose cotangent is NaN spoils the keys that it chose, and no others."""
        problem = Problem(np.random.default_rng(5), s_q=4, s_kv=3000, h_q=3, topk=70)
        operands = problem.ordered_operands()
        operands[4] = operands[4].at[2].set(jnp.nan)
        _, d_kv = _ffi.sparse_backward(*operands, scale=0.04, emulated=True)
        touched = np.isin(np.arange(3000), problem.chosen(2))
        d_kv = np.asarray(d_kv)[:, :512]
        self.assertTrue(np.isnan(d_kv[touched]).all() and np.isfinite(d_kv[~touched]).all())

    def test_places_are_those_of_the_public_function(self):
        """``deterministic`` asks for the sums in one order, and for nothing else."""
        problem = Problem(np.random.default_rng(6), s_q=3, s_kv=50, h_q=4, topk=70, lengths=[70, 0, 30])
        q, kv, indices, lengths = (
            jnp.asarray(x) for x in (problem.q, problem.kv, problem.indices, problem.topk_length)
        )

        def gradients(deterministic, implementation):
            def loss(q, kv):
                out, _, lse = fm.flash_mla_sparse_fwd(
                    q,
                    kv[:, None],
                    indices[:, None],
                    0.05,
                    topk_length=lengths,
                    deterministic=deterministic,
                    implementation=implementation,
                )
                return (out.astype(jnp.float32) ** 2).sum() + jnp.where(lse > -1e30, lse, 0).sum()

            return jax.jit(jax.grad(loss, argnums=(0, 1)))

        got, want = (gradients(True, name)(q, kv) for name in ("emulated", "xla"))
        for x, y in zip(got, want):
            x, y = (np.asarray(z, np.float32) for z in (x, y))
            self.assertLess(np.abs(x - y).max(), 0.02 * np.abs(y).max())
        for deterministic, sorts in ((True, True), (False, False)):
            text = gradients(deterministic, "emulated").lower(q, kv).as_text()
            self.assertEqual("stablehlo.sort" in text, sorts)


class OrderOfPlacesTest(parameterized.TestCase):
    def test_against_lists(self):
        """Of each token the places that name it, ascending, of those that count."""
        rng = np.random.default_rng(0)
        indices = rng.integers(-3, 15, (9, 20)).astype(np.int32)
        indices[0, :3] = 2**31 - 1, -(2**31), 12
        lengths = rng.integers(-2, 23, 9).astype(np.int32)
        for given in (None, lengths):
            order, starts = order_of_places(jnp.asarray(indices), None if given is None else jnp.asarray(given), 12)
            self.assertEqual((order.dtype, starts.dtype), (jnp.int32, jnp.int32))
            np.testing.assert_array_equal(np.sort(order), np.arange(180))
            ends = np.full(9, 20) if given is None else np.where((given >= 0) & (given <= 20), given, 0)
            counts = np.arange(20) < ends[:, None]
            for token in range(12):
                want = np.flatnonzero((indices == token) & counts)
                np.testing.assert_array_equal(order[starts[token] : starts[token + 1]], want)

    def test_refusals(self):
        with self.assertRaisesRegex(NotImplementedError, "deterministic=True needs at most 2147483647 indices in all"):
            jax.eval_shape(lambda x: order_of_places(x, None, 5), jax.ShapeDtypeStruct((2**21, 1024), jnp.int32))
        with self.assertRaisesRegex(NotImplementedError, "needs topk to be at most 466033 with 128 heads of 576"):
            _support.WORKSPACES["sparse_backward"](1, 128, 466034, 576, jnp.bfloat16)
        for topk, reason in ((466033, None), (466034, "such that rows of a query token fit 1073741824 bytes")):
            facts = dict(dtype=jnp.bfloat16, h_q=128, d_qk=576, d_v=512, topk=topk)
            self.assertNotIn("rows", _support.supports("sparse_prefill", arch="sm90", **facts) or "")
            got = _support.supports("sparse_prefill", arch="sm90", **facts, deterministic=True)
            self.assertIn(reason or "", got or "")
            self.assertEqual("rows" in (got or ""), reason is not None)

    @parameterized.parameters(
        (4096, 128, 2048), (1, 1, 1), (2**20, 64, 2048), (300, 128, 466033), (7, 64, 0), (0, 3, 5)
    )
    def test_scratch_is_bounded(self, s_q, h_q, topk):
        (rows,) = _support.WORKSPACES["sparse_backward"](s_q, h_q, topk, 576, jnp.bfloat16)
        self.assertLessEqual(rows.size * 2, 1 << 30)
        if s_q * topk:
            self.assertGreaterEqual(rows.shape[0], -(-h_q // 64) * topk)


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class SparseBackwardHandlerEmulatedTest(sparse_backward_problem.HandlerTest):
    __test__ = True
    emulated = True
