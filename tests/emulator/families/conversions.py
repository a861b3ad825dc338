"""Conversions between types of all widths."""

from collections.abc import Iterator

import ml_dtypes
import numpy as np
from writing import elementwise, rng

from families import Family
from families.floats import combinations
from families.numbers import edges, mixed, random

INTEGERS = ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64")
FLOATS = ("f16", "bf16", "f32", "f64")
TO_INTEGER = (".rni", ".rzi", ".rmi", ".rpi")
TO_FLOAT = (".rn", ".rz", ".rm", ".rp")


def range_of(kind: str) -> tuple[int, int]:
    bits = int(kind[1:])
    return (0, (1 << bits) - 1) if kind[0] == "u" else (-(1 << bits - 1), (1 << bits - 1) - 1)


def values_for(name: str, kind: str, target: str, count: int) -> np.ndarray:
    """Of `kind`; where floating-point numbers become integers, many around halves, and around the ends of the range."""
    if kind not in FLOATS or target not in INTEGERS:
        return mixed(name, (kind,), count)[0]
    generator = rng(name)
    known = edges(kind)
    low, high = range_of(target)
    ends = [float(end) + step for end in (low, high, -high) for step in (-1.5, -1, -0.75, -0.5, 0, 0.25, 0.5, 1, 3)]
    halves = generator.integers(-40, 40, 24) / 4
    scaled = generator.uniform(low, high, 16) * generator.choice([1, 2**-8, 0.5, 1.5], 16)
    with np.errstate(over="ignore"):
        near = np.concatenate([ends, halves, scaled]).astype(known.dtype)
    return np.concatenate([known, near, random(generator, kind, max(8, count - known.size - near.size))])


def cvt(middle: str, target: str, kind: str, count: int = 72, result: str | None = None) -> Family:
    name = f"cvt{middle}.{target}.{kind}"
    values = values_for(name, kind, target, count)
    return Family(name, elementwise(f"{name} {{d}}, {{a}};", {"a": (kind, values)}, {"d": result or target}))


def integers() -> Iterator[Family]:
    for kind in INTEGERS:
        for target in INTEGERS:
            yield cvt("", target, kind, 48)
            (low, high), (least, most) = range_of(target), range_of(kind)
            if low > least or high < most:
                yield cvt(".sat", target, kind, 48)


def integers_and_floats() -> Iterator[Family]:
    for integer in INTEGERS:
        for kind in FLOATS:
            if kind == "bf16" and integer[1:] == "8":
                continue
            for rounding in TO_FLOAT:
                yield cvt(rounding, kind, integer, 48)
            if kind != "bf16":
                yield cvt(".rz.sat", kind, integer, 48)
            for rounding in TO_INTEGER:
                yield cvt(rounding, integer, kind, 120)
            if kind != "bf16":
                yield cvt(".rni.sat", integer, kind, 120)
            if kind == "f32":
                for middle in (".rzi.ftz", ".rpi.ftz", ".rmi.ftz.sat"):
                    yield cvt(middle, integer, kind, 120)


def floats() -> Iterator[Family]:
    for kind in ("f16", "f32", "f64"):
        for rounding in TO_INTEGER:
            yield cvt(rounding, kind, kind)
        yield cvt(".rni.sat", kind, kind)
    for middle in combinations(TO_INTEGER, (".ftz",), ("", ".sat")):
        yield cvt(middle, "f32", "f32")
    for rounding in TO_INTEGER:
        yield cvt(rounding, "bf16", "bf16")
    for middle in combinations(TO_FLOAT, ("", ".ftz"), ("", ".sat")):
        yield cvt(middle, "f32", "f64")
        yield cvt(middle, "f16", "f32")
    for middle in combinations(TO_FLOAT, ("", ".sat")):
        yield cvt(middle, "f16", "f64")
    for middle in combinations(("", ".ftz"), ("", ".sat")):
        for target, kind in (("f64", "f32"), ("f32", "f16")):
            yield cvt(middle, target, kind)
        yield cvt(middle, "f32", "f32") if middle else cvt(".sat", "f64", "f64")
    yield cvt("", "f64", "f16")
    yield cvt(".sat", "f64", "f16")
    for middle in ("", ".ftz"):
        yield cvt(middle, "f32", "bf16")
    yield cvt("", "f64", "bf16")
    for middle in combinations((".rn", ".rz"), ("", ".relu"), ("", ".satfinite")):
        yield cvt(middle, "bf16", "f32")
        if "satfinite" not in middle:
            yield cvt(middle, "tf32", "f32")
        if "satfinite" in middle or "relu" in middle:
            yield cvt(middle, "f16", "f32")
    for middle in (".rna", ".rna.satfinite"):
        yield cvt(middle, "tf32", "f32")
    for rounding in TO_FLOAT:
        yield cvt(rounding, "bf16", "f64")
        yield cvt(rounding, "bf16", "f16")
        yield cvt(rounding, "f16", "bf16")
    for middle in (".rm", ".rp"):
        yield cvt(middle, "bf16", "f32")


