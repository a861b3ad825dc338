"""Whether two implementations computed the same thing, before either is timed.

Both round; so errors are relative, to the norm of an array and to that of each of its
rows (its last axis), a row smaller than most counting as large as most. A single wrong
row shows in the second. Bytes are the same, or they are wrong.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Of bfloat16 results whose probabilities were rounded to bfloat16 on one side only.
ARRAY_ERROR = 0.01
ROW_ERROR = 0.05
# A gradient starts from out as stored in 16 bits, which moves the sum of d_out · out by up to 0.03 |out|: much in
# rows of a causal sequence's beginning, where out is large and most other rows have small gradients.
GRADIENT_ROW_ERROR = 0.15
# Log-sum-exps and maxima, absolute.
LOGIT_ERROR = 0.01


class Disagreement(AssertionError):
    """A result is not what pure JAX computes."""


class Errors(NamedTuple):
    """Errors of one result: relative; absolute for float32 statistics of logits; for bytes, the share that differs."""

    whole: float
    worst_row: float


@jax.jit
def _relative(got, want):
    got, want = (x.astype(jnp.float32) for x in (got, want))
    rows = jnp.sum(jnp.square(got - want), -1)
    sizes = jnp.sum(jnp.square(want), -1)
    mean = jnp.mean(sizes)
    tiny = jnp.finfo(jnp.float32).tiny
    whole = jnp.sqrt(jnp.mean(rows) / jnp.maximum(mean, tiny))
    worst = jnp.sqrt(jnp.max(rows / jnp.maximum(jnp.maximum(sizes, mean), tiny)))
    return whole, worst


@jax.jit
def _absolute(got, want):
    off = jnp.where(got == want, 0.0, jnp.abs(got - want))
    return jnp.sqrt(jnp.mean(jnp.square(off))), jnp.max(off)


@jax.jit
def _different(got, want):
    off = got != want
    return jnp.mean(off, dtype=jnp.float32), jnp.max(jnp.mean(off, -1, dtype=jnp.float32))


def _measure(want):
    """How errors of a result like this are measured, and their limits where the caller does not set them."""
    if jnp.issubdtype(want.dtype, jnp.integer):
        return _different, Errors(0.0, 0.0)
    if want.dtype == jnp.float32:
        return _absolute, Errors(LOGIT_ERROR, LOGIT_ERROR)
    return _relative, None


def compare(got, want, row_error: float = ROW_ERROR) -> Errors:
    """Largest errors over all results.

    Args:
      got, want: tuples of arrays; float32 ones are statistics of logits.
      row_error: the largest of a row.

    Raises:
      Disagreement: shapes or dtypes differ, or an error is above what rounding explains.
    """
    if len(got) != len(want):
        raise Disagreement(f"{len(got)} results, not {len(want)}.")
    largest = Errors(0.0, 0.0)
    for i, (g, w) in enumerate(zip(got, want)):
        if (g.shape, g.dtype) != (w.shape, w.dtype):
            raise Disagreement(f"result {i} is {g.dtype}{list(g.shape)}, not {w.dtype}{list(w.shape)}.")
        errors_of, limits = _measure(w)
        errors = Errors(*(float(x) for x in errors_of(g, w)))
        limits = limits or Errors(ARRAY_ERROR, row_error)
        # Written so that NaN fails.
        if not (errors.whole <= limits.whole and errors.worst_row <= limits.worst_row):
            raise Disagreement(
                f"result {i} differs from that of pure JAX by {errors.whole:.3g} altogether and {errors.worst_row:.3g} "
                f"in its worst row, above {limits.whole:g} and {limits.worst_row:g}."
            )
        largest = Errors(*(max(pair) for pair in zip(largest, errors)))
    return largest
