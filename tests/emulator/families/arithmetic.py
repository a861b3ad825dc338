"""Integers of all widths."""

from collections.abc import Iterator

import numpy as np
from writing import ARRAY_TYPES, elementwise, rng

from families import Family
from families.numbers import mixed

NAMES = "abcf"
INTEGERS = tuple(kind + bits for bits in ("16", "32", "64") for kind in "us")


def plain(name: str, result: str, *kinds: str, text: str | None = None, count: int = 256, **arrays) -> Family:
    """An instruction with its destination first. `arrays`: values for the operands a, b, c, f."""
    values = mixed(name, kinds, count)
    inputs = {}
    for operand, kind, value in zip(NAMES, kinds, values):
        inputs[operand] = (kind, arrays[operand](value) if operand in arrays else value)
    operands = ", ".join("{" + operand + "}" for operand in ("d", *inputs))
    return Family(name, elementwise(text or f"{name} {operands};", inputs, {"d": result}))


def wider(kind: str) -> str:
    return kind[0] + str(2 * int(kind[1:]))


def nonzero(values: np.ndarray) -> np.ndarray:
    return np.where(values == 0, np.array(13, values.dtype), values)


def no_overflow(values: np.ndarray) -> np.ndarray:
    """The lowest number divided by -1 is nobody's business: no -1."""
    values = nonzero(values)
    return (
        np.where(values == np.array(-1, values.dtype), np.array(-7, values.dtype), values)
        if values.dtype.kind == "i"
        else values
    )


def shift(values: np.ndarray) -> np.ndarray:
    """Mostly in range, some beyond."""
    generator = rng(str(values.size))
    amounts = generator.integers(0, 72, values.size).astype(np.uint32)
    amounts[::17] = np.array([0, 31, 32, 33, 63, 64, 255, 256, 1 << 31])[np.arange(amounts[::17].size) % 9]
    return amounts


def small(values: np.ndarray) -> np.ndarray:
    """Numbers of bits and positions: mostly below 70, some with higher bits."""
    generator = rng("small" + str(values[:1]))
    amounts = generator.integers(0, 70, values.size).astype(np.uint32)
    amounts[::23] |= 0x100
    return amounts


def common(kind: str) -> Iterator[Family]:
    for name in ("add", "sub", "mul.lo", "mul.hi", "min", "max"):
        yield plain(f"{name}.{kind}", kind, kind, kind)
    for name in ("div", "rem"):
        yield plain(f"{name}.{kind}", kind, kind, kind, b=no_overflow)
    for name in ("mad.lo", "mad.hi", "sad"):
        yield plain(f"{name}.{kind}", kind, kind, kind, kind)
    if kind[1:] != "64":
        yield plain(f"mul.wide.{kind}", wider(kind), kind, kind)
        yield plain(f"mad.wide.{kind}", wider(kind), kind, kind, wider(kind))
    yield plain(f"shr.{kind}", kind, kind, "u32", b=shift)
    if kind[0] == "s":
        yield plain(f"abs.{kind}", kind, kind, count=64)
        yield plain(f"neg.{kind}", kind, kind, count=64)
    for comparison in ("eq", "ne", "lt", "le", "gt", "ge"):
        yield plain(f"setp.{comparison}.{kind}", "pred", kind, kind, count=160)
    if kind[0] == "u":
        for comparison in ("lo", "ls", "hi", "hs"):
            yield plain(f"setp.{comparison}.{kind}", "pred", kind, kind, count=160)


def bits_of_width(bits: str) -> Iterator[Family]:
    kind = "b" + bits
    for name in ("and", "or", "xor"):
        yield plain(f"{name}.{kind}", kind, kind, kind, count=96)
    for name in ("not", "cnot"):
        yield plain(f"{name}.{kind}", kind, kind, count=64)
    yield plain(f"shl.{kind}", kind, kind, "u32", b=shift)
    yield plain(f"setp.eq.{kind}", "pred", kind, kind, count=160)
    yield plain(f"selp.{kind}", kind, kind, kind, "pred", count=96, c=lambda values: values & 1)
    if bits == "16":
        return
    for name in ("popc", "clz"):
        yield plain(f"{name}.{kind}", "u32", kind, count=96)
    yield plain(f"brev.{kind}", kind, kind, count=96)
    for sign in "us":
        for name in ("bfind", "bfind.shiftamt"):
            yield plain(f"{name}.{sign}{bits}", "u32", f"{sign}{bits}", count=96)
        yield plain(f"bfe.{sign}{bits}", f"{sign}{bits}", f"{sign}{bits}", "u32", "u32", b=small, c=small, count=320)
    yield plain(f"bfi.{kind}", kind, kind, kind, "u32", "u32", c=small, f=small, count=320)


