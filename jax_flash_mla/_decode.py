"""``flash_mla_with_kvcache``: which of the two decode operations a call means."""

from __future__ import annotations

from jax_flash_mla import _metadata
from jax_flash_mla import _validation as check
from jax_flash_mla._dense_decode import dense_decode
from jax_flash_mla._sparse_decode import sparse_decode


def flash_mla_with_kvcache(
    q,
    k_cache,
    block_table,
    cache_seqlens,
    head_dim_v=512,
    tile_scheduler_metadata=None,
    num_splits=None,
    causal=False,
    is_fp8_kvcache=False,
    indices=None,
    *,
    softmax_scale=None,
    attn_sink=None,
    extra_k_cache=None,
    extra_indices_in_kvcache=None,
    topk_length=None,
    extra_topk_length=None,
    implementation=None,
):
    """Attention of a few query tokens of each request over its paged latent cache.

    Without ``indices`` each request attends to its first ``cache_seqlens`` tokens
    (dense decode); with ``indices`` each query token attends to the tokens that its
    list names (DeepSeek sparse attention). Keys are the cached vectors, values their
    first ``head_dim_v`` dimensions.

    Dimensions: b requests, s_q query tokens each, h_q query heads, h_kv key heads
    (1 in latent attention), d_qk dimensions of a key.

    Args:
      q: [b, s_q, h_q, d_qk], bfloat16, float16 or float32.
      k_cache: dense: [num_pages, page_size, h_kv, d_qk] of q's dtype, h_q a multiple of
        h_kv. Sparse: [num_pages, page_size, 1, 656 or 584] of uint8, int8 or
        float8_e4m3fn, read as bytes in the ``KVCacheFormat`` of that size; or
        [num_pages, page_size, 1, d_qk] of q's dtype.
      block_table: int32 [b, max_pages]; the pages of each request in order. Entries
        past those that its length needs may hold anything. Ignored with ``indices``.
      cache_seqlens: int32 [b]; tokens in the cache of each request, the query tokens
        included. Ignored with ``indices``.
      head_dim_v: static int; 512 for FP8 caches, else at most d_qk.
      tile_scheduler_metadata, num_splits: results of ``get_mla_metadata``, or None.
        They are advice and never change a result.
      causal: static bool; query token i of s_q sees the keys up to i + length − s_q
        (aligned at the last key, unlike ``jax.nn.dot_product_attention``). Dense only.
      is_fp8_kvcache: static bool; whether k_cache holds FP8 bytes. Needs ``indices``.
      indices: int32 [b, s_q, topk]; page · page_size + slot of each chosen token. A
        value below 0 or past the pool names nothing; one that stands twice counts twice.
      softmax_scale: static float, finite; default d_qk ** -0.5.
      attn_sink: float32 [h_q]; a logit per head with value zero, in natural units, not
        scaled. It scales ``out`` by e^lse / (e^lse + e^sink) and leaves ``lse`` alone.
      extra_k_cache, extra_indices_in_kvcache: a second cache of the same format (its
        page size may differ) and the tokens chosen from it, int32 [b, s_q, extra_topk].
      topk_length, extra_topk_length: int32 [b] or [b, s_q]; only so many leading
        indices count.
      implementation: static; None (a kernel where there is one, else XLA), "cuda" or
        "xla".

    Returns:
      ``(out, lse)``: out [b, s_q, h_q, head_dim_v] of q's dtype, and lse float32
      [b, h_q, s_q], the natural log-sum-exp of the scaled logits. A query token with
      nothing to attend to has out 0 and lse −inf. A request whose length or pages are
      out of range, or a query token whose ``topk_length`` is, has NaN in both.

    Raises:
      TypeError: a wrong dtype, an argument that is not an array, a traced value for a
        static argument, a ``causal`` that is not a bool or a scale that is one.
      ValueError: shapes that do not fit together, or options that exclude each other.
      NotImplementedError: an FP8 cache without ``indices``, or ``implementation="cuda"``
        where no kernel runs these arguments.

    Differentiable in q, in float caches and in attn_sink, through both results, in
    reverse mode. The result names for ``jax.checkpoint`` policies are
    ``jax_flash_mla.out`` and ``jax_flash_mla.lse``.
    """
    head_dim_v = check.static_int("head_dim_v", head_dim_v, 1)
    causal = check.static_bool("causal", causal, " (softmax_scale is passed by keyword)")
    is_fp8_kvcache = check.static_bool("is_fp8_kvcache", is_fp8_kvcache)
    q = check.Shapes().array("q", q, "b s_q h_q d_qk", check.FLOATS)
    _metadata.check_metadata(tile_scheduler_metadata, num_splits, q.shape[0])
    common = dict(
        head_dim_v=head_dim_v, softmax_scale=softmax_scale, attn_sink=attn_sink, implementation=implementation
    )
    if indices is None:
        sparse_only = dict(
            extra_k_cache=extra_k_cache,
            extra_indices_in_kvcache=extra_indices_in_kvcache,
            topk_length=topk_length,
            extra_topk_length=extra_topk_length,
        )
        for name, value in sparse_only.items():
            if value is not None:
                raise ValueError(f"{name} was given without indices: only sparse decode has it.")
        if is_fp8_kvcache:
            raise NotImplementedError("is_fp8_kvcache=True needs indices: there is no dense decode from an FP8 cache.")
        return dense_decode(q, k_cache, block_table, cache_seqlens, causal=causal, **common)
    if causal:
        raise ValueError("causal=True excludes indices: in sparse decode the indices say what is seen.")
    return sparse_decode(
        q,
        k_cache,
        indices,
        is_fp8_kvcache=is_fp8_kvcache,
        extra_k_cache=extra_k_cache,
        extra_indices_in_kvcache=extra_indices_in_kvcache,
        topk_length=topk_length,
        extra_topk_length=extra_topk_length,
        **common,
    )
