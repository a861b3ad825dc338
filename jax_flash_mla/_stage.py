"""A stage: one kernel-shaped computation and what JAX must know about it.

A stage takes arrays and returns arrays, like one kernel launch. What each axis means
is written once, as names, and everything else follows from the names:

* ``vmap`` folds the mapped axis into the leading axis of each operand, so that a
  batch of calls is one larger call. Operands nobody mapped stay as they are where
  they can (a pool of pages that all members share) and are repeated where they cannot.
* ``jit`` over sharded arrays splits the batch axis ``b`` and the head axes ``h`` (of
  queries) and ``g`` (of keys) over the mesh without communication, and replicates the
  rest. Results that sum over a split axis are added up across devices.

Axis names with a meaning:

=====  ==================================================================
``b``  leading; independent problems: requests, sequences, query tokens
``m``  leading; groups of equally many consecutive ``b``, each with its own row
``h``  query heads
``g``  key heads; ``h`` is a multiple of it
=====  ==================================================================

Any other leading axis is that of a pool, addressed by ids (see ``Pool``).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_flash_mla import _validation as check

INT32_MAX = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class Pool:
    """An operand whose rows are named by ids held in another operand.

    Attributes:
      ids: the operand that holds the ids.
      axes: how many leading axes of the pool an id runs over.
    """

    ids: str
    axes: int


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """One computation over named axes.

    Attributes:
      name: what it is called in traces and profiles.
      run: ``run(config, **operands) -> tuple`` of the results that are present; pure JAX.
      kernel: the same by a custom call, or None. ``config.implementation`` then says
        which of the two is called, or ``"auto"``: the kernel on CUDA devices.
      operands: axis names of each operand; absent operands are passed as ``None``.
      results: axis names of each result. A result whose leading axis belongs to no
        operand present is absent.
      pools: the operands addressed by ids.
    """

    name: str
    run: Callable
    operands: dict[str, str]
    results: tuple[str, ...]
    pools: dict[str, Pool] = dataclasses.field(default_factory=dict)
    kernel: Callable | None = None

    def __call__(self, config, **operands):
        """Runs the stage; ``config`` is hashable and static."""
        present = tuple(name for name in self.operands if operands[name] is not None)
        arrays = tuple(operands[name] for name in present)
        reference = _batchable(self, self.run, config, present)
        implementation = config.implementation if self.kernel else "xla"
        if implementation == "xla":
            return reference(*arrays)
        kernel = _batchable(self, self.kernel, config, present)
        if implementation == "auto":
            return jax.lax.platform_dependent(*arrays, cuda=kernel, default=reference)
        return kernel(*arrays)

    def results_with(self, present: tuple[str, ...]) -> tuple[str, ...]:
        """Axis names of the results that exist when ``present`` operands are given."""
        leading = {_leading(self.operands[name]) for name in present}
        return tuple(dims for dims in self.results if _leading(dims) in leading)


def _leading(dims: str) -> str:
    return dims.split()[0]


@functools.lru_cache(maxsize=1024)
def _batchable(stage: Stage, implementation: Callable, config, present: tuple[str, ...]) -> Callable:
    """An implementation as a function of the present operands, with its ``vmap`` rule."""
    plain, partitioned = _compiled(stage, implementation, config, present)

    @jax.custom_batching.custom_vmap
    def call(*arrays):
        return (partitioned if _may_be_split(arrays) else plain)(*arrays)

    @call.def_vmap
    def fold_and_call(axis_size, in_batched, *arrays):
        folded, lengths = _fold(stage, present, axis_size, in_batched, arrays)
        results = zip(call(*folded), stage.results_with(present), strict=True)
        unfolded = tuple(r.reshape(axis_size, lengths[_leading(dims)], *r.shape[1:]) for r, dims in results)
        return unfolded, (True,) * len(unfolded)

    return call


# --------------------------------------------------------------------------------------
# vmap


def _fold(stage, present, axis_size, in_batched, arrays) -> tuple[list[jax.Array], dict[str, int]]:
    """Moves a mapped axis into the leading axis of each operand.

    Returns:
      The operands, and how long each leading axis is in one member.
    """
    result_leads = {_leading(dims) for dims in stage.results_with(present)}
    operands, shared, lengths = {}, set(), {}
    for name, mapped, x in zip(present, in_batched, arrays, strict=True):
        lead = _leading(stage.operands[name])
        lengths[lead] = x.shape[1 if mapped else 0]
        can_share = name in stage.pools or (lead == "m" and x.shape[0] == 1)
        if not mapped and can_share and lead not in result_leads:
            shared.add(name)
        elif not mapped:
            x = jnp.broadcast_to(x, (axis_size, *x.shape))
        operands[name] = x
    for name, pool in stage.pools.items():
        if name in operands and name not in shared:
            pool_size = math.prod(operands[name].shape[1 : 1 + pool.axes])
            operands[pool.ids] = _rebase(pool.ids, operands[pool.ids], pool_size)
    folded = [x if name in shared else x.reshape(axis_size * x.shape[1], *x.shape[2:]) for name, x in operands.items()]
    return folded, lengths


def _rebase(name, ids, pool_size):
    """Ids of each member into its own pool → ids into the stack of all pools.

    An id outside its member's pool becomes −1 first, so that it cannot point into a
    neighbour's.
    """
    members = ids.shape[0]
    if not check.is_symbolic(pool_size * members) and pool_size * members > INT32_MAX:
        raise ValueError(
            f"{name} cannot address {members} mapped pools of {pool_size} ids each: "
            f"together they pass the int32 limit of {INT32_MAX}; map fewer members at a time."
        )
    first = jnp.arange(members, dtype=jnp.int32) * pool_size
    first = first.reshape(members, *(1 for _ in ids.shape[1:]))
    return jnp.where((ids >= 0) & (ids < pool_size), ids + first, -1)


# --------------------------------------------------------------------------------------
# jit over sharded arrays


def _may_be_split(arrays) -> bool:
    """Whether the compiler is to split the computation: not on a mesh with explicit axes, nor where all are manual.

    An axis of one device counts for nothing. JAX fails on a partitioning rule where such axes are
    all that is not manual.
    """
    meshes = [jax.typeof(x).sharding.mesh for x in arrays]
    splits = (mesh.empty or any(mesh.shape[axis] > 1 for axis in mesh.auto_axes) for mesh in meshes)
    return all(splits) and not any(mesh.explicit_axes for mesh in meshes)


def _compiled(stage, implementation, config, present) -> tuple[Callable, Callable]:
    """An implementation of the stage under ``jit``: as it is, and with its partitioning rule."""
    operand_dims = tuple(stage.operands[name] for name in present)
    result_dims = stage.results_with(present)

    def run(*arrays):
        absent = dict.fromkeys(stage.operands)
        return implementation(config, **absent | dict(zip(present, arrays, strict=True)))

    run.__name__ = run.__qualname__ = f"jax_flash_mla_{stage.name}"

    def partition(mesh, operands, results):
        shards = _Shards.choose(mesh, operand_dims, operands)

        def run_shard(*arrays):
            return tuple(shards.total(x, dims) for x, dims in zip(run(*arrays), result_dims, strict=True))

        operand_shardings = tuple(shards.of(dims) for dims in operand_dims)
        result_shardings = tuple(shards.of(dims) for dims in result_dims)
        return shards.mesh, run_shard, result_shardings, operand_shardings

    def sharding_rule(mesh, operand_types, result_types):
        del mesh, result_types
        return _shardy_rule(operand_dims, result_dims, [tuple(t.shape) for t in operand_types])

    partitioned = custom_partitioning(run)
    partitioned.def_partition(partition=partition, sharding_rule=sharding_rule)

    def call(*arrays):
        return partitioned(*arrays)

    call.__name__ = call.__qualname__ = run.__name__
    return jax.jit(run), jax.jit(call)


@dataclasses.dataclass(frozen=True)
class _Shards:
    """Which mesh axes split the batch, the query heads and the key heads."""

    mesh: Mesh
    axes: dict[str, tuple[str, ...]]

    @classmethod
    def choose(cls, mesh, operand_dims, operands) -> _Shards:
        """The split that the operands suggest, where it is even and needs no exchange."""
        shardings = [x.sharding for x in operands]
        if not all(isinstance(s, NamedSharding) for s in shardings):
            # A shard_map over some of the axes leaves no mesh to name: replicate.
            devices = sorted(shardings[0].device_set, key=lambda device: device.id)
            return cls(Mesh(np.array(devices), ("devices",)), {})
        sizes, axes = {}, {}
        for dims, x in zip(operand_dims, operands, strict=True):
            names = dims.split()
            spec = (*x.sharding.spec, *(None,) * (len(names) - len(x.sharding.spec)))
            for dim, size, entry in zip(names, x.shape, spec, strict=True):
                sizes.setdefault(dim, size)
                if entry is not None and not axes.get(dim):
                    axes[dim] = entry if isinstance(entry, tuple) else (entry,)

        def even(dim, names):
            return names and sizes[dim] % math.prod(mesh.shape[n] for n in names) == 0

        chosen = {}
        groups = sizes.get("m", 1)
        if even("b", axes.get("b")) and (groups == 1 or even("m", axes["b"])):
            chosen["b"] = axes["b"]
            if groups > 1:
                chosen["m"] = axes["b"]
        heads = tuple(n for n in axes.get("h", ()) if n not in chosen.get("b", ()))
        if "h" in sizes and even("h", heads):
            if sizes.get("g", 1) == 1:
                chosen["h"] = heads
            elif even("g", heads):
                chosen["h"] = chosen["g"] = heads
        return cls(mesh, chosen)

    def of(self, dims: str) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*(self.axes.get(dim) for dim in dims.split())))

    def total(self, x, dims: str):
        """Adds up a result over the devices that each saw part of what it sums over."""
        kept = {axis for dim in dims.split() for axis in self.axes.get(dim, ())}
        summed = tuple(axis for dim in ("b", "h") for axis in self.axes.get(dim, ()) if axis not in kept)
        return jax.lax.psum(x, summed) if summed else x


def _shardy_rule(operand_dims, result_dims, operand_shapes):
    """The einsum-like rule by which Shardy carries shardings across the stage."""
    sizes = {}
    for dims, shape in zip(operand_dims, operand_shapes, strict=True):
        sizes |= dict(zip(dims.split(), shape, strict=True))
    spelled, factors = {}, {}
    # h runs over g first, and b over m, so that the two of a pair split together.
    for dim, outer in (("h", "g"), ("b", "m")):
        if sizes.get(outer, 1) > 1:
            group, inner = sizes[dim] // sizes[outer], f"{dim}1"
            spelled[dim] = f"({outer} {inner})" if group > 1 else outer
            factors |= {inner: group} if group > 1 else {}

    def spell(all_dims):
        return ", ".join(" ".join(spelled.get(dim, dim) for dim in dims.split()) for dims in all_dims)

    # In the order of their appearance, as Shardy wants them.
    named = dict.fromkeys(dim for dims in (*operand_dims, *result_dims) for dim in dims.split())
    split = {"b", "h", "g"} | ({"m"} if "b" in spelled else set())
    fixed = tuple(dim for dim in named if dim not in split)
    return f"{spell(operand_dims)} -> {spell(result_dims)}", {"need_replication_factors": fixed, **factors}
