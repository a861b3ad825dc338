"""Problems for the sparse backward kernel: those of sparse prefill, with cotangents, and calls into poisoned buffers."""

import functools
import re
from unittest import mock

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import oracle
from absl.testing import parameterized

from jax_flash_mla import _ffi, _support
from jax_flash_mla._sparse_prefill import order_of_places
from kernels import sparse_prefill_problem
from kernels.poison import call_into_poison, donating
from kernels.rounding import KernelTest
from kernels.sparse_prefill_problem import D_V

HAS_KERNEL = sparse_prefill_problem.HAS_KERNEL
runs_the_kernel = sparse_prefill_problem.runs_the_kernel


class Problem(sparse_prefill_problem.Problem):
    """Operands of one call, in host memory, for a test to change."""

    def __init__(self, rng, **options):
        super().__init__(rng, **options)
        rows = self.q.shape[:2]
        self.d_out = rng.standard_normal((*rows, D_V), np.float32).astype(ml_dtypes.bfloat16)
        self.d_lse = rng.standard_normal(rows, np.float32)

    def terms(self):
        """What XLA computes of rows: lse, natural, share and delta."""
        out, _, lse, _ = oracle.sparse_attention_large(
            self.q, self.kv, self.indices, self.topk_length, d_v=D_V, scale=self.scale, attn_sink=self.attn_sink
        )
        share = np.ones(lse.shape)
        if self.attn_sink is not None:
            share = 1 / (1 + np.exp(oracle.f64(self.attn_sink) - np.where(np.isneginf(lse), 0.0, lse)))
        share[np.isneginf(lse)] = 0.0
        return lse, share, share * (out * oracle.f64(self.d_out)).sum(-1) - self.d_lse

    def operands(self):
        """What the custom call takes: what has no rows is not given."""
        return [*self.arrays()[:4], jnp.asarray(self.d_out), *(jnp.asarray(x, jnp.float32) for x in self.terms())]

    def ordered_operands(self):
        """The same, and what says in which order gradients of kv are summed."""
        lengths = None if self.topk_length is None else jnp.asarray(self.topk_length)
        return [*self.operands(), *order_of_places(jnp.asarray(self.indices), lengths, len(self.kv))]

    def want(self):
        """Gradients of q and kv, and the spread of what each is the sum of.

        A key chosen several times is one of as many times the weight, as in ``oracle.sparse_attention_large``.
        """
        lse, share, delta = self.terms()
        d_q, d_kv, squares_q, squares_kv = (np.zeros(x.shape) for x in (self.q, self.kv) * 2)
        for i in range(len(self.q)):
            if self.topk_length is not None and not 0 <= self.topk_length[i] <= self.indices.shape[1]:
                d_q[i] = np.nan
                continue
            chosen, counts = np.unique(self.chosen(i), return_counts=True)
            if len(chosen) == 0:
                continue
            q, keys, d_out = (oracle.f64(x) for x in (self.q[i], self.kv[chosen], self.d_out[i]))
            p = counts * np.exp(self.scale * (q @ keys.T) - lse[i][:, None])
            weights = share[i][:, None] * p
            d_scores = self.scale * p * (share[i][:, None] * (d_out @ keys[:, :D_V].T) - delta[i][:, None])
            d_q[i] = d_scores @ keys
            squares_q[i] = d_scores**2 @ keys**2
            d_kv[chosen] += d_scores.T @ q
            d_kv[chosen, :D_V] += weights.T @ d_out
            squares_kv[chosen] += (d_scores**2).T @ q**2
            squares_kv[chosen, :D_V] += (weights**2).T @ d_out**2
        return d_q, d_kv, np.sqrt(squares_q), np.sqrt(squares_kv)


class SparseBackwardTest(KernelTest):
    """Tests of the kernel, on a GPU or emulated, against the float64 oracle."""

    def assert_right(self, problem, got):
        (d_q, d_kv), (want_q, want_kv, spread_q, spread_kv) = got[:2], problem.want()
        self.assertEqual(d_kv.dtype, np.float32)
        self.assert_out(d_q, want_q, spread_q)
        self.assert_out(d_kv, want_kv, spread_kv, summed="bfloat16")


