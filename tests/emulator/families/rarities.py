"""Forms that few kernels use."""

from collections.abc import Iterator

import numpy as np
from devices import Output
from writing import elementwise, kernel, rng

from families import Family
from families.numbers import mixed

OUTSIDE = 0x7FF7  # the NaN that boxes are filled with outside of a tensor


def plain(name: str, result: str, kinds: tuple[str, ...], arrays: list[np.ndarray]) -> Family:
    """An instruction with its destination first."""
    inputs = {operand: pair for operand, *pair in zip("abc", kinds, arrays)}
    operands = ", ".join("{" + operand + "}" for operand in ("d", *inputs))
    return Family(name, elementwise(f"{name} {operands};", inputs, {"d": result}))


def outside() -> Iterator[Family]:
    """fma.oob: the NaN in each of the operands, its neighbours, and the same with the other sign."""
    for kind in ("f16", "bf16", "f16x2", "bf16x2"):
        for clamp in ("", ".relu", ".sat")[: 3 if kind.startswith("f") else 2]:
            name = f"fma.rn.oob{clamp}.{kind}"
            arrays = mixed(name, (kind[:4].rstrip("x"),) * 3, 512)
            for i, array in enumerate(arrays):
                bits = array.view(np.uint16)
                bits[i::7], bits[i + 3 :: 41] = OUTSIDE, OUTSIDE ^ 0x8000
                bits[i + 1 :: 43], bits[i + 2 :: 47] = OUTSIDE - 1, OUTSIDE + 1
            if kind.endswith("x2"):
                arrays = [array.view(np.uint32) for array in arrays]
            yield plain(name, kind, (kind,) * 3, arrays)


def between_halves() -> Iterator[Family]:
    """Nothing is said of how they are rounded."""
    for target, kind in (("f16", "bf16"), ("bf16", "f16")):
        name = f"cvt.{target}.{kind}"
        yield plain(name, target, (kind,), mixed(name, (kind,), 512))


def packs() -> Iterator[Family]:
    for target in ("s4", "u4", "s2", "u2"):
        name = f"cvt.pack.sat.{target}.s32.b32"
        one, other, rest = mixed(name, ("s32", "s32", "b32"), 160)
        one[::2] = rng(name).integers(-12, 20, one[::2].size)
        yield plain(name, "b32", ("s32", "s32", "b32"), [one, other, rest])


def differences() -> Iterator[Family]:
    """What nvcc makes of __vabsdiffu4, __vsadu2 and their like."""
    for name in ("vabsdiff4.u32.{0}32.{0}32", "vabsdiff2.u32.{0}32.{0}32"):
        for sign, adds in (("u", ""), ("u", ".add"), ("s", ""), ("s", ".add")):
            full = name.format(sign) + adds
            yield plain(full, "u32", ("u32",) * 3, mixed(full, ("u32",) * 3, 160))


def mapped_io() -> Iterator[Family]:
    body = """
    mad.wide.u32 %d0, %thread, 8, %out;
    mad.lo.u32 %r0, %thread, 1299721, 7;
    st.mmio.relaxed.sys.global.b32 [%d0], %r0;
    ld.mmio.relaxed.sys.global.b32 %r1, [%d0];
    add.u32 %r1, %r1, 1;
    st.global.b32 [%d0+4], %r1;
    """
    yield Family("mmio", kernel({"out": Output((32, 2), np.uint32)}, body))


def shared_sizes() -> Iterator[Family]:
    """Shared memory with what the system takes of it, and where that is."""
    names = ("aggr_smem_size", "reserved_smem_offset_begin", "reserved_smem_offset_end", "reserved_smem_offset_cap")
    for static, dynamic in ((0, 0), (100, 0), (100, 2000), (16, 227 * 1024 - 1024)):
        lines = [f"mov.u32 %r{i}, %{name};" for i, name in enumerate(names)]
        if static:
            lines += ["mov.u32 %r4, fixed;", "st.shared.u8 [%r4], 1;"]
        lines += ["mad.wide.u32 %d0, %thread, 16, %out;", "st.global.v4.b32 [%d0], {%r0, %r1, %r2, %r3};"]
        shared = f".shared .align 4 .b8 fixed[{static}];\n" if static else ""
        made = kernel({"out": Output((32, 4), np.uint32)}, lines, shared=shared, dynamic_shared=dynamic)
        yield Family(f"smem.{static}.{dynamic}", made)


def launches() -> Iterator[Family]:
    """Registers that differ from launch to launch: what is the same about them. Nothing cooperates, nor is it a graph."""
    body = """
    mov.u64 %d0, %gridid;
    mov.u32 %r0, %gridid;
    cvt.u32.u64 %r1, %d0;
    sub.u32 %r0, %r0, %r1;
    mov.u64 %d1, %current_graph_exec;
    cvt.u32.u64 %r1, %d1;
    mov.u32 %r2, %envreg1;
    mov.u32 %r3, %envreg2;
    or.b32 %r2, %r2, %r3;
    mov.u64 %d2, %globaltimer;
    mov.u32 %r3, %globaltimer_hi;
    shr.u64 %d2, %d2, 32;
    cvt.u32.u64 %r4, %d2;
    sub.u32 %r3, %r3, %r4;
    shr.u32 %r3, %r3, 1;
    mad.wide.u32 %d3, %thread, 16, %out;
    st.global.v4.b32 [%d3], {%r0, %r1, %r2, %r3};
    """
    yield Family("registers.launch", kernel({"out": Output((32, 4), np.uint32)}, body))


def families() -> Iterator[Family]:
    yield from outside()
    yield from between_halves()
    yield from packs()
    yield from differences()
    yield from mapped_io()
    yield from shared_sizes()
    yield from launches()
