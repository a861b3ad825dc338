"""Merging attention over parts of the keys."""

from __future__ import annotations

import jax.numpy as jnp

from jax_flash_mla import _validation as check


def merge_attention_states(outs, lses, *, lse_base="e"):
    """Attention over all keys, from attention over each of k disjoint parts of them.

    Args:
      outs: [k, ..., d], bfloat16, float16 or float32; the output over each part.
      lses: float32 [k, ...]; the log-sum-exp over each part, in the order of axes of
        ``outs`` (decode returns lse as [b, h_q, s_q] and out as [b, s_q, h_q, d]).
      lse_base: static; "e" or 2, the base of the logarithm in ``lses`` and the result.

    Returns:
      ``(out, lse)``: out [..., d] of the dtype of ``outs``, and lse float32 [...]. Parts
      with lse −inf count for nothing, whatever their out; with no other part, out is 0
      and lse −inf.

    Raises:
      TypeError, ValueError: shapes or dtypes that do not fit.

    Differentiable in both arguments, in forward and reverse mode. An attention sink is
    to be applied once, after the merge.
    """
    lse_base = check.static_choice("lse_base", lse_base, ("e", 2))
    rank = max(1, len(getattr(lses, "shape", ())))
    lead = " ".join(["k", *(f"n{i}" for i in range(rank - 1))])
    shapes = check.Shapes()
    lses = shapes.array("lses", lses, lead, check.FLOAT32)
    outs = shapes.array("outs", outs, f"{lead} d", check.FLOATS)
    check.at_least("outs", "a number of parts", shapes["k"], 1)
    exp, log = (jnp.exp2, jnp.log2) if lse_base == 2 else (jnp.exp, jnp.log)

    counts = lses != -jnp.inf
    highest = jnp.max(lses, axis=0)
    origin = jnp.where(highest == -jnp.inf, 0.0, highest)
    # Differences from −inf are kept out of the exponentials, for the sake of gradients.
    weights = jnp.where(counts, exp(jnp.where(counts, lses - origin, 0.0)), 0.0)
    total = jnp.sum(weights, axis=0)
    empty = total == 0
    total = jnp.where(empty, 1.0, total)
    parts = jnp.where(counts[..., None], outs.astype(jnp.float32), 0.0)
    out = jnp.sum(parts * (weights / total)[..., None], axis=0)
    lse = jnp.where(empty, -jnp.inf, origin + log(total))
    return out.astype(outs.dtype), lse
