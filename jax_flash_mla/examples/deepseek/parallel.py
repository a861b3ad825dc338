"""A mesh of (data, tensor, context), and which array is split over which axis.

data     sequences of a batch: each device has its own, gradients are added up
tensor   heads, and hidden numbers of the feed-forward: partial results are added up in each layer
context  tokens of a sequence: each device has its own queries, and gathers the latent vectors of
         all tokens, 576 numbers each for all heads together
"""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "tensor", "context")
# Over these every device sees other tokens, so that its gradient is part of a sum.
TOKEN_AXES = ("data", "context")


@dataclasses.dataclass(frozen=True)
class Axes:
    """The axes that the model knows of inside ``shard_map``; none where it runs on one device."""

    tensor: str | None = None
    context: str | None = None

    def sum_over_tensor(self, x):
        """The sum of what the devices of the tensor axis hold."""
        return x if self.tensor is None else jax.lax.psum(x, self.tensor)

    def gather_tokens(self, x):
        """``x`` [batch, tokens, ...] with the tokens of all devices, in order."""
        return x if self.context is None else jax.lax.all_gather(x, self.context, axis=1, tiled=True)

    def first_token(self, tokens: int):
        """Where this device's tokens start in the sequence."""
        return 0 if self.context is None else jax.lax.axis_index(self.context) * tokens


ONE_DEVICE = Axes()

# The axis of a weight that is split over the tensor axis, by the weight's name; others are on every device.
SPLIT_AXIS = {"q_up": 1, "k_up": 1, "v_up": 1, "out": 0, "gate": 1, "up": 1, "down": 0}


def make_mesh(shape: tuple[int, int, int], devices=None) -> Mesh:
    """A mesh of the first devices there are.

    Raises:
      ValueError: there are too few.
    """
    devices = jax.devices() if devices is None else devices
    needed = math.prod(shape)
    if needed > len(devices):
        raise ValueError(f"mesh {shape} needs {needed} devices, and there are {len(devices)}.")
    return Mesh(np.array(devices[:needed]).reshape(shape), AXES)


def axes_of(mesh: Mesh) -> Axes:
    """The axes inside ``shard_map`` over a mesh of ``make_mesh``."""
    return Axes("tensor", "context" if mesh.shape["context"] > 1 else None)


def specs_of(tree):
    """The ``PartitionSpec`` of each weight, or of what an optimizer keeps for it."""

    def spec(path, _):
        name = next((key.key for key in reversed(path) if hasattr(key, "key")), None)
        axis = SPLIT_AXIS.get(name)
        if axis is None:
            return P()
        return P(*(None,) * axis, "tensor")

    return jax.tree_util.tree_map_with_path(spec, tree)


def shardings_of(tree, mesh: Mesh):
    """``specs_of`` on a mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs_of(tree), is_leaf=lambda x: isinstance(x, P))


def place(batch: np.ndarray, mesh: Mesh) -> jax.Array:
    """Tokens [parts, sequences, length] on the mesh; every process has all, and places what its devices need."""
    sharding = NamedSharding(mesh, P(None, *TOKEN_AXES))
    return jax.make_array_from_callback(batch.shape, sharding, lambda index: batch[index])
