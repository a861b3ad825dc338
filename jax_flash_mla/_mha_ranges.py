"""What a kernel has to know of packed sequences: ranges of tokens, and what is opposite.

The sequences of a pack that are sound own tokens, in order; what is between them, before and
behind, is owned by none, and has to be filled. So each pack has a range in front, of nothing,
and one for each of its sequences: with what is left of the pack's tokens until the next
sequence that owns any.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_flash_mla.reference.mha import in_order

# As in cuda/mha/range.h.
FIELDS = ("first", "length", "gap", "other_first", "other_length", "sound")


def sequence_ranges(cu, tokens, cu_other, tokens_other):
    """Cumulative lengths of queries and keys, or of keys and queries → ranges of the former.

    Args:
      cu, cu_other: int32 [packs, n + 1].
      tokens, tokens_other: of a pack.

    Returns:
      int32 [packs, n + 1, fields], ``FIELDS``: the first token and their number, tokens behind
      these that no sequence owns, the first one opposite and their number, whether the bounds
      make sense; the latter of all of the pack, for the range in front. A sequence whose bounds
      do not has no tokens on either side.
    """
    sound = in_order(cu, tokens) & in_order(cu_other, tokens_other)

    def in_front(x):
        return jnp.pad(x, ((0, 0), (1, 0)))

    def side(cu):
        """First token and length."""
        return [in_front(jnp.where(sound, x, 0)) for x in (cu[:, :-1], cu[:, 1:] - cu[:, :-1])]

    (first, length), (other_first, other_length) = side(cu), side(cu_other)
    # Where the next one begins that owns a token; the range in front stands before all of them.
    begins = jnp.where(length > 0, first, tokens)
    later = jnp.pad(begins[:, 1:], ((0, 0), (0, 1)), constant_values=tokens)
    next_begins = jax.lax.cummin(later, axis=1, reverse=True)
    is_front = jnp.arange(cu.shape[1], dtype=jnp.int32) == 0
    gap = jnp.where((length > 0) | is_front, next_begins - (first + length), 0)
    sound = jnp.concatenate([jnp.all(sound, axis=1, keepdims=True), sound], axis=1).astype(jnp.int32)
    return jnp.stack([first, length, gap, other_first, other_length, sound], axis=-1)
