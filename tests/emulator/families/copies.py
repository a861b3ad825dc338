"""cp.async: bytes, zero fill, groups, arrivals at barriers."""

from collections.abc import Iterator

import numpy as np
from devices import Input, Output
from writing import dump_shared, kernel, rng

from families import Family

BAR = ".shared .align 8 .b64 bar;\n"


def source(name: str, count: int) -> Input:
    return Input(rng(name).integers(0, 16, count, np.uint8) * 17)


def sizes() -> Iterator[Family]:
    for bytes_, level in ((4, "ca"), (8, "ca"), (16, "ca"), (16, "cg")):
        total = 32 * bytes_
        body = f"""
        mov.u32 %r0, smem;
        mad.lo.u32 %r1, %thread, {bytes_}, %r0;
        xor.b32 %r2, %thread, 11;
        mad.wide.u32 %d0, %r2, {bytes_}, %a;
        rem.u32 %r3, %thread, {bytes_ + 1};
        and.b32 %r4, %thread, 3;
        setp.eq.u32 %p0, %r4, 1;
        cp.async.{level}.shared.global [%r1], [%d0], {bytes_};
        cp.async.{level}.shared.global.L2::128B [%r1+{total}], [%d0], {bytes_}, %r3;
        cp.async.{level}.shared::cta.global [%r1+{2 * total}], [%d0], {bytes_}, %p0;
        cp.async.{level}.shared.global.L2::64B [%r1+{3 * total}], [%d0], {bytes_}, 0;
        cp.async.wait_all;
        {dump_shared("out", 4 * total, 32)}
        """
        arguments = {"a": source(f"{bytes_}", total), "out": Output((4 * total,), np.uint8)}
        yield Family(f"cp.async.{level}.{bytes_}", kernel(arguments, body, dynamic_shared=4 * total))


def hints() -> Iterator[Family]:
    """With a policy for the cache, with each size that is fetched ahead; whole, in part, or not at all."""
    rests = ("", ", %r3", ", %p0")
    for bytes_, level in ((4, "ca"), (8, "ca"), (16, "ca"), (16, "cg")):
        forms = [(p, h, r) for p in ("", "64B", "128B", "256B") for h in (True, False) for r in rests]
        slot = 32 * bytes_
        total = slot * len(forms)
        copies = [
            f"cp.async.{level}.shared{'::cta' if number % 2 else ''}.global{'.L2::cache_hint' if hint else ''}"
            f"{f'.L2::{ahead}' if ahead else ''} [%r1+{number * slot}], [%d0], {bytes_}{rest}{', %d1' if hint else ''};"
            for number, (ahead, hint, rest) in enumerate(forms)
        ]
        new_line = "\n"
        body = f"""
        createpolicy.fractional.L2::evict_first.b64 %d1, 0.5;
        mov.u32 %r0, smem;
        mad.lo.u32 %r1, %thread, {bytes_}, %r0;
        xor.b32 %r2, %thread, 19;
        mad.wide.u32 %d0, %r2, {bytes_}, %a;
        rem.u32 %r3, %thread, {bytes_ + 1};
        and.b32 %r4, %thread, 3;
        setp.eq.u32 %p0, %r4, 2;
        {new_line.join(copies)}
        cp.async.wait_all;
        {dump_shared("out", total, 32)}
        """
        arguments = {"a": source(f"hints {bytes_}", slot), "out": Output((total,), np.uint8)}
        yield Family(f"cp.async.{level}.{bytes_}.hints", kernel(arguments, body, dynamic_shared=total))


