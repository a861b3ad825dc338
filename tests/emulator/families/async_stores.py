"""What threads send into the shared memory of their cluster: st.async and red.async, by both kinds of addresses."""

from collections.abc import Iterator

import numpy as np
from devices import Input, Output
from writing import kernel, rng

from families import Family
from families.clusters import BARRIERS, MEET, init, wait

CTAS = 4
REDUCTIONS = (
    *(f"{operation}.{kind}" for operation in ("add", "min", "max") for kind in ("u32", "s32")),
    *("add.u64", "add.s64", "inc.u32", "dec.u32", "and.b32", "or.b32", "xor.b32"),
)


def sent(name: str, instruction: str, values: np.ndarray, before: np.ndarray, told: int) -> Family:
    """Each CTA sends to the two behind it, each thread to one place of 16 bytes of eight.

    `instruction`: with the thread's value in %d1 and, its lower half, in %r1; with the target in %r10 or %d10, and the
    barrier in %r11 or %d11. `told`: the bytes that it tells the barrier of. The order of what is sent makes no difference.
    """
    body = f"""
    mov.u32 %r0, %cluster_ctarank;
    mad.lo.u32 %r2, %r0, 32, %thread;
    mad.wide.u32 %d0, %r2, 8, %values;
    ld.global.b64 %d1, [%d0];
    cvt.u32.u64 %r1, %d1;
    mov.u32 %r3, box;
    mad.lo.u32 %r4, %thread, 4, %r3;
    mad.wide.u32 %d2, %thread, 4, %before;
    ld.global.b32 %r5, [%d2];
    st.shared.b32 [%r4], %r5;
    and.b32 %r6, %thread, 7;
    mad.lo.u32 %r6, %r6, 16, %r3;
    {init(1)}
    @%p100 mbarrier.arrive.expect_tx.shared.b64 _, [bar], {2 * 32 * told};
    mov.b32 %r20, 1;
    SEND:
    add.u32 %r7, %r0, %r20;
    rem.u32 %r7, %r7, {CTAS};
    mapa.shared::cluster.u32 %r10, %r6, %r7;
    mov.u32 %r11, bar;
    mapa.shared::cluster.u32 %r11, %r11, %r7;
    cvt.u64.u32 %d10, %r6;
    cvta.shared.u64 %d10, %d10;
    mapa.u64 %d10, %d10, %r7;
    mov.u64 %d11, bar;
    cvta.shared.u64 %d11, %d11;
    mapa.u64 %d11, %d11, %r7;
    {instruction}
    add.u32 %r20, %r20, 1;
    setp.lt.u32 %p0, %r20, 3;
    @%p0 bra SEND;
    {wait(0, "WAIT")}
    ld.shared.b32 %r30, [%r4];
    mad.wide.u32 %d3, %r2, 4, %out;
    st.global.b32 [%d3], %r30;
    {MEET}
    """
    arguments = {
        "values": Input(values),
        "before": Input(before),
        "out": Output((CTAS, 32), np.uint32),
    }
    return Family(name, kernel(arguments, body, shared=BARRIERS, grid=CTAS, cluster=CTAS))


def reductions() -> Iterator[Family]:
    for form in REDUCTIONS:
        for space, places in ((".shared::cluster", "[%r10], {}, [%r11]"), ("", "[%d10], {}, [%d11]")):
            name = f"red.async{space}.{form}"
            generator = rng(name)
            values = generator.integers(0, 2**64, CTAS * 32, np.uint64)
            before = generator.integers(0, 2**32, 32, np.uint32)
            if form.startswith(("inc", "dec")):
                # The same of all, and both kinds of numbers in memory: what is beyond it, too.
                values[:], before[:] = 6, generator.integers(0, 9, 32)
            is_wide = form.endswith("64")
            operands = places.format("%d1" if is_wide else "%r1")
            text = f"red.async.relaxed.cluster{space}.mbarrier::complete_tx::bytes.{form} {operands};"
            yield sent(name, text, values, before, 8 if is_wide else 4)


def stores() -> Iterator[Family]:
    """Threads with the same place send the same."""
    generator = rng("st.async")
    values = np.tile(generator.integers(0, 2**64, 8, np.uint64), CTAS * 4)
    before = generator.integers(0, 2**32, 32, np.uint32)
    for kind, operand, bytes_ in (
        ("b32", "%r1", 4),
        ("s64", "%d1", 8),
        ("v2.b32", "{%r1, 5}", 8),
        ("v2.b64", "{%d1, %d1}", 16),
        ("v4.b32", "{%r1, 5, %r1, 7}", 16),
    ):
        text = f"st.async.weak.mbarrier::complete_tx::bytes.{kind} [%d10], {operand}, [%d11];"
        yield sent(f"st.async.generic.{kind}", text, values, before, bytes_)


def families() -> Iterator[Family]:
    yield from reductions()
    yield from stores()
