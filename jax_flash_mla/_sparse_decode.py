"""Sparse decode: validated operands → derivative → vmap → partitioning → implementation."""

from __future__ import annotations

import dataclasses
import functools

import jax.numpy as jnp

from jax_flash_mla import _ffi, _support
from jax_flash_mla import _validation as check
from jax_flash_mla._derivative import attention
from jax_flash_mla._kv_cache_format import KVCacheFormat
from jax_flash_mla._stage import Pool
from jax_flash_mla.reference import sparse_decode as reference
from jax_flash_mla.reference.paged_tokens import as_unsigned


def _kernel(config, **operands):
    """``reference.forward`` by the custom call, where what has no rows is not given."""
    b, s_q, h_q, _ = operands["q"].shape
    absent = {
        "topk_length": jnp.zeros((0, 0), jnp.int32),
        "extra_k_cache": jnp.zeros((0, 1, 1, config.fmt.bytes_per_token), jnp.uint8),
        "extra_indices": jnp.zeros((b, s_q, 0), jnp.int32),
        "extra_topk_length": jnp.zeros((0, 0), jnp.int32),
        "attn_sink": jnp.zeros((0, h_q), jnp.float32),
    }
    return _ffi.sparse_decode(
        **{name: absent[name] if x is None else x for name, x in operands.items()},
        d_v=config.head_dim_v,
        scale=config.scale,
        emulated=config.implementation == _support.EMULATED,
    )


_attention = functools.partial(
    attention,
    "sparse_decode",
    reference,
    operands={
        "q": "b s h d",
        "k_cache": "p t o c",
        "indices": "b s k",
        "topk_length": "b s",
        "extra_k_cache": "e u o c",
        "extra_indices": "b s j",
        "extra_topk_length": "b s",
        "attn_sink": "m h",
    },
    results=("b s h v", "b h s"),
    pools={"k_cache": Pool(ids="indices", axes=2), "extra_k_cache": Pool(ids="extra_indices", axes=2)},
)
ATTENTION = _attention(differentiable=("q", "k_cache", "extra_k_cache", "attn_sink"))
# Bytes have no gradient.
ATTENTION_FP8 = _attention(differentiable=("q", "attn_sink"), kernel=_kernel)


@dataclasses.dataclass(frozen=True)
class Config:
    """Static options of a call; ``fmt`` is None for a float cache."""

    head_dim_v: int
    scale: float
    fmt: KVCacheFormat | None
    implementation: str


def sparse_decode(
    q,
    k_cache,
    indices,
    *,
    head_dim_v,
    softmax_scale,
    is_fp8_kvcache,
    attn_sink,
    extra_k_cache,
    extra_indices_in_kvcache,
    topk_length,
    extra_topk_length,
    implementation,
):
    """``flash_mla_with_kvcache`` with ``indices``."""
    shapes = check.Shapes()
    q = shapes.array("q", q, "b s_q h_q d_qk", check.FLOATS)
    check.at_least("q", "a number of heads", shapes["h_q"], 1)
    cache_dtypes = check.BYTES if is_fp8_kvcache else check.FLOATS
    k_cache = _cache(shapes, "k_cache", k_cache, "num_pages page_size 1 width", cache_dtypes)
    indices = shapes.array("indices", indices, "b s_q topk", check.INT32)
    lengths = _lengths(shapes, "topk_length", topk_length, "topk", q)
    if (extra_k_cache is None) != (extra_indices_in_kvcache is None):
        given, missing = ("extra_k_cache", "extra_indices_in_kvcache")[:: 1 if extra_indices_in_kvcache is None else -1]
        raise ValueError(f"{given} was given without {missing}: a second cache needs both.")
    extra_lengths = None
    if extra_k_cache is not None:
        extra_dims = "extra_num_pages extra_page_size 1 width"
        extra_k_cache = _cache(shapes, "extra_k_cache", extra_k_cache, extra_dims, cache_dtypes)
        extra_indices_in_kvcache = shapes.array(
            "extra_indices_in_kvcache", extra_indices_in_kvcache, "b s_q extra_topk", check.INT32
        )
        extra_lengths = _lengths(shapes, "extra_topk_length", extra_topk_length, "extra_topk", q)
    elif extra_topk_length is not None:
        raise ValueError("extra_topk_length was given without extra_k_cache: it counts entries of the second cache.")
    attn_sink = shapes.optional("attn_sink", attn_sink, "h_q", check.FLOAT32)
    fmt = _format(shapes, q, k_cache, extra_k_cache, head_dim_v, is_fp8_kvcache)

    chosen = _support.resolve(
        "sparse_decode",
        implementation,
        dtype=q.dtype,
        kv_format=fmt,
        **{name: shapes[name] for name in ("h_q", "d_qk", "s_q", "topk", "page_size")},
        d_v=head_dim_v,
    )
    scale = check.static_scale("softmax_scale", softmax_scale, shapes["d_qk"] ** -0.5)
    config = Config(head_dim_v, scale, fmt, chosen)
    if fmt is not None:
        k_cache, extra_k_cache = (None if c is None else as_unsigned(c) for c in (k_cache, extra_k_cache))
    return (ATTENTION if fmt is None else ATTENTION_FP8)(
        config,
        q=q,
        k_cache=k_cache,
        indices=indices,
        topk_length=lengths,
        extra_k_cache=extra_k_cache,
        extra_indices=extra_indices_in_kvcache,
        extra_topk_length=extra_lengths,
        attn_sink=None if attn_sink is None else attn_sink[None],
    )


def _cache(shapes, name, cache, dims, dtypes):
    cache = shapes.array(name, cache, dims, dtypes)
    check.at_least(name, "a page size", cache.shape[1], 1)
    return cache


def _lengths(shapes, name, lengths, limit, q):
    """Per request or per query token → per query token."""
    if lengths is None:
        return None
    per_request = len(getattr(lengths, "shape", ())) == 1
    check.host_lengths_within(name, lengths, limit, shapes[limit])
    lengths = shapes.array(name, lengths, "b" if per_request else "b s_q", check.INT32)
    return jnp.broadcast_to(lengths[:, None], q.shape[:2]) if per_request else lengths


def _format(shapes, q, k_cache, extra_k_cache, head_dim_v, is_fp8_kvcache):
    """The FP8 format that the operands agree on, or None for float caches."""
    if not is_fp8_kvcache:
        if shapes["width"] != shapes["d_qk"]:
            raise ValueError(f"k_cache must have the head dimension of q, {shapes['d_qk']}, got {shapes['width']}.")
        check.same_dtype("k_cache", k_cache, "q", q)
        if extra_k_cache is not None:
            check.same_dtype("extra_k_cache", extra_k_cache, "q", q)
        check.at_most("head_dim_v", head_dim_v, "the head dimension of k_cache", shapes["d_qk"])
        return None
    fmt = KVCacheFormat.of_bytes(shapes["width"])
    if fmt is None:
        sizes = " or ".join(f"{f.bytes_per_token} ({f.name})" for f in KVCacheFormat)
        raise ValueError(f"k_cache must have a last dimension of {sizes} bytes a token, got {shapes['width']}.")
    if shapes["d_qk"] != fmt.d_qk:
        raise ValueError(f"q must have head dimension {fmt.d_qk} for a {fmt.name} cache, got {shapes['d_qk']}.")
    if head_dim_v != fmt.d_v:
        raise ValueError(f"head_dim_v must be {fmt.d_v} for a {fmt.name} cache, got {head_dim_v}.")
    return fmt
