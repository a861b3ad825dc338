"""Moves of matrices between shared memory and registers: ldmatrix, stmatrix, movmatrix."""

from collections.abc import Iterator

import numpy as np
from devices import Input, Output
from writing import dump_shared, fill_shared, kernel, rng, vector

from families import Family

BYTES = 1024


def rows_of(name: str) -> np.ndarray:
    """An address of 16 bytes for each lane, no two the same."""
    return (rng(name + " rows").permutation(BYTES // 16)[:32] * 16).astype(np.uint32)


def load(count: int, transposed: bool, generic: bool) -> Family:
    trans = ".trans" if transposed else ""
    name = f"ldmatrix.x{count}{trans}" + (".generic" if generic else "")
    body = [fill_shared("a", BYTES, 32), "mov.u64 %d0, smem;"]
    body += ["mad.wide.u32 %d1, %thread, 4, %rows;", "ld.global.b32 %r10, [%d1];", "cvt.u64.u32 %d2, %r10;"]
    body += ["add.u64 %d3, %d0, %d2;"] + (["cvta.shared.u64 %d3, %d3;"] if generic else ["cvt.u32.u64 %r11, %d3;"])
    space, address = ("", "%d3") if generic else (".shared", "%r11")
    body += [f"ldmatrix.sync.aligned.m8n8.x{count}{trans}{space}.b16 {vector('%r', 0, count)}, [{address}];"]
    body += [f"mad.wide.u32 %d4, %thread, {4 * count}, %out;"]
    body += [f"st.global.b32 [%d4+{4 * i}], %r{i};" for i in range(count)]
    arguments = {
        "a": Input(rng(name).integers(0, 256, BYTES, np.uint8)),
        "rows": Input(rows_of(name)),
        "out": Output((32, count), np.uint32),
    }
    return Family(name, kernel(arguments, body, dynamic_shared=BYTES))


def store(count: int, transposed: bool, generic: bool) -> Family:
    trans = ".trans" if transposed else ""
    name = f"stmatrix.x{count}{trans}" + (".generic" if generic else "")
    body = [fill_shared("a", BYTES, 32), "mov.u64 %d0, smem;"]
    body += ["mad.wide.u32 %d1, %thread, 4, %rows;", "ld.global.b32 %r10, [%d1];", "cvt.u64.u32 %d2, %r10;"]
    body += ["add.u64 %d3, %d0, %d2;"] + (["cvta.shared.u64 %d3, %d3;"] if generic else ["cvt.u32.u64 %r11, %d3;"])
    body += [f"mad.lo.u32 %r{i}, %thread, 0x10001, 0x{0x01000200 * (i + 1):x};" for i in range(count)]
    space, address = ("", "%d3") if generic else (".shared::cta", "%r11")
    body += [f"stmatrix.sync.aligned.m8n8.x{count}{trans}{space}.b16 [{address}], {vector('%r', 0, count)};"]
    body += [dump_shared("out", BYTES, 32)]
    arguments = {
        "a": Input(np.full(BYTES, 0x5A, np.uint8)),
        "rows": Input(rows_of(name)),
        "out": Output((BYTES,), np.uint8),
    }
    return Family(name, kernel(arguments, body, dynamic_shared=BYTES))


def families() -> Iterator[Family]:
    for count in (1, 2, 4):
        for transposed in (False, True):
            yield load(count, transposed, False)
            yield store(count, transposed, False)
    yield load(4, True, True)
    yield store(2, False, True)
    body = """
    mad.wide.u32 %d0, %thread, 4, %a;
    mad.wide.u32 %d1, %thread, 4, %out;
    ld.global.b32 %r0, [%d0];
    movmatrix.sync.aligned.m8n8.trans.b16 %r1, %r0;
    st.global.b32 [%d1], %r1;
    """
    values = rng("movmatrix").integers(0, 2**32, 32, np.uint32)
    yield Family("movmatrix", kernel({"a": Input(values), "out": Output((32,), np.uint32)}, body))
