"""Multi-head attention, batched and packed: ``flash_attn_func`` and its varlen forms."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jax_flash_mla import _ffi, _support
from jax_flash_mla import _validation as check
from jax_flash_mla._derivative import attention
from jax_flash_mla._mha_ranges import sequence_ranges
from jax_flash_mla.reference import mha as reference
from jax_flash_mla.reference.softmax import output_change


def _kernel(config, q, k, v, cu_seqlens_qo, cu_seqlens_kv):
    """``reference.forward`` by the custom call."""
    ranges = sequence_ranges(cu_seqlens_qo, q.shape[1], cu_seqlens_kv, k.shape[1])
    return _ffi.mha_forward(
        q,
        k,
        v,
        ranges,
        cu_seqlens_qo,
        scale=config.scale,
        causal=config.causal,
        emulated=config.implementation == _support.EMULATED,
    )


def _backward_kernel(config, q, k, v, cu_seqlens_qo, cu_seqlens_kv, out, lse, d_out, d_lse):
    """``reference.backward`` by the custom call."""
    tokens_q, tokens_kv = q.shape[1], k.shape[1]
    return _ffi.mha_backward(
        q,
        k,
        v,
        d_out,
        lse,
        output_change(out, d_out) - d_lse,
        sequence_ranges(cu_seqlens_qo, tokens_q, cu_seqlens_kv, tokens_kv),
        cu_seqlens_qo,
        sequence_ranges(cu_seqlens_kv, tokens_kv, cu_seqlens_qo, tokens_q),
        cu_seqlens_kv,
        scale=config.scale,
        causal=config.causal,
        deterministic=config.deterministic,
        emulated=config.implementation == _support.EMULATED,
    )


ATTENTION = attention(
    "mha",
    reference,
    operands={
        "q": "b t h d",
        "k": "b s g d",
        "v": "b s g v",
        "cu_seqlens_qo": "b n",
        "cu_seqlens_kv": "b n",
    },
    results=("b t h v", "b t h"),
    differentiable=("q", "k", "v"),
    kernel=_kernel,
    backward_kernel=_backward_kernel,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Static options of a call; the longest lengths are hints."""

    scale: float
    causal: bool
    deterministic: bool
    implementation: str
    max_seqlen_qo: int | None = None
    max_seqlen_kv: int | None = None


def flash_attn_func(
    q,
    k,
    v,
    *,
    softmax_scale=None,
    causal=False,
    q_seqlens=None,
    kv_seqlens=None,
    deterministic=False,
    implementation=None,
):
    """Multi-head attention of a padded batch.

    Dimensions: B sequences of up to T query tokens and S key tokens, N query heads over
    K key heads (N a multiple of K), D dimensions of a key, E of a value.

    Args:
      q: [B, T, N, D], bfloat16, float16 or float32.
      k: [B, S, K, D] and v: [B, S, K, E], of q's dtype.
      softmax_scale: static float, finite; default D ** -0.5.
      causal: static bool; query i of a sequence sees its keys up to i + keys − queries,
        by the sequence's own lengths (aligned at the last key, unlike
        ``jax.nn.dot_product_attention``).
      q_seqlens, kv_seqlens: int32 [B]; tokens past them are padding, whatever they hold.
      deterministic: static bool; whether gradients must be equal bit for bit from run
        to run. Outputs always are.
      implementation: static; None (a kernel where there is one, else XLA), "cuda" or
        "xla".

    Returns:
      ``(out, lse)``: out [B, T, N, E] of q's dtype and lse float32 [B, T, N], the
      natural log-sum-exp of the scaled logits. Padding, and queries with nothing to
      attend to, have out 0 and lse −inf; a sequence whose lengths are out of range has
      NaN in both.

    Raises:
      TypeError: a wrong dtype, an argument that is not an array, a traced value for a
        static argument, a ``causal`` that is not a bool or a scale that is one.
      ValueError: shapes that do not fit together.
      NotImplementedError: ``implementation="cuda"`` where no kernel runs these arguments.

    Differentiable in q, k and v, through both results, in reverse mode. The result
    names for ``jax.checkpoint`` policies are ``jax_flash_mla.out`` and
    ``jax_flash_mla.lse``.
    """
    shapes = check.Shapes()
    q = shapes.array("q", q, "B T N D", check.FLOATS)
    k = shapes.array("k", k, "B S K D", check.FLOATS)
    v = shapes.array("v", v, "B S K E", check.FLOATS)
    q_seqlens = shapes.optional("q_seqlens", q_seqlens, "B", check.INT32)
    kv_seqlens = shapes.optional("kv_seqlens", kv_seqlens, "B", check.INT32)
    config = _config(q, k, v, softmax_scale, causal, deterministic, implementation)
    cu_q = _one_sequence(q_seqlens, q)
    cu_kv = _one_sequence(kv_seqlens, k)
    return ATTENTION(config, q=q, k=k, v=v, cu_seqlens_qo=cu_q, cu_seqlens_kv=cu_kv)


