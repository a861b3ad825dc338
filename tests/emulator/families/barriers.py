"""Named barriers of a CTA: all threads, some of them, producers and consumers, votes."""

from collections.abc import Iterator

import numpy as np
from devices import Input, Output
from writing import kernel, rng

from families import Family

BOX = ".shared .align 16 .b8 box[4096];\n"
PLACE = "mad.wide.u32 %d50, %thread, 4, %out;\n"


def exchange(name: str, barrier: str, threads: int, prologue: str = "") -> Family:
    """Rounds in which each thread reads what another one of all has written."""
    body = f"""
    {prologue}
    mov.u32 %r0, box;
    mad.lo.u32 %r1, %thread, 4, %r0;
    add.u32 %r2, %thread, 45;
    rem.u32 %r2, %r2, {threads};
    mad.lo.u32 %r2, %r2, 4, %r0;
    mul.lo.u32 %r3, %thread, 2654435761;
    mov.u32 %r4, 0;
    ROUND:
    st.shared.b32 [%r1], %r3;
    {barrier}
    ld.shared.b32 %r5, [%r2];
    mad.lo.u32 %r3, %r3, 7, %r5;
    {barrier}
    add.u32 %r4, %r4, 1;
    setp.lt.u32 %p0, %r4, 9;
    @%p0 bra ROUND;
    {PLACE}
    st.global.b32 [%d50], %r3;
    """
    return Family(name, kernel({"out": Output((threads,), np.uint32)}, body, shared=BOX, block=threads))


def groups() -> Iterator[Family]:
    """Two groups of warps with a barrier each, in registers."""
    body = f"""
    mov.u32 %r0, box;
    setp.lt.u32 %p1, %thread, 64;
    selp.u32 %r10, 3, 7, %p1;
    selp.u32 %r11, 64, 96, %p1;
    selp.u32 %r12, 0, 64, %p1;
    selp.u32 %r13, 11, 4, %p1;
    sub.u32 %r14, %thread, %r12;
    add.u32 %r14, %r14, 17;
    rem.u32 %r14, %r14, %r11;
    add.u32 %r14, %r14, %r12;
    mad.lo.u32 %r1, %thread, 4, %r0;
    mad.lo.u32 %r2, %r14, 4, %r0;
    mul.lo.u32 %r3, %thread, 40503;
    mov.u32 %r4, 0;
    ROUND:
    st.shared.b32 [%r1], %r3;
    barrier.sync.aligned %r10, %r11;
    ld.shared.b32 %r5, [%r2];
    mad.lo.u32 %r3, %r3, 13, %r5;
    barrier.cta.sync %r10, %r11;
    add.u32 %r4, %r4, 1;
    setp.lt.u32 %p0, %r4, %r13;
    @%p0 bra ROUND;
    {PLACE}
    st.global.b32 [%d50], %r3;
    """
    yield Family("groups", kernel({"out": Output((160,), np.uint32)}, body, shared=BOX, block=160))


def producers(name: str, arrive: str, sync: str, arrive_full: str, sync_empty: str) -> Family:
    """One warp produces into two places, two consume: full and empty barriers of arrivals and waits."""
    body = f"""
    mov.u32 %r0, box;
    mov.u32 %r4, 0;
    mov.u32 %r20, 0;
    setp.lt.u32 %p1, %thread, 32;
    @%p1 bra PRODUCE;

    {arrive} 3, 96;
    {arrive} 4, 96;
    CONSUME:
    and.b32 %r5, %r4, 1;
    add.u32 %r6, %r5, 1;
    add.u32 %r7, %r5, 3;
    {sync} %r6, 96;
    add.u32 %r9, %thread, %r4;
    and.b32 %r9, %r9, 31;
    mad.lo.u32 %r8, %r5, 128, %r0;
    mad.lo.u32 %r8, %r9, 4, %r8;
    ld.shared.b32 %r10, [%r8];
    mad.lo.u32 %r20, %r20, 31, %r10;
    setp.ge.u32 %p2, %r4, 18;
    @%p2 bra LAST;
    {arrive} %r7, 96;
    LAST:
    add.u32 %r4, %r4, 1;
    setp.lt.u32 %p3, %r4, 20;
    @%p3 bra CONSUME;
    bra DONE;

    PRODUCE:
    and.b32 %r5, %r4, 1;
    add.u32 %r6, %r5, 1;
    add.u32 %r7, %r5, 3;
    {sync_empty} %r7, 96;
    mad.lo.u32 %r8, %r5, 128, %r0;
    mad.lo.u32 %r8, %thread, 4, %r8;
    mad.lo.u32 %r10, %r4, 1000, %thread;
    mul.lo.u32 %r10, %r10, 40503;
    st.shared.b32 [%r8], %r10;
    xor.b32 %r20, %r20, %r10;
    {arrive_full} %r6, 96;
    add.u32 %r4, %r4, 1;
    setp.lt.u32 %p3, %r4, 20;
    @%p3 bra PRODUCE;

    DONE:
    {PLACE}
    st.global.b32 [%d50], %r20;
    """
    return Family(name, kernel({"out": Output((96,), np.uint32)}, body, shared=BOX, block=96))


