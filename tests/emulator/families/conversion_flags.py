"""Conversions in which roundings, .ftz and .sat come together in other ways than in `conversions`.

All that there are of a pair of types are in one kernel; an output is a combination.
"""

from collections.abc import Iterator, Sequence

from writing import elementwise

from families import Family
from families.conversions import INTEGERS, TO_FLOAT, TO_INTEGER, values_for
from families.floats import combinations

SATURATED = tuple(middle + ".sat" for middle in TO_FLOAT if middle != ".rz")
FLUSHED = tuple(combinations(TO_FLOAT, (".ftz",), ("", ".sat")))
FLOAT_TO_INTEGER = (".rni.ftz", ".rni.ftz.sat", ".rzi.ftz.sat", ".rmi.ftz", ".rpi.ftz.sat")


def together(target: str, kind: str, middles: Sequence[str], count: int = 48) -> Family:
    """`middles`: what stands between `cvt` and the types."""
    name = f"cvt.{target}.{kind}"
    outputs = {f"to{i}": target for i in range(len(middles))}
    lines = [f"cvt{middle}.{target}.{kind} {{to{i}}}, {{a}};" for i, middle in enumerate(middles)]
    return Family(name, elementwise("\n".join(lines), {"a": (kind, values_for(name, kind, target, count))}, outputs))


def families() -> Iterator[Family]:
    for integer in INTEGERS:
        for kind in ("f16", "f32", "f64"):
            yield together(kind, integer, SATURATED + (FLUSHED if kind == "f32" else ()))
            middles = tuple(middle + ".sat" for middle in TO_INTEGER if middle != ".rni")
            yield together(integer, kind, middles + (FLOAT_TO_INTEGER if kind == "f32" else ()), 100)
    for kind in ("f16", "f32", "f64"):
        middles = ("", *(middle + ".sat" for middle in TO_INTEGER if middle != ".rni"))
        yield together(kind, kind, middles + ((".sat",) if kind == "f16" else ()))
    yield together("bf16", "bf16", ("",))
    yield together("bf16", "f32", tuple(middle + ".ftz" for middle in TO_FLOAT), 96)
    yield together("f32", "bf16", tuple(combinations(TO_FLOAT, ("", ".ftz"))))
    yield together("f64", "bf16", TO_FLOAT)
