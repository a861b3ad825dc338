"""Loads and stores: vectors, widths, signs, spaces."""

from collections.abc import Iterator

import numpy as np
from devices import Input, Output, Scalar
from writing import kernel, rng

from families import Family

N = 64
SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}
QUALIFIERS = (
    "",
    ".weak",
    ".relaxed.gpu",
    ".acquire.sys",
    ".volatile",
    ".relaxed.cta",
    ".nc",
    ".ca",
    ".cg",
    ".cs",
    ".lu",
)
LATER = (".cv", ".L1::no_allocate", ".L1::evict_last", ".L2::128B", ".nc.L1::evict_first.L2::256B")
STORES = ("", ".weak", ".relaxed.gpu", ".release.sys", ".volatile", ".wb", ".cg", ".cs", ".wt", ".L1::no_allocate")


def bytes_of(name: str, count: int) -> np.ndarray:
    return rng(name).integers(0, 256, count, np.uint8)


def register(bits: int) -> str:
    return {8: "%h", 16: "%h", 32: "%r", 64: "%d"}[bits]


def load_vectors() -> Iterator[Family]:
    """Each thread loads a vector of each type from its place, and stores the elements as 64 bits."""
    for kind in ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64", "b8", "b16", "b32", "b64", "f32", "f64"):
        for vector in (1, 2, 4):
            size = SIZES[kind[1:]] * vector
            if size > 16:
                continue
            sign = "s" if kind[0] == "s" else "u"
            wide = {"f32": "b32", "f64": "b64"}.get(kind, kind)
            pre = {8: "%h", 16: "%h", 32: "%r", 64: "%d"}[int(kind[1:])]
            names = [f"{pre}{i}" for i in range(vector)]
            operand = names[0] if vector == 1 else "{" + ", ".join(names) + "}"
            suffix = "" if vector == 1 else f".v{vector}"
            body = [f"mad.wide.u32 %d50, %thread, {size}, %a;", f"mad.wide.u32 %d51, %thread, {8 * vector}, %out;"]
            body.append(f"ld.global{suffix}.{kind} {operand}, [%d50];".replace("f32", "b32").replace("f64", "b64"))
            for i, name in enumerate(names):
                bits = int(kind[1:])
                if bits == 64:
                    body.append(f"mov.b64 %d60, {name};")
                else:
                    # Of types of 8 bits, the register's 16 are kept: they show how the load extends.
                    source = f"{sign}{max(bits, 16)}"
                    body.append(f"cvt.{sign}64.{source} %d60, {name};")
                body.append(f"st.global.b64 [%d51+{8 * i}], %d60;")
            arguments = {"a": Input(bytes_of(kind, 32 * size)), "out": Output((32, vector), np.uint64)}
            yield Family(f"ld.global{suffix}.{kind}", kernel(arguments, body))
            assert wide


def wide_loads() -> Iterator[Family]:
    """Into registers wider than the type."""
    body = """
    cvt.u64.u32 %d50, %thread;
    shl.b64 %d51, %d50, 3;
    add.u64 %d51, %d51, %a;
    mad.wide.u32 %d52, %thread, 64, %out;
    ld.global.s8 %r0, [%d51];
    ld.global.u8 %r1, [%d51+1];
    ld.global.s16 %r2, [%d51+2];
    ld.global.u16 %r3, [%d51+4];
    ld.global.s8 %d0, [%d51+5];
    ld.global.s16 %d1, [%d51+6];
    ld.global.s32 %d2, [%d51+4];
    ld.global.u32 %d3, [%d51];
    ld.global.v2.s8 {%r4, %r5}, [%d51+2];
    st.global.v4.b32 [%d52], {%r0, %r1, %r2, %r3};
    st.global.v2.b64 [%d52+16], {%d0, %d1};
    st.global.v2.b64 [%d52+32], {%d2, %d3};
    st.global.v2.b32 [%d52+48], {%r4, %r5};
    st.global.b32 [%d52+56], 7;
    st.global.u8 [%d52+60], %r1;
    st.global.u16 [%d52+62], %d2;
    st.global.u8 [%d52+61], -2;
    """
    arguments = {"a": Input(bytes_of("wide", 256)), "out": Output((32, 16), np.uint32)}
    yield Family("ld.wide", kernel(arguments, body))