def votes() -> Iterator[Family]:
    """Reductions over all threads, over some, negated, in several rounds."""
    body = f"""
    mad.wide.u32 %d0, %thread, 4, %a;
    ld.global.b32 %r0, [%d0];
    mov.u32 %r1, 0;
    mov.u32 %r20, 0;
    setp.lt.u32 %p9, %thread, 64;
    ROUND:
    shr.u32 %r2, %r0, %r1;
    and.b32 %r2, %r2, 1;
    setp.ne.u32 %p0, %r2, 0;
    setp.lt.u32 %p5, %thread, %r1;
    bar.red.popc.u32 %r3, 0, %p0;
    barrier.red.popc.aligned.u32 %r4, 1, 128, !%p0;
    bar.red.and.pred %p1, 2, %p5;
    bar.red.or.pred %p2, 3, 128, %p5;
    barrier.cta.red.and.aligned.pred %p3, 4, !%p5;
    barrier.red.or.pred %p4, 0, !%p5;
    mad.lo.u32 %r20, %r20, 3, %r3;
    mad.lo.u32 %r20, %r20, 3, %r4;
    @%p1 add.u32 %r20, %r20, 1;
    @%p2 add.u32 %r20, %r20, 2;
    @%p3 add.u32 %r20, %r20, 4;
    @%p4 add.u32 %r20, %r20, 8;
    @!%p9 bra NEXT;
    bar.red.popc.u32 %r5, 6, 64, %p0;
    mad.lo.u32 %r20, %r20, 5, %r5;
    NEXT:
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p6, %r1, 12;
    @%p6 bra ROUND;
    {PLACE}
    st.global.b32 [%d50], %r20;
    """
    arguments = {"a": Input(rng("votes").integers(0, 2**32, 128, np.uint32)), "out": Output((128,), np.uint32)}
    yield Family("bar.red", kernel(arguments, body, block=128))


def votes_in_all_forms() -> Iterator[Family]:
    """Both names, aligned or not, of all threads, of a constant number and of one in a register."""
    lines = ["mad.wide.u32 %d0, %thread, 4, %a;", "ld.global.b32 %r0, [%d0];", "mov.u32 %r20, 0;"]
    lines += ["mov.u32 %r10, 9;", "mov.u32 %r11, 96;"]
    bit = 0
    for name in ("barrier", "barrier.cta"):
        for aligned in ("", ".aligned"):
            for operands in ("3", "%r10, 96", "%r10, %r11"):
                for operation, kind in (("popc", "u32"), ("and", "pred"), ("or", "pred")):
                    # Half of the votes are negated; those of `and` and `or` are seldom the same.
                    lines += [f"shr.u32 %r1, %r0, {bit % 29};", f"and.b32 %r1, %r1, {1 if kind == 'u32' else 31};"]
                    lines.append(f"setp.{'ne' if bit % 4 < 2 else 'eq'}.u32 %p0, %r1, 0;")
                    vote = "!%p0" if bit % 2 else "%p0"
                    result = "%r2" if kind == "u32" else "%p1"
                    lines.append(f"{name}.red.{operation}{aligned}.{kind} {result}, {operands}, {vote};")
                    lines += ["selp.u32 %r2, 1, 0, %p1;"] if kind == "pred" else []
                    lines.append(f"st.global.b32 [%d1+{4 * bit}], %r2;")
                    bit += 1
    lines.insert(0, f"mad.wide.u32 %d1, %thread, {4 * bit}, %out;")
    values = rng("votes in all forms").integers(0, 2**32, 96, np.uint32)
    values[values % 3 > 0] |= 0x55555555
    arguments = {"a": Input(values), "out": Output((96, bit), np.uint32)}
    yield Family("barrier.red.forms", kernel(arguments, lines, block=96))


