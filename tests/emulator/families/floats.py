"""Floating-point arithmetic, rounded exactly: bit for bit, NaNs included."""

from collections.abc import Iterator

from writing import elementwise

from families import Exact, Family
from families.numbers import mixed

ROUNDINGS = ("rn", "rz", "rm", "rp")
COUNT = 224


def family(name: str, kind: str, operands: int, count: int = COUNT, text: str | None = None) -> Family:
    """An instruction whose operands are of one type."""
    values = mixed(name, (kind,) * operands, count)
    inputs = {operand: (kind, value) for operand, value in zip("abc", values)}
    operand_text = ", ".join("{" + operand + "}" for operand in ("d", *inputs))
    return Family(name, elementwise(text or f"{name} {operand_text};", inputs, {"d": kind}), Exact())


def combinations(*groups: tuple[str, ...]) -> Iterator[str]:
    """All ways to take one of each group, joined."""
    if not groups:
        yield ""
        return
    for first in groups[0]:
        for rest in combinations(*groups[1:]):
            yield first + rest


def single() -> Iterator[Family]:
    rounding = tuple("." + r for r in ROUNDINGS)
    for operation, operands in (("add", 2), ("sub", 2), ("mul", 2), ("fma", 3)):
        for middle in combinations(rounding, ("", ".ftz"), ("", ".sat")):
            if "sat" in middle and ".rn" not in middle and ".rz" not in middle:
                continue
            yield family(f"{operation}{middle}.f32", "f32", operands)
        if operation != "fma":
            yield family(f"{operation}.f32", "f32", operands, 96)
            yield family(f"{operation}.sat.f32", "f32", operands, 96)
        for middle in rounding:
            yield family(f"{operation}{middle}.f64", "f64", operands)
    yield family("mad.rn.f32", "f32", 3, 96)
    yield family("mad.rz.f64", "f64", 3, 96)
    for middle in combinations(rounding, ("", ".ftz")):
        yield family(f"div{middle}.f32", "f32", 2)
        yield family(f"rcp{middle}.f32", "f32", 1, 128)
        yield family(f"sqrt{middle}.f32", "f32", 1, 128)
    for middle in rounding:
        yield family(f"div{middle}.f64", "f64", 2)
        yield family(f"rcp{middle}.f64", "f64", 1, 128)
        yield family(f"sqrt{middle}.f64", "f64", 1, 128)


def signs_and_extremes() -> Iterator[Family]:
    for name in ("abs", "neg"):
        for kind in ("f32", "f64", "f16", "f16x2", "bf16", "bf16x2"):
            yield family(f"{name}.{kind}", kind, 1, 64)
        for kind in ("f32", "f16", "f16x2"):
            yield family(f"{name}.ftz.{kind}", kind, 1, 64)
    for name in ("min", "max"):
        yield family(f"{name}.f64", "f64", 2)
        for middle in combinations(("", ".ftz"), ("", ".NaN"), ("", ".xorsign.abs")):
            for kind in ("f32", "f16", "f16x2"):
                yield family(f"{name}{middle}.{kind}", kind, 2, 160)
        for middle in combinations(("", ".NaN"), ("", ".xorsign.abs")):
            for kind in ("bf16", "bf16x2"):
                yield family(f"{name}{middle}.{kind}", kind, 2, 160)
    for kind in ("f32", "f64"):
        yield family(f"copysign.{kind}", kind, 2, 96)


def halves() -> Iterator[Family]:
    for operation in ("add", "sub", "mul"):
        for kind in ("f16", "f16x2"):
            for middle in combinations(("", ".rn"), ("", ".ftz"), ("", ".sat")):
                yield family(f"{operation}{middle}.{kind}", kind, 2, 160)
        for kind in ("bf16", "bf16x2"):
            for middle in ("", ".rn"):
                yield family(f"{operation}{middle}.{kind}", kind, 2, 160)
    for kind in ("f16", "f16x2"):
        for middle in combinations(("", ".ftz"), ("", ".sat", ".relu")):
            yield family(f"fma.rn{middle}.{kind}", kind, 3)
    for kind in ("bf16", "bf16x2"):
        for middle in ("", ".relu"):
            yield family(f"fma.rn{middle}.{kind}", kind, 3)


def constants() -> Iterator[Family]:
    """Constants of all forms as operands."""
    texts = {
        "f32": "fma.rn.f32 {d}, {a}, 0f3F8CCCCD, 1.5;\nadd.f32 {d}, {d}, -0.1;",
        "f64": "fma.rn.f64 {d}, {a}, 0d3FF199999999999A, 1.5;\nadd.f64 {d}, {d}, 0.1;\nmul.f64 {d}, {d}, 1e-3;",
    }
    for kind, text in texts.items():
        yield family(f"constants.{kind}", kind, 1, 64, text)


def families() -> Iterator[Family]:
    yield from single()
    yield from signs_and_extremes()
    yield from halves()
    yield from constants()