def qualifiers() -> Iterator[Family]:
    body = ["mad.wide.u32 %d50, %thread, 8, %a;", "mad.wide.u32 %d51, %thread, 4, %out;", "mov.b32 %r1, 0;"]
    for i, qualifier in enumerate(QUALIFIERS + LATER):
        body += [
            f"ld{order(qualifier, 'global')}.b32 %r0, [%d50+{4 * (i % 2)}];",
            f"mad.lo.u32 %r1, %r1, {3 + 2 * i}, %r0;",
        ]
    body += ["ldu.global.b32 %r0, [%d50];", "mad.lo.u32 %r1, %r1, 77, %r0;"]
    body.append("ld.global.nc.v4.b32 {%r2, %r3, %r4, %r5}, [%a+16];")
    body += [f"mad.lo.u32 %r1, %r1, {91 + i}, %r{2 + i};" for i in range(4)]
    body.append("st.global.b32 [%d51], %r1;")
    arguments = {"a": Input(bytes_of("qualifiers", 256)), "out": Output((32,), np.uint32)}
    yield Family("ld.qualifiers", kernel(arguments, body))

    body = [f"mad.wide.u32 %d51, %thread, {4 * len(STORES)}, %out;"]
    for i, qualifier in enumerate(STORES):
        body += [f"mad.lo.u32 %r0, %thread, {17 + i}, {i};", f"st{order(qualifier, 'global')}.b32 [%d51+{4 * i}], %r0;"]
    yield Family("st.qualifiers", kernel({"out": Output((32, len(STORES)), np.uint32)}, body))


def order(qualifier: str, space: str) -> str:
    """Some come before the space, some after it."""
    before = qualifier.startswith((".weak", ".relaxed", ".acquire", ".release", ".volatile"))
    return f"{qualifier}.{space}" if before else f".{space}{qualifier}"


def policies() -> Iterator[Family]:
    body = """
    createpolicy.fractional.L2::evict_last.b64 %d0, 1.0;
    createpolicy.fractional.L2::evict_first.L2::evict_unchanged.b64 %d1, 0.5;
    createpolicy.range.global.L2::evict_last.b64 %d2, [%a], 64, 128;
    mad.wide.u32 %d50, %thread, 4, %a;
    mad.wide.u32 %d51, %thread, 4, %out;
    ld.global.L2::cache_hint.b32 %r0, [%d50], %d0;
    ld.global.nc.L1::no_allocate.L2::cache_hint.L2::128B.b32 %r1, [%d50], %d1;
    mad.lo.u32 %r0, %r0, 3, %r1;
    prefetch.global.L2 [%d50];
    prefetch.global.L2::evict_last [%d50];
    prefetchu.L1 [%d50];
    prefetch.local.L1 [scratch];
    st.global.L2::cache_hint.b32 [%d51], %r0, %d2;
    """
    arguments = {"a": Input(bytes_of("policies", 128)), "out": Output((32,), np.uint32)}
    yield Family("policies", kernel(arguments, ".local .align 8 .b8 scratch[16];\n" + body))


SHARED = """
.shared .align 16 .b8 first[272];
.shared .align 4 .b32 second[40];
.shared .align 8 .b64 third;
"""


def shared() -> Iterator[Family]:
    """Written in one order, read in another, by addresses of all kinds."""
    body = """
    mov.u32 %r0, first;
    mov.u64 %d0, second;
    cvta.shared.u64 %d1, %d0;
    mad.lo.u32 %r1, %thread, 8, %r0;
    mad.wide.u32 %d2, %thread, 8, %a;
    ld.global.v2.b32 {%r2, %r3}, [%d2];
    st.shared.v2.b32 [%r1], {%r2, %r3};
    mad.wide.u32 %d3, %thread, 4, %d1;
    xor.b32 %r4, %r2, %r3;
    st.b32 [%d3+12], %r4;
    setp.eq.u32 %p0, %thread, 5;
    @%p0 st.shared.b64 [third], %d2;
    @%p0 st.shared.u16 [second+4], 0x1234;
    @%p0 st.shared.v2.u8 [first+258], {%r2, %r3};
    bar.sync 0;
    sub.u32 %r5, 31, %thread;
    mad.lo.u32 %r6, %r5, 8, %r0;
    ld.shared.s8 %r7, [%r6+3];
    ld.shared.u16 %r8, [%r6+6];
    ld.volatile.shared.b64 %d4, [%r6];
    mad.wide.u32 %d5, %r5, 4, %d0;
    cvta.to.shared.u64 %d6, %d1;
    mad.wide.u32 %d7, %r5, 4, %d6;
    ld.shared.u32 %r9, [%d7+12];
    ld.shared::cta.u16 %r10, [second+4];
    ld.shared.v2.s8 {%r11, %r12}, [first+258];
    mad.wide.u32 %d8, %thread, 32, %out;
    st.global.v2.b32 [%d8], {%r7, %r8};
    st.global.b64 [%d8+8], %d4;
    st.global.v4.b32 [%d8+16], {%r9, %r10, %r11, %r12};
    """
    arguments = {"a": Input(bytes_of("shared", 256)), "out": Output((32, 8), np.uint32)}
    yield Family("shared", kernel(arguments, body, shared=SHARED))
    body = """
    mov.b64 %d0, smem;
    mov.b64 %d1, first;
    setp.ge.u64 %p0, %d0, %d1;
    and.b64 %d2, %d0, 1023;
    sub.u64 %d3, %d0, %d1;
    mov.b32 %r0, second;
    mov.b32 %r1, first;
    sub.u32 %r0, %r0, %r1;
    add.u64 %d4, %d0, 4096;
    mad.wide.u32 %d5, %thread, 4, %d4;
    st.shared.b32 [%d5], %thread;
    bar.sync 0;
    xor.b32 %r2, %thread, 21;
    mad.wide.u32 %d5, %r2, 4, %d4;
    ld.shared.b32 %r3, [%d5];
    mad.wide.u32 %d6, %thread, 8, %out;
    st.global.v2.b32 [%d6], {%r2, %r3};
    """
    yield Family(
        "shared.dynamic", kernel({"out": Output((32, 2), np.uint32)}, body, shared=SHARED, dynamic_shared=65536)
    )