def divergent() -> Iterator[Family]:
    """Lanes of a warp that come to barriers without .aligned in different places.

    Not some of them to barrier.sync and some to barrier.arrive: an H200 then waits for ever.
    """
    for name, even, odd, result in (
        ("sync", "barrier.sync 0;", "barrier.cta.sync 0;", "mov.u32 %r9, 1;"),
        ("sync.count", "barrier.sync 6, 64;", "barrier.sync 6, 64;", "mov.u32 %r9, 2;"),
        *(
            (f"red.{operation}", f"barrier.red.{operation}.{kind} {to}, 1, %p2;", None, result)
            for operation, kind, to, result in (
                ("popc", "u32", "%r9", ""),
                ("and", "pred", "%p3", "selp.u32 %r9, 1, 0, %p3;"),
                ("or", "pred", "%p3", "selp.u32 %r9, 1, 0, %p3;"),
            )
        ),
    ):
        body = f"""
        mov.u32 %r0, box;
        mad.lo.u32 %r1, %thread, 4, %r0;
        xor.b32 %r2, %thread, 33;
        mad.lo.u32 %r2, %r2, 4, %r0;
        and.b32 %r3, %thread, 1;
        setp.ne.u32 %p1, %r3, 0;
        rem.u32 %r4, %thread, 5;
        setp.eq.u32 %p2, %r4, 3;
        mov.u32 %r5, 0;
        @%p1 bra ODD;
        mul.lo.u32 %r6, %thread, 40503;
        st.shared.b32 [%r1], %r6;
        {even}
        {result}
        ld.shared.b32 %r5, [%r2];
        mad.lo.u32 %r5, %r5, 3, %r9;
        bra TOGETHER;
        ODD:
        mad.lo.u32 %r6, %thread, 977, 5;
        st.shared.b32 [%r1], %r6;
        {odd or even}
        {result}
        ld.shared.b32 %r5, [%r2];
        mad.lo.u32 %r5, %r5, 7, %r9;
        TOGETHER:
        {PLACE}
        st.global.b32 [%d50], %r5;
        """
        yield Family(f"divergent.{name}", kernel({"out": Output((64,), np.uint32)}, body, shared=BOX, block=64))


def exits() -> Iterator[Family]:
    """Warps that have exited are no longer waited for; a last warp of fewer lanes counts as one."""
    body = f"""
    mov.u32 %r0, box;
    {PLACE}
    shr.u32 %r1, %thread, 5;
    mul.lo.u32 %r3, %thread, 977;
    mov.u32 %r4, 0;
    mad.lo.u32 %r5, %thread, 4, %r0;
    ROUND:
    setp.lt.u32 %p0, %r1, %r4;
    @%p0 bra OUT;
    st.shared.b32 [%r5], %r3;
    bar.sync 0;
    ld.shared.b32 %r6, [box+396];
    mad.lo.u32 %r3, %r3, 5, %r6;
    bar.sync 1;
    add.u32 %r4, %r4, 1;
    setp.lt.u32 %p1, %r4, 4;
    @%p1 bra ROUND;
    OUT:
    st.global.b32 [%d50], %r3;
    """
    yield Family("exits", kernel({"out": Output((108,), np.uint32)}, body, shared=BOX, block=108))


def families() -> Iterator[Family]:
    yield exchange("bar.sync", "bar.sync 0;", 128)
    yield exchange("bar.sync.odd", "bar.sync 5;", 77)
    yield exchange("barrier.sync", "barrier.sync 15;", 96)
    yield exchange("barrier.sync.register", "barrier.cta.sync.aligned %r9;", 64, "mov.u32 %r9, 8;")
    yield exchange("bar.sync.count", "bar.cta.sync 1, 64;", 64)
    yield exchange("bar.sync.1024", "bar.sync 0;", 1024)
    yield from groups()
    yield producers("producers", "bar.arrive", "bar.sync", "barrier.arrive.aligned", "barrier.sync")
    forms = ("barrier.cta.arrive", "barrier.cta.sync", "bar.cta.arrive", "barrier.cta.sync.aligned")
    yield producers("producers.cta", *forms)
    yield from votes()
    yield from votes_in_all_forms()
    yield from divergent()
    yield from exits()
