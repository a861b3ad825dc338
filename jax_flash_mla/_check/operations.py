"""Operations as values: how to make operands, call the function, and know what is right.

``python -m jax_flash_mla check`` runs them at the sizes of real models; the tests run
them small, under every transformation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

import jax_flash_mla as fm
from jax_flash_mla._check import oracle

V32, MODEL1 = fm.KVCacheFormat.V32, fm.KVCacheFormat.MODEL1


@dataclasses.dataclass(frozen=True)
class Operation:
    """One public function with fixed static options.

    Attributes:
      name: for test ids.
      required, optional: names of the array operands.
      differentiable: those with a gradient.
      make: ``make(rng, dtype) -> dict`` of all operands, the optional ones included.
      call: ``call(implementation, **operands) -> tuple`` of results.
      want: ``want(**operands) -> tuple`` of float64 results.
      gradients: ``gradients(cotangents, **operands) -> dict`` of float64 gradients;
        cotangents are those of all results. None where nothing is differentiable.
      stage: the name of its forward stage in traces, where it has one.
      family: the operation of the support table that it is, where a kernel is written.
      kernel_sized: whether it is of a size that kernels take.
      together: optional operands that are only legal together.
    """

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    differentiable: tuple[str, ...]
    make: Callable
    call: Callable
    want: Callable
    gradients: Callable | None = None
    stage: str | None = None
    together: tuple[tuple[str, ...], ...] = ()
    family: str | None = None
    kernel_sized: bool = False

    def __str__(self):
        return self.name

    def operands(self, rng, dtype=jnp.float32, optional=()):
        """Required operands and some of the optional ones, those they need included."""
        groups = [group for group in self.together if set(group) & set(optional)]
        kept = {*self.required, *optional, *(name for group in groups for name in group)}
        return {name: x for name, x in self.make(rng, dtype).items() if name in kept}


def normal(rng, shape, dtype):
    return jnp.asarray(rng.standard_normal(shape), dtype)


def exact_in(dtype, kernel_sized):
    """The type that numbers of another one are exact in: what kernels are to compute on is, in one that they take."""
    return jnp.bfloat16 if kernel_sized and dtype == jnp.float32 else dtype


def int32(x):
    return jnp.asarray(np.asarray(x, np.int32))


# --------------------------------------------------------------------------------------
# Dense decode


def dense_decode(name, *, h_q, h_kv, causal, b=2, s_q=2, d=24, d_v=16, page_size=4, columns=3, kernel_sized=False):
    pages = b * columns + 1
    options = dict(head_dim_v=d_v, causal=causal)
    scale = d**-0.5

    def make(rng, dtype):
        exact = exact_in(dtype, kernel_sized)
        return dict(
            q=normal(rng, (b, s_q, h_q, d), exact).astype(dtype),
            k_cache=normal(rng, (pages, page_size, h_kv, d), exact).astype(dtype),
            block_table=int32(rng.permutation(pages)[: b * columns].reshape(b, columns)),
            cache_seqlens=int32(rng.integers(1, columns * page_size + 1, b)),
            attn_sink=normal(rng, (h_q,), jnp.float32),
        )

    def call(implementation, q, k_cache, block_table, cache_seqlens, attn_sink=None):
        taken = exact_in(q.dtype, kernel_sized)
        out, lse = fm.flash_mla_with_kvcache(
            q.astype(taken),
            k_cache.astype(taken),
            block_table,
            cache_seqlens,
            softmax_scale=scale,
            attn_sink=attn_sink,
            implementation=implementation,
            **options,
        )
        return out.astype(q.dtype), lse

    def want(q, k_cache, block_table, cache_seqlens, attn_sink=None):
        return oracle.dense_decode(
            q, k_cache, np.asarray(block_table), cache_seqlens, scale=scale, attn_sink=attn_sink, **options
        )

    def gradients(cotangents, q, k_cache, block_table, cache_seqlens, attn_sink=None):
        d_q, d_cache, d_sink = oracle.dense_decode_gradient(
            q,
            k_cache,
            np.asarray(block_table),
            cache_seqlens,
            *cotangents,
            scale=scale,
            attn_sink=attn_sink,
            **options,
        )
        return dict(q=d_q, k_cache=d_cache, attn_sink=d_sink)

    return Operation(
        name,
        ("q", "k_cache", "block_table", "cache_seqlens"),
        ("attn_sink",),
        ("q", "k_cache", "attn_sink"),
        make,
        call,
        want,
        gradients,
        "dense_decode_forward",
        family="dense_decode",
        kernel_sized=kernel_sized,
    )


# --------------------------------------------------------------------------------------
# Sparse decode


def fp8_cache(rng, fmt, pages, page_size, power_of_two_scales=False):
    """A cache quantised from random vectors of varying size."""
    size = np.exp(0.3 * rng.standard_normal((pages, page_size, 1)))
    latent = normal(rng, (pages, page_size, fmt.latent_dim), jnp.float32) * jnp.asarray(size, jnp.float32)
    rope = normal(rng, (pages, page_size, fmt.rope_dim), jnp.float32)
    return fm.quantize_kv_cache(latent, rope, fmt, power_of_two_scales=power_of_two_scales)


def sparse_decode(
    name, fmt, *, b=2, s_q=2, h_q=3, topk=7, extra_topk=5, page_size=4, extra_page_size=6, kernel_sized=False
):
    pages, extra_pages = 3, 2
    d, d_v = (20, 12) if fmt is None else (fmt.d_qk, fmt.d_v)
    scale = d**-0.5

    def cache(rng, dtype, shape):
        if fmt is None:
            return normal(rng, (*shape, 1, d), dtype)
        return fp8_cache(rng, fmt, *shape, power_of_two_scales=kernel_sized)

    def make(rng, dtype):
        return dict(
            q=normal(rng, (b, s_q, h_q, d), exact_in(dtype, kernel_sized)).astype(dtype),
            k_cache=cache(rng, dtype, (pages, page_size)),
            indices=int32(rng.integers(-2, pages * page_size + 2, (b, s_q, topk))),
            topk_length=int32(rng.integers(1, topk + 1, (b, s_q))),
            extra_k_cache=cache(rng, dtype, (extra_pages, extra_page_size)),
            extra_indices_in_kvcache=int32(rng.integers(-2, extra_pages * extra_page_size + 2, (b, s_q, extra_topk))),
            extra_topk_length=int32(rng.integers(0, extra_topk + 1, (b,))),
            attn_sink=normal(rng, (h_q,), jnp.float32),
        )

    def call(implementation, q, k_cache, indices, **optional):
        out, lse = fm.flash_mla_with_kvcache(
            q.astype(exact_in(q.dtype, kernel_sized)),
            k_cache,
            None,
            None,
            d_v,
            is_fp8_kvcache=fmt is not None,
            indices=indices,
            softmax_scale=scale,
            implementation=implementation,
            **optional,
        )
        return out.astype(q.dtype), lse

    def lists(k_cache, indices, topk_length, extra_k_cache, extra_indices_in_kvcache, extra_topk_length):
        fmt_name = None if fmt is None else fmt.name
        given = [(k_cache, indices, topk_length)]
        if extra_k_cache is not None:
            given.append((extra_k_cache, extra_indices_in_kvcache, extra_topk_length))
        out = []
        for pool, ids, lengths in given:
            if lengths is not None:
                lengths = np.broadcast_to(np.asarray(lengths).reshape(b, -1), (b, s_q)).reshape(-1)
            out.append((oracle.paged_fetch(np.asarray(pool), fmt_name), np.asarray(ids).reshape(b * s_q, -1), lengths))
        return out

    def split(operands):
        names = ("k_cache", "indices", "topk_length", "extra_k_cache", "extra_indices_in_kvcache", "extra_topk_length")
        return lists(*(operands.get(n) for n in names)), operands["q"].reshape(b * s_q, h_q, d)

    def want(**operands):
        chosen, q = split(operands)
        out, _, lse = oracle.sparse_attention(q, chosen, d_v=d_v, scale=scale, attn_sink=operands.get("attn_sink"))
        return out.reshape(b, s_q, h_q, d_v), lse.reshape(b, s_q, h_q).swapaxes(1, 2)

    def gradients(cotangents, **operands):
        chosen, q = split(operands)
        caches = [operands[n] for n in ("k_cache", "extra_k_cache") if n in operands]
        sizes = [c.shape[0] * c.shape[1] for c in caches]
        d_out, d_lse = (np.asarray(c) for c in cotangents)
        d_q, d_pools, d_sink = oracle.sparse_gradient(
            q,
            chosen,
            sizes,
            d_out.reshape(b * s_q, h_q, d_v),
            d_lse.swapaxes(1, 2).reshape(b * s_q, h_q),
            d_v=d_v,
            scale=scale,
            attn_sink=operands.get("attn_sink"),
        )
        result = dict(q=d_q.reshape(b, s_q, h_q, d), attn_sink=d_sink)
        if fmt is None:
            names = ("k_cache", "extra_k_cache")
            result |= {n: p.reshape(c.shape) for n, p, c in zip(names, d_pools, caches)}
        return result

    differentiable = ("q", "attn_sink") if fmt else ("q", "k_cache", "extra_k_cache", "attn_sink")
    return Operation(
        name,
        ("q", "k_cache", "indices"),
        ("topk_length", "extra_k_cache", "extra_indices_in_kvcache", "extra_topk_length", "attn_sink"),
        differentiable,
        make,
        call,
        want,
        gradients,
        "sparse_decode_forward",
        family=None if fmt is None else "sparse_decode",  # no kernel takes float caches
        kernel_sized=kernel_sized,
        together=(
            ("extra_k_cache", "extra_indices_in_kvcache"),
            ("extra_topk_length", "extra_k_cache", "extra_indices_in_kvcache"),
        ),
    )


# --------------------------------------------------------------------------------------
# Sparse prefill


def sparse_prefill(
    name, lse_base, *, s_q=5, s_kv=11, h_q=4, d=20, d_v=12, topk=7, deterministic=False, kernel_sized=False
):
    scale = d**-0.5
    unit = 1.0 if lse_base == "e" else 1.0 / oracle.LN2

    def make(rng, dtype):
        exact = exact_in(dtype, kernel_sized)
        return dict(
            q=normal(rng, (s_q, h_q, d), exact).astype(dtype),
            kv=normal(rng, (s_kv, 1, d), exact).astype(dtype),
            indices=int32(rng.integers(-2, s_kv + 2, (s_q, 1, topk))),
            topk_length=int32(rng.integers(1, topk + 1, s_q)),
            attn_sink=normal(rng, (h_q,), jnp.float32),
        )

    def call(implementation, q, kv, indices, **optional):
        taken = exact_in(q.dtype, kernel_sized)
        options = dict(lse_base=lse_base, deterministic=deterministic, implementation=implementation, **optional)
        out, top, lse = fm.flash_mla_sparse_fwd(q.astype(taken), kv.astype(taken), indices, scale, d_v, **options)
        return out.astype(q.dtype), top, lse

    def lists(kv, indices, topk_length):
        return [(oracle.flat_fetch(kv[:, 0]), np.asarray(indices)[:, 0], topk_length)]

    def want(q, kv, indices, topk_length=None, attn_sink=None):
        chosen = lists(kv, indices, topk_length)
        out, top, lse = oracle.sparse_attention(q, chosen, d_v=d_v, scale=scale, attn_sink=attn_sink)
        return out, top * unit, lse * unit

    def gradients(cotangents, q, kv, indices, topk_length=None, attn_sink=None):
        d_out, _, d_lse = (np.asarray(c) for c in cotangents)
        d_q, (d_kv,), d_sink = oracle.sparse_gradient(
            q, lists(kv, indices, topk_length), [s_kv], d_out, d_lse * unit, d_v=d_v, scale=scale, attn_sink=attn_sink
        )
        return dict(q=d_q, kv=d_kv[:, None], attn_sink=d_sink)

    return Operation(
        name,
        ("q", "kv", "indices"),
        ("topk_length", "attn_sink"),
        ("q", "kv", "attn_sink"),
        make,
        call,
        want,
        gradients,
        "sparse_prefill_forward",
        family="sparse_prefill",
        kernel_sized=kernel_sized,
    )


# --------------------------------------------------------------------------------------
# Multi-head attention


def mha_batched(name, *, n_q, n_kv, causal, b=2, t=5, s=7, d=12, e=8, kernel_sized=False):
    scale = d**-0.5

    def make(rng, dtype):
        exact = exact_in(dtype, kernel_sized)
        return dict(
            q=normal(rng, (b, t, n_q, d), exact).astype(dtype),
            k=normal(rng, (b, s, n_kv, d), exact).astype(dtype),
            v=normal(rng, (b, s, n_kv, e), exact).astype(dtype),
            q_seqlens=int32(rng.integers(1, t + 1, b)),
            kv_seqlens=int32(rng.integers(1, s + 1, b)),
        )

    def call(implementation, q, k, v, **optional):
        taken = exact_in(q.dtype, kernel_sized)
        operands = (x.astype(taken) for x in (q, k, v))
        out, lse = fm.flash_attn_func(*operands, causal=causal, implementation=implementation, **optional)
        return out.astype(q.dtype), lse

    def each(q_seqlens, kv_seqlens):
        for i in range(b):
            yield (
                i,
                [(0, t if q_seqlens is None else int(q_seqlens[i]))],
                [(0, s if kv_seqlens is None else int(kv_seqlens[i]))],
            )

    def want(q, k, v, q_seqlens=None, kv_seqlens=None):
        rows = [
            oracle.mha(q[i], k[i], v[i], q_ranges, kv_ranges, scale=scale, causal=causal)
            for i, q_ranges, kv_ranges in each(q_seqlens, kv_seqlens)
        ]
        return tuple(np.stack(x) for x in zip(*rows))

    def gradients(cotangents, q, k, v, q_seqlens=None, kv_seqlens=None):
        rows = [
            oracle.mha_gradient(
                q[i], k[i], v[i], q_ranges, kv_ranges, *(c[i] for c in cotangents), scale=scale, causal=causal
            )
            for i, q_ranges, kv_ranges in each(q_seqlens, kv_seqlens)
        ]
        return dict(zip("qkv", (np.stack(x) for x in zip(*rows))))

    return Operation(
        name,
        ("q", "k", "v"),
        ("q_seqlens", "kv_seqlens"),
        ("q", "k", "v"),
        make,
        call,
        want,
        gradients,
        "mha_forward",
        family="mha",
        kernel_sized=kernel_sized,
    )


def mha_varlen(name, *, n_q, n_kv, causal, total_q=11, total_kv=13, d=12, e=8, kernel_sized=False):
    scale = d**-0.5

    def make(rng, dtype):
        exact = exact_in(dtype, kernel_sized)

        def cuts(total):
            return int32(np.concatenate([[0], np.sort(rng.integers(0, total + 1, 3))]))

        return dict(
            q=normal(rng, (total_q, n_q, d), exact).astype(dtype),
            k=normal(rng, (total_kv, n_kv, d), exact).astype(dtype),
            v=normal(rng, (total_kv, n_kv, e), exact).astype(dtype),
            cu_seqlens_qo=cuts(total_q),
            cu_seqlens_kv=cuts(total_kv),
        )

    def call(implementation, q, k, v, cu_seqlens_qo, cu_seqlens_kv):
        taken = exact_in(q.dtype, kernel_sized)
        operands = (*(x.astype(taken) for x in (q, k, v)), cu_seqlens_qo, cu_seqlens_kv)
        out, lse = fm.flash_attn_varlen_func(*operands, causal=causal, implementation=implementation)
        return out.astype(q.dtype), lse

    def want(q, k, v, cu_seqlens_qo, cu_seqlens_kv):
        q_ranges, kv_ranges, _, _ = oracle.ranges(cu_seqlens_qo, total_q, cu_seqlens_kv, total_kv)
        return oracle.mha(q, k, v, q_ranges, kv_ranges, scale=scale, causal=causal)

    def gradients(cotangents, q, k, v, cu_seqlens_qo, cu_seqlens_kv):
        q_ranges, kv_ranges, _, _ = oracle.ranges(cu_seqlens_qo, total_q, cu_seqlens_kv, total_kv)
        return dict(
            zip("qkv", oracle.mha_gradient(q, k, v, q_ranges, kv_ranges, *cotangents, scale=scale, causal=causal))
        )

    return Operation(
        name,
        ("q", "k", "v", "cu_seqlens_qo", "cu_seqlens_kv"),
        (),
        ("q", "k", "v"),
        make,
        call,
        want,
        gradients,
        "mha_forward",
        family="mha",
        kernel_sized=kernel_sized,
    )


# --------------------------------------------------------------------------------------
# Caches, states, metadata


def pages_of(fmt, latent, rope):
    """The oracle's bytes of whole pages."""
    num_pages, page_size = latent.shape[:2]
    cache = np.zeros((num_pages, page_size, 1, fmt.bytes_per_token), np.uint8)
    for page in range(num_pages):
        for slot in range(page_size):
            write_token(cache, fmt, page, slot, oracle.quantize_token(latent[page, slot], rope[page, slot], fmt.name))
    return cache


