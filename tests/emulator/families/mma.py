"""Matrix products of a warp (mma.sync)."""

from collections.abc import Iterator

import numpy as np
from devices import Input, Output
from writing import kernel, rng, vector

from families import Family
from families.wgmma import draw

ROUNDS = 3  # products, one after the other, each added to the one before


def words(values: np.ndarray) -> np.ndarray:
    """[rows, k] as [rows, chunks of 16 bytes, 4] words."""
    rows = values.shape[0]
    return np.ascontiguousarray(values).view(np.uint8).reshape(rows, -1, 4, 4).view(np.uint32)[..., 0]


def registers_of(values: np.ndarray) -> np.ndarray:
    """A [16, k] or B [8, k] as [registers, 32] words: rows first, then chunks."""
    parts = words(values)
    lane = np.arange(32)
    out = []
    for chunk in range(parts.shape[1]):
        for first in range(0, values.shape[0], 8):
            out.append(parts[first + lane // 4, chunk, lane % 4])
    return np.stack(out)


def fragments(d: np.ndarray) -> np.ndarray:
    """[16, 8] as [32 lanes, 4]."""
    return np.ascontiguousarray(d.reshape(2, 8, 4, 2).transpose(1, 2, 0, 3).reshape(32, 4))


def product(name: str, k: int, a_kind: str, b_kind: str, result: str, exact: bool = True, middle: str = "") -> Family:
    generator = rng(name)
    a_values = [draw(generator, a_kind, (16, k), exact) for _ in range(ROUNDS)]
    b_values = [draw(generator, b_kind, (8, k), exact) for _ in range(ROUNDS)]
    dtype = {"f32": np.float32, "f16": np.float16, "s32": np.int32}[result]
    c = generator.integers(-40, 40, (16, 8)) if exact else generator.standard_normal((16, 8))
    if middle:
        c = generator.choice([2**31 - 1, 0, -(2**31)], (16, 8))
    c = c.astype(dtype)
    a, b = np.concatenate([registers_of(v) for v in a_values]), np.concatenate([registers_of(v) for v in b_values])
    counts = len(a) // ROUNDS, len(b) // ROUNDS
    c_bytes = 4 * dtype().itemsize
    registers = c_bytes // 4
    body = ["mad.wide.u32 %d0, %thread, 4, %a;", "mad.wide.u32 %d1, %thread, 4, %b;"]
    body += [f"mad.wide.u32 %d2, %thread, {c_bytes}, %c;", f"mad.wide.u32 %d3, %thread, {c_bytes}, %out;"]
    body += [f"ld.global.b32 %r{i}, [%d2+{4 * i}];" for i in range(registers)]
    for i in range(ROUNDS):
        body += [f"ld.global.b32 %r{10 + k_}, [%d0+{128 * (i * counts[0] + k_)}];" for k_ in range(counts[0])]
        body += [f"ld.global.b32 %r{20 + k_}, [%d1+{128 * (i * counts[1] + k_)}];" for k_ in range(counts[1])]
        operands = [vector("%r", 0, registers), vector("%r", 10, counts[0]), vector("%r", 20, counts[1])]
        operands.append(operands[0])
        opcode = f"mma.sync.aligned.m16n8k{k}.row.col{middle}.{result}.{a_kind}.{b_kind}.{result}"
        body.append(f"{opcode} {', '.join(operands)};")
    body += [f"st.global.b32 [%d3+{4 * i}], %r{i};" for i in range(registers)]
    arguments = {"a": Input(a), "b": Input(b), "c": Input(fragments(c)), "out": Output((32, 4), dtype)}
    return Family(name, kernel(arguments, body))


def families() -> Iterator[Family]:
    for kind, sizes in (("f16", (8, 16)), ("bf16", (8, 16)), ("tf32", (4, 8))):
        for k in sizes:
            for exact in (True, False):
                tail = "" if exact else ".random"
                yield product(f"{kind}.k{k}{tail}", k, kind, kind, "f32", exact)
                if kind == "f16":
                    yield product(f"{kind}.k{k}.to_f16{tail}", k, kind, kind, "f16", exact)
    for a in ("e4m3", "e5m2"):
        for b in ("e4m3", "e5m2"):
            for k in (16, 32):
                for exact in (True, False):
                    tail = "" if exact else ".random"
                    yield product(f"{a}.{b}.k{k}{tail}", k, a, b, "f32", exact)
                yield product(f"{a}.{b}.k{k}.to_f16", k, a, b, "f16")
    for a in ("s8", "u8"):
        for b in ("s8", "u8"):
            for k in (16, 32):
                yield product(f"{a}.{b}.k{k}", k, a, b, "s32")
                yield product(f"{a}.{b}.k{k}.satfinite", k, a, b, "s32", middle=".satfinite")
