"""Clusters: whose shared memory is where, and what one CTA does to another."""

from collections.abc import Iterator

import numpy as np
from devices import Input, Output
from writing import kernel, rng

from families import Family

ARRAY = ".shared .align 16 .b8 box[1024];\n"
BARRIERS = ARRAY + ".shared .align 8 .b64 bar;\n.shared .align 8 .b64 other;\n"

# Everybody is there, and has seen what the others did before.
MEET = "barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;\n"


def out_place(words: int) -> str:
    """%d50: the place of this thread, of all of the grid, for so many words."""
    return f"""
    mov.u32 %r50, %ctaid.x;
    mov.u32 %r51, %ntid.x;
    mad.lo.u32 %r50, %r50, %r51, %thread;
    mad.wide.u32 %d50, %r50, {4 * words}, %out;
    """


def addresses() -> Iterator[Family]:
    """The numbers that addresses of shared memory are, in each CTA of a cluster, and what mapa makes of them."""
    for size in (1, 2, 4, 8):
        body = f"""
        mov.u32 %r0, box;
        mov.u32 %r1, smem;
        mov.u32 %r2, %cluster_ctarank;
        rem.u32 %r3, %thread, {size};
        mapa.shared::cluster.u32 %r4, %r0, %r3;
        mapa.shared::cluster.u32 %r5, %r1, %r3;
        mov.u64 %d0, smem;
        mapa.shared::cluster.u64 %d1, %d0, %r3;
        cvt.u32.u64 %r6, %d1;
        getctarank.shared::cluster.u32 %r7, %r5;
        mapa.shared::cluster.u32 %r8, %r4, %r2;
        cvta.shared.u64 %d2, %d0;
        mapa.u64 %d3, %d2, %r3;
        sub.u64 %d4, %d3, %d2;
        cvt.u32.u64 %r9, %d4;
        getctarank.u64 %r10, %d3;
        cvta.to.shared.u64 %d5, %d3;
        cvt.u32.u64 %r11, %d5;
        {out_place(12)}
        {store_words(12)}
        """
        shape = (size, 32, 12)
        made = kernel(
            *({"out": Output(shape, np.uint32)}, body), shared=ARRAY, grid=size, cluster=size, dynamic_shared=2048
        )
        yield Family(f"addresses.{size}", made)


def store_words(count: int, first: int = 0) -> str:
    """%r(first) … to the thread's place."""
    assert count % 4 == 0
    rows = range(0, count, 4)
    quads = [", ".join(f"%r{first + i + k}" for k in range(4)) for i in rows]
    return "\n".join(f"st.global.v4.b32 [%d50+{4 * i}], {{{quad}}};" for i, quad in zip(rows, quads))


def spaces() -> Iterator[Family]:
    """isspacep of addresses of the own CTA and of others; bit by bit."""
    lines = ["mov.u32 %r0, %cluster_ctarank;", "add.u32 %r1, %r0, 1;", "and.b32 %r1, %r1, 3;", "mov.u64 %d0, box;"]
    lines += ["cvta.shared.u64 %d1, %d0;", "mapa.u64 %d2, %d1, %r1;", "mapa.u64 %d3, %d1, %r0;", "mov.b32 %r2, 0;"]
    bit = 0
    for space in ("shared", "shared::cta", "shared::cluster", "global", "local"):
        for register in ("%d1", "%d2", "%d3"):
            lines += [f"isspacep.{space} %p0, {register};", f"@%p0 or.b32 %r2, %r2, {1 << bit};"]
            bit += 1
    lines += [out_place(1), "st.global.b32 [%d50], %r2;"]
    made = kernel({"out": Output((4, 32), np.uint32)}, lines, shared=ARRAY, grid=4, cluster=4)
    yield Family("isspacep.cluster", made)


