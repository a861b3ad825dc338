"""What the lanes of a warp do together: shuffles, votes, matches, reductions, elections, meetings after divergence."""

from collections.abc import Iterator

import numpy as np
from devices import Input, Output
from writing import kernel, rng

from families import Family
from families.numbers import mixed

PLACE = "mad.wide.u32 %d50, %thread, 4, %out;\n"


def words(name: str, count: int = 32, high: int = 2**32) -> np.ndarray:
    return rng(name).integers(0, high, count).astype(np.uint32)


def shuffles() -> Iterator[Family]:
    """Several amounts and segments each; lanes out of range keep their own and say so."""
    for mode in ("up", "down", "bfly", "idx"):
        cases = [(0, c) for c in (0, 31)] + [(1, 31), (5, 31), (16, 31), (31, 31), (33, 31)]
        cases += [(3, 0x181F), (2, 0x1C1F), (1, 0x1007), (7, 0x180F), (2, 0x1F1F), (9, 0x1800)]
        if mode == "up":
            cases = [(b, c & ~31) for b, c in cases] + [(2, 5), (1, 0x1803)]
        lines = ["mad.wide.u32 %d0, %thread, 4, %a;", "ld.global.b32 %r0, [%d0];"]
        lines.append(f"mad.wide.u32 %d50, %thread, {8 * len(cases) + 16}, %out;")
        for i, (b, c) in enumerate(cases):
            lines += [f"shfl.sync.{mode}.b32 %r1|%p0, %r0, {b}, {c}, -1;", "selp.u32 %r2, 1, 0, %p0;"]
            lines += [f"st.global.v2.b32 [%d50+{8 * i}], {{%r1, %r2}};"]
        # Amounts that differ by lane, and without the predicate; then half of the lanes only.
        lines += ["shr.u32 %r3, %r0, 7;", "and.b32 %r3, %r3, 31;"]
        last = 0 if mode == "up" else 31
        lines += [f"shfl.sync.{mode}.b32 %r4, %r0, %r3, {last}, 0xffffffff;"]
        lines += ["and.b32 %r5, %thread, 1;", "setp.eq.u32 %p1, %r5, 0;", "mov.b32 %r6, 0;"]
        lines += ["@%p1 bra EVEN;", "bra MEET;", "EVEN:"]
        lines += [f"shfl.sync.{mode}.b32 %r6, %r0, 2, {last}, 0x55555555;", "MEET:"]
        at = 8 * len(cases)
        lines += [f"st.global.v2.b32 [%d50+{at}], {{%r4, %r6}};", f"st.global.v2.b32 [%d50+{at + 8}], {{%r3, 0}};"]
        arguments = {"a": Input(words(mode)), "out": Output((32, 2 * len(cases) + 4), np.uint32)}
        yield Family(f"shfl.{mode}", kernel(arguments, lines))


