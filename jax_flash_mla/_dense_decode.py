"""Dense decode: validated operands → derivative → vmap → partitioning → implementation."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jax_flash_mla import _ffi, _support
from jax_flash_mla import _validation as check
from jax_flash_mla._derivative import attention
from jax_flash_mla._stage import Pool
from jax_flash_mla.reference import dense_decode as reference


def _kernel(config, **operands):
    """``reference.forward`` by the custom call, where a sink without rows is none."""
    if operands["attn_sink"] is None:
        operands["attn_sink"] = jnp.zeros((0, operands["q"].shape[2]), jnp.float32)
    return _ffi.dense_decode(
        **operands,
        d_v=config.head_dim_v,
        scale=config.scale,
        causal=config.causal,
        emulated=config.implementation == _support.EMULATED,
    )


ATTENTION = attention(
    "dense_decode",
    reference,
    operands={
        "q": "b s h d",
        "k_cache": "p t g d",
        "block_table": "b n",
        "cache_seqlens": "b",
        "attn_sink": "m h",
    },
    results=("b s h v", "b h s"),
    differentiable=("q", "k_cache", "attn_sink"),
    pools={"k_cache": Pool(ids="block_table", axes=1)},
    kernel=_kernel,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Static options of a call."""

    head_dim_v: int
    scale: float
    causal: bool
    implementation: str


def dense_decode(
    q, k_cache, block_table, cache_seqlens, *, head_dim_v, softmax_scale, causal, attn_sink, implementation
):
    """``flash_mla_with_kvcache`` without ``indices``."""
    shapes = check.Shapes()
    q = shapes.array("q", q, "b s_q h_q d_qk", check.FLOATS)
    k_cache = shapes.array("k_cache", k_cache, "num_pages page_size h_kv d_qk", check.FLOATS)
    check.same_dtype("k_cache", k_cache, "q", q)
    block_table = shapes.array("block_table", block_table, "b max_pages", check.INT32)
    cache_seqlens = shapes.array("cache_seqlens", cache_seqlens, "b", check.INT32)
    attn_sink = shapes.optional("attn_sink", attn_sink, "h_q", check.FLOAT32)
    check.head_groups("q", shapes["h_q"], "k_cache", shapes["h_kv"])
    check.at_least("k_cache", "a page size", shapes["page_size"], 1)
    check.at_least("q", "a head dimension", shapes["d_qk"], 1)
    check.at_most("head_dim_v", head_dim_v, "the head dimension of k_cache", shapes["d_qk"])
    chosen = _support.resolve(
        "dense_decode",
        implementation,
        dtype=q.dtype,
        **{name: shapes[name] for name in ("h_q", "h_kv", "d_qk", "s_q", "page_size")},
        d_v=head_dim_v,
    )
    scale = check.static_scale("softmax_scale", softmax_scale, shapes["d_qk"] ** -0.5)
    config = Config(head_dim_v, scale, causal, chosen)
    return ATTENTION(
        config,
        q=q,
        k_cache=k_cache,
        block_table=block_table,
        cache_seqlens=cache_seqlens,
        attn_sink=None if attn_sink is None else attn_sink[None],
    )
