"""Sparse attention: every query token has its own list of keys.

One computation serves sparse prefill (a flat pool of tokens) and sparse decode (one
or two paged pools, FP8 or float). It works on ``[n]`` query tokens and on *sources*:
a pool, the ids into it, and how many of them count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_flash_mla import _vma
from jax_flash_mla.reference.products import product
from jax_flash_mla.reference.softmax import RunningSoftmax, gradients, keys_share, output_change
from jax_flash_mla.reference.tiles import (
    blocks_over,
    for_each_step,
    from_here,
    last_id,
    map_tiles,
    nonempty,
    pad_last,
    size_within,
    tiles_per_step,
)

BLOCK_K = 256


class Source(NamedTuple):
    """A pool of keys and the lists that name some of them.

    Attributes:
      fetch: ids [tiles, keys], clipped into the pool → keys [tiles, keys, d].
      size: number of ids of the pool.
      ids: int32 [n, topk]; any value outside [0, size) names nothing.
      lengths: int32 [n] or None: only the first so many ids count. One that is
        negative or above topk makes its query token unsound.
    """

    fetch: Callable
    size: int
    ids: jax.Array
    lengths: jax.Array | None

    def prepared(self) -> Source:
        """With at least one column, and lengths for every token; unsound tokens have 0."""
        n, topk = self.ids.shape
        lengths = jnp.full((n,), topk, jnp.int32) if self.lengths is None else self.lengths
        lengths = jnp.where(self.sound(), lengths, 0)
        return self._replace(ids=nonempty(self.ids), lengths=nonempty(lengths))

    def sound(self):
        """Which query tokens have a length that the list covers: bool [n], or True."""
        if self.lengths is None:
            return True
        return (self.lengths >= 0) & (self.lengths <= self.ids.shape[1])

    def block(self, token, first, count: int):
        """Keys ``first`` … ``first + count − 1`` of some query tokens.

        Returns:
          ids, known: [tiles, count]; keys [tiles, count, d], zero where not known.
        """
        column = first + from_here(count)
        ids = self.ids.at[token[:, None], column].get(mode="clip")
        known = (column < self.lengths[token][:, None]) & (ids >= 0) & (ids <= last_id(self.size))
        keys = self.fetch(jnp.where(known, ids, 0))
        return ids, known, jnp.where(known[..., None], keys, 0)


def all_sound(sources, n):
    """Which query tokens have lengths that all of their lists cover: bool [n]."""
    sound = jnp.ones((n,), bool)
    for source in sources:
        sound &= source.sound()
    return sound


def _tokens_per_step(q, block_k):
    n, h, d = q.shape
    return tiles_per_step(n, h * (block_k + 2 * d) + 2 * block_k * d)


def forward(scale, d_v, q, sources, sinks):
    """Attention of each query token over the keys its lists name.

    Args:
      scale: multiplies q·k.
      d_v: values are the first so many dims of the keys.
      q: [n, h, d].
      sources: list of ``Source``.
      sinks: float32 [n, h] or None.

    Returns:
      out [n, h, d_v] of q's dtype; max_logits and lse, float32 [n, h], natural.
    """
    n, h, _ = q.shape
    sound = all_sound(sources, n)
    sources = [source.prepared() for source in sources]
    blocks = [size_within(source.ids.shape[1], BLOCK_K) for source in sources]

    queries = nonempty(q)

    def step(token):
        token = jnp.minimum(token, n - 1)
        rows = queries[token]
        state = RunningSoftmax.start(rows.shape[:-1], d_v, like=q)
        for source, block_k in zip(sources, blocks, strict=True):

            def add_block(first, state, source=source, block_k=block_k):
                _, known, keys = source.block(token, first, block_k)
                scores = scale * product("xhd,xkd->xhk", rows, keys)
                return state.add(scores, known[:, None], lambda p: product("xhk,xkv->xhv", p, keys[..., :d_v]))

            state = blocks_over(jnp.max(source.lengths[token]), block_k, add_block, state)
        out, lse = state.finish(None if sinks is None else nonempty(sinks)[token])
        return out.astype(q.dtype), state.row_max, lse

    results = map_tiles(step, n, _tokens_per_step(q, max(blocks)))
    return tuple(jnp.where(sound.reshape(n, *(1,) * (x.ndim - 1)), x, jnp.nan) for x in results)


class _Rows(NamedTuple):
    """What the gradient needs of each query token."""

    q: jax.Array
    d_out: jax.Array
    lse: jax.Array
    share: jax.Array
    delta: jax.Array
    d_lse: jax.Array
    sound: jax.Array


def row_terms(sound, sinks, out, lse, d_out):
    """What the gradient needs of rows alone.

    Args:
      sound: bool [n]; which tokens have lengths that make sense.
      sinks, out, lse, d_out: as in ``backward``.

    Returns:
      The keys' share of the probability, do·out, and the gradient of the sink, float32
      [n, h]. An unsound token adds nothing to the latter.
    """
    share, delta = keys_share(lse, sinks), output_change(out, d_out)
    return share, delta, jnp.where(sound[:, None], -(1 - share) * delta, 0.0)


def order_by_id(ids):
    """The places of equal ids side by side, ascending.

    Args:
      ids: int32 [n].

    Returns:
      The ids in order, and the places where each was.
    """
    places = _vma.vary_like(jax.lax.broadcasted_iota(jnp.int32, ids.shape, 0), ids)
    return jax.lax.sort((ids, places), num_keys=1, is_stable=True)


def _add_in_order(pool, ids, rows):
    """``pool.at[ids].add(rows, mode="drop")`` whose bits are the same each time.

    Rows of equal ids are summed by a tree that follows from the ids alone, and one sum is added for each id: a GPU adds
    equal ids' rows in any order.
    """
    ids, places = order_by_id(ids)
    changes = ids[1:] != ids[:-1]
    end = _vma.vary_like(jnp.ones((1,), bool), ids)
    is_first, is_last = jnp.concatenate([end, changes]), jnp.concatenate([changes, end])

    def join(left, right):
        return left[0] | right[0], jnp.where(right[0], right[1], left[1] + right[1])

    _, sums = jax.lax.associative_scan(join, (is_first[:, None], rows[places]))
    return pool.at[jnp.where(is_last, ids, pool.shape[0])].add(sums, mode="drop")


def backward(scale, d_v, q, sources, sinks, out, lse, d_out, d_lse, pool_gradients: bool, deterministic: bool = False):
    """Gradients of ``forward`` in q, in the pools, and in the sinks.

    Args:
      scale, d_v, q, sources: as in ``forward``.
      sinks: float32 [n, h]; −inf for none.
      out, lse: results of ``forward``; d_out, d_lse: their cotangents.
      pool_gradients: whether the gradients of the pools are wanted.
      deterministic: whether these must have the same bits each time on a GPU, too.

    Returns:
      d_q [n, h, d] of q's dtype; for each source float32 [size, d], if wanted; d_sinks
      float32 [n, h]. An unsound token has NaN in d_q and adds nothing elsewhere.
    """
    n, h, d = q.shape
    sound = all_sound(sources, n)
    share, delta, d_sinks = row_terms(sound, sinks, out, lse, d_out)
    sources = [source.prepared() for source in sources]
    blocks = [size_within(source.ids.shape[1], BLOCK_K) for source in sources]
    per_step = _tokens_per_step(q, max(blocks))

    given = _Rows(*(nonempty(x) for x in (q, d_out, lse, share, delta, d_lse, sound)))

    def step(token, carry):
        d_q, d_pools = carry
        in_range = token < n
        here = jnp.minimum(token, n - 1)
        # A token that takes part nowhere may hold anything.
        mine = _Rows(*(x[here] for x in given))
        live = (in_range & mine.sound)[:, None, None]
        rows, d_rows = (jnp.where(live, x, 0) for x in (mine.q, mine.d_out))
        d_rows_q = _vma.vary_like(jnp.zeros(rows.shape, jnp.float32), q)
        new_pools = []
        for source, block_k, d_pool in zip(sources, blocks, d_pools, strict=True):

            def add_block(first, carry, source=source, block_k=block_k):
                d_rows_q, d_pool = carry
                ids, known, keys = source.block(here, first, block_k)
                known &= live[:, :, 0]
                d_weights = product("xhv,xkv->xhk", d_rows, keys[..., :d_v])
                scores = scale * product("xhd,xkd->xhk", rows, keys)
                p, d_scores = gradients(scores, known[:, None], mine.lse, mine.share, d_weights, mine.delta, mine.d_lse)
                d_scores = scale * d_scores
                d_rows_q += product("xhk,xkd->xhd", d_scores, keys)
                if d_pool is not None:
                    d_keys = product("xhk,xhd->xkd", d_scores, rows)
                    d_values = product("xhk,xhv->xkv", p, d_rows)
                    d_keys += pad_last(d_values, d)
                    targets = jnp.where(known, ids, source.size)
                    if deterministic:
                        d_pool = _add_in_order(d_pool, targets.reshape(-1), d_keys.reshape(-1, d))
                    else:
                        d_pool = d_pool.at[targets].add(d_keys, mode="drop")
                return d_rows_q, d_pool

            end = jnp.max(source.lengths[here])
            d_rows_q, d_pool = blocks_over(end, block_k, add_block, (d_rows_q, d_pool))
            new_pools.append(d_pool)
        d_q = d_q.at[token].set(d_rows_q.astype(q.dtype), mode="drop")
        return d_q, new_pools

    d_pools = [jnp.zeros((source.size, d), jnp.float32) if pool_gradients else None for source in sources]
    carry = _vma.vary_like((jnp.zeros(q.shape, q.dtype), d_pools), q)
    d_q, d_pools = for_each_step(step, n, per_step, carry)
    return jnp.where(sound[:, None, None], d_q, jnp.nan), d_pools, d_sinks
