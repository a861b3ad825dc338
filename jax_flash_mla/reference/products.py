"""Matrix products with float32 accuracy, at the speed of the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp

_FULL = jax.lax.Precision.HIGHEST


def product(equation: str, x, y):
    """``jnp.einsum(equation, x, y)`` in float32, without rounding an operand.

    Operands of one narrow dtype are multiplied as they are: their products are exact in
    float32. A float32 ``x`` meets a bfloat16 ``y`` on a GPU as the sum of three bfloat16
    parts, which together hold all its bits, so that tensor cores do the work. All else
    is widened.
    """
    if x.dtype == y.dtype:
        return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32, precision=_FULL)
    if x.dtype == jnp.float32 and y.dtype == jnp.bfloat16:
        return jax.lax.platform_dependent(
            x,
            y,
            cuda=lambda x, y: _in_three_parts(equation, x, y),
            default=lambda x, y: _widened(equation, x, y),
        )
    return _widened(equation, x, y)


def _widened(equation, x, y):
    return jnp.einsum(equation, x.astype(jnp.float32), y.astype(jnp.float32), precision=_FULL)


def _in_three_parts(equation, x, y):
    total = 0.0
    for _ in range(3):
        # Not a conversion there and back, which XLA would take for nothing.
        part = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
        total += jnp.einsum(equation, part.astype(jnp.bfloat16), y, preferred_element_type=jnp.float32)
        x = x - part
    return total