def of_32_bits() -> Iterator[Family]:
    for sign in "us":
        for half in ("lo", "hi"):
            yield plain(f"mul24.{half}.{sign}32", f"{sign}32", f"{sign}32", f"{sign}32")
            yield plain(f"mad24.{half}.{sign}32", f"{sign}32", f"{sign}32", f"{sign}32", f"{sign}32")
    yield plain("mad.hi.sat.s32", "s32", "s32", "s32", "s32")
    yield plain("add.sat.s32", "s32", "s32", "s32")
    yield plain("sub.sat.s32", "s32", "s32", "s32")
    for direction in "lr":
        for mode in ("wrap", "clamp"):
            yield plain(f"shf.{direction}.{mode}.b32", "b32", "b32", "b32", "u32", c=shift)
    yield plain("prmt.b32", "b32", "b32", "b32", "b32")
    for mode in ("f4e", "b4e", "rc8", "ecl", "ecr", "rc16"):
        yield plain(f"prmt.b32.{mode}", "b32", "b32", "b32", "b32", count=64)
    for table in (0x00, 0x01, 0x1B, 0x6A, 0x80, 0x96, 0xC5, 0xE8, 0xFE, 0xFF):
        text = f"lop3.b32 {{d}}, {{a}}, {{b}}, {{c}}, {table};"
        yield plain(f"lop3.b32/{table:02x}", "b32", "b32", "b32", "b32", text=text, count=32)
    text = "lop3.or.b32 {d}|%found, {a}, {b}, {c}, 0x28, %given;\nselp.b32 {e}, 1, 0, %found;"
    for operation in ("or", "and"):
        inputs = dict(zip("abc", (("b32", v) for v in mixed("lop3p", ("b32",) * 3, 96))))
        yield Family(
            f"lop3.{operation}.b32",
            elementwise(
                "setp.gt.s32 %given, {a}, {c};\n" + text.replace("or.b32", operation + ".b32"),
                inputs,
                {"d": "b32", "e": "b32"},
                ".reg .pred %found, %given;",
            ),
        )
    for one in "us":
        for other in "us":
            signs = f"{one}32.{other}32"
            result = "s32" if "s" in one + other else "u32"
            yield plain(f"dp4a.{signs}", result, f"{one}32", f"{other}32", result, count=128)
            for half in ("lo", "hi"):
                yield plain(f"dp2a.{half}.{signs}", result, f"{one}32", f"{other}32", result, count=128)
    for mode in ("wrap", "clamp"):
        text = "szext.{}.{}32 {{d}}, {{a}}, {{b}};"
        for sign in "us":
            name = f"szext.{mode}.{sign}32"
            yield plain(name, f"{sign}32", f"{sign}32", "u32", text=text.format(mode, sign), b=small)
        yield plain(f"bmsk.{mode}.b32", "b32", "u32", "u32", a=small, b=lambda v: small(v)[::-1].copy())
    yield plain("fns.b32", "b32", "b32", "u32", "s32", text=FNS, count=192)
    for name in ("add", "min", "max"):
        for sign in "us":
            yield plain(f"{name}.{sign}16x2", f"{sign}16x2", f"{sign}16x2", f"{sign}16x2")
    yield plain("min.relu.s32", "s32", "s32", "s32")
    yield plain("max.relu.s32", "s32", "s32", "s32")
    yield plain("min.relu.s16x2", "s16x2", "s16x2", "s16x2")
    yield plain("max.relu.s16x2", "s16x2", "s16x2", "s16x2")


FNS = """
and.b32 {b}, {b}, 31;
rem.s32 {c}, {c}, 9;
fns.b32 {d}, {a}, {b}, {c};
"""

# Sums and differences of several words, through the carry.
CARRIES = """
add.cc.u32 {d}, {a}, {b};
addc.cc.u32 {e}, {b}, {c};
addc.u32 {g}, {c}, {a};
sub.cc.u32 {h}, {a}, {b};
subc.cc.u32 {i}, {b}, {c};
subc.u32 {j}, {c}, {a};
mad.lo.cc.u32 {k}, {a}, {b}, {c};
madc.hi.cc.u32 {l}, {a}, {b}, {a};
madc.lo.u32 {m}, {b}, {c}, {a};
"""
WIDE_CARRIES = """
add.cc.u64 {d}, {a}, {b};
addc.cc.u64 {e}, {b}, {c};
addc.u64 {g}, {c}, {a};
sub.cc.u64 {h}, {a}, {b};
subc.cc.u64 {i}, {b}, {c};
subc.u64 {j}, {c}, {a};
mad.lo.cc.u64 {k}, {a}, {b}, {c};
madc.hi.cc.u64 {l}, {a}, {b}, {a};
madc.lo.u64 {m}, {b}, {c}, {a};
"""


def carries(name: str, text: str, kind: str) -> Family:
    values = mixed(name, (kind,) * 3, 96)
    inputs = {operand: (kind, value) for operand, value in zip("abc", values)}
    return Family(name, elementwise(text, inputs, dict.fromkeys("deghijklm", kind)))


def immediates() -> Iterator[Family]:
    """Constants of all forms as operands."""
    text = """
    add.s32 {d}, {a}, -0x7f;
    xor.b32 {d}, {d}, 0b1011;
    sub.u32 {d}, {d}, 0777;
    mad.lo.s32 {d}, {d}, 12345, {a};
    add.u32 {d}, {d}, 0xffffffffU;
    """
    (values,) = mixed("immediates", ("s32",), 64)
    yield Family("immediates.32", elementwise(text, {"a": ("s32", values)}, {"d": "s32"}))
    text = "add.s64 {d}, {a}, -4294967297;\nxor.b64 {d}, {d}, 0x123456789abcdef;\nmul.lo.s64 {d}, {d}, -3;"
    (values,) = mixed("immediates64", ("s64",), 64)
    yield Family("immediates.64", elementwise(text, {"a": ("s64", values)}, {"d": "s64"}))
    assert ARRAY_TYPES


def families() -> Iterator[Family]:
    for kind in INTEGERS:
        yield from common(kind)
    for bits in ("16", "32", "64"):
        yield from bits_of_width(bits)
    yield from of_32_bits()
    yield carries("carries.u32", CARRIES, "u32")
    yield carries("carries.u64", WIDE_CARRIES, "u64")
    yield from immediates()
