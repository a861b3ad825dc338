"""Reverse-mode derivatives of attention stages.

All attention operations have the same shape: a forward stage with results ``out`` and
``lse``, and a backward stage that takes the forward's operands, those two results and
their cotangents. What differs is data, held by ``Differentiable``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jax_flash_mla import _support, _vma
from jax_flash_mla._stage import Pool, Stage

# Names for jax.checkpoint policies; a policy that saves them spares the second forward call.
CHECKPOINT_NAMES = ("jax_flash_mla.out", "jax_flash_mla.lse")


@dataclasses.dataclass(frozen=True, eq=False)
class Differentiable:
    """A forward stage joined to the stage that computes its gradients.

    Attributes:
      name: of the operation.
      forward: its first result is ``out``, its last ``lse``; any between have no gradient.
      operands: the forward's operands that have a gradient, in the order in which the
        backward stage returns them. ``attn_sink`` comes last where there is one.
      backward: takes the forward's operands, ``out``, ``lse``, ``d_out`` and ``d_lse``.
        It always has a sink; −inf stands for none.
    """

    name: str
    forward: Stage
    backward: Stage
    operands: tuple[str, ...]

    def __call__(self, config, **operands):
        """The forward's results, typed to vary wherever any operand does."""
        ordered = tuple(operands[name] for name in self.forward.operands)
        return _call(self, config, *_vma.harmonize(ordered))


def attention(
    name: str,
    reference,
    operands: dict[str, str],
    results: tuple[str, ...],
    differentiable: tuple[str, ...],
    pools: dict[str, Pool] | None = None,
    kernel: Callable | None = None,
    backward_kernel: Callable | None = None,
) -> Differentiable:
    """The forward and backward stages of an attention operation.

    Args:
      name: of the operation.
      reference: module with its ``forward`` and ``backward``.
      operands, results: axis names, those of ``out`` first and of ``lse`` last.
      differentiable: the operands with a gradient.
      pools: the operands addressed by ids.
      kernel, backward_kernel: forward and backward by custom calls, where there are any.
    """
    pools = pools or {}
    out, lse = results[0], results[-1]
    cotangents = {"out": out, "lse": lse, "d_out": out, "d_lse": lse}
    gradients = tuple(operands[operand] for operand in differentiable)
    return Differentiable(
        name=name,
        forward=Stage(f"{name}_forward", reference.forward, operands, results, pools, kernel),
        backward=Stage(
            f"{name}_backward", reference.backward, operands | cotangents, gradients, pools, backward_kernel
        ),
        operands=differentiable,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _call(operation: Differentiable, config, *operands):
    return operation.forward(config, **dict(zip(operation.forward.operands, operands, strict=True)))


def _call_fwd(operation, config, *operands):
    out, *between, lse = _call(operation, config, *operands)
    out, lse = (checkpoint_name(x, name) for x, name in zip((out, lse), CHECKPOINT_NAMES, strict=True))
    return (out, *between, lse), (operands, out, lse)


def _call_bwd(operation, config, residuals, cotangents):
    operands, out, lse = residuals
    given = dict(zip(operation.forward.operands, operands, strict=True))
    arguments = dict(given)
    if "attn_sink" in given and given["attn_sink"] is None:
        heads = operation.forward.operands["q"].split().index("h")
        no_sink = jnp.full((1, given["q"].shape[heads]), -jnp.inf, jnp.float32)
        arguments["attn_sink"] = _vma.vary_like(no_sink, given["q"])
    wanted = [name for name in operation.operands if arguments[name] is not None]
    config = dataclasses.replace(config, implementation=_support.of_gradients(operation.name, config.implementation))
    computed = operation.backward(config, **arguments, out=out, lse=lse, d_out=cotangents[0], d_lse=cotangents[-1])
    gradients = dict(zip(wanted, computed, strict=True))
    # No gradient for integers, nor for operands that were not given.
    return tuple(
        gradients[name].astype(x.dtype) if x is not None and name in gradients else None for name, x in given.items()
    )


_call.defvjp(_call_fwd, _call_bwd)
