"""Varying manual axes: the only module that knows how JAX types them.

Inside ``jax.shard_map(..., check_vma=True)`` every value carries the set of mesh
axes over which it may differ from device to device. Three rules keep an operation
with a custom derivative well typed there:

* all operands are cast to the union of their axes *before* the ``custom_vjp``
  (the transpose of that cast is the one ``psum`` a replicated operand's gradient
  needs, so no rule of ours ever sums over devices);
* the carries of loops start with the axes of the operands;
* results of opaque calls are cast to the axes of their operands.

Outside ``shard_map``, and under ``check_vma=False``, all of this does nothing.
"""

from __future__ import annotations

import jax


def varying_axes(x) -> frozenset[str]:
    """The manual mesh axes over which ``x`` varies."""
    aval = jax.typeof(x)
    if hasattr(aval, "manual_axis_type"):
        return aval.manual_axis_type.varying
    return aval.vma  # jax < 0.10


def vary_over(x, axes: frozenset[str]):
    """``x``, typed as varying over ``axes`` besides its own."""
    missing = tuple(sorted(axes - varying_axes(x)))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def vary_like(tree, model):
    """Every array of ``tree``, typed as varying wherever ``model`` varies."""
    axes = varying_axes(model)
    return jax.tree.map(lambda x: vary_over(x, axes), tree)


def harmonize(tree):
    """Every array of ``tree``, typed as varying over the union of all their axes."""
    axes = frozenset().union(*(varying_axes(x) for x in jax.tree.leaves(tree)))
    return jax.tree.map(lambda x: vary_over(x, axes), tree)
