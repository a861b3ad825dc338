"""What a kernel has to know of packed sequences: ranges of query tokens, and their keys.

The sequences of a pack that are sound own tokens, in order; what is between them, before and
behind, is owned by none, and has to be filled. So each pack has a range in front, of nothing,
and one for each of its sequences: with what is left of the pack's tokens until the next
sequence that owns any.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_flash_mla.reference.mha import in_order

# As in cuda/sm90/mha_forward/params.h.
FIELDS = ("q_first", "q_length", "gap", "kv_first", "kv_length", "sound")


def sequence_ranges(cu_q, tokens_q, cu_kv, tokens_kv):
    """Cumulative lengths, int32 [packs, n + 1] → int32 [packs, n + 1, fields].

    Fields are ``FIELDS``: the first query token and their number, tokens behind these that no
    sequence owns, the first key and their number, whether the bounds make sense; the latter of
    all of the pack, for the range in front. A sequence whose bounds do not has no tokens and
    no keys.
    """
    sound = in_order(cu_q, tokens_q) & in_order(cu_kv, tokens_kv)

    def in_front(x, value):
        return jnp.pad(x, ((0, 0), (1, 0)), constant_values=value)

    def side(cu):
        """First token and length."""
        return [in_front(jnp.where(sound, x, 0), 0) for x in (cu[:, :-1], cu[:, 1:] - cu[:, :-1])]

    (q_first, q_length), (kv_first, kv_length) = side(cu_q), side(cu_kv)
    # Where the next one begins that owns a token; the range in front stands before all of them.
    begins = jnp.where(q_length > 0, q_first, tokens_q)
    later = jnp.pad(begins[:, 1:], ((0, 0), (0, 1)), constant_values=tokens_q)
    next_begins = jax.lax.cummin(later, axis=1, reverse=True)
    is_front = jnp.arange(cu_q.shape[1], dtype=jnp.int32) == 0
    gap = jnp.where((q_length > 0) | is_front, next_begins - (q_first + q_length), 0)
    sound = jnp.concatenate([jnp.all(sound, axis=1, keepdims=True), sound], axis=1).astype(jnp.int32)
    return jnp.stack([q_first, q_length, gap, kv_first, kv_length, sound], axis=-1)
