"""Dense decode: a few query tokens of each request over its paged cache."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_flash_mla import _vma
from jax_flash_mla.reference.products import product
from jax_flash_mla.reference.softmax import (
    RunningSoftmax,
    gradients,
    keys_share,
    output_change,
    sink_gradient,
    sink_per_problem,
)
from jax_flash_mla.reference.tiles import (
    at_least_one,
    blocks_over,
    ceil_div,
    for_each_step,
    from_here,
    map_tiles,
    nonempty,
    pad_last,
    size_within,
    tiles_per_step,
)

BLOCK_K = 512
# Rows (query tokens × heads of a key head) of one tile.
BLOCK_M = 512


def usable_lengths(num_pages, page_size, block_table, cache_seqlens):
    """Lengths that can be attended, and which requests are sound.

    A request is unsound, and attends to nothing, where its length is negative or
    passes what its row of the table covers, or where a page it needs is outside the
    pool.

    Returns:
      int32 [b], and bool [b].
    """
    columns = block_table.shape[1]
    sound = (cache_seqlens >= 0) & (ceil_div(cache_seqlens, page_size) <= columns)
    needed = from_here(columns) < ceil_div(cache_seqlens, page_size)[:, None]
    known = (block_table >= 0) & (block_table < num_pages)
    sound &= jnp.all(known | ~needed, axis=1)
    return jnp.where(sound, cache_seqlens, 0), sound


class _Tiling(NamedTuple):
    """Tiles of query tokens: ``tokens`` of one request each, ``per_request`` to a request."""

    b: int
    s_q: int
    tokens: int
    per_request: int
    per_step: int
    block_k: int

    @classmethod
    def of(cls, q, k_cache, block_table) -> _Tiling:
        b, s_q, h_q, d = q.shape
        _, page_size, h_kv, _ = k_cache.shape
        tokens = size_within(s_q, max(1, BLOCK_M * h_kv // h_q))
        per_request = at_least_one(ceil_div(s_q, tokens))
        block_k = size_within(block_table.shape[1] * page_size, BLOCK_K)
        elements = tokens * h_q * (block_k + 2 * d) + block_k * h_kv * d
        return cls(b, s_q, tokens, per_request, tiles_per_step(b * per_request, elements), block_k)

    def place(self, tile):
        """Request [tiles] and token positions [tiles, tokens] of some tiles."""
        tile = jnp.minimum(tile, self.b * self.per_request - 1)
        first = (tile % self.per_request) * self.tokens
        return tile // self.per_request, first[:, None] + from_here(self.tokens)

    def untile(self, x):
        """[tiles, tokens, ...] → [b, s_q, ...]."""
        return x.reshape(self.b, self.per_request * self.tokens, *x.shape[2:])[:, : self.s_q]


class _Keys(NamedTuple):
    """The paged cache as rows of token positions, each request's up to its usable length."""

    pool: jax.Array
    table: jax.Array
    lengths: jax.Array

    def block(self, request, first, count):
        """Where ``count`` keys from position ``first`` lie, and their rows, zero past the length.

        Returns:
          pages, slots, exists: [tiles, count]; rows: [tiles, count, h_kv, d].
        """
        page_size = self.pool.shape[1]
        position = first + from_here(count)
        column = jnp.minimum(position // page_size, self.table.shape[1] - 1)
        pages = self.table[request[:, None], column]
        slots = jnp.broadcast_to(position % page_size, pages.shape)
        exists = position < self.lengths[request][:, None]
        rows = self.pool.at[pages, slots].get(mode="clip")
        return pages, slots, exists, jnp.where(exists[..., None, None], rows, 0)


def _visible(config, lengths, token, s_q):
    """How many keys each query token sees: [tiles, tokens] from [tiles]."""
    if not config.causal:
        return jnp.broadcast_to(lengths[:, None], token.shape)
    return jnp.clip(lengths[:, None] + token + 1 - s_q, 0, lengths[:, None])


def _rows_by_head(x, h_kv):
    """[tiles, tokens, h_q, ...] → [tiles, h_kv, tokens, group, ...]."""
    x = x.reshape(*x.shape[:2], h_kv, x.shape[2] // h_kv, *x.shape[3:])
    return jnp.moveaxis(x, 2, 1)


def _heads_by_row(x):
    """The inverse of ``_rows_by_head``."""
    x = jnp.moveaxis(x, 1, 2)
    return x.reshape(*x.shape[:2], x.shape[2] * x.shape[3], *x.shape[4:])


def _scores(config, q, keys):
    """[tiles, h_kv, tokens, group, keys] in float32, scaled."""
    return config.scale * product("xgtrd,xkgd->xgtrk", q, keys)


def forward(config, *, q, k_cache, block_table, cache_seqlens, attn_sink):
    """Attention of each request's query tokens over its cache.

    Args:
      config: has ``head_dim_v``, ``scale``, ``causal``.
      q: [b, s_q, h_q, d].
      k_cache: [pages, page_size, h_kv, d]; values are its first ``head_dim_v`` dims.
      block_table: int32 [b, columns].
      cache_seqlens: int32 [b].
      attn_sink: float32 [m, h_q] or None.

    Returns:
      out [b, s_q, h_q, head_dim_v] of q's dtype and lse float32 [b, h_q, s_q].
    """
    b, s_q, _, _ = q.shape
    num_pages, page_size, h_kv, _ = k_cache.shape
    lengths, sound = usable_lengths(num_pages, page_size, block_table, cache_seqlens)
    keys = _Keys(nonempty(k_cache), nonempty(block_table), nonempty(lengths))
    tiling = _Tiling.of(q, k_cache, block_table)
    queries = nonempty(q)
    sinks = None if attn_sink is None else nonempty(sink_per_problem(attn_sink, b))

    def step(tile):
        request, token = tiling.place(tile)
        rows = _rows_by_head(queries.at[request[:, None], token].get(mode="clip"), h_kv)
        visible = _visible(config, keys.lengths[request], token, s_q)

        def add_block(first, state):
            _, _, _, k = keys.block(request, first, tiling.block_k)
            attends = first + from_here(tiling.block_k) < visible[:, None, :, None, None]
            v = k[..., : config.head_dim_v]
            return state.add(_scores(config, rows, k), attends, lambda p: product("xgtrk,xkgv->xgtrv", p, v))

        state = RunningSoftmax.start(rows.shape[:-1], config.head_dim_v, like=q)
        state = blocks_over(jnp.max(visible), tiling.block_k, add_block, state)
        out, lse = state.finish(None if sinks is None else _rows_by_head(sinks[request][:, None], h_kv))
        return _heads_by_row(out).astype(q.dtype), _heads_by_row(lse)

    out, lse = map_tiles(step, b * tiling.per_request, tiling.per_step)
    out, lse = tiling.untile(out), tiling.untile(lse)
    out = jnp.where(sound[:, None, None, None], out, jnp.nan)
    lse = jnp.where(sound[:, None, None], lse, jnp.nan)
    return out, jnp.moveaxis(lse, 2, 1)


def backward(config, *, q, k_cache, block_table, cache_seqlens, attn_sink, out, lse, d_out, d_lse):
    """Gradients of ``forward`` in q, k_cache and attn_sink.

    Args:
      config, q, k_cache, block_table, cache_seqlens: as in ``forward``.
      attn_sink: float32 [m, h_q]; −inf for none.
      out, lse: results of ``forward``.
      d_out, d_lse: their cotangents.

    Returns:
      d_q of q's dtype; d_k_cache and d_attn_sink in float32. An unsound request has NaN
      in d_q and adds nothing to the gradients that it shares with others.
    """
    b, s_q, _, _ = q.shape
    num_pages, page_size, h_kv, d = k_cache.shape
    lengths, sound = usable_lengths(num_pages, page_size, block_table, cache_seqlens)
    keys = _Keys(nonempty(k_cache), nonempty(block_table), nonempty(lengths))
    tiling = _Tiling.of(q, k_cache, block_table)
    lse, d_lse = jnp.moveaxis(lse, 1, 2), jnp.moveaxis(d_lse, 1, 2)
    delta = output_change(out, d_out)
    share = keys_share(lse, sink_per_problem(attn_sink, b)[:, None])
    d_sink = jnp.where(sound[:, None, None], -(1 - share) * delta, 0.0).sum(1)

    def step(tile, carry):
        d_q, d_pool = carry
        request, token = tiling.place(tile)
        in_tile = (token < s_q) & (tile < b * tiling.per_request)[:, None]

        def rows_of(x):
            return _rows_by_head(nonempty(x).at[request[:, None], token].get(mode="clip"), h_kv)

        rows, d_rows, row_lse = rows_of(q), rows_of(d_out), rows_of(lse)
        row_share, row_delta, row_d_lse = rows_of(share), rows_of(delta), rows_of(d_lse)
        visible = jnp.where(in_tile, _visible(config, keys.lengths[request], token, s_q), 0)

        def add_block(first, carry):
            d_rows_q, d_pool = carry
            pages, slots, exists, k = keys.block(request, first, tiling.block_k)
            attends = first + from_here(tiling.block_k) < visible[:, None, :, None, None]
            v = k[..., : config.head_dim_v]
            live = attends.any(-1, keepdims=True)
            live_rows, live_d_rows = (jnp.where(live, x, 0) for x in (rows, d_rows))
            d_weights = product("xgtrv,xkgv->xgtrk", live_d_rows, v)
            p, d_scores = gradients(
                _scores(config, rows, k), attends, row_lse, row_share, d_weights, row_delta, row_d_lse
            )
            d_scores = config.scale * d_scores
            d_rows_q += product("xgtrk,xkgd->xgtrd", d_scores, k)
            d_k = product("xgtrk,xgtrd->xkgd", d_scores, live_rows)
            d_v = product("xgtrk,xgtrv->xkgv", p, live_d_rows)
            d_k += pad_last(d_v, d)
            outside = jnp.where(exists, pages, num_pages)
            return d_rows_q, d_pool.at[outside, slots].add(d_k, mode="drop")

        zeros = _vma.vary_like(jnp.zeros(rows.shape, jnp.float32), q)
        d_rows_q, d_pool = blocks_over(jnp.max(visible), tiling.block_k, add_block, (zeros, d_pool))
        where = jnp.where(in_tile, request[:, None], b)
        d_q = d_q.at[where, token].set(_heads_by_row(d_rows_q).astype(q.dtype), mode="drop")
        return d_q, d_pool

    d_q = jnp.zeros(q.shape, q.dtype)
    d_pool = jnp.zeros((num_pages, page_size, h_kv, d), jnp.float32)
    carry = _vma.vary_like((d_q, d_pool), q)
    d_q, d_pool = for_each_step(step, b * tiling.per_request, tiling.per_step, carry)
    d_q = jnp.where(sound[:, None, None, None], d_q, jnp.nan)
    return d_q, d_pool, sink_gradient(d_sink, attn_sink.shape[0])
