"""Comparisons of floating-point numbers, choices by them, and tests of single numbers."""

from collections.abc import Iterator

import numpy as np
from writing import elementwise, rng

from families import Family
from families.numbers import mixed

ORDERED = ("eq", "ne", "lt", "le", "gt", "ge")
UNORDERED = ("equ", "neu", "ltu", "leu", "gtu", "geu")
COMPARISONS = (*ORDERED, *UNORDERED, "num", "nan")


def compared(name: str, kind: str, text: str, outputs: dict[str, str], count: int = 96, **more) -> Family:
    values = mixed(kind + text[:20], (kind, kind), count)
    inputs = {"a": (kind, values[0]), "b": (kind, values[1])}
    inputs |= {operand: given(count) for operand, given in more.items()}
    return Family(name, elementwise(text, inputs, outputs, ".reg .pred %one, %other, %given;"))


def all_of(kind: str, middle: str = "") -> Family:
    """All comparisons at once, a bit each."""
    lines = ["mov.b32 {d}, 0;"]
    for bit, comparison in enumerate(COMPARISONS):
        lines += [f"setp.{comparison}{middle}.{kind} %one, {{a}}, {{b}};", f"@%one or.b32 {{d}}, {{d}}, {1 << bit};"]
    return compared(f"setp{middle}.{kind}", kind, "\n".join(lines), {"d": "b32"}, 320)


def pairs(kind: str, middle: str = "") -> Family:
    """Of f16x2: a predicate for each half."""
    lines = ["mov.b32 {d}, 0;"]
    for bit, comparison in enumerate(COMPARISONS):
        lines += [f"setp.{comparison}{middle}.{kind} %one|%other, {{a}}, {{b}};"]
        lines += [f"@%one or.b32 {{d}}, {{d}}, {1 << bit};", f"@%other or.b32 {{d}}, {{d}}, {1 << bit + 16};"]
    return compared(f"setp{middle}.{kind}", kind, "\n".join(lines), {"d": "b32"}, 320)


def words(count: int) -> tuple[str, np.ndarray]:
    return "pred", rng("words").integers(0, 2, count).astype(np.uint32)


def with_predicate(kind: str, operation: str) -> Family:
    """Both results, the second of the complement, combined with a third predicate."""
    text = f"""
    setp.lt.{operation}.{kind} %one|%other, {{a}}, {{b}}, {{c}};
    selp.u32 {{d}}, 1, 0, %one;
    selp.u32 {{e}}, 1, 0, %other;
    setp.ge.{operation}.{kind} %one, {{a}}, {{b}}, !{{c}};
    @%one or.b32 {{d}}, {{d}}, 2;
    """
    return compared(f"setp.{operation}.{kind}", kind, text, {"d": "b32", "e": "b32"}, c=words)


def set_family(target: str, kind: str, middle: str = "") -> Family:
    outputs, lines = {}, []
    for name, comparison in zip("defg", ("lt", "neu", "num", "nan") if kind[0] != "s" and kind[0] != "u" else ORDERED):
        lines.append(f"set.{comparison}{middle}.{target}.{kind} {{{name}}}, {{a}}, {{b}};")
        outputs[name] = target
    lines.append(f"set.ge.xor{middle}.{target}.{kind} {{h}}, {{a}}, {{b}}, {{c}};")
    return compared(f"set{middle}.{target}.{kind}", kind, "\n".join(lines), outputs | {"h": target}, c=words)


def choices() -> Iterator[Family]:
    for kind in ("f32", "f64", "u32", "s64", "u16"):
        text = f"selp.{kind} {{d}}, {{a}}, {{b}}, {{c}};"
        yield compared(f"selp.{kind}", kind, text, {"d": kind}, c=words)
    generator = rng("slct")
    for kind in ("b16", "u32", "s32", "f32", "b64", "f64", "s64", "u16"):
        integers = generator.choice(np.array([0, 1, -1, 5, -(2**31), 2**31 - 1], np.int32), 96)
        (floats,) = mixed("slct", ("f32",), 96)
        one, other = mixed("slct" + kind, (kind, kind), 96)
        both = {"a": (kind, one), "b": (kind, other)}
        for last, values in (("s32", integers), ("f32", floats)):
            for middle in ("", ".ftz") if last == "f32" else ("",):
                name = f"slct{middle}.{kind}.{last}"
                text = f"{name} {{d}}, {{a}}, {{b}}, {{c}};"
                yield Family(name, elementwise(text, {**both, "c": (last, values[:96])}, {"d": kind}))


def properties() -> Iterator[Family]:
    for kind in ("f32", "f64"):
        lines = ["mov.b32 {d}, 0;"]
        for bit, test in enumerate(("finite", "infinite", "number", "notanumber", "normal", "subnormal")):
            lines += [f"testp.{test}.{kind} %one, {{a}};", f"@%one or.b32 {{d}}, {{d}}, {1 << bit};"]
        yield compared(f"testp.{kind}", kind, "\n".join(lines), {"d": "b32"})


def predicates() -> Iterator[Family]:
    """Arithmetic of predicates."""
    text = """
    and.pred %one, {a}, {b};
    xor.pred %other, %one, {c};
    or.pred {d}, %other, {b};
    not.pred {e}, {c};
    mov.pred {f}, {a};
    @!{b} mov.pred {f}, {c};
    setp.ne.xor.u32 %one, 1, 0, {a};
    and.pred {g}, %one, {c};
    """
    generator = rng("predicates")
    inputs = {name: ("pred", generator.integers(0, 2, 32).astype(np.uint32)) for name in "abc"}
    outputs = dict.fromkeys("defg", "pred")
    yield Family("predicates", elementwise(text, inputs, outputs, ".reg .pred %one, %other;"))


def families() -> Iterator[Family]:
    for kind in ("f32", "f64", "f16", "bf16"):
        yield all_of(kind)
    for kind in ("f32", "f16"):
        yield all_of(kind, ".ftz")
    for kind in ("f16x2", "bf16x2"):
        yield pairs(kind)
    yield pairs("f16x2", ".ftz")
    for kind in ("f32", "f64", "s32", "u64"):
        for operation in ("and", "or", "xor"):
            yield with_predicate(kind, operation)
    for target in ("u32", "s32", "f32"):
        for kind in ("f32", "f64", "s32", "u64", "s16", "b32"):
            if kind != "b32":
                yield set_family(target, kind)
        yield set_family(target, "f32", ".ftz")
    for target, kind in (("f16", "f16"), ("u16", "f16"), ("s16", "f16"), ("u32", "f16"), ("s32", "f16")):
        yield set_family(target, kind)
    for target, kind in (("bf16", "bf16"), ("u16", "bf16"), ("s32", "bf16")):
        yield set_family(target, kind)
    for target in ("f16x2", "u32", "s32"):
        yield set_family(target, "f16x2")
    for target in ("bf16x2", "u32"):
        yield set_family(target, "bf16x2")
    yield from choices()
    yield from properties()
    yield from predicates()