def registers() -> Iterator[Family]:
    """Special registers of clusters of three dimensions."""
    names = ["clusterid.x", "clusterid.y", "clusterid.z", "nclusterid.x", "nclusterid.y", "nclusterid.z"]
    names += [f"cluster_ctaid.{axis}" for axis in "xyz"] + [f"cluster_nctaid.{axis}" for axis in "xyz"]
    names += ["cluster_ctarank", "cluster_nctarank", "ctaid.x", "ctaid.y", "ctaid.z", "nctaid.x"]
    lines = [f"mov.u32 %r{i}, %{name};" for i, name in enumerate(names)]
    lines += ["mov.u32 %r18, %nctaid.y;", "mov.u32 %r19, %nctaid.z;"]
    lines += ["mad.lo.u32 %r30, %r16, 4, %r15;", "mad.lo.u32 %r30, %r30, 4, %r14;"]
    lines += ["mad.lo.u32 %r30, %r30, 2, %thread;", "mad.wide.u32 %d50, %r30, 80, %out;", store_words(20)]
    arguments = {"out": Output((2, 4, 4, 2, 20), np.uint32)}
    yield Family("registers.cluster", kernel(arguments, lines, grid=(4, 4, 2), cluster=(2, 2, 1), block=2))
    yield Family("registers.cluster.z", kernel(arguments, lines, grid=(4, 4, 2), cluster=(1, 2, 2), block=2))
    lines = [
        "mov.pred %p0, %is_explicit_cluster;",
        "selp.u32 %r0, 1, 0, %p0;",
        out_place(1),
        "st.global.b32 [%d50], %r0;",
    ]
    for size in (1, 2):
        made = kernel({"out": Output((2, 32), np.uint32)}, lines, grid=2, cluster=size)
        yield Family(f"is_explicit_cluster.{size}", made)


def loads_and_stores() -> Iterator[Family]:
    """Each writes into the next CTA's memory, then reads the one's after that; generic addresses too."""
    body = f"""
    mov.u32 %r0, %cluster_ctarank;
    add.u32 %r1, %r0, 1;
    and.b32 %r1, %r1, 3;
    add.u32 %r2, %r0, 2;
    and.b32 %r2, %r2, 3;
    mov.u32 %r3, box;
    mad.lo.u32 %r4, %thread, 16, %r3;
    {out_place(8)}
    mad.wide.u32 %d0, %r50, 16, %a;
    ld.global.v4.b32 {{%r10, %r11, %r12, %r13}}, [%d0];
    {MEET}
    mapa.shared::cluster.u32 %r5, %r4, %r1;
    st.shared::cluster.v2.b32 [%r5], {{%r10, %r11}};
    st.shared::cluster.u16 [%r5+8], %r12;
    cvt.u64.u32 %d1, %r4;
    cvta.shared.u64 %d1, %d1;
    mapa.u64 %d2, %d1, %r1;
    st.b32 [%d2+12], %r13;
    st.u8 [%d2+10], %r12;
    st.u8 [%d2+11], %r13;
    {MEET}
    mapa.shared::cluster.u32 %r6, %r4, %r2;
    ld.shared::cluster.v4.b32 {{%r14, %r15, %r16, %r17}}, [%r6];
    mapa.u64 %d3, %d1, %r2;
    ld.s16 %r18, [%d3+4];
    ld.relaxed.cluster.b32 %r19, [%d3+12];
    ld.shared.b64 %d4, [%r4+8];
    mov.b64 {{%r20, %r21}}, %d4;
    {MEET}
    {store_words(8, 14)}
    """
    arguments = {"a": Input(rng("dsmem").integers(0, 2**32, (128, 4), np.uint32)), "out": Output((4, 32, 8), np.uint32)}
    yield Family("dsmem", kernel(arguments, body, shared=ARRAY, grid=4, cluster=4))