def _one_sequence(lengths, x):
    """Cumulative lengths [B, 2] of packs that hold one sequence each."""
    b, tokens = x.shape[:2]
    if lengths is None:
        lengths = jnp.full((b,), tokens, jnp.int32)
    # A negative length must spoil its own sequence, as one that is too long does.
    lengths = jnp.where(lengths < 0, jnp.int32(jnp.iinfo(jnp.int32).max), lengths)
    return jnp.stack([jnp.zeros_like(lengths), lengths], axis=1)


def flash_attn_varlen_func(
    q,
    k,
    v,
    cu_seqlens_qo,
    cu_seqlens_kv,
    max_seqlen_qo=None,
    max_seqlen_kv=None,
    *,
    softmax_scale=None,
    causal=False,
    deterministic=False,
    implementation=None,
):
    """Multi-head attention of sequences packed one after another.

    Dimensions: b sequences, total_q query tokens and total_kv key tokens altogether, N
    query heads over K key heads, D dimensions of a key, E of a value.

    Args:
      q: [total_q, N, D], bfloat16, float16 or float32.
      k: [total_kv, K, D] and v: [total_kv, K, E], of q's dtype.
      cu_seqlens_qo, cu_seqlens_kv: int32 [b + 1]; sequence i has the tokens from entry i
        up to entry i + 1. Tokens from the last entry on belong to nothing: they may hold
        NaN, and have out 0, lse −inf and zero gradients.
      max_seqlen_qo, max_seqlen_kv: static ints or None; hints for the choice of tiles.
        A longer sequence is still right.
      softmax_scale, causal, deterministic, implementation: as in ``flash_attn_func``.

    Returns:
      ``(out, lse)``: out [total_q, N, E] of q's dtype and lse float32 [total_q, N].
      A sequence whose bounds decrease, leave the tokens or run into an earlier sequence
      has NaN in both; the others are right.

    Raises:
      TypeError, ValueError, NotImplementedError: as ``flash_attn_func``.

    Differentiable as ``flash_attn_func``.
    """
    shapes = check.Shapes()
    q = shapes.array("q", q, "total_q N D", check.FLOATS)
    k = shapes.array("k", k, "total_kv K D", check.FLOATS)
    v = shapes.array("v", v, "total_kv K E", check.FLOATS)
    return _packed(
        q,
        k,
        v,
        {"cu_seqlens_qo": cu_seqlens_qo, "cu_seqlens_kv": cu_seqlens_kv},
        {"max_seqlen_qo": max_seqlen_qo, "max_seqlen_kv": max_seqlen_kv},
        dict(softmax_scale=softmax_scale, causal=causal, deterministic=deterministic, implementation=implementation),
    )


def flash_attn_varlen_qkvpacked_func(
    qkv,
    cu_seqlens,
    max_seqlen,
    head_dim_qk,
    *,
    softmax_scale=None,
    causal=False,
    deterministic=False,
    implementation=None,
):
    """``flash_attn_varlen_func`` of queries, keys and values side by side in one array.

    Args:
      qkv: [total, N, 2 · head_dim_qk + E], bfloat16, float16 or float32: for each head a
        query, a key and a value.
      cu_seqlens: int32 [b + 1], for queries and keys alike.
      max_seqlen: static int or None; a hint.
      head_dim_qk: static int; dimensions of a query and of a key.
      softmax_scale, causal, deterministic, implementation: as in ``flash_attn_func``.

    Returns, Raises: as ``flash_attn_varlen_func``.
    """
    head_dim_qk = check.static_int("head_dim_qk", head_dim_qk, 1)
    qkv = check.Shapes().array("qkv", qkv, "total N width", check.FLOATS)
    _at_least_one_value_dim("qkv", qkv, 2 * head_dim_qk, f"2 · head_dim_qk = {2 * head_dim_qk}")
    q, k, v = jnp.split(qkv, [head_dim_qk, 2 * head_dim_qk], axis=-1)
    return _packed(
        q,
        k,
        v,
        {"cu_seqlens": cu_seqlens},
        {"max_seqlen": max_seqlen},
        dict(softmax_scale=softmax_scale, causal=causal, deterministic=deterministic, implementation=implementation),
    )


