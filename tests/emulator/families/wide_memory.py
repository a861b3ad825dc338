"""Loads and stores of 128 bits, and of vectors in the shared memory of other CTAs and in constants; st.async."""

from collections.abc import Iterator

import numpy as np
from devices import Input, Output
from writing import kernel, rng, vector

from families import Family
from families.clusters import BARRIERS, MEET, init, out_place, wait
from families.memory import bytes_of, register

LOADS = (
    *("", ".global", ".weak.global", ".relaxed.gpu.global", ".acquire.sys.global", ".volatile.global", ".global.nc"),
    *(".global.ca", ".global.cs", ".global.L1::no_allocate", ".relaxed.cta.global", ".global.nc.L2::128B"),
)
STORES = (
    *("", ".global", ".weak.global", ".relaxed.gpu.global", ".release.sys.global", ".volatile.global", ".global.cg"),
    *(".global.wt", ".global.L1::no_allocate", ".release.cluster.global"),
)
SHARED_LOADS = ("", ".weak.shared", ".volatile.shared", ".acquire.cta.shared", ".relaxed.cluster.shared::cluster")
SHARED_STORES = ("", ".shared::cta", ".volatile.shared", ".release.cta.shared", ".release.cluster.shared::cluster")


def quadwords() -> Iterator[Family]:
    """.b128 in global memory, with all orders; in shared memory, local memory, constants and parameters."""
    body = ["mad.wide.u32 %d0, %thread, 16, %a;", f"mad.wide.u32 %d1, %thread, {16 * len(LOADS)}, %out;"]
    for i, qualifier in enumerate(LOADS):
        body += [f"ld{qualifier}.b128 %q0, [%d0+{16 * i}];", f"st.global.b128 [%d1+{16 * i}], %q0;"]
    arguments = {"a": Input(bytes_of("b128 loads", 16 * (32 + len(LOADS))))}
    arguments |= {"out": Output((32, 2 * len(LOADS)), np.uint64)}
    yield Family("ld.b128", kernel(arguments, generic(body)))

    body = ["mad.wide.u32 %d0, %thread, 16, %a;", f"mad.wide.u32 %d1, %thread, {16 * len(STORES)}, %out;"]
    body += ["ld.global.v2.b64 {%d2, %d3}, [%d0];", "mov.b128 %q0, {%d3, %d2};"]
    body += [f"st{qualifier}.b128 [%d1+{16 * i}], %q0;" for i, qualifier in enumerate(STORES)]
    arguments = {"a": Input(bytes_of("b128 stores", 512)), "out": Output((32, 2 * len(STORES)), np.uint64)}
    yield Family("st.b128", kernel(arguments, generic(body)))

    count = len(SHARED_STORES)
    body = ["mov.u64 %d2, smem;", f"mad.wide.u32 %d2, %thread, {16 * count}, %d2;", "cvta.shared.u64 %d3, %d2;"]
    body += ["mad.wide.u32 %d0, %thread, 16, %a;", f"mad.wide.u32 %d1, %thread, {16 * count}, %out;"]
    for i, qualifier in enumerate(SHARED_STORES):
        body += [
            f"ld.global.b128 %q0, [%d0+{16 * i}];",
            f"st{qualifier}.b128 [{'%d2' if qualifier else '%d3'}+{16 * i}], %q0;",
        ]
    for i, qualifier in enumerate(SHARED_LOADS):
        body += [
            f"ld{qualifier}.b128 %q1, [{'%d2' if qualifier else '%d3'}+{16 * i}];",
            f"st.global.b128 [%d1+{16 * i}], %q1;",
        ]
    arguments = {"a": Input(bytes_of("b128 shared", 16 * (32 + count))), "out": Output((32, 2 * count), np.uint64)}
    yield Family("shared.b128", kernel(arguments, body, dynamic_shared=512 * count))

    body = """
    .local .align 16 .b8 mine[64];
    rem.u32 %r0, %thread, 5;
    mul.wide.u32 %d0, %r0, 16;
    mov.u64 %d1, table;
    add.u64 %d1, %d1, %d0;
    ld.const.b128 %q0, [%d1];
    cvta.const.u64 %d2, %d1;
    ld.b128 %q1, [%d2+16];
    mad.wide.u32 %d3, %thread, 16, %a;
    ld.global.b128 %q2, [%d3];
    st.local.b128 [mine+16], %q2;
    mov.u64 %d4, mine;
    cvta.local.u64 %d5, %d4;
    st.b128 [%d5+32], %q0;
    and.b32 %r1, %thread, 1;
    mad.wide.u32 %d6, %r1, 16, %d4;
    ld.local.b128 %q3, [%d6+16];
    mad.wide.u32 %d7, %thread, 64, %out;
    st.global.b128 [%d7], %q0;
    st.global.b128 [%d7+16], %q1;
    st.global.b128 [%d7+32], %q3;
    """
    arguments = {"a": Input(bytes_of("b128 local", 512)), "out": Output((32, 8), np.uint64)}
    yield Family("const.local.b128", kernel(arguments, body, shared=TABLE))