class HandlerTest(parameterized.TestCase):
    """What a handler that runs kernels makes of calls that it must not launch anything for."""

    __test__ = False
    emulated = False

    def call(self, *operands):
        return jax.block_until_ready(_ffi.sparse_backward(*operands, scale=0.1, emulated=self.emulated))

    def test_bad_calls_are_errors(self):
        """What Python would refuse comes back as an error, and the process lives on."""
        operands = Problem(np.random.default_rng(0), lengths=[100], sink=True).operands()
        q, kv, indices, lengths, d_out, lse, share, delta = operands
        misfit = "the shapes do not fit together, got q " + re.escape(str(list(q.shape)))
        single = [x.astype(jnp.float32) for x in (q, kv, d_out)]
        for text, changes in (
            ("kv, d_out, d_q and scratch must have q's element type, BF16, got F32", {1: single[1]}),
            ("kv, d_out, d_q and scratch must have q's element type, BF16, got F32", {4: single[2]}),
            ("q must be BF16, got F32", {0: single[0], 1: single[1], 4: single[2]}),
            ("keys must have 576 or 512 dimensions and values 512, got 544 and 512", {0: q[..., :544], 1: kv[:, :544]}),
            ("keys must have 576 or 512 dimensions and values 512, got 576 and 256", {4: d_out[..., :256]}),
            (misfit, {1: kv[:, :512]}),
            (misfit, {2: indices[:1]}),
            (misfit, {3: lengths[:2]}),
            (misfit, {4: d_out[:, :3]}),
            (misfit, {5: lse[:, :3]}),
            (misfit, {6: share[:2]}),
            (misfit, {7: delta[:2]}),
        ):
            with self.assertRaisesRegex(jax.errors.JaxRuntimeError, f"INVALID_ARGUMENT.*sparse_backward: {text}"):
                self.call(*(changes.get(i, x) for i, x in enumerate(operands)))
        *_, order, starts = Problem(np.random.default_rng(0), lengths=[100], sink=True).ordered_operands()
        sizes = r"order, starts and scratch must have 384, 301 and at least 73728 elements, got"
        for text, changed in (
            ("383, 301 and 221184", (order[1:], starts)),
            ("384, 300 and 221184", (order, starts[1:])),
        ):
            with self.assertRaisesRegex(jax.errors.JaxRuntimeError, f"INVALID_ARGUMENT.*{sizes} {text}"):
                self.call(*operands, *changed)
        d_q, d_kv = self.call(*operands)
        self.assertTrue(np.isfinite(np.asarray(d_q, np.float32)).all() and np.isfinite(d_kv).all())


@functools.lru_cache(maxsize=64)
def _call(scale, emulated):
    return donating(functools.partial(_ffi.sparse_backward, scale=scale, emulated=emulated), operands=8, results=2)


def run_poisoned(problem, poison, emulated=False):
    """Gradients of q and kv, from a call into results full of the bits of one value."""
    return call_into_poison(_call(problem.scale, emulated), problem.operands(), 2, poison)


@functools.lru_cache(maxsize=64)
def _ordered_call(scale, emulated, row_bytes):
    call = functools.partial(_ffi.sparse_backward_with_scratch, scale=scale, emulated=emulated)
    return donating(call, operands=10, results=3)


def run_ordered(problem, poison, emulated=False, row_bytes=None):
    """The same with sums in one order, scratch poisoned as well; of so many bytes of rows at most, where that is given."""
    row_bytes = row_bytes or _support.MOST_ROW_BYTES
    with mock.patch.object(_support, "MOST_ROW_BYTES", row_bytes):
        call = _ordered_call(problem.scale, emulated, row_bytes)
        return call_into_poison(call, problem.ordered_operands(), 3, poison)[:2]
