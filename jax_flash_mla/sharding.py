"""Attention over a sequence that is split over devices: a ring inside ``jax.shard_map``.

Each device keeps its queries, and the shards of keys and values go round: at step s device
i meets those of device i − s. What a device attends to at a step is one block without a
mask, but for its own shard at step 0. Which block depends on the device, and is given to the
kernels as bounds of sequences. So every device runs one program, without branches, and a
block that nothing attends to costs nothing.

    causal, 4 devices       contiguous          zigzag
    device i holds          shard i of 4        chunks i and 7 − i of 8
    keys of an earlier one  all × all           all queries × first half of the keys
    keys of a later one     nothing             second half of the queries × all keys

In the zigzag order both cases are of the same size, so that no device waits for another. In
both orders a device's own shard is causal in the order in which it lies there.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jax_flash_mla import _mha, _vma
from jax_flash_mla import _validation as check
from jax_flash_mla._derivative import CHECKPOINT_NAMES

__all__ = ["from_zigzag", "ring_attention", "to_zigzag", "zigzag_permutation"]

LAYOUTS = ("zigzag", "contiguous")


# --------------------------------------------------------------------------------------
# The order of tokens


def zigzag_permutation(length, n):
    """Where the tokens of the zigzag order come from: ``x[zigzag_permutation(len(x), n)]``.

    Cut into 2n equal chunks, a sequence gives device i the chunks i and 2n − 1 − i.

    Args:
      length: static int; tokens of the whole sequence, a multiple of 2n.
      n: static int; devices that share it.

    Returns:
      int32 NumPy array [length].

    Raises:
      TypeError, ValueError: not ints, or a length that is not a multiple of 2n.
    """
    length, n = check.static_int("length", length, 0), check.static_int("n", n, 1)
    _whole_chunks("length", length, n)
    tokens = np.arange(length, dtype=np.int32).reshape(2 * n, length // (2 * n))
    return tokens[_chunks(n)].reshape(length)


def to_zigzag(x, n, *, axis=1):
    """A whole sequence, put into the zigzag order.

    To be called outside ``jax.shard_map``, best once for a batch: on token ids, targets and
    positions, since layers other than attention do not mind the order.

    Args:
      x: an array of any dtype, its size along ``axis`` a multiple of 2n.
      n: static int; devices that share the sequence.
      axis: static int; the axis of tokens.

    Raises:
      TypeError, ValueError: an axis that x does not have, or a size that is not a multiple
        of 2n.

    Differentiable, as any selection is.
    """
    return _reorder(x, n, axis, _chunks)


def from_zigzag(x, n, *, axis=1):
    """The inverse of ``to_zigzag``, with its arguments and errors."""
    return _reorder(x, n, axis, lambda n: np.argsort(_chunks(n)))


def _chunks(n: int) -> np.ndarray:
    """The chunks of device 0, of device 1, and so on."""
    return np.stack([np.arange(n), 2 * n - 1 - np.arange(n)], axis=1).reshape(2 * n)


def _whole_chunks(name, length, n):
    if length % (2 * n) != 0:
        raise ValueError(f"{name} must be a multiple of 2 · n = {2 * n}, got {length}.")


def _reorder(x, n, axis, chunks_of):
    n = check.static_int("n", n, 1)
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise TypeError(f"x must be an array, got {x!r:.60} of type {type(x).__name__}.")
    rank = len(x.shape)
    axis = check.static_int("axis", axis, -rank)
    if axis >= rank:
        raise ValueError(f"axis must be below the number of dimensions of x, {rank}, got {axis}.")
    axis %= rank
    length = x.shape[axis]
    _whole_chunks(f"the size of x along axis {axis}", length, n)
    x = jnp.asarray(x)
    chunks = x.reshape(*x.shape[:axis], 2 * n, length // (2 * n), *x.shape[axis + 1 :])
    return jnp.take(chunks, chunks_of(n), axis=axis).reshape(x.shape)


# --------------------------------------------------------------------------------------
# The ring


@dataclasses.dataclass(frozen=True)
class _Ring:
    """Static options of a call: those of a block of keys, and the ring's own."""

    block: _mha.Config
    axis: str
    size: int
    layout: str

    def next(self, tree):
        """Sends arrays one device on, each by a collective permute of its own."""
        pairs = [(i, (i + 1) % self.size) for i in range(self.size)]
        return jax.tree.map(lambda x: jax.lax.ppermute(x, self.axis, pairs), tree)

    def config(self, step: int) -> _mha.Config:
        """Only a device's own shard, met first, has a mask."""
        return dataclasses.replace(self.block, causal=self.block.causal and step == 0)

    def bounds(self, step: int, q, k) -> dict[str, jax.Array]:
        """Cumulative lengths of what meets at a step.

        Where that depends on the device there are two sequences: queries without keys, and
        queries that attend to the first keys. Keys past those belong to nothing.
        """
        packs, queries, keys = *q.shape[:2], k.shape[1]
        if step == 0 or not self.block.causal:
            cu_q, cu_kv = [0, queries], [0, keys]
        else:
            # Not from a shard further on, counted without going round.
            earlier = jax.lax.axis_index(self.axis) >= step
            part, rest = (queries // 2, keys) if self.layout == "zigzag" else (queries, 0)
            cu_q = [0, jnp.where(earlier, 0, part), queries]
            cu_kv = [0, 0, jnp.where(earlier, part, rest)]
        return {
            name: _vma.vary_like(jnp.tile(jnp.stack([jnp.asarray(x, jnp.int32) for x in cu]), (packs, 1)), q)
            for name, cu in (("cu_seqlens_qo", cu_q), ("cu_seqlens_kv", cu_kv))
        }


def ring_attention(
    q,
    k,
    v,
    *,
    axis_name,
    softmax_scale=None,
    causal=False,
    layout="zigzag",
    deterministic=False,
    implementation=None,
):
    """Multi-head attention over a sequence that is split over a mesh axis, inside ``jax.shard_map``.

    The operands are this device's shards, of equal sizes on all n devices of the axis.
    Dimensions: B whole sequences of T query tokens and S key tokens a device, N query heads
    over K key heads (N a multiple of K), D dimensions of a key, E of a value.

    Args:
      q: [B, T, N, D], bfloat16, float16 or float32.
      k: [B, S, K, D] and v: [B, S, K, E], of q's dtype. S = T where ``causal``.
      axis_name: static str; the mesh axis that splits the tokens, one of those that the
        enclosing ``jax.shard_map`` maps.
      softmax_scale: static float, finite; default D ** -0.5.
      causal: static bool; a query sees the keys up to its own place in the sequence.
      layout: static; which tokens a device holds, which only matters where ``causal``.
        "zigzag": those that ``to_zigzag(x, n)`` gives it; T must be even, and all devices
        have equal work. "contiguous": those in order; the last device has n times the work of the
        first, and all wait for it.
      deterministic: static bool; whether gradients must be equal bit for bit from run
        to run. Outputs always are.
      implementation: static; None (a kernel where there is one, else XLA), "cuda" or
        "xla".

    Returns:
      ``(out, lse)`` of this device's queries over the keys of all: out [B, T, N, E] of q's
      dtype and lse float32 [B, T, N], as of ``flash_attn_func``, which this is where n = 1.

    Raises:
      TypeError: a wrong dtype, an argument that is not an array, a traced value for a
        static argument, a ``causal`` that is not a bool, an ``axis_name`` that is not a str.
      ValueError: shapes that do not fit together, an axis that is not mapped, tokens that
        do not fit the layout.
      NotImplementedError: ``implementation="cuda"`` where no kernel runs these arguments.

    Keys and values are sent n − 1 times each. The backward pass sends them as often again,
    and their gradients, in float32, as often too. Partial results are merged in float32, after
    each was rounded to q's dtype; so are partial gradients.

    Differentiable in q, k and v, through both results, in reverse mode. The result
    names for ``jax.checkpoint`` policies are ``jax_flash_mla.out`` and
    ``jax_flash_mla.lse``; a policy that saves both spares the second forward ring.
    """
    shapes = check.Shapes()
    q = shapes.array("q", q, "B T N D", check.FLOATS)
    k = shapes.array("k", k, "B S K D", check.FLOATS)
    v = shapes.array("v", v, "B S K E", check.FLOATS)
    size = _mapped_axis_size(axis_name)
    layout = check.static_choice("layout", layout, LAYOUTS)
    config = _mha._config(q, k, v, softmax_scale, causal, deterministic, implementation)
    tokens = shapes["T"]
    if config.causal and shapes["S"] != tokens:
        raise ValueError(f"k must have as many tokens as q where causal=True, {tokens}, got {shapes['S']}.")
    if config.causal and size > 1 and layout == "zigzag" and tokens % 2 != 0:
        raise ValueError(f'q must have an even number of tokens on each device for layout="zigzag", got {tokens}.')
    # Before the custom_vjp, as everywhere: the transpose of the cast is the psum of a shared operand.
    q, k, v = (_vma.vary_over(x, frozenset({axis_name})) for x in (q, k, v))
    return _attend(_Ring(config, axis_name, size, layout), *_vma.harmonize((q, k, v)))


def _mapped_axis_size(axis_name) -> int:
    if not isinstance(axis_name, str):
        raise TypeError(f"axis_name must be a str, got {axis_name!r:.60} of type {type(axis_name).__name__}.")
    mesh = jax.sharding.get_abstract_mesh()
    if axis_name not in mesh.manual_axes:
        mapped = ", ".join(map(repr, mesh.manual_axes)) or "none"
        raise ValueError(
            f"axis_name must be a mesh axis that an enclosing jax.shard_map maps, here {mapped}, got {axis_name!r}."
        )
    return mesh.shape[axis_name]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(ring: _Ring, q, k, v):
    here, total = (k, v), None
    for step in range(ring.size):
        # Sent on before it is used, so that sending and computing may overlap.
        following = ring.next(here) if step + 1 < ring.size else None
        part = _mha.ATTENTION.forward(ring.config(step), q=q, k=here[0], v=here[1], **ring.bounds(step, q, k))
        total = part if ring.size == 1 else _merged(total, part)
        here = following
    return total[0].astype(q.dtype), total[1]


def _merged(total, part):
    """Attention over two disjoint sets of keys, in float32; ``total`` is None before the first."""
    out, lse = part[0].astype(jnp.float32), part[1]
    if total is None:
        return out, lse
    merged_lse = jnp.logaddexp(total[1], lse)
    # Rows that see nothing in either have weights 0, not exp(−inf + inf).
    origin = jnp.where(merged_lse == -jnp.inf, 0.0, merged_lse)
    weights = (jnp.exp(x - origin)[..., None] for x in (total[1], lse))
    return sum(weight * x for weight, x in zip(weights, (total[0], out), strict=True)), merged_lse


def _attend_fwd(ring, q, k, v):
    out, lse = (checkpoint_name(x, name) for x, name in zip(_attend(ring, q, k, v), CHECKPOINT_NAMES, strict=True))
    return (out, lse), (q, k, v, out, lse)


def _attend_bwd(ring, residuals, cotangents):
    """A second ring, on which the gradients of keys and values follow these.

    Given out and lse over all keys, a block's part of the gradients needs nothing of the
    other blocks. The gradient of a device's own shard waits there for the rest of it, so that the
    travelling sums start at the next device and make one step less.
    """
    q, k, v, out, lse = residuals
    d_out, d_lse = cotangents

    def gradients(step, k, v):
        parts = _mha.ATTENTION.backward(
            ring.config(step), q=q, k=k, v=v, **ring.bounds(step, q, k), out=out, lse=lse, d_out=d_out, d_lse=d_lse
        )
        return tuple(x.astype(jnp.float32) for x in parts)

    here, d_travelling = (k, v), None
    for step in range(ring.size):
        following = ring.next(here) if step + 1 < ring.size else None
        arriving = None if d_travelling is None else ring.next(d_travelling)
        d_q_part, *d_here = gradients(step, *here)
        if step == 0:
            d_q, d_own = d_q_part, d_here
        else:
            d_q += d_q_part
            d_travelling = d_here if arriving is None else [a + b for a, b in zip(arriving, d_here, strict=True)]
        here = following
    if d_travelling is not None:
        d_own = [a + b for a, b in zip(d_own, ring.next(d_travelling), strict=True)]
    return tuple(g.astype(x.dtype) for g, x in zip((d_q, *d_own), (q, k, v), strict=True))


_attend.defvjp(_attend_fwd, _attend_bwd)
