"""What a row of a table computes: operands, call, FLOP and bytes.

FLOP are counted as 2 for each multiply-add of the products alone. In decode a causal
mask is not discounted; in multi-head attention it halves them. Quantising counts the
division of each value. Bytes count each input and output once: in dense decode the cached
tokens of each request, in sparse attention each chosen token once for each query.
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


def _layout(planar: bool) -> fm.KVCacheFormat:
    return fm.KVCacheFormat.MODEL1 if planar else fm.KVCacheFormat.V32


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
    """Decode over topk chosen tokens of a paged FP8 cache, pages of 64 tokens.

    Each request has s_k tokens of its own in the pool; each query chooses among them. With
    ``extra_topk`` it chooses as many in a second cache like the first. The layout is V32, or
    MODEL1 where scales lie apart.
    """

    batch: int
    s_q: int
    h_q: int
    topk: int
    s_k: int
    planar: bool = False
    extra_topk: int = 0

    family = operation = "sparse_decode"
    reads_memory = True

    @property
    def fmt(self) -> fm.KVCacheFormat:
        """The layout."""
        return _layout(self.planar)

    def facts(self):
        fmt = self.fmt
        shapes = dict(h_q=self.h_q, s_q=self.s_q, topk=self.topk, page_size=PAGE_SIZE, d_qk=fmt.d_qk, d_v=fmt.d_v)
        return dict(dtype=jnp.bfloat16, kv_format=fmt, **shapes)

    def flop(self):
        keys = self.topk + self.extra_topk
        return 2.0 * self.batch * self.s_q * self.h_q * keys * (self.fmt.d_qk + self.fmt.d_v)

    def bytes(self):
        queries = self.batch * self.s_q
        chosen = queries * (self.topk + self.extra_topk) * (self.fmt.bytes_per_token + INT32)
        return chosen + queries * self.h_q * ((self.fmt.d_qk + self.fmt.d_v) * BF16 + FLOAT32)

    def operands(self, seed):
        q_key, first_key, second_key = _keys(seed, 3)
        q = make.normal(q_key, (self.batch, self.s_q, self.h_q, self.fmt.d_qk))
        metadata = jax.jit(fm.get_mla_metadata, static_argnums=(1, 2, 3, 4, 5))(
            jnp.full((self.batch,), self.s_k, jnp.int32), self.s_q * self.h_q, 1, self.h_q, True, self.topk
        )
        second = self._cache(second_key, seed + 1, self.extra_topk) if self.extra_topk else ()
        return (q, *metadata, *self._cache(first_key, seed, self.topk), *second)

    def _cache(self, key, seed, topk):
        """A cache and the slots chosen in it."""
        cache_key, chosen_key = jax.random.split(key)
        table = make.random_pages(np.random.default_rng(seed), np.full((self.batch,), self.s_k, np.int32), PAGE_SIZE)
        tokens = make.distinct_tokens(chosen_key, self.batch * self.s_q, self.s_k, topk)
        tokens = tokens.reshape(self.batch, self.s_q, topk)
        pages = jnp.asarray(table)[jnp.arange(self.batch)[:, None, None], tokens // PAGE_SIZE]
        cache = make.fp8_cache(cache_key, self.fmt, table.size, PAGE_SIZE)
        return cache, pages * PAGE_SIZE + tokens % PAGE_SIZE

    def call(self, implementation, q, metadata, splits, cache, indices, *second):
        options = dict(zip(("extra_k_cache", "extra_indices_in_kvcache"), second))
        return fm.flash_mla_with_kvcache(
            q, cache, None, None, D_V, metadata, splits, False, True, indices, implementation=implementation, **options
        )


@dataclasses.dataclass(frozen=True)
class SparsePrefill(Problem):
    """Prefill over topk chosen tokens of a bfloat16 pool of s_kv.

    Of the indices ``valid`` per cent name a token, in no order; the others count for nothing.
    """

    s_q: int
    s_kv: int
    h_q: int
    topk: int
    d_qk: int = 576
    valid: int = 100

    family = operation = "sparse_prefill"

    def facts(self):
        return dict(dtype=jnp.bfloat16, h_q=self.h_q, d_qk=self.d_qk, d_v=D_V, topk=self.topk)

    def flop(self):
        return 2.0 * self.s_q * self.h_q * self._chosen() * (self.d_qk + D_V)

    def _chosen(self) -> int:
        return self.topk * self.valid // 100

    def _options(self) -> dict:
        return {}

    def _chosen_bytes(self) -> int:
        return self.s_q * (self._chosen() * self.d_qk * BF16 + self.topk * INT32)

    def bytes(self):
        # q; out, max_logits and lse.
        rows = self.s_q * self.h_q * ((self.d_qk + D_V) * BF16 + 2 * FLOAT32)
        return self._chosen_bytes() + rows

    def operands(self, seed):
        q_key, kv_key, chosen_key = _keys(seed, 3)
        chosen = make.distinct_tokens(chosen_key, self.s_q, self.s_kv, self.topk)
        if self.valid < 100:
            order = jax.random.permutation(jax.random.key(seed + 1), self.topk)
            chosen = jnp.where(order < self._chosen(), chosen, -1)
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
    """Multi-head attention of a batch without padding; as many key heads as query heads, where ``h_kv`` is 0."""

    d_qk: int
    d_v: int
    batch: int
    s: int
    h: int
    causal: bool
    h_kv: int = 0

    family = "mha_forward"
    operation = "mha"

    def facts(self):
        return dict(dtype=jnp.bfloat16, h_q=self.h, h_kv=self._key_heads(), d_qk=self.d_qk, d_v=self.d_v)

    def _key_heads(self) -> int:
        return self.h_kv or self.h

    def _pairs(self) -> float:
        return self.batch * self.h * float(self.s) ** 2 * (0.5 if self.causal else 1.0)

    def flop(self):
        return 2 * self._pairs() * (self.d_qk + self.d_v)

    def bytes(self):
        # q, out, lse; k, v.
        dims = self.d_qk + self.d_v
        return self.batch * self.s * (self.h * (dims * BF16 + FLOAT32) + self._key_heads() * dims * BF16)

    def operands(self, seed):
        keys = _keys(seed, 3)
        sizes = ((self.h, self.d_qk), (self._key_heads(), self.d_qk), (self._key_heads(), self.d_v))
        return tuple(make.normal(key, (self.batch, self.s, *size)) for key, size in zip(keys, sizes))

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
        # q, dq, out, d_out, lse; k, dk, v, dv.
        dims = self.d_qk + self.d_v
        return self.batch * self.s * (self.h * (2 * dims * BF16 + FLOAT32) + self._key_heads() * 2 * dims * BF16)

    def memory(self):
        # Sums of dq.
        return super().memory() + self.batch * self.s * self.h * self.d_qk * FLOAT32


@dataclasses.dataclass(frozen=True)
class SparseBackward(Backward, SparsePrefill):
    """Gradients of sparse prefill in q and kv."""

    family = "sparse_backward"
    num_gradients = 2

    deterministic: bool = False

    def flop(self):
        return 2.0 * self.s_q * self.h_q * self._chosen() * (3 * self.d_qk + 2 * D_V)

    def bytes(self):
        # q, dq; out, d_out; lse; dkv.
        rows = self.s_q * self.h_q * (2 * (self.d_qk + D_V) * BF16 + FLOAT32)
        return self._chosen_bytes() + rows + self.s_kv * self.d_qk * BF16

    def _options(self):
        return dict(deterministic=self.deterministic)


@dataclasses.dataclass(frozen=True)
class Quantize(Problem):
    """Bfloat16 tokens into pages of 64 of an FP8 cache: V32, or MODEL1 where scales lie apart."""

    tokens: int
    planar: bool = False

    family = operation = "quantize"
    reads_memory = True

    @property
    def fmt(self) -> fm.KVCacheFormat:
        """The layout."""
        return _layout(self.planar)

    def facts(self):
        return dict(dtype=jnp.bfloat16, page_size=PAGE_SIZE, kv_format=self.fmt)

    def flop(self):
        return float(self.tokens * self.fmt.latent_dim)

    def bytes(self):
        return self.tokens * (self.fmt.d_qk * BF16 + self.fmt.bytes_per_token)

    def operands(self, seed):
        pages = -(-self.tokens // PAGE_SIZE)
        dims = (self.fmt.latent_dim, self.fmt.rope_dim)
        return tuple(make.normal(key, (pages, PAGE_SIZE, d)) for key, d in zip(_keys(seed, 2), dims))

    def call(self, implementation, latent, rope):
        return (fm.quantize_kv_cache(latent, rope, self.fmt, implementation=implementation),)
