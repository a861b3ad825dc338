"""Token rows in a paged latent cache: FP8 containers and plain floats.

An FP8 page is read and written as bytes, exactly as FlashMLA lays them out:

* V32: each token is one run of 656 bytes,
  ``512 e4m3 | 4 float32 scales | 64 bfloat16 RoPE``.
* MODEL1: a page of P tokens is P runs of 576 bytes, ``448 e4m3 | 64 bfloat16 RoPE``,
  then P runs of 8 bytes, ``7 e8m0 scales | 1 unused``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

E4M3_MAX = 448.0
MIN_SCALE = 1e-4


_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def as_unsigned(x):
    """The bits of ``x`` as unsigned integers of the same size."""
    unsigned = _UNSIGNED[x.dtype.itemsize]
    return x if x.dtype == unsigned else jax.lax.bitcast_convert_type(x, unsigned)


# Bytes are put together and taken apart by shifts: a bitcast that changes the rank cannot
# be exported with symbolic shapes.


def from_bytes(x, dtype):
    """The last axis of uint8 ``x`` read as little-endian ``dtype``."""
    width = jnp.dtype(dtype).itemsize
    unsigned = _UNSIGNED[width]
    parts = x.reshape(*x.shape[:-1], x.shape[-1] // width, width).astype(unsigned)
    bits = sum(parts[..., i] << unsigned(8 * i) for i in range(width))
    return jax.lax.bitcast_convert_type(bits, dtype)


def to_bytes(x):
    """``x`` as little-endian uint8, its last axis as many times longer as an item has bytes."""
    width = x.dtype.itemsize
    bits = as_unsigned(x)
    parts = jnp.stack([bits >> bits.dtype.type(8 * i) for i in range(width)], axis=-1).astype(jnp.uint8)
    return parts.reshape(*x.shape[:-1], x.shape[-1] * width)


# --------------------------------------------------------------------------------------
# Runs of bytes of a page


def run_widths(fmt) -> tuple[int, ...]:
    """Bytes of each run of a token; a page holds all first runs, then all second ones."""
    if not fmt.planar:
        return (fmt.bytes_per_token,)
    body = fmt.latent_dim + 2 * fmt.rope_dim
    return body, fmt.bytes_per_token - body


def runs(fmt, page_size: int, slots):
    """First byte in its page and width of each run of the tokens at ``slots``."""
    before, places = 0, []
    for width in run_widths(fmt):
        places.append((page_size * before + slots * width, width))
        before += width
    return places


def gather_runs(cache, pages, first, width: int):
    """``width`` bytes from byte ``first`` of each page; both clipped into the pool."""
    num_pages = cache.shape[0]
    numbers = jax.lax.GatherDimensionNumbers(
        offset_dims=(pages.ndim,), collapsed_slice_dims=(0,), start_index_map=(0, 1)
    )
    return jax.lax.gather(
        cache.reshape(num_pages, cache.shape[1] * cache.shape[3]),
        jnp.stack([pages, first], axis=-1),
        numbers,
        slice_sizes=(1, width),
        mode=jax.lax.GatherScatterMode.CLIP,
    )


def scatter_runs(cache, fmt, pages, first, values):
    """``cache`` with the bytes ``values`` [n, width] from byte ``first`` of each page on.

    Pages out of range are dropped; the places must be distinct. The pool is written in
    its own four dimensions, in units that never cross a row of them: seen as flat pages,
    it would be copied by XLA.
    """
    row = fmt.bytes_per_token
    unit = 8 if fmt.planar else row
    units = first[:, None] // unit + jnp.arange(values.shape[1] // unit, dtype=jnp.int32)
    pages = jnp.broadcast_to(pages[:, None], units.shape)
    per_row = row // unit
    places = jnp.stack([pages, units // per_row, jnp.zeros_like(units), units % per_row * unit], axis=-1)
    numbers = jax.lax.ScatterDimensionNumbers(
        update_window_dims=(2,), inserted_window_dims=(0, 1, 2), scatter_dims_to_operand_dims=(0, 1, 2, 3)
    )
    return jax.lax.scatter(
        cache,
        places,
        values.reshape(*units.shape, unit),
        numbers,
        unique_indices=True,
        mode=jax.lax.GatherScatterMode.FILL_OR_DROP,
    )


# --------------------------------------------------------------------------------------
# Tokens


def read_tokens(cache, fmt, pages, slots):
    """Keys of the tokens at ``(pages, slots)``, as float32 for FP8 caches.

    Args:
      cache: [num_pages, page_size, 1, width].
      fmt: a ``KVCacheFormat``, or None for a float cache.
      pages, slots: int32 [...]; out-of-range pages are clipped.

    Returns:
      [..., d_qk]; e4m3 · scale is rounded once, to float32.
    """
    if fmt is None:
        return cache[:, :, 0].at[pages, slots].get(mode="clip")
    cache = as_unsigned(cache)
    parts = [gather_runs(cache, pages, first, width) for first, width in runs(fmt, cache.shape[1], slots)]
    latent, rope = decode(fmt, jnp.concatenate(parts, axis=-1))
    return jnp.concatenate([latent, rope.astype(jnp.float32)], axis=-1)


def split(fmt, tokens):
    """Bytes of tokens [..., bytes_per_token] → (e4m3 codes, scale bytes, RoPE bytes)."""
    codes = tokens[..., : fmt.latent_dim]
    rope_bytes = 2 * fmt.rope_dim
    if fmt.planar:
        rope = tokens[..., fmt.latent_dim : fmt.latent_dim + rope_bytes]
        scales = tokens[..., fmt.latent_dim + rope_bytes :][..., : fmt.num_scales]
    else:
        scales, rope = tokens[..., fmt.latent_dim : -rope_bytes], tokens[..., -rope_bytes:]
    return codes, scales, rope


def decode(fmt, tokens):
    """Bytes of tokens [..., bytes_per_token] → latent float32, RoPE bfloat16."""
    codes, scales, rope = split(fmt, tokens)
    values = jax.lax.bitcast_convert_type(codes, jnp.float8_e4m3fn).astype(jnp.float32)
    values = values.reshape(*values.shape[:-1], fmt.num_scales, fmt.scale_group)
    if fmt.planar:
        values = _times_e8m0(values, scales[..., None])
    else:
        values = values * from_bytes(scales, jnp.float32)[..., None]
    return values.reshape(*values.shape[:-2], fmt.latent_dim), from_bytes(rope, jnp.bfloat16)


def _times_e8m0(values, codes):
    """``values`` · 2^(code − 127), NaN for code 255.

    Code 0 is 2^−127, subnormal in float32 and flushed to zero by some devices, so the
    power is applied in two halves.
    """
    exponent = codes.astype(jnp.int32) - 127
    half = exponent // 2
    values = values * _power_of_two(half) * _power_of_two(exponent - half)
    return jnp.where(codes == 255, jnp.nan, values)


def _power_of_two(exponent):
    """2^exponent for −126 ≤ exponent ≤ 127, exactly."""
    return jax.lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)


def quantize(fmt, latent, rope, power_of_two_scales: bool):
    """Latent [..., latent_dim], RoPE [..., rope_dim] → the runs of bytes of each token.

    scale = max(amax / 448, 1e-4) over each group, in float32, rounded up to a power of
    two for e8m0 scales or on request; code = round(clip(x / scale, ±448)) to nearest
    even. Divisions are IEEE's. A group with a non-finite value decodes to NaN.
    """
    values = latent.astype(jnp.float32).reshape(*latent.shape[:-1], fmt.num_scales, fmt.scale_group)
    amax = jnp.max(jnp.abs(values), axis=-1)
    finite = jnp.isfinite(amax)
    scale = jnp.maximum(divide(amax, jnp.float32(E4M3_MAX)), jnp.float32(MIN_SCALE))
    if fmt.planar or power_of_two_scales:
        scale = _round_up_to_power_of_two(scale)
    quotient = divide(values, scale[..., None])
    codes = jax.lax.bitcast_convert_type(jnp.clip(quotient, -E4M3_MAX, E4M3_MAX).astype(jnp.float8_e4m3fn), jnp.uint8)
    nan_code = jnp.uint8(0x7F)
    codes = jnp.where(finite[..., None], codes, nan_code).reshape(*latent.shape[:-1], fmt.latent_dim)
    rope = to_bytes(rope.astype(jnp.bfloat16))
    if fmt.planar:
        exponent = jax.lax.bitcast_convert_type(scale, jnp.int32) >> 23
        scales = jnp.where(finite, exponent, 255).astype(jnp.uint8)
        unused = jnp.zeros((*scales.shape[:-1], 8 - fmt.num_scales), jnp.uint8)
        return jnp.concatenate([codes, rope], -1), jnp.concatenate([scales, unused], -1)
    scales = to_bytes(jnp.where(finite, scale, jnp.nan))
    return (jnp.concatenate([codes, scales, rope], -1),)


def _round_up_to_power_of_two(scale):
    """The least power of two that is at least ``scale``, a positive normal float32."""
    bits = jax.lax.bitcast_convert_type(scale, jnp.int32)
    return jax.lax.bitcast_convert_type((bits + 0x7FFFFF) & ~0x7FFFFF, jnp.float32)


def divide(x, y):
    """X / y in float32, rounded to nearest even, for finite x and positive normal y.

    Compilers replace division by multiplication with a reciprocal, or approximate it,
    which moves results by a unit in the last place and now and then a code by one.
    Long division on the mantissas cannot be rewritten. Subnormal x, and quotients below
    2^−126, give zero.
    """
    x, y = jnp.broadcast_arrays(x, y)
    x_bits, y_bits = (jax.lax.bitcast_convert_type(v, jnp.uint32) for v in (x, y))
    x_exponent, y_exponent = (((b >> 23) & 0xFF).astype(jnp.int32) for b in (x_bits, y_bits))
    numerator, divisor = ((b & 0x7FFFFF) | 0x800000 for b in (x_bits, y_bits))

    # 26 bits of quotient: the first is 0 or 1, then 25 more; what remains is sticky.
    quotient = (numerator >= divisor).astype(jnp.uint32)
    rest = numerator - quotient * divisor
    for bits in (8, 8, 8, 1):
        dividend = rest << bits
        digit = dividend // divisor
        quotient, rest = (quotient << bits) | digit, dividend - digit * divisor

    # Normalise to 24 bits and a half: one or two bits are dropped.
    long = quotient >> 25
    drop = 1 + long
    kept, dropped = quotient >> drop, quotient & ((1 << drop) - 1)
    half = jnp.uint32(1) << (drop - 1)
    above = (dropped > half) | ((dropped == half) & ((rest > 0) | (kept & 1 > 0)))
    mantissa = kept + above.astype(jnp.uint32)
    exponent = x_exponent - y_exponent + 127 - 1 + long.astype(jnp.int32)

    # Adding the mantissa with its leading one carries into the exponent where it must.
    bits = ((exponent - 1).astype(jnp.uint32) << 23) + mantissa
    bits = jnp.where((x_exponent == 0) | (exponent < 1), 0, bits)
    infinite = jnp.uint32(0x7F800000)
    bits = jnp.where(exponent > 254, infinite, bits)
    return jax.lax.bitcast_convert_type(bits | (x_bits & jnp.uint32(0x80000000)), jnp.float32)