def atomics() -> Iterator[Family]:
    """All CTAs change the same words of the CTA 1; sums and extremes do not depend on the order."""
    body = f"""
    mov.u32 %r0, %cluster_ctarank;
    mov.u32 %r3, box;
    mad.lo.u32 %r4, %thread, 4, %r3;
    st.shared.b32 [%r4], 1000;
    st.shared.b32 [%r4+128], 5;
    st.shared.b32 [%r4+256], 0;
    {MEET}
    {out_place(4)}
    mul.lo.u32 %r6, %r50, 2654435761;
    shr.u32 %r6, %r6, 8;
    and.b32 %r7, %thread, 7;
    mad.lo.u32 %r8, %r7, 4, %r3;
    mov.b32 %r9, 1;
    mapa.shared::cluster.u32 %r10, %r8, %r9;
    atom.shared::cluster.add.u32 %r11, [%r10], %r6;
    red.shared::cluster.max.u32 [%r10+128], %r6;
    cvt.u64.u32 %d0, %r8;
    cvta.shared.u64 %d0, %d0;
    mapa.u64 %d1, %d0, %r9;
    red.relaxed.cluster.xor.b32 [%d1+256], %r6;
    {MEET}
    ld.shared.b32 %r20, [%r4];
    ld.shared.b32 %r21, [%r4+128];
    ld.shared.b32 %r22, [%r4+256];
    mov.b32 %r23, %r0;
    {store_words(4, 20)}
    """
    yield Family("dsmem.atomics", kernel({"out": Output((4, 32, 4), np.uint32)}, body, shared=ARRAY, grid=4, cluster=4))


def init(count: int, bars: str = "bar") -> str:
    lines = [
        "setp.eq.u32 %p100, %thread, 0;",
        *[f"@%p100 mbarrier.init.shared.b64 [{b}], {count};" for b in bars.split()],
    ]
    return "\n".join([*lines, "@%p100 fence.mbarrier_init.release.cluster;", MEET])


def wait(parity: int | str, label: str, bar: str = "bar") -> str:
    return f"""
    {label}:
    mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p101, [{bar}], {parity};
    @!%p101 bra {label};
    """


def asynchronous_stores() -> Iterator[Family]:
    body = f"""
    mov.u32 %r0, %cluster_ctarank;
    xor.b32 %r1, %r0, 1;
    mov.u32 %r2, box;
    mad.lo.u32 %r3, %thread, 32, %r2;
    mapa.shared::cluster.u32 %r4, %r3, %r1;
    mov.u32 %r5, bar;
    mapa.shared::cluster.u32 %r6, %r5, %r1;
    {init(1)}
    @%p100 mbarrier.arrive.expect_tx.shared.b64 _, [bar], {32 * 28};
    {out_place(8)}
    mad.lo.u32 %r7, %r50, 77777, 13;
    mul.lo.u32 %r8, %r7, %r7;
    cvt.u64.u32 %d0, %r8;
    st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r4], %r7, [%r6];
    st.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%r4+8], %d0, [%r6];
    st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%r4+16], {{%r7, %r8, %r50, %thread}}, [%r6];
    {wait(0, "WAIT")}
    ld.shared.v4.b32 {{%r12, %r13, %r14, %r15}}, [%r3+16];
    ld.shared.b32 %r10, [%r3];
    ld.shared.b64 %d1, [%r3+8];
    cvt.u32.u64 %r11, %d1;
    mov.b64 {{%r16, %r17}}, %d1;
    {MEET}
    {store_words(8, 10)}
    """
    yield Family("st.async", kernel({"out": Output((2, 32, 8), np.uint32)}, body, shared=BARRIERS, grid=2, cluster=2))