def local() -> Iterator[Family]:
    """Arrays that each thread has for itself, by addresses known and computed, and generic ones."""
    body = """
    .local .align 16 .b8 mine[80];
    .local .align 4 .b32 other[4];
    mad.wide.u32 %d0, %thread, 16, %a;
    ld.global.v4.b32 {%r0, %r1, %r2, %r3}, [%d0];
    st.local.v4.b32 [mine+16], {%r0, %r1, %r2, %r3};
    st.local.b32 [other+8], %thread;
    and.b32 %r4, %thread, 15;
    mov.u64 %d1, mine;
    cvt.u64.u32 %d2, %r4;
    add.u64 %d3, %d1, %d2;
    ld.local.s8 %r5, [%d3+16];
    cvta.local.u64 %d4, %d1;
    add.u64 %d5, %d4, %d2;
    ld.u8 %r6, [%d5+16];
    xor.b32 %r6, %r6, 255;
    st.u8 [%d5+48], %r6;
    ld.local.u8 %r7, [%d3+48];
    ld.local.b32 %r8, [other+8];
    isspacep.local %p0, %d4;
    selp.u32 %r9, 1, 0, %p0;
    cvta.to.local.u64 %d6, %d5;
    ld.local.u8 %r10, [%d6+48];
    add.u32 %r8, %r8, %r9;
    shl.b32 %r10, %r10, 8;
    or.b32 %r8, %r8, %r10;
    mad.wide.u32 %d7, %thread, 16, %out;
    st.global.v4.b32 [%d7], {%r5, %r6, %r7, %r8};
    """
    arguments = {"a": Input(bytes_of("local", 512)), "out": Output((32, 4), np.uint32)}
    yield Family("local", kernel(arguments, body))


def parameters() -> Iterator[Family]:
    """Scalars of all widths, read whole and in parts, also by a generic address."""
    scalars = {
        "one": Scalar(np.uint8(0xA5)),
        "two": Scalar(np.int16(-12345)),
        "four": Scalar(np.float32(1.5)),
        "eight": Scalar(np.int64(-0x123456789ABCDEF)),
        "last": Scalar(np.uint16(0xBEEF)),
    }
    body = """
    ld.param.s8 %r0, [one];
    ld.param.u16 %r1, [two];
    ld.param.b32 %r2, [four];
    ld.param.b64 %d0, [eight];
    ld.param.s16 %r3, [last];
    ld.param.u8 %r4, [eight+3];
    mov.u64 %d1, eight;
    cvta.param.u64 %d1, %d1;
    ld.s16 %r5, [%d1+2];
    mad.wide.u32 %d2, %thread, 32, %out;
    add.u32 %r0, %r0, %thread;
    st.global.v4.b32 [%d2], {%r0, %r1, %r2, %r3};
    st.global.b64 [%d2+16], %d0;
    st.global.v2.b32 [%d2+24], {%r4, %r5};
    """
    made = kernel({"out": Output((32, 8), np.uint32), **scalars}, body)
    yield Family("parameters", made)