def votes() -> Iterator[Family]:
    body = """
    mad.wide.u32 %d0, %thread, 4, %a;
    ld.global.b32 %r0, [%d0];
    mad.wide.u32 %d50, %thread, 64, %out;
    mov.b32 %r30, 0;
    mov.u32 %r1, 0;
    ROUND:
    shr.u32 %r2, %r0, %r1;
    and.b32 %r2, %r2, 1;
    setp.ne.u32 %p0, %r2, 0;
    setp.le.u32 %p1, %thread, %r1;
    setp.lt.u32 %p6, %r1, 31;
    or.pred %p1, %p1, %p6;
    vote.sync.ballot.b32 %r3, %p0, -1;
    vote.sync.ballot.b32 %r4, !%p0, 0xffffffff;
    vote.sync.any.pred %p2, %p0, -1;
    vote.sync.all.pred %p3, %p1, -1;
    vote.sync.uni.pred %p4, %p1, -1;
    vote.sync.all.pred %p5, !%p1, -1;
    mad.lo.u32 %r30, %r30, 31, %r3;
    mad.lo.u32 %r30, %r30, 31, %r4;
    @%p2 add.u32 %r30, %r30, 1;
    @%p3 add.u32 %r30, %r30, 2;
    @%p4 add.u32 %r30, %r30, 4;
    @%p5 add.u32 %r30, %r30, 8;
    add.u32 %r1, %r1, 5;
    setp.lt.u32 %p6, %r1, 40;
    @%p6 bra ROUND;
    st.global.v2.b32 [%d50], {%r3, %r30};
    setp.lt.u32 %p0, %thread, 12;
    mov.b32 %r5, 0x0fff;
    @!%p0 mov.b32 %r5, 0xfffff000;
    setp.gt.s32 %p1, %r0, 0;
    @%p0 bra LOW;
    vote.sync.ballot.b32 %r6, %p1, %r5;
    vote.sync.any.pred %p2, !%p1, %r5;
    bra MEET;
    LOW:
    vote.sync.ballot.b32 %r6, !%p1, %r5;
    vote.sync.uni.pred %p2, %p1, %r5;
    MEET:
    selp.u32 %r7, 1, 0, %p2;
    activemask.b32 %r8;
    and.b32 %r8, %r8, 0;
    st.global.v2.b32 [%d50+8], {%r6, %r7};
    bar.warp.sync -1;
    activemask.b32 %r9;
    st.global.b32 [%d50+16], %r9;
    elect.sync %r10|%p3, -1;
    selp.u32 %r11, 1, 0, %p3;
    st.global.v2.b32 [%d50+24], {%r10, %r11};
    mov.b32 %r12, 77;
    mov.b32 %r13, 2;
    @%p0 bra NOT_HERE;
    elect.sync %r12|%p4, 0xfffff000;
    selp.u32 %r13, 1, 0, %p4;
    NOT_HERE:
    st.global.v2.b32 [%d50+32], {%r12, %r13};
    elect.sync _|%p5, -1;
    selp.u32 %r14, 1, 0, %p5;
    st.global.v2.b32 [%d50+40], {%r14, %r8};
    st.global.v4.b32 [%d50+48], {0, 0, 0, 0};
    st.global.b32 [%d50+20], 0;
    """
    arguments = {"a": Input(words("votes")), "out": Output((32, 16), np.uint32)}
    yield Family("vote", kernel(arguments, body))


def matches() -> Iterator[Family]:
    body = """
    mad.wide.u32 %d0, %thread, 4, %a;
    ld.global.b32 %r0, [%d0];
    mad.wide.u32 %d50, %thread, 32, %out;
    match.any.sync.b32 %r1, %r0, -1;
    cvt.u64.u32 %d1, %r0;
    shl.b64 %d1, %d1, 33;
    match.any.sync.b64 %r2, %d1, -1;
    match.all.sync.b32 %r3|%p0, %r0, -1;
    selp.u32 %r4, 1, 0, %p0;
    match.all.sync.b32 %r5|%p1, %d50, -1;
    and.b32 %r6, %r0, 0;
    match.all.sync.b32 %r7|%p2, %r6, -1;
    selp.u32 %r8, 1, 0, %p2;
    setp.ge.u32 %p3, %thread, 20;
    mov.b32 %r9, 0;
    @%p3 bra SKIP;
    match.any.sync.b32 %r9, %r0, 0x000fffff;
    SKIP:
    cvt.u64.u32 %d2, %r6;
    match.all.sync.b64 %r10|%p4, %d2, -1;
    st.global.v4.b32 [%d50], {%r1, %r2, %r3, %r4};
    st.global.v4.b32 [%d50+16], {%r7, %r8, %r9, %r10};
    """.replace("    match.all.sync.b32 %r5|%p1, %d50, -1;\n", "")
    arguments = {"a": Input(words("matches", high=5)), "out": Output((32, 8), np.uint32)}
    yield Family("match", kernel(arguments, body))


