"""What is left: special registers, fences, registers handed on, time."""

from collections.abc import Iterator

import numpy as np
from devices import Output
from writing import kernel

from families import Family

REGISTERS = (
    *(f"{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"),
    *("laneid", "lanemask_eq", "lanemask_le", "lanemask_lt", "lanemask_ge", "lanemask_gt"),
    "dynamic_smem_size",
)


def specials() -> Iterator[Family]:
    lines = [f"mov.u32 %r{i}, %{name};" for i, name in enumerate(REGISTERS)]
    count = len(REGISTERS)
    lines += ["mad.lo.u32 %r50, %r2, %r4, %r1;", "mad.lo.u32 %r50, %r50, %r3, %r0;"]
    lines += ["mul.lo.u32 %r51, %r3, %r4;", "mul.lo.u32 %r51, %r51, %r5;"]
    lines += ["mad.lo.u32 %r52, %r8, %r10, %r7;", "mad.lo.u32 %r52, %r52, %r9, %r6;"]
    lines += ["mad.lo.u32 %r53, %r52, %r51, %r50;", f"mad.wide.u32 %d0, %r53, {4 * count}, %out;"]
    lines += [f"st.global.b32 [%d0+{4 * i}], %r{i};" for i in range(count)]
    for block, grid, dynamic in (((5, 3, 2), (2, 1, 3), 4096), ((33, 1, 1), (1, 2, 1), 0), ((4, 4, 3), (1, 1, 1), 512)):
        threads, ctas = int(np.prod(block)), int(np.prod(grid))
        made = kernel(
            *({"out": Output((ctas, threads, count), np.uint32)}, lines), block=block, grid=grid, dynamic_shared=dynamic
        )
        yield Family(f"registers.{threads}.{ctas}", made)


def shared_sizes() -> Iterator[Family]:
    """The sizes that %total_smem_size and %dynamic_smem_size tell, and how large the dynamic part may be."""
    for static, dynamic in ((0, 0), (100, 0), (100, 2000), (16, 227 * 1024 - 1024)):
        shared = f".shared .align 4 .b8 fixed[{static}];\n" if static else ""
        body = """
        mov.u32 %r0, %total_smem_size;
        mov.u32 %r1, %dynamic_smem_size;
        """
        uses = "mov.u32 %r3, fixed;\nst.shared.u8 [%r3], 1;\n" if static else ""
        body += uses + "mad.wide.u32 %d0, %thread, 8, %out;\nst.global.v2.b32 [%d0], {%r0, %r1};\n"
        made = kernel({"out": Output((32, 2), np.uint32)}, body, shared=shared, dynamic_shared=dynamic)
        yield Family(f"smem_size.{static}.{dynamic}", made)


FENCES = """
fence.sc.cta;
fence.sc.gpu;
fence.acq_rel.cta;
fence.acq_rel.cluster;
fence.acq_rel.gpu;
fence.acq_rel.sys;
fence.acquire.sync_restrict::shared::cluster.cluster;
fence.release.sync_restrict::shared::cta.cluster;
fence.acquire.gpu;
fence.release.cta;
fence.mbarrier_init.release.cluster;
fence.proxy.alias;
fence.proxy.async;
fence.proxy.async.global;
fence.proxy.async.shared::cta;
fence.proxy.async.shared::cluster;
fence.proxy.tensormap::generic.release.gpu;
fence.proxy.async::generic.acquire.sync_restrict::shared::cluster.cluster;
fence.proxy.async::generic.release.sync_restrict::shared::cta.cluster;
membar.cta;
membar.gl;
membar.sys;
membar.proxy.alias;
"""


def fences() -> Iterator[Family]:
    lines = ["mov.u32 %r0, 5;"]
    for line in FENCES.split("\n"):
        if line:
            lines += [line, "mad.lo.u32 %r0, %r0, 3, %thread;"]
    lines += ["mad.wide.u32 %d0, %thread, 4, %out;", "st.global.b32 [%d0], %r0;"]
    yield Family("fences", kernel({"out": Output((32,), np.uint32)}, lines))
    # What a fence orders: a flag after what it is about, between two CTAs.
    body = """
    mov.u32 %r0, %ctaid.x;
    mad.wide.u32 %d0, %thread, 4, %out;
    setp.eq.u32 %p0, %r0, 0;
    @%p0 bra WRITER;
    SPIN:
    ld.relaxed.gpu.global.b32 %r1, [%flag];
    setp.eq.u32 %p1, %r1, 77;
    @%p1 bra SEEN;
    nanosleep.u32 100;
    bra SPIN;
    SEEN:
    fence.acq_rel.gpu;
    ld.global.b32 %r2, [%d0];
    add.u32 %r2, %r2, 1;
    st.global.b32 [%d0+128], %r2;
    bra DONE;
    WRITER:
    mad.lo.u32 %r3, %thread, 3, 9;
    st.global.b32 [%d0], %r3;
    membar.gl;
    bar.sync 0;
    setp.eq.u32 %p2, %thread, 0;
    @%p2 st.relaxed.gpu.global.b32 [%flag], 77;
    DONE:
    """
    arguments = {"out": Output((64,), np.uint32), "flag": Output((1,), np.uint32, np.zeros(1, np.uint32))}
    yield Family("flag", kernel(arguments, body, grid=2))


def hints() -> Iterator[Family]:
    """Dependent grids, sleep, clocks: nothing of it shows."""
    body = """
    griddepcontrol.wait;
    mov.u32 %r0, %clock;
    mov.u64 %d0, %clock64;
    mov.u64 %d1, %globaltimer;
    nanosleep.u32 2000;
    mov.u64 %d2, %globaltimer;
    mov.u64 %d3, %clock64;
    mov.u32 %r1, %clock_hi;
    sub.s64 %d4, %d3, %d0;
    setp.gt.s64 %p0, %d4, 0;
    setp.ge.u64 %p1, %d2, %d1;
    selp.u32 %r2, 1, 0, %p0;
    selp.u32 %r3, 2, 0, %p1;
    add.u32 %r2, %r2, %r3;
    griddepcontrol.launch_dependents;
    mov.u32 %r4, %smid;
    mov.u32 %r5, %nsmid;
    setp.lt.u32 %p2, %r4, %r5;
    @%p2 add.u32 %r2, %r2, 4;
    add.u32 %r2, %r2, %thread;
    mad.wide.u32 %d5, %thread, 4, %out;
    st.global.b32 [%d5], %r2;
    """
    yield Family("hints", kernel({"out": Output((32,), np.uint32)}, body))


def handed_registers() -> Iterator[Family]:
    """A warpgroup gives registers up, two others take them."""
    body = """
    mad.wide.u32 %d0, %thread, 4, %out;
    mul.lo.u32 %r0, %thread, 977;
    setp.ge.u32 %p0, %thread, 128;
    @%p0 bra TAKES;
    setmaxnreg.dec.sync.aligned.u32 40;
    add.u32 %r0, %r0, 1;
    bra DONE;
    TAKES:
    setmaxnreg.inc.sync.aligned.u32 232;
    add.u32 %r0, %r0, 2;
    DONE:
    bar.sync 0;
    st.global.b32 [%d0], %r0;
    """
    made = kernel({"out": Output((384,), np.uint32)}, body, block=384, directives=".maxntid 384, 1, 1 .minnctapersm 1")
    yield Family("setmaxnreg", made)


def families() -> Iterator[Family]:
    yield from specials()
    yield from shared_sizes()
    yield from fences()
    yield from hints()
    yield from handed_registers()