def write_token(cache, fmt, page, slot, parts):
    """Puts a token's parts where ``oracle.token_bytes`` finds them; ``cache`` is changed."""
    page_size = cache.shape[1]
    codes, scales, rope = parts
    data = cache[page].reshape(-1)
    if fmt is V32:
        data[656 * slot : 656 * (slot + 1)] = np.concatenate([codes, scales, rope])
        return
    data[576 * slot : 576 * (slot + 1)] = np.concatenate([codes, rope])
    data[576 * page_size + 8 * slot :][:8] = np.append(scales, np.uint8(0))


def quantize(name, fmt, kernel_sized=False):
    pages, page_size = 2, 3

    def make(rng, dtype):
        return dict(
            latent=normal(rng, (pages, page_size, fmt.latent_dim), dtype),
            rope=normal(rng, (pages, page_size, fmt.rope_dim), dtype),
        )

    return Operation(
        name,
        ("latent", "rope"),
        (),
        (),
        make,
        lambda implementation, latent, rope: (fm.quantize_kv_cache(latent, rope, fmt, implementation=implementation),),
        lambda latent, rope: (pages_of(fmt, latent, rope),),
        family="quantize",
        kernel_sized=kernel_sized,
    )


def dequantize(name, fmt):
    def want(cache):
        tokens = [
            [oracle.dequantize_token(np.asarray(cache), fmt.name, page, slot) for slot in range(cache.shape[1])]
            for page in range(cache.shape[0])
        ]
        return tuple(np.array([[token[i] for token in page] for page in tokens]) for i in (0, 1))

    return Operation(
        name,
        ("cache",),
        (),
        (),
        lambda rng, dtype: dict(cache=fp8_cache(rng, fmt, 2, 3)),
        lambda implementation, cache: fm.dequantize_kv_cache(cache, fmt),
        want,
    )