def remote_arrivals() -> Iterator[Family]:
    """Threads of all CTAs arrive at the barrier of each; messages go round in several phases."""
    body = f"""
    mov.u32 %r0, %cluster_ctarank;
    mov.u32 %r2, box;
    mov.u32 %r5, bar;
    mov.u32 %r20, 0;
    mov.u32 %r21, 0;
    and.b32 %r9, %thread, 3;
    setp.eq.u32 %p1, %r9, %r0;
    mad.lo.u32 %r10, %thread, 4, %r2;
    mapa.shared::cluster.u32 %r11, %r10, %r9;
    mapa.shared::cluster.u32 %r12, %r5, %r9;
    mad.lo.u32 %r16, %r0, 128, %r11;
    {init(32)}
    ROUND:
    mad.lo.u32 %r13, %r0, 1000, %r21;
    and.b32 %r15, %r21, 1;
    mad.lo.u32 %r13, %r13, 100, %thread;
    st.shared::cluster.b32 [%r16], %r13;
    mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r12];
    {wait("%r15", "WAIT")}
    @%p1 ld.shared.b32 %r17, [%r10];
    @%p1 ld.shared.b32 %r18, [%r10+128];
    @%p1 ld.shared.b32 %r19, [%r10+256];
    @%p1 ld.shared.b32 %r22, [%r10+384];
    mad.lo.u32 %r17, %r18, 7, %r17;
    mad.lo.u32 %r19, %r22, 5, %r19;
    add.u32 %r17, %r17, %r19;
    @%p1 mad.lo.u32 %r20, %r20, 31, %r17;
    {MEET}
    add.u32 %r21, %r21, 1;
    setp.lt.u32 %p2, %r21, 5;
    @%p2 bra ROUND;
    {out_place(1)}
    st.global.b32 [%d50], %r20;
    """
    yield Family(
        "mbarrier.remote", kernel({"out": Output((4, 32), np.uint32)}, body, shared=BARRIERS, grid=4, cluster=4)
    )
    body = f"""
    mov.u32 %r0, %cluster_ctarank;
    mov.u32 %r5, bar;
    {init(2)}
    mov.b32 %r1, 0;
    mapa.shared::cluster.u32 %r2, %r5, %r1;
    @%p100 mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [%r2], 48;
    @%p100 mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 [%r2], 40;
    @%p100 mbarrier.expect_tx.relaxed.cluster.shared::cluster.b64 [%r2], 16;
    @%p100 mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 [%r2], 24;
    setp.eq.u32 %p1, %r0, 0;
    @!%p1 bra OTHERS;
    {wait(0, "WAIT")}
    OTHERS:
    {MEET}
    {out_place(1)}
    add.u32 %r3, %r50, 77;
    st.global.b32 [%d50], %r3;
    """
    made = kernel({"out": Output((2, 32), np.uint32)}, body, shared=BARRIERS, grid=2, cluster=2)
    yield Family("mbarrier.remote.expect_tx", made)


def barriers() -> Iterator[Family]:
    """Rounds of the cluster's barrier, arriving before and waiting after some work; not all warps in step."""
    body = f"""
    mov.u32 %r0, %cluster_ctarank;
    mov.u32 %r2, box;
    mad.lo.u32 %r4, %thread, 4, %r2;
    {out_place(1)}
    mul.lo.u32 %r20, %r50, 9973;
    mov.u32 %r21, 0;
    ROUND:
    st.shared.b32 [%r4], %r20;
    barrier.cluster.arrive.release;
    add.u32 %r6, %r0, %r21;
    add.u32 %r6, %r6, 1;
    and.b32 %r6, %r6, 3;
    mapa.shared::cluster.u32 %r7, %r4, %r6;
    barrier.cluster.wait.acquire;
    ld.shared::cluster.b32 %r8, [%r7];
    mad.lo.u32 %r20, %r20, 33, %r8;
    barrier.cluster.arrive;
    add.u32 %r21, %r21, 1;
    setp.lt.u32 %p2, %r21, 6;
    barrier.cluster.wait;
    barrier.cluster.arrive.relaxed;
    barrier.cluster.wait.acquire;
    @%p2 bra ROUND;
    st.global.b32 [%d50], %r20;
    """
    arguments = {"out": Output((4, 96), np.uint32)}
    yield Family("barrier.cluster", kernel(arguments, body, shared=ARRAY, grid=4, cluster=4, block=96))
    # Threads that have exited are not waited for.
    body = f"""
    {out_place(1)}
    mov.u32 %r0, %cluster_ctarank;
    mad.lo.u32 %r1, %r0, 32, 32;
    setp.ge.u32 %p0, %thread, %r1;
    @%p0 bra OUT;
    {MEET}
    {MEET}
    OUT:
    add.u32 %r2, %r50, 5;
    st.global.b32 [%d50], %r2;
    """
    arguments = {"out": Output((2, 96), np.uint32)}
    yield Family("barrier.cluster.exited", kernel(arguments, body, grid=2, cluster=2, block=96))


def families() -> Iterator[Family]:
    yield from addresses()
    yield from spaces()
    yield from registers()
    yield from loads_and_stores()
    yield from atomics()
    yield from asynchronous_stores()
    yield from remote_arrivals()
    yield from barriers()
