"""How far a result may be from the float64 oracle.

An error of float32 arithmetic, in proportion to the largest magnitude of the array,
and half a unit in the last place of the result's own dtype. Nothing else: not-a-number
and infinities must be where the oracle has them, and integers equal.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

ARITHMETIC = 4e-6
# Kernels round the weights of the softmax to the values' type, in halves of its last place.
KERNEL_ARITHMETIC = 2.0**-8
# Gradients start from out as it was stored in 16 bits: they contain the sum of d_out · out over 512 dimensions, each
# product off by its own rounding. For cotangents of unit variance that is |out| · 2^-9 · √(512 / 3) = 0.026 |out|.
STORED_OUT_ARITHMETIC = 2.0**-6
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def error_ratio(got, want, dtype=None, arithmetic: float = ARITHMETIC) -> float:
    """The largest error over the error allowed there; infinite where a value is of another kind.

    Args:
      got: an array.
      want: the oracle's, of the same shape.
      dtype: whose rounding is allowed; by default got's.
      arithmetic: the error of the arithmetic, relative to the largest magnitude.
    """
    dtype = str(jnp.asarray(got).dtype) if dtype is None else jnp.dtype(dtype).name
    if dtype not in ROUNDING:
        return 0.0 if np.array_equal(got, want) else np.inf
    got, want = np.asarray(got).astype(np.float64), np.asarray(want, np.float64)
    finite = np.isfinite(want)
    # What is not finite must be the very same: NaN for NaN, each infinity for itself.
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return np.inf
    got, want = got[finite], want[finite]
    if not want.size:
        return 0.0
    if not np.isfinite(got).all():
        return np.inf
    allowed = arithmetic * max(1.0, np.abs(want).max()) + ROUNDING[dtype] * np.abs(want)
    return float((np.abs(got - want) / allowed).max())