def generic(body: list[str]) -> str:
    """Of the addresses in %d0 and %d1, where nothing else is said, the generic ones."""
    return "\n".join(
        line.replace("[%d0", "[%d60").replace("[%d1", "[%d61") if line.startswith(("ld.b", "st.b")) else line
        for line in [*body[:2], "cvta.global.u64 %d60, %d0;", "cvta.global.u64 %d61, %d1;", *body[2:]]
    )


NUMBERS = ", ".join(str(number) for number in rng("constants").integers(0, 256, 256))
TABLE = f".const .align 16 .b8 table[256] = {{{NUMBERS}}};\n"


def vectors(bits: int, pre: str) -> Iterator[tuple[int, str, str]]:
    """Of elements in registers with this prefix: how many, the operand, and the modifier. 16 bytes are the most."""
    yield 1, f"{pre}0", ""
    for elements in (2, 4):
        if bits * elements <= 128:
            yield elements, vector(pre, 0, elements), f".v{elements}"


def constants() -> Iterator[Family]:
    """Vectors of all types, from places that depend on the thread."""
    for kind in ("u8", "s8", "u16", "s16", "b32", "u64"):
        bits = int(kind[1:])
        pre = register(bits)
        for elements, operand, suffix in vectors(bits, pre):
            size = bits // 8 * elements
            body = [f"rem.u32 %r50, %thread, {256 // size};", "mov.u64 %d50, table;"]
            body += [f"mad.wide.u32 %d50, %r50, {size}, %d50;", f"ld.const{suffix}.{kind} {operand}, [%d50];"]
            body.append(f"mad.wide.u32 %d51, %thread, {8 * elements}, %out;")
            for i in range(elements):
                wide = f"cvt.{kind[0]}64.{kind[0]}{max(bits, 16)}" if bits < 64 and kind[0] != "b" else "cvt.u64.u32"
                body += [f"{wide if bits < 64 else 'mov.b64'} %d60, {pre}{i};", f"st.global.b64 [%d51+{8 * i}], %d60;"]
            made = kernel({"out": Output((64, elements), np.uint64)}, body, block=64, shared=TABLE)
            yield Family(f"ld.const{suffix}.{kind}", made)


