"""Functions that the hardware approximates: the emulator has the true values, so both are compared within what the PTX ISA
promises of the hardware; the allowance is stated beside each."""

from collections.abc import Iterator

import numpy as np
from writing import elementwise, rng

from families import Comparison, Family, Ulps, Within
from families.numbers import edges, mixed

FLOAT_LEAST = 2.0**-126  # results below it may have been flushed, or be off by some of their last places


def relative(bound: float, least: float = 0) -> Within:
    """So much of the value, or of the smallest normal number."""
    return Within(lambda value, _: bound * np.maximum(np.abs(value), FLOAT_LEAST) + least)


def absolute(bound: float) -> Within:
    return Within(lambda value, _: np.full(value.shape, bound))


def values_of(kind: str, name: str, low: float, high: float, count: int) -> np.ndarray:
    """Edges, and numbers between the bounds, in equal parts evenly and by their magnitude."""
    generator = rng(name)
    known = edges(kind)
    even = generator.uniform(low, high, count // 2)
    scaled = (
        high
        * 2.0 ** generator.uniform(-24, 0, count - count // 2)
        * generator.choice([1, -1 if low < 0 else 1], count // 2)
    )
    return np.concatenate([known, even.astype(known.dtype), scaled.astype(known.dtype)])


def one(name: str, kind: str, comparison, low: float, high: float, count: int = 192) -> Family:
    return Family(
        name,
        elementwise(f"{name} {{d}}, {{a}};", {"a": (kind, values_of(kind, name, low, high, count))}, {"d": kind}),
        comparison,
    )


def in_range(kind: str, name: str, low: float, high: float, comparison, suffix: str = "", count: int = 256) -> Family:
    """Without edges: only numbers for which a bound is promised."""
    generator = rng(name + suffix)
    values = generator.uniform(low, high, count).astype(edges(kind).dtype)
    values[:4] = np.array([low, high, (low + high) / 2, low / 2 + high / 2 + 0.1]).astype(values.dtype)
    kernel = elementwise(f"{name} {{d}}, {{a}};", {"a": (kind, values)}, {"d": kind})
    return Family(name + suffix, kernel, comparison)


def packed(name: str, kind: str, low: float, high: float, bound: Comparison) -> Family:
    """Two halves in a word. They are compared as what they are: the outputs are halves."""
    half = kind[:-2]
    values = values_of(half, name, low, high, 192)
    words = values[: values.size // 2 * 2].view(np.uint32)
    text = f"{name} %word, {{a}};\nmov.b32 {{{{{{d}}, {{e}}}}}}, %word;"
    kernel = elementwise(text, {"a": (kind, words)}, {"d": half, "e": half})
    return Family(name, kernel, bound)


def divisions() -> Iterator[Family]:
    for middle in ("approx", "approx.ftz", "full", "full.ftz"):
        name = f"div.{middle}.f32"
        a, b = mixed(name, ("f32", "f32"), 320)
        # Divisors whose reciprocals and quotients whose values are subnormal are not within the promise.
        with np.errstate(all="ignore"):
            quotient = np.abs(a.astype(np.float64) / b.astype(np.float64))
            sane = (quotient > 2.0**-125) & (quotient < 2.0**127) & (np.abs(b) > 2.0**-125) & (np.abs(b) < 2.0**125)
            sane &= (np.abs(a) > 2.0**-125) & (np.abs(a) < 2.0**125)
            special = ~np.isfinite(a) | ~np.isfinite(b) | ((a == 0) & (np.abs(b) > 2.0**-126))
        keep = sane | (special & (middle[:4] == "full"))
        inputs = {"a": ("f32", a[keep]), "b": ("f32", b[keep])}
        # "The maximum ulp error is 2", of both.
        yield Family(name, elementwise(f"{name} {{d}}, {{a}}, {{b}};", inputs, {"d": "f32"}), Ulps(2))


def families() -> Iterator[Family]:
    yield from divisions()
    for ftz in ("", ".ftz"):
        # "rcp.approx: maximum ulp error 1", sqrt: relative error 2^-23 (1 ulp at most), rsqrt: 2^-22.9.
        yield one(f"rcp.approx{ftz}.f32", "f32", Ulps(1), -100, 100)
        yield one(f"sqrt.approx{ftz}.f32", "f32", relative(2.0**-22.5), 0, 1e6)
        yield one(f"rsqrt.approx{ftz}.f32", "f32", relative(2.0**-22.4), 0, 1e6)
        # ex2: "maximum relative error 2^-22"; 2 ulp of subnormal results.
        yield one(f"ex2.approx{ftz}.f32", "f32", relative(2.0**-21.9, 2.0**-148), -130, 127)
        # lg2: relative error 2^-22, absolute 2^-22 where the argument is in (0.5, 2).
        yield one(f"lg2.approx{ftz}.f32", "f32", relative(2.0**-21.9, 2.0**-21.9), 0, 1e3)
        # sin, cos: absolute error 2^-20.5 in [-2π, 2π], 2^-14.7 in [-100π, 100π].
        for name in ("sin", "cos"):
            yield in_range("f32", f"{name}.approx{ftz}.f32", -2 * np.pi, 2 * np.pi, absolute(2.0**-20.5))
            wide = absolute(2.0**-14.7)
            yield in_range("f32", f"{name}.approx{ftz}.f32", -100 * np.pi, 100 * np.pi, wide, "/far", 128)
    # tanh: relative error 2^-11; of f16 absolute 2^-10.987, of bf16 absolute 2^-8: that is one place of the numbers from 1/2
    # on, and the allowance here is one place of all. (A relative error of 2^-8 is not promised, and GPUs do exceed it: they
    # cut more often than they round.)
    yield one("tanh.approx.f32", "f32", relative(2.0**-10.9), -6, 6)
    yield one("tanh.approx.f16", "f16", absolute(2.0**-10.9 + 2.0**-11), -5, 5)
    yield packed("tanh.approx.f16x2", "f16x2", -5, 5, absolute(2.0**-10.9 + 2.0**-11))
    yield one("tanh.approx.bf16", "bf16", Ulps(1), -5, 5)
    yield packed("tanh.approx.bf16x2", "bf16x2", -5, 5, Ulps(1))
    # ex2: of f16 relative 2^-9.9 (and of subnormal results, a place), of bf16 2^-7.
    half = Within(lambda v, _: 2.0**-9.8 * np.abs(v) + 2.0**-24)
    yield one("ex2.approx.f16", "f16", half, -20, 15)
    yield packed("ex2.approx.f16x2", "f16x2", -20, 15, half)
    bfloat = Within(lambda v, _: 2.0**-6.9 * np.abs(v))
    yield one("ex2.approx.ftz.bf16", "bf16", bfloat, -100, 100)
    yield packed("ex2.approx.ftz.bf16x2", "bf16x2", -100, 100, bfloat)
    yield from doubles()


def doubles() -> Iterator[Family]:
    """Of f64 the hardware knows the upper halves: 20 bits or so; the lower halves are zeros."""
    (values,) = mixed("doubles", ("f64",), 128)
    exponent = values.view(np.uint64) >> 52 & 0x7FF
    sane = values[(exponent > 60) & (exponent < 1980)]
    loose = Within(lambda v, _: 2.0**-18 * np.abs(v))
    yield Family(
        "rcp.approx.ftz.f64", elementwise("rcp.approx.ftz.f64 {d}, {a};", {"a": ("f64", sane)}, {"d": "f64"}), loose
    )
    positive = np.abs(sane)
    for middle in ("approx", "approx.ftz"):
        name = f"rsqrt.{middle}.f64"
        yield Family(name, elementwise(f"{name} {{d}}, {{a}};", {"a": ("f64", positive)}, {"d": "f64"}), loose)
