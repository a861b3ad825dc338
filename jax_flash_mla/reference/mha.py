"""Multi-head attention over sequences packed along the token axis.

Arrays have a leading axis of *packs*; each pack holds the same number of sequences
one after another, cut by its row of cumulative lengths. A padded batch is a batch of
packs of one sequence each. Tiles never cross sequences, so that neither a score nor a
stray NaN does.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_flash_mla import _validation as check
from jax_flash_mla import _vma
from jax_flash_mla.reference.products import product
from jax_flash_mla.reference.softmax import RunningSoftmax, gradients, output_change
from jax_flash_mla.reference.tiles import (
    blocks_over,
    ceil_div,
    for_each_step,
    from_here,
    nonempty,
    size_within,
    tiles_per_step,
)

BLOCK = 128
MIN_BLOCK = 16


class _Sequences(NamedTuple):
    """Where each sequence lies in the flat token axis of one side (queries or keys).

    Attributes:
      start: int32 [s] first token, packs counted.
      length: int32 [s].
      sound: bool [s]; whether start and length can be used.
      poison: bool [tokens]; tokens claimed by unsound sequences and owned by no sound one.
    """

    start: jax.Array
    length: jax.Array
    sound: jax.Array
    poison: jax.Array

    @classmethod
    def both_sides(cls, cu_q, tokens_q, cu_kv, tokens_kv) -> tuple[_Sequences, _Sequences]:
        """Reads cumulative lengths [packs, n + 1]; a sequence unsound on one side is on both."""
        sound = in_order(cu_q, tokens_q) & in_order(cu_kv, tokens_kv)
        return cls._of(cu_q, tokens_q, sound), cls._of(cu_kv, tokens_kv, sound)

    @classmethod
    def _of(cls, cu, tokens, sound):
        packs, _ = cu.shape
        first = jnp.arange(packs, dtype=jnp.int32)[:, None] * tokens
        length = jnp.where(sound, cu[:, 1:] - cu[:, :-1], 0)
        # Tokens at or past the last entry are padding, whoever claims them.
        end = jnp.clip(cu[:, -1:], 0, tokens)
        lo, hi = (jnp.clip(side, 0, end) for side in (cu[:, :-1], cu[:, 1:]))
        claims = _covered(lo, jnp.maximum(lo, hi), ~sound, tokens)
        owned = _covered(lo, hi, sound, tokens)
        start = jnp.where(sound, cu[:, :-1], 0) + first
        return cls(start.reshape(-1), length.reshape(-1), sound.reshape(-1), (claims & ~owned).reshape(-1))


def in_order(cu, tokens):
    """Sequences [packs, n] within the tokens, not negative, and not into an earlier one."""
    start, end = cu[:, :-1], cu[:, 1:]
    usable = (start >= 0) & (start <= end) & (end <= tokens)
    reached = jax.lax.cummax(jnp.pad(jnp.where(usable, end, 0), ((0, 0), (1, 0))), axis=1)
    return usable & (start >= reached[:, :-1])


def _covered(start, end, counts, tokens):
    """Tokens [packs, tokens] inside any of the intervals [start, end) that count."""
    packs, _ = start.shape
    pack = jnp.arange(packs, dtype=jnp.int32)[:, None]
    step = counts.astype(jnp.int32)
    edges = jnp.zeros((packs, tokens + 1), jnp.int32)
    edges = edges.at[pack, start].add(step).at[pack, end].add(-step)
    return jnp.cumsum(edges[:, :-1], axis=1, dtype=jnp.int32) > 0


class _Tiling(NamedTuple):
    """Tiles of consecutive tokens, each within one sequence.

    Attributes:
      sequences: one side.
      block: tokens of a tile.
      num_tiles: upper bound; tiles past the last sequence are empty.
      first_tile: int32 [s]; sequence i has the tiles from first_tile[i] on.
      sequence: int32 [num_tiles + 1]; the sequence of each tile.
    """

    sequences: _Sequences
    block: int
    num_tiles: int
    first_tile: jax.Array
    sequence: jax.Array

    @classmethod
    def of(cls, sequences: _Sequences, tokens, packs, longest: int | None):
        n = sequences.start.shape[0]
        block = _block_size(tokens, packs, n, longest)
        per_sequence = ceil_div(sequences.length, block)
        first_tile = jnp.cumsum(per_sequence, dtype=jnp.int32) - per_sequence
        num_tiles = (packs * tokens + n * (block - 1)) // block
        outside = num_tiles + 1
        opens = jnp.where(per_sequence > 0, first_tile, outside)
        opened = jnp.zeros((outside,), jnp.int32).at[opens].max(jnp.arange(n, dtype=jnp.int32), mode="drop")
        return cls(sequences, block, num_tiles, first_tile, jax.lax.cummax(opened))

    def place(self, tile):
        """Sequence, first token within it, flat rows and their validity, of some tiles."""
        sequence = self.sequence.at[tile].get(mode="clip")
        first = (tile - self.first_tile[sequence]) * self.block
        within = first[:, None] + from_here(self.block)
        exists = within < self.sequences.length[sequence][:, None]
        return sequence, first, self.sequences.start[sequence][:, None] + within, exists


def _block_size(tokens, packs, n, longest: int | None) -> int:
    """Tile length for the mean sequence, or for the longest where the caller says it."""
    limit = BLOCK if longest is None else min(BLOCK, _power_of_two_from(longest))
    if check.is_symbolic(tokens) or check.is_symbolic(packs) or check.is_symbolic(n):
        return max(MIN_BLOCK, limit)
    mean = packs * tokens // max(1, n)
    return size_within(tokens, max(MIN_BLOCK, min(limit, _power_of_two_from(mean))))


def _power_of_two_from(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()


def _take(x, rows, exists):
    """Rows of flat ``x``, zero where they do not exist."""
    taken = jnp.take(x, rows, axis=0, mode="clip")
    return jnp.where(exists.reshape(*exists.shape, *(1,) * (taken.ndim - 2)), taken, np.zeros((), x.dtype))


def _place_rows(x, rows, exists, values):
    """Flat ``x`` with ``values`` in the rows that exist."""
    # Distinct places outside, so that all indices are distinct.
    outside = x.shape[0] + jnp.arange(rows.size, dtype=jnp.int32).reshape(rows.shape)
    where = jnp.where(exists, rows, outside)
    return x.at[where].set(values.astype(x.dtype), mode="drop", unique_indices=True)


def _attends(config, q_first, q_block, q_length, k_first, k_block, k_length):
    """Which queries of a tile see which keys: bool [tiles, 1, 1, q_block, k_block].

    ``q_first`` and ``k_first`` are one for each tile, or one for all. Causal masks align
    the last query with the last key.
    """
    i = q_first.reshape(-1, 1) + from_here(q_block)
    j = k_first.reshape(-1, 1) + from_here(k_block)
    inside = (i < q_length[:, None])[:, :, None] & (j < k_length[:, None])[:, None]
    if config.causal:
        reach = i + (k_length - q_length)[:, None]
        inside &= j[:, None] <= reach[:, :, None]
    return inside[:, None, None]


def _scores(scale, q, k):
    """[tiles, key heads, group, queries, keys] in float32, scaled."""
    return scale * product("xqgrd,xkgd->xgrqk", q, k)


class _Problem(NamedTuple):
    """Operands with packs flattened and query heads grouped by key head, and their tilings."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    q_tiling: _Tiling
    k_tiling: _Tiling
    per_step: int

    @classmethod
    def of(cls, config, q, k, v, cu_seqlens_qo, cu_seqlens_kv):
        packs, tokens_q, h_q, d = q.shape
        _, tokens_kv, h_kv, d_v = v.shape
        q_side, k_side = _Sequences.both_sides(cu_seqlens_qo, tokens_q, cu_seqlens_kv, tokens_kv)
        q_tiling = _Tiling.of(q_side, tokens_q, packs, config.max_seqlen_qo)
        k_tiling = _Tiling.of(k_side, tokens_kv, packs, config.max_seqlen_kv)
        block_q, block_k = q_tiling.block, k_tiling.block
        elements = h_q * (block_q * (block_k + 2 * d + 2 * d_v)) + 2 * block_k * h_kv * (d + d_v)
        most = q_tiling.num_tiles
        return cls(
            nonempty(q.reshape(packs * tokens_q, h_kv, h_q // h_kv, d)),
            nonempty(k.reshape(packs * tokens_kv, h_kv, d)),
            nonempty(v.reshape(packs * tokens_kv, h_kv, d_v)),
            q_tiling,
            k_tiling,
            tiles_per_step(most, elements),
        )


def _poisoned(x, sequences):
    """Flat ``x`` with NaN in the tokens of unsound sequences."""
    return jnp.where(sequences.poison.reshape(-1, *(1,) * (x.ndim - 1)), jnp.nan, x)


def _last_key(config, q_first, q_block, q_length, k_length):
    """End of the keys that any query of these tiles attends to."""
    end = k_length
    if config.causal:
        end = jnp.minimum(end, q_first + q_block + k_length - q_length)
    return jnp.maximum(0, jnp.max(jnp.where(q_first < q_length, end, 0)))


def forward(config, *, q, k, v, cu_seqlens_qo, cu_seqlens_kv):
    """Attention within each sequence of each pack.

    Args:
      config: has ``scale``, ``causal``, ``max_seqlen_qo``, ``max_seqlen_kv``.
      q: [packs, tokens_q, h_q, d]; k: [packs, tokens_kv, h_kv, d]; v: [..., d_v].
      cu_seqlens_qo, cu_seqlens_kv: int32 [packs, n + 1].

    Returns:
      out [packs, tokens_q, h_q, d_v] of q's dtype; lse float32 [packs, tokens_q, h_q].
    """
    problem = _Problem.of(config, q, k, v, cu_seqlens_qo, cu_seqlens_kv)
    tiling, block_k = problem.q_tiling, problem.k_tiling.block
    keys = problem.k_tiling.sequences
    tokens, h_kv, group, _ = problem.q.shape
    d_v = v.shape[-1]

    def step(tile, carry):
        sequence, first, rows, exists = tiling.place(tile)
        q_length, k_length, k_start = (x[sequence] for x in (tiling.sequences.length, keys.length, keys.start))
        q_rows = _take(problem.q, rows, exists)

        def add_block(k_first, state):
            within = k_first + from_here(block_k)
            k_exists = within < k_length[:, None]
            k_rows, v_rows = (_take(x, k_start[:, None] + within, k_exists) for x in (problem.k, problem.v))
            attends = _attends(config, first, tiling.block, q_length, k_first, block_k, k_length)
            return state.add(
                _scores(config.scale, q_rows, k_rows),
                attends,
                lambda p: product("xgrqk,xkgv->xgrqv", p, v_rows),
            )

        state = RunningSoftmax.start((len(tile), h_kv, group, tiling.block), d_v, like=q)
        state = blocks_over(_last_key(config, first, tiling.block, q_length, k_length), block_k, add_block, state)
        out, lse = state.finish()
        out, lse = jnp.moveaxis(out, 3, 1), jnp.moveaxis(lse, 3, 1)
        return _place_rows(carry[0], rows, exists, out), _place_rows(carry[1], rows, exists, lse)

    carry = jnp.zeros((tokens, h_kv, group, d_v), q.dtype), jnp.full((tokens, h_kv, group), -jnp.inf, jnp.float32)
    carry = _vma.vary_like(carry, q)
    out, lse = for_each_step(step, tiling.num_tiles, problem.per_step, carry)
    packs, tokens_q, h_q, _ = q.shape
    out, lse = (x[: packs * tokens_q] for x in (out, lse))
    out, lse = _poisoned(out, tiling.sequences), _poisoned(lse, tiling.sequences)
    return out.reshape(packs, tokens_q, h_q, d_v), lse.reshape(packs, tokens_q, h_q)


def backward(config, *, q, k, v, cu_seqlens_qo, cu_seqlens_kv, out, lse, d_out, d_lse):
    """Gradients of ``forward`` in q, k and v, each of its operand's dtype.

    Scores are recomputed twice, once by tiles of queries for d_q and once by tiles of
    keys for d_k and d_v: no two tiles write the same row, so that the order of work
    cannot move a bit.
    """
    problem = _Problem.of(config, q, k, v, cu_seqlens_qo, cu_seqlens_kv)
    packs, tokens_q, h_q, d_v = out.shape
    grouped = problem.q.shape[1:3]
    out, d_out = (nonempty(x.reshape(packs * tokens_q, *grouped, d_v)) for x in (out, d_out))
    lse, d_lse = (nonempty(x.reshape(packs * tokens_q, *grouped)) for x in (lse, d_lse))
    rows = _QueryRows(problem.q, d_out, lse, output_change(out, d_out), d_lse)

    d_q = _query_gradient(config, problem, rows)[: packs * tokens_q]
    d_k, d_v_ = (x[: k.shape[0] * k.shape[1]] for x in _key_gradients(config, problem, rows))
    d_q = _poisoned(d_q, problem.q_tiling.sequences)
    d_k, d_v_ = (_poisoned(x, problem.k_tiling.sequences) for x in (d_k, d_v_))
    return d_q.reshape(q.shape), d_k.reshape(k.shape), d_v_.reshape(v.shape)


class _QueryRows(NamedTuple):
    """What the gradient needs of each query row, flat over packs."""

    q: jax.Array
    d_out: jax.Array
    lse: jax.Array
    delta: jax.Array
    d_lse: jax.Array

    def take(self, rows, exists):
        return _QueryRows(*(_take(x, rows, exists) for x in self))


def _block_gradients(config, rows: _QueryRows, k, v, attends):
    """Probabilities and score gradients [tiles, key heads, group, queries, keys], the latter times the scale."""
    lse, delta, d_lse = (jnp.moveaxis(x, 1, 3) for x in (rows.lse, rows.delta, rows.d_lse))
    d_weights = product("xqgrv,xkgv->xgrqk", rows.d_out, v)
    scores = _scores(config.scale, rows.q, k)
    p, d_scores = gradients(scores, attends, lse, jnp.ones_like(lse), d_weights, delta, d_lse)
    return p, config.scale * d_scores


def _query_gradient(config, problem, query_rows):
    """d_q, flat: for each tile of queries, over the keys it attends to."""
    tiling, block_k = problem.q_tiling, problem.k_tiling.block
    keys = problem.k_tiling.sequences

    def step(tile, d_q):
        sequence, first, rows, exists = tiling.place(tile)
        q_length, k_length, k_start = (x[sequence] for x in (tiling.sequences.length, keys.length, keys.start))
        mine = query_rows.take(rows, exists)

        def add_block(k_first, total):
            within = k_first + from_here(block_k)
            k_exists = within < k_length[:, None]
            k_rows, v_rows = (_take(x, k_start[:, None] + within, k_exists) for x in (problem.k, problem.v))
            attends = _attends(config, first, tiling.block, q_length, k_first, block_k, k_length)
            _, d_scores = _block_gradients(config, mine, k_rows, v_rows, attends)
            return total + product("xgrqk,xkgd->xqgrd", d_scores, k_rows)

        total = _vma.vary_like(jnp.zeros(mine.q.shape, jnp.float32), problem.q)
        end = _last_key(config, first, tiling.block, q_length, k_length)
        return _place_rows(d_q, rows, exists, blocks_over(end, block_k, add_block, total))

    d_q = _vma.vary_like(jnp.zeros(problem.q.shape, problem.q.dtype), problem.q)
    return for_each_step(step, tiling.num_tiles, problem.per_step, d_q)


def _key_gradients(config, problem, query_rows):
    """d_k and d_v, flat: for each tile of keys, over the queries that attend to it."""
    tiling, block_q = problem.k_tiling, problem.q_tiling.block
    queries = problem.q_tiling.sequences

    def step(tile, carry):
        sequence, first, rows, exists = tiling.place(tile)
        k_length, q_length, q_start = (x[sequence] for x in (tiling.sequences.length, queries.length, queries.start))
        k_rows, v_rows = (_take(x, rows, exists) for x in (problem.k, problem.v))

        def add_block(q_first, totals):
            within = q_first + from_here(block_q)
            mine = query_rows.take(q_start[:, None] + within, within < q_length[:, None])
            attends = _attends(config, q_first, block_q, q_length, first, tiling.block, k_length)
            p, d_scores = _block_gradients(config, mine, k_rows, v_rows, attends)
            return (
                totals[0] + product("xgrqk,xqgrd->xkgd", d_scores, mine.q),
                totals[1] + product("xgrqk,xqgrv->xkgv", p, mine.d_out),
            )

        used = first < k_length
        start = jnp.int32(0)
        if config.causal:
            start = jnp.min(jnp.where(used, jnp.maximum(0, first - (k_length - q_length)), jnp.iinfo(jnp.int32).max))
        end = jnp.max(jnp.where(used, q_length, 0))
        zeros = (jnp.zeros(k_rows.shape, jnp.float32), jnp.zeros(v_rows.shape, jnp.float32))
        totals = blocks_over(end, block_q, add_block, _vma.vary_like(zeros, problem.q), start=jnp.minimum(start, end))
        return tuple(_place_rows(x, rows, exists, total) for x, total in zip(carry, totals, strict=True))

    carry = tuple(_vma.vary_like(jnp.zeros(x.shape, x.dtype), problem.q) for x in (problem.k, problem.v))
    return for_each_step(step, tiling.num_tiles, problem.per_step, carry)