def remote() -> Iterator[Family]:
    """Vectors to the next CTA of four, read back there, and from the one after that; by both kinds of addresses."""
    for bits in (8, 16, 32, 64, 128):
        for elements, operand, suffix in vectors(bits, "%q" if bits == 128 else register(bits)):
            size = bits // 8 * elements
            kind = "u8" if bits == 8 else f"b{bits}"
            load, store = (f"{name}{{}}{suffix}.{kind}" for name in ("ld", "st"))
            body = f"""
            mov.u32 %r100, %cluster_ctarank;
            add.u32 %r101, %r100, 1;
            and.b32 %r101, %r101, 3;
            xor.b32 %r102, %r100, 2;
            mov.u32 %r103, box;
            mad.lo.u32 %r103, %thread, {2 * size}, %r103;
            mapa.shared::cluster.u32 %r104, %r103, %r101;
            mapa.shared::cluster.u32 %r105, %r103, %r102;
            cvt.u64.u32 %d100, %r103;
            cvta.shared.u64 %d100, %d100;
            mapa.u64 %d101, %d100, %r101;
            mapa.u64 %d102, %d100, %r102;
            {out_place(size)}
            mad.wide.u32 %d103, %r50, {size}, %a;
            {load.format(".global")} {operand}, [%d103];
            {MEET}
            {store.format(".shared::cluster")} [%r104], {operand};
            {store.format("")} [%d101+{size}], {operand};
            {MEET}
            {load.format(".shared::cluster")} {operand}, [%r105];
            {store.format(".global")} [%d50], {operand};
            {load.format("")} {operand}, [%d102+{size}];
            {store.format(".global")} [%d50+{size}], {operand};
            {load.format(".relaxed.cluster.shared::cluster")} {operand}, [%r104];
            {store.format(".global")} [%d50+{2 * size}], {operand};
            {load.format(".shared::cta")} {operand}, [%r103];
            {store.format(".global")} [%d50+{3 * size}], {operand};
            {MEET}
            """
            arguments = {"a": Input(bytes_of(f"remote {bits} {elements}", 128 * size))}
            arguments |= {"out": Output((128, 4 * size), np.uint8)}
            made = kernel(arguments, body, shared=BARRIERS, grid=4, cluster=4)
            yield Family(f"shared::cluster{suffix}.{kind}", made)


def asynchronous() -> Iterator[Family]:
    """st.async of all types and widths into the other CTA, which waits for its bytes and copies them out."""
    for kind in ("b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"):
        bits = int(kind[1:])
        pre = register(bits)
        for elements, operand, suffix in vectors(bits, pre):
            size = bits // 8 * elements
            weak = ".weak" if elements == 2 else ""
            moves = [f"ld.global.b{bits} {pre}{i}, [%d103+{i * bits // 8}];" for i in range(elements)]
            back = [
                f"ld.shared.b{bits} {pre}{i}, [%r103+{i * bits // 8}];\nst.global.b{bits} [%d50+{i * bits // 8}], {pre}{i};"
                for i in range(elements)
            ]
            new = "\n"
            body = f"""
            mov.u32 %r100, %cluster_ctarank;
            xor.b32 %r101, %r100, 1;
            mov.u32 %r103, box;
            mad.lo.u32 %r103, %thread, {size}, %r103;
            mapa.shared::cluster.u32 %r104, %r103, %r101;
            mov.u32 %r105, bar;
            mapa.shared::cluster.u32 %r106, %r105, %r101;
            {init(1)}
            @%p100 mbarrier.arrive.expect_tx.shared.b64 _, [bar], {32 * size};
            {out_place(size // 4)}
            mad.wide.u32 %d103, %r50, {size}, %a;
            {new.join(moves)}
            st.async{weak}.shared::cluster.mbarrier::complete_tx::bytes{suffix}.{kind} [%r104], {operand}, [%r106];
            {wait(0, "WAIT")}
            {new.join(back)}
            {MEET}
            """
            name = f"st.async{suffix}.{kind}"
            arguments = {"a": Input(bytes_of(name, 64 * size)), "out": Output((64, size), np.uint8)}
            yield Family(name, kernel(arguments, body, shared=BARRIERS, grid=2, cluster=2))


def families() -> Iterator[Family]:
    yield from quadwords()
    yield from constants()
    yield from remote()
    yield from asynchronous()