def two(name: str, target: str, kind: str, count: int = 160) -> Family:
    """Two operands into one register; the first is the upper half."""
    one, other = mixed(name, (kind, kind), count)
    text = f"{name} {{d}}, {{a}}, {{b}};"
    return Family(name, elementwise(text, {"a": (kind, one), "b": (kind, other)}, {"d": target}))


# What rounds to the small formats in interesting ways: all of their numbers, and those in the middle between them.
def near_small(kind: str, target: str) -> np.ndarray:
    dtype = ml_dtypes.float8_e4m3fn if target.startswith("e4m3") else ml_dtypes.float8_e5m2
    every = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float64)
    numbers = np.sort(every[np.isfinite(every)])
    middles = (numbers[1:] + numbers[:-1]) / 2
    beyond = np.array([449.0, 463.9, 464.0, 464.1, 480.0, 57344.0, 61439.0, 61440.0, 61441.0, 65504.0, np.inf, np.nan])
    one = np.concatenate([numbers[::3], middles[::2], middles[1::4] * (1 + 2.0**-9), beyond, -beyond])
    half = np.float32 if kind == "f32" else np.float16
    with np.errstate(over="ignore"):
        return one.astype(half)


def packed() -> Iterator[Family]:
    for target in ("f16x2", "bf16x2"):
        for middle in combinations((".rn", ".rz"), ("", ".relu"), ("", ".satfinite")):
            yield two(f"cvt{middle}.{target}.f32", target, "f32")
    for target in ("e4m3x2", "e5m2x2"):
        for middle in (".rn.satfinite", ".rn.satfinite.relu"):
            name = f"cvt{middle}.{target}.f32"
            values = near_small("f32", target)
            text = f"{name} {{d}}, {{a}}, {{b}};"
            inputs = {"a": ("f32", values), "b": ("f32", np.roll(values, 31))}
            yield Family(name, elementwise(text, inputs, {"d": target}))
            yield edge_pairs(name, target)
            name = f"cvt{middle}.{target}.f16x2"
            halves = near_small("f16x2", target).view(np.uint16).astype(np.uint32)
            words = halves | np.roll(halves, 17) << 16
            yield Family(name, elementwise(f"{name} {{d}}, {{a}};", {"a": ("f16x2", words)}, {"d": target}))
        for middle in (".rn", ".rn.relu"):
            name = f"cvt{middle}.f16x2.{target}"
            codes = np.arange(256, dtype=np.uint16)
            codes |= codes[::-1] << 8
            yield Family(name, elementwise(f"{name} {{d}}, {{a}};", {"a": (target, codes)}, {"d": "f16x2"}))


def edge_pairs(name: str, target: str) -> Family:
    one, other = mixed(name + "/edges", ("f32", "f32"), 128)
    text = f"{name} {{d}}, {{a}}, {{b}};"
    return Family(f"{name}/edges", elementwise(text, {"a": ("f32", one), "b": ("f32", other)}, {"d": target}))


def packs() -> Iterator[Family]:
    for target in ("s16", "u16"):
        yield two(f"cvt.pack.sat.{target}.s32", "b32", "s32", 96)
    for target in ("s8", "u8"):
        name = f"cvt.pack.sat.{target}.s32.b32"
        one, other, rest = mixed(name, ("s32", "s32", "b32"), 96)
        inputs = {"a": ("s32", one), "b": ("s32", other), "c": ("b32", rest)}
        yield Family(name, elementwise(f"{name} {{d}}, {{a}}, {{b}}, {{c}};", inputs, {"d": "b32"}))


def wide() -> Iterator[Family]:
    """Registers wider than the types: what is above is ignored in sources, and extends the sign in destinations."""
    for target, kind in (("s32", "s8"), ("u32", "u8"), ("s64", "s16"), ("u32", "s8"), ("s64", "u16"), ("u64", "s32")):
        name = f"cvt.{target}.{kind}"
        (values,) = mixed(name + "wide", ("b64" if kind.endswith("32") else "b32",), 48)
        source = "b64" if kind.endswith("32") else "b32"
        yield Family(f"{name}/{source}", elementwise(f"{name} {{d}}, {{a}};", {"a": (source, values)}, {"d": target}))
    for target, kind in (("s8", "s32"), ("u8", "s32"), ("s16", "u32"), ("u16", "s32"), ("s8", "u16"), ("s8", "f32")):
        middle = ".rni" if kind == "f32" else ""
        name = f"cvt{middle}.{target}.{kind}"
        values = values_for(name + "wide", kind, target, 48)
        for result in ("b32", "b64", "b16"):
            if result == "b16" and target.endswith("16"):
                continue
            kernel = elementwise(f"{name} {{d}}, {{a}};", {"a": (kind, values)}, {"d": result})
            yield Family(f"{name}/to {result}".replace(" ", "_"), kernel)
    for target, kind in (("s32", "s64"), ("u32", "s64")):
        (values,) = mixed("wide" + target, (kind,), 48)
        name = f"cvt.{target}.{kind}"
        yield Family(f"{name}/to_b64", elementwise(f"{name} {{d}}, {{a}};", {"a": (kind, values)}, {"d": "b64"}))


def families() -> Iterator[Family]:
    yield from integers()
    yield from integers_and_floats()
    yield from floats()
    yield from packed()
    yield from packs()
    yield from wide()
