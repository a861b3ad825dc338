"""The custom calls: one typed function for each target, and the registration of their handlers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jax_flash_mla import _support, _vma
from jax_flash_mla._extension import EMULATOR, EXTENSION
from jax_flash_mla._kv_cache_format import KVCacheFormat

# A name's version stands for its contract, which never changes: a changed one is a new name.
APPEND = "jax_flash_mla.append.v1"
DENSE_DECODE = "jax_flash_mla.dense_decode.v1"
MHA_BACKWARD = "jax_flash_mla.mha_backward.v1"
MHA_FORWARD = "jax_flash_mla.mha.v1"
QUANTIZE = "jax_flash_mla.quantize.v1"
SPARSE_BACKWARD = "jax_flash_mla.sparse_backward.v1"
SPARSE_DECODE = "jax_flash_mla.sparse_decode.v1"
SPARSE_PREFILL = "jax_flash_mla.sparse_prefill.v1"

# Of the same handlers where test builds have their kernels on the CPU.
EMULATED_SUFFIX = ".emulated"

for _loaded in filter(None, (EXTENSION, EMULATOR)):
    for _platform, _targets in _loaded.targets().items():
        for _name, _stages in _targets.items():
            jax.ffi.register_ffi_target(_name, _stages, platform=_platform, api_version=1)


def append(cache, latent, rope, slots, *, emulated: bool = False):
    """New tokens into an FP8 cache by the kernel of the device.

    Args:
      cache: uint8, int8 or float8_e4m3fn [pages, page_size, 1, bytes per token], whose size
        says the format.
      latent: bfloat16, float16 or float32 [n, dims of the format]; rope: likewise [n, 64].
      slots: int32 [n], page · page_size + slot. A token of a slot out of range is skipped;
        of several tokens for a slot the last is written.
      emulated: whether to run the kernel for GPUs on the CPU; in test builds alone.

    Returns:
      The cache with the tokens written, in place where it may be overwritten.
    """
    # The second result is scratch: slots, and the last token that claims each.
    claims = (2, _support.SIZES["append"]["claim_places"] * slots.shape[0])
    results = (jax.ShapeDtypeStruct(cache.shape, cache.dtype), jax.ShapeDtypeStruct(claims, jnp.int32))
    call = jax.ffi.ffi_call(APPEND + (EMULATED_SUFFIX if emulated else ""), results, input_output_aliases={0: 0})
    return _vma.vary_like(tuple(call(cache, latent, rope, slots)), cache)[0]


def dense_decode_with_scratch(
    q, k_cache, block_table, cache_seqlens, attn_sink, *, d_v: int, scale: float, causal: bool, emulated: bool = False
):
    """Dense decode by the kernel of the device.

    Args:
      q: [b, s_q, h_q, d].
      k_cache: [pages, page_size, h_kv, d] of q's dtype.
      block_table: int32 [b, columns].
      cache_seqlens: int32 [b].
      attn_sink: float32 [m, h_q]; m divides b, or is 0: no sink.
      d_v, scale, causal: as in ``flash_mla_with_kvcache``.
      emulated: whether to run the kernel for GPUs on the CPU; in test builds alone.

    Returns:
      out [b, s_q, h_q, d_v] of q's dtype, lse float32 [b, h_q, s_q]; then the scratch,
      which means nothing to the caller: partial outputs and partial lse.
    """
    b, s_q, h_q, _ = q.shape
    results = (
        jax.ShapeDtypeStruct((b, s_q, h_q, d_v), q.dtype),
        jax.ShapeDtypeStruct((b, h_q, s_q), jnp.float32),
        *_support.WORKSPACES["dense_decode"](d_v),
    )
    call = jax.ffi.ffi_call(DENSE_DECODE + (EMULATED_SUFFIX if emulated else ""), results)
    computed = call(q, k_cache, block_table, cache_seqlens, attn_sink, scale=np.float32(scale), causal=np.bool_(causal))
    return _vma.vary_like(tuple(computed), q)


def dense_decode(*operands, **options):
    """The results of ``dense_decode_with_scratch`` without the scratch."""
    return dense_decode_with_scratch(*operands, **options)[:2]


def mha_forward(q, k, v, ranges, cu_q, *, scale: float, causal: bool, emulated: bool = False):
    """Multi-head attention by the kernel of the device.

    Args:
      q: [packs, tokens_q, h_q, d]; k: [packs, tokens_kv, h_kv, d] and v: [packs, tokens_kv,
        h_kv, d_v] of q's dtype.
      ranges: int32 [packs, n + 1, 6], of ``sequence_ranges``.
      cu_q: int32 [packs, n + 1], what these were made of.
      scale, causal: as in ``flash_attn_func``.
      emulated: whether to run the kernel for GPUs on the CPU; in test builds alone.

    Returns:
      out [packs, tokens_q, h_q, d_v] of q's dtype, lse float32 [packs, tokens_q, h_q].
    """
    rows = q.shape[:3]
    results = (jax.ShapeDtypeStruct((*rows, v.shape[3]), q.dtype), jax.ShapeDtypeStruct(rows, jnp.float32))
    call = jax.ffi.ffi_call(MHA_FORWARD + (EMULATED_SUFFIX if emulated else ""), results)
    return _vma.vary_like(tuple(call(q, k, v, ranges, cu_q, scale=np.float32(scale), causal=np.bool_(causal))), q)


def mha_backward_with_scratch(
    q,
    k,
    v,
    d_out,
    lse,
    delta,
    q_ranges,
    cu_q,
    kv_ranges,
    cu_kv,
    *,
    scale: float,
    causal: bool,
    deterministic: bool,
    emulated: bool = False,
):
    """Gradients of multi-head attention by the kernels of the device.

    Args:
      q, k, v: as in ``mha_forward``; d_out: [packs, tokens_q, h_q, d_v] of q's dtype.
      lse: float32 [packs, tokens_q, h_q], of the forward; delta: likewise, the sum of out ·
        d_out over a row, less the cotangent of lse.
      q_ranges, kv_ranges: int32 [packs, n + 1, 6], of ``sequence_ranges``, for either side.
      cu_q, cu_kv: int32 [packs, n + 1], what these were made of.
      scale, causal, deterministic: as in ``flash_attn_func``.
      emulated: whether to run the kernels for GPUs on the CPU; in test builds alone.

    Returns:
      d_q, d_k, d_v, shaped as q, k, v, of q's dtype; then the scratch, which means nothing
      to the caller: sums of d_q, and counters.
    """
    packs, tokens, h_q, d_qk = q.shape
    scratch = _support.WORKSPACES["mha_backward"](packs, tokens, h_q, d_qk, cu_q.shape[1] - 1, deterministic)
    results = (*(jax.ShapeDtypeStruct(x.shape, q.dtype) for x in (q, k, v)), *scratch)
    call = jax.ffi.ffi_call(MHA_BACKWARD + (EMULATED_SUFFIX if emulated else ""), results)
    operands = (q, k, v, d_out, lse, delta, q_ranges, cu_q, kv_ranges, cu_kv)
    return _vma.vary_like(tuple(call(*operands, scale=np.float32(scale), causal=np.bool_(causal))), q)


def mha_backward(*operands, **options):
    """The results of ``mha_backward_with_scratch`` without the scratch."""
    return mha_backward_with_scratch(*operands, **options)[:3]


def quantize(latent, rope, *, fmt: KVCacheFormat, power_of_two_scales: bool, emulated: bool = False):
    """Whole pages of an FP8 cache by the kernel of the device.

    Args:
      latent: bfloat16, float16 or float32 [pages, page_size, fmt.latent_dim]; rope: likewise
        [pages, page_size, 64].
      fmt, power_of_two_scales: as in ``quantize_kv_cache``.
      emulated: whether to run the kernel for GPUs on the CPU; in test builds alone.

    Returns:
      uint8 [pages, page_size, 1, fmt.bytes_per_token].
    """
    result = jax.ShapeDtypeStruct((*latent.shape[:2], 1, fmt.bytes_per_token), jnp.uint8)
    call = jax.ffi.ffi_call(QUANTIZE + (EMULATED_SUFFIX if emulated else ""), result)
    return _vma.vary_like((call(latent, rope, power_of_two_scales=np.bool_(power_of_two_scales)),), latent)[0]


def sparse_backward_with_scratch(
    q,
    kv,
    indices,
    topk_length,
    d_out,
    lse,
    share,
    delta,
    order=None,
    starts=None,
    *,
    scale: float,
    emulated: bool = False,
):
    """Gradients of sparse prefill by the kernel of the device.

    Args:
      q: [s_q, h_q, d].
      kv: [s_kv, d] and d_out: [s_q, h_q, d_v] of q's dtype.
      indices: int32 [s_q, topk].
      topk_length: int32 [s_q], or [0]: all indices count.
      lse, share, delta: float32 [s_q, h_q]. With p = exp(score − lse), the gradient of a
        score is p · (share · (d_out · v) − delta), and a value's is the sum of
        share · p · d_out.
      order, starts: int32 [s_q · topk] and [s_kv + 1]: the places of indices by the token
        that they name, those of a token ascending, and where each token's begin: gradients
        of kv are summed in that order. None: in any order.
      scale: as in ``flash_mla_sparse_fwd``.
      emulated: whether to run the kernel for GPUs on the CPU; in test builds alone.

    Returns:
      d_q [s_q, h_q, d] of q's dtype; d_kv float32 [s_kv, d]; then the scratch, which means
      nothing to the caller: rows of gradients of keys.
    """
    s_q, h_q, d = q.shape
    scratch = (jax.ShapeDtypeStruct((0, d), q.dtype),)
    if order is None:
        order = starts = jnp.zeros((0,), jnp.int32)
    else:
        scratch = _support.WORKSPACES["sparse_backward"](s_q, h_q, indices.shape[1], d, q.dtype)
    results = (jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct(kv.shape, jnp.float32), *scratch)
    call = jax.ffi.ffi_call(SPARSE_BACKWARD + (EMULATED_SUFFIX if emulated else ""), results)
    operands = (q, kv, indices, topk_length, d_out, lse, share, delta, order, starts)
    return _vma.vary_like(tuple(call(*operands, scale=np.float32(scale))), q)


def sparse_backward(*operands, **options):
    """The results of ``sparse_backward_with_scratch`` without the scratch."""
    return sparse_backward_with_scratch(*operands, **options)[:2]


def sparse_decode_with_scratch(
    q,
    k_cache,
    indices,
    topk_length,
    extra_k_cache,
    extra_indices,
    extra_topk_length,
    attn_sink,
    *,
    d_v: int,
    scale: float,
    emulated: bool = False,
):
    """Sparse decode by the kernel of the device.

    Args:
      q: [b, s_q, h_q, d].
      k_cache: uint8 [pages, page_size, 1, bytes per token], whose size says the format.
      indices: int32 [b, s_q, topk].
      topk_length: int32 [b, s_q], or [0, 0]: all indices count.
      extra_k_cache, extra_indices, extra_topk_length: the same of a second cache; one
        without pages and with topk 0 is none.
      attn_sink: float32 [m, h_q]; m divides b, or is 0: no sink.
      d_v, scale: as in ``flash_mla_with_kvcache``.
      emulated: whether to run the kernel for GPUs on the CPU; in test builds alone.

    Returns:
      out [b, s_q, h_q, d_v] of q's dtype, lse float32 [b, h_q, s_q]; then the scratch,
      which means nothing to the caller: partial outputs and partial lse.
    """
    b, s_q, h_q, _ = q.shape
    results = (
        jax.ShapeDtypeStruct((b, s_q, h_q, d_v), q.dtype),
        jax.ShapeDtypeStruct((b, h_q, s_q), jnp.float32),
        *_support.WORKSPACES["sparse_decode"](d_v),
    )
    call = jax.ffi.ffi_call(SPARSE_DECODE + (EMULATED_SUFFIX if emulated else ""), results)
    lists = (k_cache, indices, topk_length, extra_k_cache, extra_indices, extra_topk_length)
    computed = call(q, *lists, attn_sink, scale=np.float32(scale))
    return _vma.vary_like(tuple(computed), q)


def sparse_decode(*operands, **options):
    """The results of ``sparse_decode_with_scratch`` without the scratch."""
    return sparse_decode_with_scratch(*operands, **options)[:2]


def sparse_prefill(
    q, kv, indices, topk_length, attn_sink, *, d_v: int, scale: float, lse_base: int | str, emulated: bool = False
):
    """Sparse prefill by the kernel of the device.

    Args:
      q: [s_q, h_q, d].
      kv: [s_kv, d] of q's dtype.
      indices: int32 [s_q, topk].
      topk_length: int32 [s_q], or [0]: all indices count.
      attn_sink: float32 [m, h_q]; m divides s_q, or is 0: no sink.
      d_v, scale, lse_base: as in ``flash_mla_sparse_fwd``.
      emulated: whether to run the kernel for GPUs on the CPU; in test builds alone.

    Returns:
      out [s_q, h_q, d_v] of q's dtype; max_logits and lse, float32 [s_q, h_q].
    """
    s_q, h_q, _ = q.shape
    rows = jax.ShapeDtypeStruct((s_q, h_q), jnp.float32)
    results = (jax.ShapeDtypeStruct((s_q, h_q, d_v), q.dtype), rows, rows)
    call = jax.ffi.ffi_call(SPARSE_PREFILL + (EMULATED_SUFFIX if emulated else ""), results)
    computed = call(q, kv, indices, topk_length, attn_sink, scale=np.float32(scale), base2=np.bool_(lse_base == 2))
    return _vma.vary_like(tuple(computed), q)
