"""What a row of a table computes: operands, call, FLOP and bytes.

FLOP are counted as 2 for each multiply-add of the products alone. In decode a causal
mask is not discounted; in multi-head attention it halves them. Bytes count each input
and output once: in dense decode the cached tokens of each request, in sparse attention
each chosen token once for each query.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

import jax_flash_mla as fm
from jax_flash_mla._bench import agreement
from jax_flash_mla._bench import operands as make

BF16 = 2
FLOAT32 = 4
INT32 = 4
PAGE_SIZE = 64
D_V = 512


@dataclasses.dataclass(frozen=True)
class Problem:
    """One configuration of one operation.

    Attributes:
      family: the kind of table it belongs to.
      operation: its name in the support table.
      reads_memory: whether its rate is also told as a share of a streaming read.
      row_error: how far the worst row of a result may be off.
    """

    family: ClassVar[str]
    operation: ClassVar[str]
    reads_memory: ClassVar[bool] = False
    row_error: ClassVar[float] = agreement.ROW_ERROR

    def facts(self) -> dict:
        """What the support table wants to know."""
        raise NotImplementedError

    def flop(self) -> float:
        """Floating-point operations of one call."""
        raise NotImplementedError

    def bytes(self) -> int:
        """Bytes that a call has to move."""
        raise NotImplementedError

    def operands(self, seed: int) -> tuple:
        """Arrays on the device; the same for the same seed."""
        raise NotImplementedError

    def call(self, implementation: str | None, *operands):
        """Runs the operation: a tuple of results."""
        raise NotImplementedError

    def prepare(self, implementation: str | None, operands: tuple):
        """``(function, arguments)``: what is timed, and over what."""
        return functools.partial(self.call, implementation), operands

    def memory(self) -> int:
        """Bytes of the operands and results of one call."""
        operands = jax.eval_shape(lambda: self.operands(0))
        results = jax.eval_shape(functools.partial(self.call, "xla"), *operands)
        return _nbytes(operands) + _nbytes(results)


def _nbytes(tree) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _keys(seed: int, n: int):
    return jax.random.split(jax.random.key(seed), n)


@dataclasses.dataclass(frozen=True)
class DenseDecode(Problem):
    """Decode from a paged bfloat16 cache, d_qk 576, d_v 512, pages of 64 tokens.

    The schedule is made before and passed in; with ``metadata_each_call`` inside the call.
    """

    batch: int
    s_q: int
    h_q: int
    s_k: int
    varlen: bool = False
    causal: bool = False
    metadata_each_call: bool = False

    family = operation = "dense_decode"
    reads_memory = True
    d_qk = 576

    def facts(self):
        return dict(
            dtype=jnp.bfloat16, h_q=self.h_q, h_kv=1, d_qk=self.d_qk, d_v=D_V, s_q=self.s_q, page_size=PAGE_SIZE
        )

    def lengths(self) -> np.ndarray:
        """Tokens of each request: int32 [batch]."""
        if self.varlen:
            return make.varlen_lengths(np.random.default_rng(0), self.batch, self.s_k, self.s_q)
        return np.full((self.batch,), self.s_k, np.int32)

    def flop(self):
        return 2.0 * self.s_q * self.h_q * float(self.lengths().sum()) * (self.d_qk + D_V)

    def bytes(self):
        lengths = self.lengths()
        queries = self.batch * self.s_q * self.h_q
        table = self.batch * int(-(-lengths.max() // PAGE_SIZE)) * INT32 + self.batch * INT32
        return int(lengths.sum()) * self.d_qk * BF16 + queries * ((self.d_qk + D_V) * BF16 + FLOAT32) + table

    def operands(self, seed):
        q_key, cache_key = _keys(seed, 2)
        lengths = self.lengths()
        table = make.random_pages(np.random.default_rng(seed), lengths, PAGE_SIZE)
        pages = int((-(-lengths // PAGE_SIZE)).sum())
        lengths = jnp.asarray(lengths)
        return (
            make.normal(q_key, (self.batch, self.s_q, self.h_q, self.d_qk)),
            make.normal(cache_key, (pages, PAGE_SIZE, 1, self.d_qk)),
            jnp.asarray(table),
            lengths,
            *self._metadata(lengths),
        )

    def _metadata(self, lengths):
        return jax.jit(fm.get_mla_metadata, static_argnums=(1, 2))(lengths, self.s_q * self.h_q, 1)

    def call(self, implementation, q, cache, table, lengths, metadata, splits):
        if self.metadata_each_call:
            metadata, splits = self._metadata(lengths)
        return fm.flash_mla_with_kvcache(
            q, cache, table, lengths, D_V, metadata, splits, self.causal, implementation=implementation
        )


@dataclasses.dataclass(frozen=True)
class SparseDecode(Problem):
    """Decode over topk chosen tokens of a paged FP8 cache in the V32 layout, pages of 64 tokens.

    Each request has s_k tokens of its own in the pool; each query chooses among them.
    """

    batch: int
    s_q: int
    h_q: int
    topk: int
    s_k: int

    family = operation = "sparse_decode"
    reads_memory = True
    fmt = fm.KVCacheFormat.V32

    def facts(self):
        fmt = self.fmt
        shapes = dict(h_q=self.h_q, s_q=self.s_q, topk=self.topk, page_size=PAGE_SIZE, d_qk=fmt.d_qk, d_v=fmt.d_v)
        return dict(dtype=jnp.bfloat16, kv_format=fmt, **shapes)

    def flop(self):
        return 2.0 * self.batch * self.s_q * self.h_q * self.topk * (self.fmt.d_qk + self.fmt.d_v)

    def bytes(self):
        queries = self.batch * self.s_q
        chosen = queries * self.topk * (self.fmt.bytes_per_token + INT32)
        return chosen + queries * self.h_q * ((self.fmt.d_qk + self.fmt.d_v) * BF16 + FLOAT32)

    def operands(self, seed):
        q_key, cache_key, chosen_key = _keys(seed, 3)
        lengths = np.full((self.batch,), self.s_k, np.int32)
        table = make.random_pages(np.random.default_rng(seed), lengths, PAGE_SIZE)
        tokens = make.distinct_tokens(chosen_key, self.batch * self.s_q, self.s_k, self.topk)
        tokens = tokens.reshape(self.batch, self.s_q, self.topk)
        pages = jnp.asarray(table)[jnp.arange(self.batch)[:, None, None], tokens // PAGE_SIZE]
        metadata = jax.jit(fm.get_mla_metadata, static_argnums=(1, 2, 3, 4, 5))(
            jnp.asarray(lengths), self.s_q * self.h_q, 1, self.h_q, True, self.topk
        )
        return (
            make.normal(q_key, (self.batch, self.s_q, self.h_q, self.fmt.d_qk)),
            make.v32_cache(cache_key, table.size, PAGE_SIZE),
            pages * PAGE_SIZE + tokens % PAGE_SIZE,
            *metadata,
        )

    def call(self, implementation, q, cache, indices, metadata, splits):
        return fm.flash_mla_with_kvcache(
            q, cache, None, None, D_V, metadata, splits, False, True, indices, implementation=implementation
        )


@dataclasses.dataclass(frozen=True)
class SparsePrefill(Problem):
    """Prefill over topk chosen tokens of a bfloat16 pool of s_kv."""

    s_q: int
    s_kv: int
    h_q: int
    topk: int
    d_qk: int = 576

    family = operation = "sparse_prefill"

    def facts(self):
        return dict(dtype=jnp.bfloat16, h_q=self.h_q, d_qk=self.d_qk, d_v=D_V, topk=self.topk)

    def flop(self):
        return 2.0 * self.s_q * self.h_q * self.topk * (self.d_qk + D_V)

    def _options(self) -> dict:
        return {}

    def _chosen_bytes(self) -> int:
        return self.s_q * self.topk * (self.d_qk * BF16 + INT32)

    def bytes(self):
        # q; out, max_logits and lse.
        rows = self.s_q * self.h_q * ((self.d_qk + D_V) * BF16 + 2 * FLOAT32)
        return self._chosen_bytes() + rows

    def operands(self, seed):
        q_key, kv_key, chosen_key = _keys(seed, 3)
        chosen = make.distinct_tokens(chosen_key, self.s_q, self.s_kv, self.topk)
        return (
            make.normal(q_key, (self.s_q, self.h_q, self.d_qk)),
            make.normal(kv_key, (self.s_kv, 1, self.d_qk)),
            chosen[:, None],
        )

    def call(self, implementation, q, kv, indices):
        options = dict(implementation=implementation, **self._options())
        return fm.flash_mla_sparse_fwd(q, kv, indices, self.d_qk**-0.5, D_V, **options)


@dataclasses.dataclass(frozen=True)
class Mha(Problem):
    """Multi-head attention of a batch without padding, as many key heads as query heads."""

    d_qk: int
    d_v: int
    batch: int
    s: int
    h: int
    causal: bool

    family = "mha_forward"
    operation = "mha"

    def facts(self):
        return dict(dtype=jnp.bfloat16, h_q=self.h, h_kv=self.h, d_qk=self.d_qk, d_v=self.d_v)

    def _pairs(self) -> float:
        return self.batch * self.h * float(self.s) ** 2 * (0.5 if self.causal else 1.0)

    def flop(self):
        return 2 * self._pairs() * (self.d_qk + self.d_v)

    def bytes(self):
        # q, k; v, out; lse.
        return self.batch * self.s * self.h * (2 * (self.d_qk + self.d_v) * BF16 + FLOAT32)

    def operands(self, seed):
        keys = _keys(seed, 3)
        return tuple(
            make.normal(key, (self.batch, self.s, self.h, d)) for key, d in zip(keys, (self.d_qk, self.d_qk, self.d_v))
        )

    def call(self, implementation, q, k, v):
        return fm.flash_attn_func(q, k, v, causal=self.causal, implementation=implementation)


class Backward(Problem):
    """The backward pass of a forward problem, mixed in before it.

    Operands are those of the forward pass and the cotangent of ``out``. The forward pass
    runs before; what is timed takes what it left, and the cotangent.
    """

    # Operands with a gradient: the first so many.
    num_gradients: ClassVar[int]
    row_error = agreement.GRADIENT_ROW_ERROR

    def operands(self, seed):
        operands = super().operands(seed)
        out = jax.eval_shape(functools.partial(super().call, "xla"), *operands)[0]
        return (*operands, make.normal(jax.random.key(seed + 1), out.shape))

    def _pullback(self, implementation, *operands):
        floats, rest = operands[: self.num_gradients], operands[self.num_gradients :]
        forward = super().call
        return jax.vjp(lambda *floats: forward(implementation, *floats, *rest)[0], *floats)[1]

    def call(self, implementation, *operands):
        return self._pullback(implementation, *operands[:-1])(operands[-1])

    def prepare(self, implementation, operands):
        pull = jax.jit(functools.partial(self._pullback, implementation))(*operands[:-1])
        return (lambda pull, d_out: pull(d_out)), (pull, operands[-1])

    def memory(self):
        # The forward pass leaves out and lse, as large as its results.
        return super().memory() + _nbytes(jax.eval_shape(lambda: self.operands(0))[-1])


@dataclasses.dataclass(frozen=True)
class MhaBackward(Backward, Mha):
    """Gradients of multi-head attention in q, k and v."""

    family = "mha_backward"
    num_gradients = 3

    def flop(self):
        return 2 * self._pairs() * (3 * self.d_qk + 2 * self.d_v)

    def bytes(self):
        # q, k, dq, dk; v, out, d_out, dv; lse.
        return self.batch * self.s * self.h * (4 * (self.d_qk + self.d_v) * BF16 + FLOAT32)


@dataclasses.dataclass(frozen=True)
class SparseBackward(Backward, SparsePrefill):
    """Gradients of sparse prefill in q and kv."""

    family = "sparse_backward"
    num_gradients = 2

    deterministic: bool = False

    def flop(self):
        return 2.0 * self.s_q * self.h_q * self.topk * (3 * self.d_qk + 2 * D_V)

    def bytes(self):
        # q, dq; out, d_out; lse; dkv.
        rows = self.s_q * self.h_q * (2 * (self.d_qk + D_V) * BF16 + FLOAT32)
        return self._chosen_bytes() + rows + self.s_kv * self.d_qk * BF16

    def _options(self):
        return dict(deterministic=self.deterministic)
