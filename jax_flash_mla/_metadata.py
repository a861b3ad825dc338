"""``get_mla_metadata``: the work of a decode step laid out for all its layers."""

from __future__ import annotations

import jax.numpy as jnp

from jax_flash_mla import _support
from jax_flash_mla import _validation as check

BLOCK_K = 64  # keys of one unit of work
BLOCK_M = _support.SIZES["dense_decode"]["tile_rows"]
# Most parts the work is cut into: one for each thread block of the largest launch.
MAX_PARTS = _support.SIZES["dense_decode"]["max_ctas"]


def get_mla_metadata(
    cache_seqlens, num_q_tokens_per_head_k, num_heads_k, num_heads_q=None, is_fp8_kvcache=False, topk=None
):
    """How the work of a decode step spreads over the device; every layer can share it.

    It is advice: ``flash_mla_with_kvcache`` gives the same results with metadata for
    these lengths, for other lengths, or with none.

    Args:
      cache_seqlens: int32 [b]; tokens in the cache of each request.
      num_q_tokens_per_head_k: static int; query tokens · query heads / key heads.
      num_heads_k: static int.
      num_heads_q: static int or None; needed with ``topk``.
      is_fp8_kvcache: static bool.
      topk: static int or None; the number of indices of a query token in sparse decode.

    Returns:
      ``(tile_scheduler_metadata, num_splits)``: int32 [b, 2], for each request the
      length that the schedule is for and the units of work before it, where a unit is
      64 keys of one tile of query rows; and int32 [b + 1], the number of parts that
      the requests before each are cut into when the work is dealt out evenly over the
      thread blocks of the largest launch. A negative length counts as none.

    Raises:
      TypeError: a wrong dtype, or a traced value for a static argument.
      ValueError: numbers that do not fit together.
      NotImplementedError: an FP8 cache without ``topk``.

    A pure function of its arguments, to be used under ``jax.jit`` with the rest of the
    step. It has no derivative.
    """
    check.static_int("num_q_tokens_per_head_k", num_q_tokens_per_head_k, 1)
    check.static_int("num_heads_k", num_heads_k, 1)
    check.static_int("num_heads_q", num_heads_q, 1, optional=True)
    check.static_int("topk", topk, 0, optional=True)
    if check.static_bool("is_fp8_kvcache", is_fp8_kvcache) and topk is None:
        raise NotImplementedError("is_fp8_kvcache=True needs topk: there is no dense decode from an FP8 cache.")
    cache_seqlens = check.Shapes().array("cache_seqlens", cache_seqlens, "b", check.INT32)
    keys, tiles = jnp.maximum(cache_seqlens, 0), _ceil_div(num_q_tokens_per_head_k, BLOCK_M) * num_heads_k
    if topk is not None:
        if num_heads_q is None:
            raise ValueError("num_heads_q must be given with topk: each query token of sparse decode has its own keys.")
        rows = num_q_tokens_per_head_k * num_heads_k
        if rows % num_heads_q:
            raise ValueError(
                f"num_heads_q must divide num_q_tokens_per_head_k · num_heads_k = {rows}, got {num_heads_q}."
            )
        keys, tiles = jnp.full_like(keys, topk), rows // num_heads_q * _ceil_div(num_heads_q, BLOCK_M)

    units = keys // BLOCK_K + (keys % BLOCK_K > 0)
    end = jnp.cumsum(units, dtype=jnp.int32)
    start = end - units
    # Tiles of a request run side by side, so each has its share of the parts.
    total = end[-1] if cache_seqlens.shape[0] else jnp.int32(0)
    per_part = jnp.maximum(1, _ceil_div(total, max(1, MAX_PARTS // tiles)))
    cuts = jnp.where(units > 0, (end - 1) // per_part - start // per_part + 1, 1)
    num_splits = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(cuts, dtype=jnp.int32)])
    return jnp.stack([cache_seqlens, start], axis=1), num_splits


def check_metadata(tile_scheduler_metadata, num_splits, b) -> None:
    """Refuses what is not a result of ``get_mla_metadata`` for ``b`` requests."""
    shapes = check.Shapes("q", b=b)
    shapes.optional("tile_scheduler_metadata", tile_scheduler_metadata, "b 2", check.INT32)
    splits = shapes.optional("num_splits", num_splits, "entries", check.INT32)
    if splits is not None and splits.shape[0] != b + 1:
        raise ValueError(f"num_splits must have {b + 1} entries, one more than q has requests, got {splits.shape[0]}.")


def _ceil_div(a, b):
    return -(-a // b)