def reductions() -> Iterator[Family]:
    operations = [f"{op}.{kind}" for op in ("add", "min", "max") for kind in ("u32", "s32")]
    operations += [f"{op}.b32" for op in ("and", "or", "xor")]
    values = mixed("redux", ("u32",), 128)[0][:128]
    lines = ["mad.wide.u32 %d0, %thread, 4, %a;", "ld.global.b32 %r0, [%d0];"]
    lines += [f"mad.wide.u32 %d50, %thread, {8 * len(operations)}, %out;", "and.b32 %r1, %thread, 31;"]
    lines += ["setp.lt.u32 %p0, %r1, 13;", "mov.b32 %r2, 0x1fff;", "@!%p0 mov.b32 %r2, 0xffffe000;"]
    for i, operation in enumerate(operations):
        lines += [f"redux.sync.{operation} %r3, %r0, -1;", f"st.global.b32 [%d50+{8 * i}], %r3;"]
        lines += [f"@%p0 bra LOW{i};", f"redux.sync.{operation} %r4, %r0, %r2;", f"bra MEET{i};", f"LOW{i}:"]
        lines += [f"redux.sync.{operation} %r4, %r0, %r2;", f"MEET{i}:", f"st.global.b32 [%d50+{8 * i + 4}], %r4;"]
        lines.append("bar.warp.sync -1;")
    arguments = {"a": Input(values), "out": Output((128, 2 * len(operations)), np.uint32)}
    yield Family("redux", kernel(arguments, lines, block=128))


def divergence() -> Iterator[Family]:
    """Lanes that go different ways hand each other words through shared memory, meeting at bar.warp.sync."""
    body = f"""
    mov.u32 %r0, box;
    mad.lo.u32 %r1, %thread, 4, %r0;
    xor.b32 %r2, %thread, 13;
    mad.lo.u32 %r2, %r2, 4, %r0;
    mul.lo.u32 %r3, %thread, 40503;
    mov.u32 %r4, 0;
    ROUND:
    and.b32 %r5, %thread, 3;
    setp.eq.u32 %p0, %r5, 0;
    setp.eq.u32 %p1, %r5, 1;
    st.shared.b32 [%r1], %r3;
    @%p0 bra FIRST;
    @%p1 bra SECOND;
    mul.lo.u32 %r3, %r3, 3;
    bar.warp.sync 0xffffffff;
    ld.shared.b32 %r6, [%r2];
    bra MEET;
    FIRST:
    add.u32 %r3, %r3, 17;
    bar.warp.sync 0xffffffff;
    ld.shared.b32 %r6, [%r2];
    bra MEET;
    SECOND:
    xor.b32 %r3, %r3, 0x55;
    bar.warp.sync 0xffffffff;
    ld.shared.b32 %r6, [%r2];
    MEET:
    add.u32 %r3, %r3, %r6;
    bar.warp.sync 0xffffffff;
    add.u32 %r4, %r4, 1;
    setp.lt.u32 %p2, %r4, 7;
    @%p2 bra ROUND;
    {PLACE}
    st.global.b32 [%d50], %r3;
    """
    shared = ".shared .align 4 .b8 box[128];\n"
    yield Family("divergence", kernel({"out": Output((32,), np.uint32)}, body, shared=shared))
    # Groups of lanes that meet among themselves, in turn; some leave before.
    body = f"""
    mov.u32 %r0, box;
    {PLACE}
    setp.ge.u32 %p0, %thread, 28;
    @%p0 st.global.b32 [%d50], 99;
    @%p0 exit;
    shr.u32 %r1, %thread, 2;
    shl.b32 %r2, %r1, 2;
    mov.b32 %r3, 15;
    shl.b32 %r3, %r3, %r2;
    mad.lo.u32 %r4, %thread, 4, %r0;
    mul.lo.u32 %r5, %thread, 977;
    mov.u32 %r6, 0;
    ROUND:
    st.shared.b32 [%r4], %r5;
    bar.warp.sync %r3;
    xor.b32 %r7, %thread, 3;
    mad.lo.u32 %r7, %r7, 4, %r0;
    ld.shared.b32 %r8, [%r7];
    mad.lo.u32 %r5, %r5, 3, %r8;
    bar.warp.sync %r3;
    add.u32 %r6, %r6, 1;
    setp.le.u32 %p1, %r6, %r1;
    @%p1 bra ROUND;
    shfl.sync.bfly.b32 %r9, %r5, 1, 31, %r3;
    add.u32 %r5, %r5, %r9;
    st.global.b32 [%d50], %r5;
    """
    yield Family("divergence.groups", kernel({"out": Output((32,), np.uint32)}, body, shared=shared))


def families() -> Iterator[Family]:
    yield from shuffles()
    yield from votes()
    yield from matches()
    yield from reductions()
    yield from divergence()