def flash_attn_varlen_kvpacked_func(
    q,
    kv,
    cu_seqlens_qo,
    cu_seqlens_kv,
    max_seqlen_qo,
    max_seqlen_kv,
    head_dim_qk,
    *,
    softmax_scale=None,
    causal=False,
    deterministic=False,
    implementation=None,
):
    """``flash_attn_varlen_func`` of keys and values side by side in one array.

    Args:
      q: [total_q, N, head_dim_qk], bfloat16, float16 or float32.
      kv: [total_kv, K, head_dim_qk + E] of q's dtype: for each head a key and a value.
      cu_seqlens_qo, cu_seqlens_kv: int32 [b + 1].
      max_seqlen_qo, max_seqlen_kv: static ints or None; hints.
      head_dim_qk: static int; dimensions of a query and of a key.
      softmax_scale, causal, deterministic, implementation: as in ``flash_attn_func``.

    Returns, Raises: as ``flash_attn_varlen_func``.
    """
    head_dim_qk = check.static_int("head_dim_qk", head_dim_qk, 1)
    shapes = check.Shapes(head_dim_qk=head_dim_qk)
    q = shapes.array("q", q, "total_q N head_dim_qk", check.FLOATS)
    kv = shapes.array("kv", kv, "total_kv K width", check.FLOATS)
    _at_least_one_value_dim("kv", kv, head_dim_qk, f"head_dim_qk = {head_dim_qk}")
    k, v = jnp.split(kv, [head_dim_qk], axis=-1)
    return _packed(
        q,
        k,
        v,
        {"cu_seqlens_qo": cu_seqlens_qo, "cu_seqlens_kv": cu_seqlens_kv},
        {"max_seqlen_qo": max_seqlen_qo, "max_seqlen_kv": max_seqlen_kv},
        dict(softmax_scale=softmax_scale, causal=causal, deterministic=deterministic, implementation=implementation),
    )


def _at_least_one_value_dim(name, x, taken, text):
    if x.shape[-1] <= taken:
        raise ValueError(f"{name} must have a last dimension above {text}, got {x.shape[-1]}.")


def _packed(q, k, v, cu_seqlens: dict, max_seqlens: dict, options: dict):
    """Attention of packed sequences; one entry of ``cu_seqlens`` serves both sides."""
    shapes = check.Shapes()
    cu = [shapes.array(name, value, "b+1", check.INT32) for name, value in cu_seqlens.items()]
    check.at_least(next(iter(cu_seqlens)), "a length", shapes["b+1"], 2)
    longest = [check.static_int(name, value, 0, optional=True) for name, value in max_seqlens.items()]
    config = dataclasses.replace(_config(q, k, v, **options), max_seqlen_qo=longest[0], max_seqlen_kv=longest[-1])
    out, lse = ATTENTION(config, q=q[None], k=k[None], v=v[None], cu_seqlens_qo=cu[0][None], cu_seqlens_kv=cu[-1][None])
    return out[0], lse[0]


def _config(q, k, v, softmax_scale, causal, deterministic, implementation):
    """Checks what batched and packed calls have in common."""
    causal = check.static_bool("causal", causal)
    deterministic = check.static_bool("deterministic", deterministic)
    check.same_dtype("k", k, "q", q)
    check.same_dtype("v", v, "q", q)
    h_q, d_qk = q.shape[-2:]
    h_kv, d_v = v.shape[-2:]
    check.head_groups("q", h_q, "k", h_kv)
    check.at_least("q", "a head dimension", d_qk, 1)
    check.at_least("v", "a head dimension", d_v, 1)
    scale = check.static_scale("softmax_scale", softmax_scale, d_qk**-0.5)
    chosen = _support.resolve("mha", implementation, dtype=q.dtype, h_q=h_q, h_kv=h_kv, d_qk=d_qk, d_v=d_v)
    return Config(scale, causal, deterministic, chosen)