def append(name, fmt, kernel_sized=False):
    pages, page_size, new = 3, 4, 5
    latent_dim, rope_dim = (8, 4) if fmt is None else (fmt.latent_dim, fmt.rope_dim)

    def make(rng, dtype):
        if fmt is None:
            cache = normal(rng, (pages, page_size, 1, latent_dim + rope_dim), dtype)
        else:
            cache = fp8_cache(rng, fmt, pages, page_size)
        return dict(
            cache=cache,
            latent=normal(rng, (new, latent_dim), dtype),
            rope=normal(rng, (new, rope_dim), dtype),
            slots=int32(rng.integers(-3, pages * page_size + 3, new)),
        )

    def want(cache, latent, rope, slots):
        cache = np.array(cache)
        for i, slot in enumerate(np.asarray(slots)):
            if not 0 <= slot < pages * page_size:
                continue
            page, offset = divmod(int(slot), page_size)
            if fmt is None:
                cache[page, offset, 0] = np.concatenate([latent[i], rope[i]])
            else:
                write_token(cache, fmt, page, offset, oracle.quantize_token(latent[i], rope[i], fmt.name))
        return (cache,)

    return Operation(
        name,
        ("cache", "latent", "rope", "slots"),
        (),
        (),
        make,
        lambda implementation, **operands: (fm.append_to_kv_cache(**operands, implementation=implementation),),
        want,
        family=None if fmt is None else "append",
        kernel_sized=kernel_sized,
    )


def merge(name):
    def make(rng, dtype):
        return dict(outs=normal(rng, (3, 2, 4, 5), dtype), lses=normal(rng, (3, 2, 4), jnp.float32))

    return Operation(
        name,
        ("outs", "lses"),
        (),
        (),
        make,
        lambda implementation, outs, lses: fm.merge_attention_states(outs, lses),
        lambda outs, lses: oracle.merge(outs, lses),
    )
