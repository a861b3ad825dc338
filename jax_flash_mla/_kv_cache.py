"""Writing and reading paged latent caches: quantise, dequantise, append."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jax_flash_mla import _ffi, _support, _vma
from jax_flash_mla import _validation as check
from jax_flash_mla._kv_cache_format import KVCacheFormat
from jax_flash_mla._stage import Pool, Stage
from jax_flash_mla.reference import paged_tokens
from jax_flash_mla.reference.tiles import last_id


def _not_differentiable(fun):
    """``fun(static, *arrays)`` under ``jit``, with an error instead of a silent zero derivative."""
    wrapped = jax.custom_jvp(jax.jit(fun, static_argnums=0), nondiff_argnums=(0,))

    @wrapped.defjvp
    def refuse(static, primals, tangents):
        raise NotImplementedError(
            f"{fun.__name__.lstrip('_')} has no derivative: apply jax.lax.stop_gradient to its arguments."
        )

    return functools.update_wrapper(wrapped, fun)


@dataclasses.dataclass(frozen=True)
class Config:
    """Static options of a call; ``fmt`` is None for a float cache."""

    fmt: KVCacheFormat | None
    implementation: str
    power_of_two_scales: bool = False

    @property
    def emulated(self) -> bool:
        return self.implementation == _support.EMULATED


def quantize_kv_cache(latent, rope, fmt, *, power_of_two_scales=False, implementation=None):
    """Pages of latent vectors and rotary keys → pages of an FP8 cache.

    For each group of ``fmt.scale_group`` dimensions, in float32,
    ``scale = max(amax / 448, 1e-4)`` and ``code = round(clip(x / scale, ±448))`` to the
    nearest e4m3, ties to even, with IEEE divisions.

    Args:
      latent: [num_pages, page_size, fmt.latent_dim], bfloat16, float16 or float32.
      rope: [num_pages, page_size, 64], bfloat16, float16 or float32; stored in bfloat16.
      fmt: a ``KVCacheFormat``.
      power_of_two_scales: static bool; rounds the scales of V32 up to powers of two.
        Those of MODEL1 always are.
      implementation: as in ``flash_mla_with_kvcache``.

    Returns:
      uint8 [num_pages, page_size, 1, fmt.bytes_per_token]. A group that holds NaN or an
      infinity reads back as NaN.

    Raises:
      TypeError, ValueError: arguments that do not fit ``fmt``.

    Not differentiable: an error says so.
    """
    _check_format(fmt)
    power_of_two_scales = check.static_bool("power_of_two_scales", power_of_two_scales)
    shapes = check.Shapes(fmt.name, latent_dim=fmt.latent_dim, rope_dim=fmt.rope_dim)
    latent = shapes.array("latent", latent, "num_pages page_size latent_dim", check.FLOATS)
    rope = shapes.array("rope", rope, "num_pages page_size rope_dim", check.FLOATS)
    chosen = _support.resolve("quantize", implementation, dtype=latent.dtype, page_size=latent.shape[1], kv_format=fmt)
    config = Config(fmt, chosen, power_of_two_scales)
    return _quantize_kv_cache(config, *_vma.harmonize((latent, rope)))


def _quantize_by_xla(config, latent, rope):
    num_pages, page_size, _ = latent.shape
    fmt = config.fmt
    runs = paged_tokens.quantize(fmt, latent, rope, config.power_of_two_scales)
    pages = jnp.concatenate([run.reshape(num_pages, page_size * run.shape[-1]) for run in runs], axis=1)
    return (pages.reshape(num_pages, page_size, 1, fmt.bytes_per_token),)


def _quantize_by_kernel(config, latent, rope):
    options = dict(fmt=config.fmt, power_of_two_scales=config.power_of_two_scales, emulated=config.emulated)
    return (_ffi.quantize(latent, rope, **options),)


_QUANTIZE = Stage(
    "quantize",
    run=_quantize_by_xla,
    kernel=_quantize_by_kernel,
    operands={"latent": "b t l", "rope": "b t r"},
    results=("b t o c",),
)


@_not_differentiable
def _quantize_kv_cache(config, latent, rope):
    if config.implementation == "xla":
        return _quantize_by_xla(config, latent, rope)[0]
    return _QUANTIZE(config, latent=latent, rope=rope)[0]


def dequantize_kv_cache(cache, fmt):
    """Pages of an FP8 cache → latent vectors and rotary keys; the inverse of quantising.

    Args:
      cache: [num_pages, page_size, 1, fmt.bytes_per_token] of uint8, int8 or
        float8_e4m3fn, read as bytes.
      fmt: a ``KVCacheFormat``.

    Returns:
      ``(latent, rope)``: float32 [num_pages, page_size, fmt.latent_dim], each value
      e4m3 · scale rounded once, and bfloat16 [num_pages, page_size, 64].

    Raises:
      TypeError, ValueError: a cache that does not fit ``fmt``.

    Bytes have no gradient.
    """
    _check_format(fmt)
    shapes = check.Shapes(fmt.name, bytes_per_token=fmt.bytes_per_token)
    cache = shapes.array("cache", cache, "num_pages page_size 1 bytes_per_token", check.BYTES)
    num_pages, page_size = cache.shape[:2]
    flat = paged_tokens.as_unsigned(cache).reshape(num_pages, page_size * fmt.bytes_per_token)
    parts = []
    for width in paged_tokens.run_widths(fmt):
        parts.append(flat[:, : page_size * width].reshape(num_pages, page_size, width))
        flat = flat[:, page_size * width :]
    return paged_tokens.decode(fmt, jnp.concatenate(parts, axis=-1))


def append_to_kv_cache(cache, latent, rope, slots, fmt=None, *, implementation=None):
    """Writes new tokens into a paged cache.

    Under ``jax.jit`` with the cache donated the pages are updated in place; in pure JAX a
    float8_e4m3fn container alone is copied.

    Args:
      cache: FP8: [num_pages, page_size, 1, fmt.bytes_per_token] of uint8, int8 or
        float8_e4m3fn. Float: [num_pages, page_size, 1, d] of bfloat16, float16 or
        float32.
      latent: [..., latent dims], bfloat16, float16 or float32: ``fmt.latent_dim``, or
        what is left of d beside ``rope``.
      rope: [..., rotary dims], bfloat16, float16 or float32.
      slots: int32 [...]; page · page_size + slot for each token. A token with a slot
        below 0 or past the pool is skipped; of tokens with the same slot the last wins.
      fmt: a ``KVCacheFormat``; by default that of the cache's last dimension. Scales are
        those of ``quantize_kv_cache``. None for a float cache, where values are rounded
        to the cache's dtype.
      implementation: as in ``flash_mla_with_kvcache``; float caches have pure JAX alone.

    Returns:
      The cache with the tokens written, of the same shape and dtype.

    Raises:
      TypeError, ValueError: arguments that do not fit the cache.

    Not differentiable: an error says so.
    """
    shapes = check.Shapes()
    cache = shapes.array("cache", cache, "num_pages page_size 1 width", check.BYTES + check.FLOATS)
    if str(cache.dtype) in check.BYTES:
        fmt = _format_of(cache, fmt)
        known = check.Shapes(fmt.name, latent_dim=fmt.latent_dim, rope_dim=fmt.rope_dim)
    elif fmt is not None:
        raise TypeError(f"fmt must be None for a cache of {cache.dtype}, got {fmt}.")
    else:
        known = check.Shapes()
    slots, latent, rope = _new_tokens(known, slots, latent, rope)
    if fmt is None and latent.shape[-1] + rope.shape[-1] != cache.shape[-1]:
        raise ValueError(
            f"latent and rope must have {cache.shape[-1]} dimensions together, as cache has, "
            f"got {latent.shape[-1]} and {rope.shape[-1]}."
        )
    chosen = "xla"  # which does for floats what a kernel would
    if fmt is not None or implementation is not None:
        sizes = dict(page_size=cache.shape[1], kv_format=fmt)
        chosen = _support.resolve("append", implementation, dtype=latent.dtype, **sizes)
    return _append_to_kv_cache(Config(fmt, chosen), *_vma.harmonize((cache, latent, rope, slots)))


def _new_tokens(shapes, slots, latent, rope):
    """Checks the operands of an append and flattens their leading axes."""
    rank = len(getattr(slots, "shape", ()))
    lead = " ".join(f"n{i}" for i in range(rank))
    slots = shapes.array("slots", slots, lead, check.INT32)
    latent = shapes.array("latent", latent, f"{lead} latent_dim", check.FLOATS)
    rope = shapes.array("rope", rope, f"{lead} rope_dim", check.FLOATS)
    return slots.reshape(-1), latent.reshape(-1, latent.shape[-1]), rope.reshape(-1, rope.shape[-1])


def _append_by_xla(config, cache, latent, rope, slots):
    fmt = config.fmt
    num_pages, page_size = cache.shape[:2]
    slots = _last_of_each(slots, num_pages * page_size)
    pages, offsets = slots // page_size, slots % page_size
    # A page outside the pool is dropped; distinct ones, for tokens that are skipped.
    skipped = num_pages + jnp.arange(slots.shape[0], dtype=jnp.int32)
    pages = jnp.where(slots < 0, skipped, pages)
    if fmt is None:
        tokens = jnp.concatenate([latent.astype(cache.dtype), rope.astype(cache.dtype)], axis=-1)
        return (cache.at[pages, offsets, 0].set(tokens, mode="drop", unique_indices=True),)
    # Float containers are written as integers, lest a conversion touch a NaN; that costs a copy.
    as_given = cache.dtype
    if jnp.issubdtype(as_given, jnp.floating):
        cache = paged_tokens.as_unsigned(cache)
    runs = paged_tokens.runs(fmt, page_size, offsets)
    for (first, _), values in zip(runs, paged_tokens.quantize(fmt, latent, rope, False), strict=True):
        values = jax.lax.bitcast_convert_type(values, cache.dtype)
        cache = paged_tokens.scatter_runs(cache, fmt, pages, first, values)
    return (cache if cache.dtype == as_given else jax.lax.bitcast_convert_type(cache, as_given),)


def _append_by_kernel(config, cache, latent, rope, slots):
    return (_ffi.append(cache, latent, rope, slots, emulated=config.emulated),)


_APPEND = Stage(
    "append",
    run=_append_by_xla,
    kernel=_append_by_kernel,
    operands={"cache": "p t o c", "latent": "n l", "rope": "n r", "slots": "n"},
    results=("p t o c",),
    pools={"cache": Pool(ids="slots", axes=2)},
)


@_not_differentiable
def _append_to_kv_cache(config, cache, latent, rope, slots):
    # In pure JAX the compiler knows itself how to split a scatter over devices that each have part of the pool.
    if config.implementation == "xla":
        return _append_by_xla(config, cache, latent, rope, slots)[0]
    return _APPEND(config, cache=cache, latent=latent, rope=rope, slots=slots)[0]


def _last_of_each(slots, size):
    """``slots`` with −1 where out of range, or where a later entry names the same one."""
    slots = jnp.where((slots >= 0) & (slots <= last_id(size)), slots, -1)
    order = jnp.argsort(slots, stable=True)
    in_order = slots[order]
    is_last = jnp.concatenate([in_order[:-1] != in_order[1:], jnp.ones(min(1, slots.shape[0]), bool)])
    return slots.at[order].set(jnp.where(is_last, in_order, -1), unique_indices=True)


def _check_format(fmt):
    if not isinstance(fmt, KVCacheFormat):
        raise TypeError(f"fmt must be a KVCacheFormat, got {fmt!r} of type {type(fmt).__name__}.")


def _format_of(cache, fmt):
    """The format of a byte cache; ``fmt`` must agree with its last dimension."""
    if fmt is None:
        fmt = KVCacheFormat.of_bytes(cache.shape[-1])
        if fmt is None:
            sizes = " or ".join(f"{f.bytes_per_token} ({f.name})" for f in KVCacheFormat)
            raise ValueError(f"cache must have a last dimension of {sizes} bytes a token, got {cache.shape[-1]}.")
    _check_format(fmt)
    if cache.shape[-1] != fmt.bytes_per_token:
        raise ValueError(
            f"cache must have a last dimension of {fmt.bytes_per_token} bytes a token for {fmt.name}, "
            f"got {cache.shape[-1]}."
        )
    return fmt
