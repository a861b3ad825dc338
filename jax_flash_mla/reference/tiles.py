"""Cutting work into tiles of bounded size, and fetching their rows.

Sizes may be dimension variables of a shape-polymorphic export; tiles never are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jax_flash_mla import _validation as check

# Most float32 numbers a step of a loop may hold, scores plus gathered keys: what fits a
# cache on a CPU, what fills a GPU.
STEP_ELEMENTS = {"cpu": 1 << 22, "gpu": 1 << 24}


def size_within(size, limit: int) -> int:
    """``size`` where it is known and at most ``limit``, else ``limit``; at least 1."""
    return limit if check.is_symbolic(size) else max(1, min(size, limit))


def at_least_one(size):
    """``size``, or 1 where it is known to be 0."""
    return size if check.is_symbolic(size) else max(1, size)


def ceil_div(a, b):
    """The quotient, rounded up."""
    return -(-a // b)


def tiles_per_step(num_tiles, elements_per_tile: int) -> int:
    """How many tiles of that many elements go through one step of a loop.

    The device of this process decides, which may not be the one that runs the step: that
    costs time and nothing else, for no tile's result depends on its neighbours.
    """
    most = STEP_ELEMENTS.get(jax.default_backend(), STEP_ELEMENTS["gpu"])
    return size_within(num_tiles, max(1, most // elements_per_tile))


def for_each_step(step, num_tiles, per_step: int, carry):
    """``carry = step(tile ids [per_step], carry)`` over all tiles, in order.

    The last step's ids may pass ``num_tiles``.
    """
    steps = ceil_div(num_tiles, per_step)
    if not check.is_symbolic(steps) and steps == 0:
        return carry

    def body(carry, i):
        return step(i * per_step + jnp.arange(per_step, dtype=jnp.int32), carry), None

    return jax.lax.scan(body, carry, jnp.arange(steps, dtype=jnp.int32))[0]


def map_tiles(step, num_tiles, per_step: int):
    """``step(tile ids [per_step])`` for all tiles; its results stacked [num_tiles, ...]."""
    steps = ceil_div(num_tiles, per_step)

    def body(i):
        return step(i * per_step + jnp.arange(per_step, dtype=jnp.int32))

    stacked = jax.lax.map(body, jnp.arange(steps, dtype=jnp.int32))
    return jax.tree.map(lambda x: x.reshape(steps * per_step, *x.shape[2:])[:num_tiles], stacked)


def blocks_over(end, block: int, body, state, start=None):
    """``state = body(first key, state)`` for blocks of keys that cover [start, end).

    ``end`` and ``start`` (default 0) are int32 scalars known when the loop runs.
    """
    first = jnp.int32(0) if start is None else start // block
    last = ceil_div(end, block)

    def step(i, state):
        return body(i * block, state)

    return jax.lax.fori_loop(first, last.astype(jnp.int32), step, state)


def nonempty(x):
    """``x``, or zeros with one row along each axis that has none, so that it can be indexed."""
    if all(check.is_symbolic(size) or size > 0 for size in x.shape):
        return x
    return jnp.zeros([at_least_one(size) for size in x.shape], x.dtype)


def pad_last(x, size: int):
    """``x`` with zeros behind, so that its last axis has ``size``."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])])


def last_id(size):
    """The greatest int32 id below ``size``."""
    return size - 1 if check.is_symbolic(size) else min(size - 1, np.iinfo(np.int32).max)


def from_here(block: int):
    """0 … block − 1 as int32."""
    return jnp.arange(block, dtype=jnp.int32)
