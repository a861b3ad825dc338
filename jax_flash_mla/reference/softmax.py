"""Online softmax in float32, and its gradient.

Scores are natural-log logits, already scaled. The method is that of Milakov and
Gimelshein (2018), with the rescaling of the value sum by Rabe and Staats (2021); the
gradient recomputes probabilities from the log-sum-exp as FlashAttention does.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_flash_mla import _vma
from jax_flash_mla.reference.tiles import at_least_one


class RunningSoftmax(NamedTuple):
    """Softmax-weighted sum over the keys seen so far, for an array of rows.

    Attributes:
      row_max: [*rows] largest score, −inf before the first key.
      row_sum: [*rows] Σ exp(score − row_max).
      weighted: [*rows, d_v] Σ exp(score − row_max) · value.
    """

    row_max: jax.Array
    row_sum: jax.Array
    weighted: jax.Array

    @classmethod
    def start(cls, rows: tuple[int, ...], d_v: int, like: jax.Array) -> RunningSoftmax:
        """No keys seen; typed to vary over devices as ``like`` does."""
        state = cls(
            jnp.full(rows, -jnp.inf, jnp.float32),
            jnp.zeros(rows, jnp.float32),
            jnp.zeros((*rows, d_v), jnp.float32),
        )
        return _vma.vary_like(state, like)

    def add(self, scores, attends, weigh) -> RunningSoftmax:
        """Adds a block of keys.

        Args:
          scores: [*rows, keys]; entries that are not attended may hold anything.
          attends: bool, broadcastable to ``scores``.
          weigh: maps weights [*rows, keys] to their sums of values [*rows, d_v].
        """
        scores = jnp.where(attends, scores, -jnp.inf)
        row_max = jnp.maximum(self.row_max, scores.max(-1))
        origin = finite_or_zero(row_max)
        weights = jnp.exp(scores - origin[..., None])
        decay = jnp.exp(self.row_max - origin)
        return RunningSoftmax(
            row_max,
            self.row_sum * decay + weights.sum(-1),
            self.weighted * decay[..., None] + weigh(weights),
        )

    def finish(self, sink=None) -> tuple[jax.Array, jax.Array]:
        """Output and natural log-sum-exp: 0 and −inf for rows without keys.

        Args:
          sink: optional, broadcastable to the rows: a logit whose value is zero. It
            scales the output and does not enter the log-sum-exp.
        """
        empty = self.row_sum == 0
        lse = jnp.where(empty, -jnp.inf, self.row_max + jnp.log(jnp.where(empty, 1.0, self.row_sum)))
        out = self.weighted / jnp.where(empty, 1.0, self.row_sum)[..., None]
        if sink is not None:
            out = out * keys_share(lse, sink)[..., None]
        return jnp.where(empty[..., None], 0.0, out), lse


def finite_or_zero(x):
    """``x`` with −inf replaced by 0, so that differences from it are never NaN."""
    return jnp.where(x == -jnp.inf, 0.0, x)


def keys_share(lse, sink):
    """The keys' part e^lse / (e^lse + e^sink) of the probability; 0 for rows without keys."""
    share = 1.0 / (1.0 + jnp.exp(sink - finite_or_zero(lse)))
    return jnp.where(lse == -jnp.inf, 0.0, share)


def sink_per_problem(attn_sink, b):
    """[m, h] → [b, h]: each row stands for b / m consecutive problems; no row, for none."""
    m, h = attn_sink.shape
    return jnp.broadcast_to(attn_sink[:, None], (m, b // at_least_one(m), h)).reshape(b, h)


def sink_gradient(d_sink, m: int):
    """The transpose of ``sink_per_problem``."""
    b, h = d_sink.shape
    return d_sink.reshape(m, b // at_least_one(m), h).sum(1)


def output_change(out, d_out):
    """do·out of each row: what a weight's gradient do·v is less by."""
    return jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), axis=-1)


def gradients(scores, attends, lse, share, d_weights, delta, d_lse):
    """Probabilities and the gradient of the scores for a block of keys.

    With p = exp(score − lse) and out = share · Σ p v,

        d score = p · (share · (do·v − do·out) + d lse).

    Args:
      scores, attends: as in ``RunningSoftmax.add``.
      lse: [*rows] natural log-sum-exp of the row.
      share: [*rows] ``keys_share``, or 1.
      d_weights: [*rows, keys] do·v.
      delta: [*rows] ``output_change``.
      d_lse: [*rows] cotangent of lse.

    Returns:
      share · p and d score, both [*rows, keys] and zero where nothing is attended.
    """
    p = jnp.exp(scores - finite_or_zero(lse)[..., None])
    d_scores = p * (share[..., None] * (d_weights - delta[..., None]) + d_lse[..., None])
    return jnp.where(attends, p * share[..., None], 0.0), jnp.where(attends, d_scores, 0.0)
