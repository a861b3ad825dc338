"""Argument checks shared by all operations.

Every message is one sentence that names the argument, what it got and the limit.
A wrong kind of value is a ``TypeError``, a wrong value a ``ValueError``; what is
meaningful but has no kernel is a ``NotImplementedError`` raised by ``_support``.
"""

from __future__ import annotations

import math
import numbers

import jax
import jax.numpy as jnp
import numpy as np

FLOATS = ("bfloat16", "float16", "float32")
INT32 = ("int32",)
FLOAT32 = ("float32",)
BYTES = ("uint8", "int8", "float8_e4m3fn")


def is_symbolic(dim) -> bool:
    """Whether ``dim`` is a dimension variable of a shape-polymorphic export."""
    return not isinstance(dim, numbers.Integral)


def _refuse_tracer(name: str, value) -> None:
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name} must be known when the function is traced, got the tracer {value}: name it in "
            f"jax.jit(..., static_argnames={name!r}) or bind it with functools.partial."
        )


def static_bool(name: str, value, hint: str = "") -> bool:
    """A Python or NumPy bool."""
    _refuse_tracer(name, value)
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be a bool, got {value!r} of type {type(value).__name__}{hint}.")
    return bool(value)


def static_scale(name: str, value, default: float | None = None) -> float:
    """A finite real number; ``None`` means ``default`` where there is one."""
    _refuse_tracer(name, value)
    if value is None and default is not None:
        return default
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (numbers.Real, np.floating)):
        raise TypeError(f"{name} must be a real number, got {value!r} of type {type(value).__name__}.")
    with np.errstate(over="ignore"):
        single = np.float32(value)
    if not math.isfinite(single):
        raise ValueError(f"{name} must be finite in float32, got {value!r}.")
    return float(single)


def static_int(name: str, value, minimum: int, optional: bool = False) -> int | None:
    """An integer of at least ``minimum``."""
    _refuse_tracer(name, value)
    if value is None and optional:
        return None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}.")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}.")
    return int(value)


def static_choice(name: str, value, choices: tuple):
    """One of ``choices``, compared by value and type."""
    _refuse_tracer(name, value)
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return value
    listed = ", ".join(repr(c) for c in choices)
    raise ValueError(f"{name} must be one of {listed}, got {value!r}.")


class Shapes:
    """Checks array arguments against shapes written with dimension names.

    A name stands for one size throughout: the first array that has it sets it, and
    a later one that disagrees is refused, naming both. Sizes known beforehand come with
    the name of what they are known from.
    """

    def __init__(self, origin: str = "the call", **known: int):
        self._sizes = dict(known)
        self._origin = dict.fromkeys(known, origin)

    def __getitem__(self, dim: str):
        return self._sizes[dim]

    def array(self, name: str, value, dims: str, dtypes: tuple[str, ...]) -> jax.Array:
        """``value`` as a JAX array of shape ``dims`` ("b s_q 1 d"; integers are literal)."""
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            raise TypeError(f"{name} must be an array of shape [{_listed(dims)}], got {_described(value)}.")
        names = dims.split()
        if len(value.shape) != len(names):
            plural = "" if len(names) == 1 else "s"
            raise ValueError(
                f"{name} must have {len(names)} dimension{plural} [{_listed(dims)}], got shape {tuple(value.shape)}."
            )
        if str(value.dtype) not in dtypes:
            raise TypeError(f"{name} must be {_either(dtypes)}, got {value.dtype}.")
        for axis, (dim, size) in enumerate(zip(names, value.shape, strict=True)):
            self._bind(name, axis, dim, size, tuple(value.shape))
        value = jnp.asarray(value)
        _refuse_explicit_sharding(name, value)
        return value

    def optional(self, name: str, value, dims: str, dtypes: tuple[str, ...]) -> jax.Array | None:
        """Like ``array``, passing ``None`` through."""
        return None if value is None else self.array(name, value, dims, dtypes)

    def _bind(self, name, axis, dim, size, shape):
        if dim.isdigit():
            if size != int(dim):
                raise ValueError(f"{name} must have size {dim} in dimension {axis}, got shape {shape}.")
        elif dim not in self._sizes:
            self._sizes[dim] = size
            self._origin[dim] = name
        elif self._sizes[dim] != size:
            raise ValueError(
                f"{name} has {dim} = {size} in dimension {axis} of its shape {shape}, "
                f"but {self._origin[dim]} has {dim} = {self._sizes[dim]}."
            )


def at_least(name: str, what: str, size, minimum: int) -> None:
    """Refuses a size below ``minimum``."""
    if not is_symbolic(size) and size < minimum:
        raise ValueError(f"{name} must have {what} of at least {minimum}, got {size}.")


def at_most(name: str, value: int, what: str, limit) -> None:
    """Refuses a value above ``limit``."""
    if not is_symbolic(limit) and value > limit:
        raise ValueError(f"{name} must be at most {what}, {limit}, got {value}.")


def head_groups(q_name: str, h_q: int, kv_name: str, h_kv: int) -> None:
    """Refuses query heads that do not split evenly over the key heads."""
    at_least(q_name, "a number of heads", h_q, 1)
    at_least(kv_name, "a number of heads", h_kv, 1)
    if h_q % h_kv:
        raise ValueError(f"{q_name} has {h_q} heads, which is not a multiple of the {h_kv} heads of {kv_name}.")


def same_dtype(name: str, value, other_name: str, other) -> None:
    """Refuses two arrays of different dtypes: nothing is cast silently."""
    if value.dtype != other.dtype:
        raise TypeError(f"{name} must have the dtype of {other_name}, {other.dtype}, got {value.dtype}.")


def host_lengths_within(name: str, value, limit_name: str, limit) -> None:
    """Refuses lengths outside [0, limit] where the values are on the host.

    Only NumPy arrays are looked at: the contents of a JAX array may be on a device,
    or unknown. Out-of-range values found there make NaN results instead.
    """
    if not isinstance(value, np.ndarray) or not value.size:
        return
    if value.min() < 0:
        raise ValueError(f"{name} must not be negative, got {value.min()}.")
    if not is_symbolic(limit) and value.max() > limit:
        raise ValueError(f"{name} must not exceed {limit_name} = {limit}, got {value.max()}.")


def _refuse_explicit_sharding(name: str, value) -> None:
    spec = jax.typeof(value).sharding.spec
    if any(axis is not None for axis in spec):
        raise ValueError(
            f"{name} is sharded as {spec} on a mesh with Explicit axes, where no sharding is inferred for this "
            f"operation: call it inside jax.shard_map, or replicate {name}."
        )


def _listed(dims: str) -> str:
    return ", ".join(dims.split())


def _either(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _described(value) -> str:
    return "None" if value is None else f"{value!r:.60} of type {type(value).__name__}"