CONSTANTS = """
.const .align 4 .b32 table[5] = {1, 22, 333, 4444, -55555};
.const .align 8 .b64 wide = 0x123456789abcdef;
.global .align 4 .b32 counts[8] = {9, 8, 7};
.global .align 8 .f64 numbers[2] = {1.5, 0d4000000000000000};
.global .align 8 .u64 pointer = generic(counts);
.const .align 1 .b8 text[6] = {104, 101, 108, 108, 111, 0};
"""


def constants() -> Iterator[Family]:
    body = """
    rem.u32 %r0, %thread, 5;
    mov.u64 %d0, table;
    mad.wide.u32 %d1, %r0, 4, %d0;
    ld.const.b32 %r1, [%d1];
    ld.const.b32 %r2, [table+8];
    ld.const.b64 %d2, [wide];
    cvta.const.u64 %d3, %d1;
    ld.b32 %r3, [%d3];
    add.u32 %r1, %r1, %r3;
    and.b32 %r4, %thread, 7;
    mov.u64 %d4, counts;
    mad.wide.u32 %d5, %r4, 4, %d4;
    ld.global.b32 %r5, [%d5];
    ld.global.u64 %d6, [pointer];
    mad.wide.u32 %d7, %r4, 4, %d6;
    ld.b32 %r6, [%d7];
    add.u32 %r5, %r5, %r6;
    ld.global.f64 %g0, [numbers];
    ld.global.f64 %g1, [numbers+8];
    add.f64 %g0, %g0, %g1;
    cvt.rzi.u32.f64 %r7, %g0;
    rem.u32 %r8, %thread, 6;
    mov.u64 %d8, text;
    cvt.u64.u32 %d9, %r8;
    add.u64 %d8, %d8, %d9;
    ld.const.u8 %r9, [%d8];
    mad.wide.u32 %d10, %thread, 32, %out;
    st.global.v4.b32 [%d10], {%r1, %r2, %r5, %r7};
    st.global.b64 [%d10+16], %d2;
    st.global.v2.b32 [%d10+24], {%r9, %r6};
    """
    yield Family("constants", kernel({"out": Output((32, 8), np.uint32)}, body, shared=CONSTANTS))


def spaces() -> Iterator[Family]:
    """Which space a generic address is in."""
    body = [".local .b32 mine;", "mov.u64 %d0, mine;", "cvta.local.u64 %d0, %d0;", "mov.u64 %d1, second;"]
    body += ["cvta.shared.u64 %d1, %d1;", "cvta.global.u64 %d2, %out;", "mov.b32 %r0, 0;"]
    bit = 0
    for space in ("global", "shared", "shared::cta", "shared::cluster", "local"):
        for address in range(3):
            body += [f"isspacep.{space} %p0, %d{address};", f"@%p0 or.b32 %r0, %r0, {1 << bit};"]
            bit += 1
    body += ["mad.wide.u32 %d5, %thread, 4, %out;", "st.global.b32 [%d5], %r0;"]
    yield Family("isspacep", kernel({"out": Output((32,), np.uint32)}, body, shared=SHARED))


def moves() -> Iterator[Family]:
    body = """
    mad.wide.u32 %d0, %thread, 16, %a;
    ld.global.v2.b64 {%d1, %d2}, [%d0];
    mov.b64 {%r0, %r1}, %d1;
    mov.b64 {%h0, %h1, %h2, %h3}, %d2;
    mov.b32 {%h4, %h5}, %r0;
    mov.b32 %r2, {%h3, %h4};
    mov.b32 %r3, {%h5, %h0};
    mov.b64 %d3, {%r1, %r2};
    mov.b64 %d4, {%h2, %h1, %h4, %h0};
    mov.b64 {_, %r4}, %d4;
    mov.b128 %q0, {%d3, %d4};
    mov.b128 %q1, %q0;
    mov.b128 {%d5, %d6}, %q1;
    mov.u16 %h6, %h5;
    mov.f32 %f0, 0f3FC00000;
    mov.b32 %r5, %f0;
    xor.b32 %r5, %r5, %r4;
    cvt.u32.u16 %r6, %h6;
    mad.wide.u32 %d7, %thread, 32, %out;
    st.global.v2.b64 [%d7], {%d5, %d6};
    st.global.v4.b32 [%d7+16], {%r3, %r4, %r5, %r6};
    """
    arguments = {"a": Input(bytes_of("moves", 512)), "out": Output((32, 8), np.uint32)}
    yield Family("mov", kernel(arguments, body))


def families() -> Iterator[Family]:
    yield from load_vectors()
    yield from wide_loads()
    yield from qualifiers()
    yield from policies()
    yield from shared()
    yield from local()
    yield from parameters()
    yield from constants()
    yield from spaces()
    yield from moves()