def groups() -> Iterator[Family]:
    """A ring of three places, two copies ahead: the place that is read is the one that the group brought."""
    body = """
    mov.u32 %r0, smem;
    mad.lo.u32 %r1, %thread, 16, %r0;
    mad.wide.u32 %d0, %thread, 16, %a;
    mov.u32 %r20, 0;
    cp.async.cg.shared.global [%r1], [%d0], 16;
    cp.async.commit_group;
    cp.async.cg.shared.global [%r1+1024], [%d0+1024], 16;
    cp.async.commit_group;
    mov.u32 %r2, 0;
    ROUND:
    add.u32 %r3, %r2, 2;
    rem.u32 %r4, %r3, 3;
    mad.lo.u32 %r5, %r4, 1024, %r1;
    mad.wide.u32 %d1, %r3, 1024, %d0;
    setp.lt.u32 %p0, %r3, 8;
    @%p0 cp.async.cg.shared.global [%r5], [%d1], 16;
    cp.async.commit_group;
    cp.async.wait_group 2;
    bar.sync 0;
    rem.u32 %r6, %r2, 3;
    xor.b32 %r7, %thread, 37;
    mad.lo.u32 %r8, %r6, 64, %r7;
    mad.lo.u32 %r8, %r8, 16, %r0;
    ld.shared.v4.b32 {%r9, %r10, %r11, %r12}, [%r8];
    mad.lo.u32 %r20, %r20, 31, %r9;
    mad.lo.u32 %r20, %r10, 7, %r20;
    mad.lo.u32 %r20, %r11, 5, %r20;
    mad.lo.u32 %r20, %r12, 3, %r20;
    bar.sync 0;
    add.u32 %r2, %r2, 1;
    setp.lt.u32 %p1, %r2, 8;
    @%p1 bra ROUND;
    cp.async.wait_group 0;
    mad.wide.u32 %d2, %thread, 4, %out;
    st.global.b32 [%d2], %r20;
    """
    arguments = {"a": source("groups", 8 * 1024), "out": Output((64,), np.uint32)}
    yield Family("groups", kernel(arguments, body, block=64, dynamic_shared=3072))


def arrivals() -> Iterator[Family]:
    """Copies that arrive at a barrier when they are done: counted besides, or as the thread's own arrival."""
    for form, count, arrives in (("", 64, True), (".noinc", 64, False), (".noinc", 128, True)):
        body = f"""
        setp.eq.u32 %p100, %thread, 0;
        @%p100 mbarrier.init.shared.b64 [bar], {count};
        mov.u32 %r0, smem;
        mad.lo.u32 %r1, %thread, 16, %r0;
        xor.b32 %r2, %thread, 21;
        mad.lo.u32 %r2, %r2, 16, %r0;
        mov.u32 %r20, 0;
        mov.u32 %r3, 0;
        bar.sync 0;
        ROUND:
        mad.wide.u32 %d0, %thread, 16, %a;
        mad.wide.u32 %d1, %r3, 1024, %d0;
        cp.async.ca.shared.global [%r1], [%d1], 16;
        cp.async.mbarrier.arrive{form}.shared::cta.b64 [bar];
        {"mbarrier.arrive.shared.b64 _, [bar];" if arrives else ""}
        and.b32 %r4, %r3, 1;
        WAIT:
        mbarrier.try_wait.parity.shared.b64 %p0, [bar], %r4;
        @!%p0 bra WAIT;
        ld.shared.v4.b32 {{%r9, %r10, %r11, %r12}}, [%r2];
        mad.lo.u32 %r20, %r20, 31, %r9;
        mad.lo.u32 %r20, %r10, 7, %r20;
        mad.lo.u32 %r20, %r11, 5, %r20;
        mad.lo.u32 %r20, %r12, 3, %r20;
        bar.sync 0;
        add.u32 %r3, %r3, 1;
        setp.lt.u32 %p1, %r3, 5;
        @%p1 bra ROUND;
        mad.wide.u32 %d2, %thread, 4, %out;
        st.global.b32 [%d2], %r20;
        """
        arguments = {"a": source("arrive", 5 * 1024), "out": Output((64,), np.uint32)}
        name = f"mbarrier.arrive{form}.{count}"
        yield Family(name, kernel(arguments, body, block=64, dynamic_shared=1024, shared=BAR))


def families() -> Iterator[Family]:
    yield from sizes()
    yield from hints()
    yield from groups()
    yield from arrivals()
