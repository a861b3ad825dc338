"""mbarrier in all its forms. What the 64 bits hold is nobody's business: only what the instructions say of them."""

from collections.abc import Iterator

import numpy as np
from devices import Output
from writing import kernel

from families import Family

BAR = ".shared .align 8 .b64 bar;\n.shared .align 8 .b64 bars[8];\n.shared .align 16 .b8 box[2048];\n"
INIT = "setp.eq.u32 %p100, %thread, 0;\n@%p100 mbarrier.init.shared::cta.b64 [bar], {};\nbar.sync 0;\n"


class Script:
    """What one thread does with a barrier, with every answer kept."""

    def __init__(self):
        self.lines: list[str] = []
        self.answers = 0

    def do(self, *lines: str) -> None:
        self.lines += lines

    def keep(self, register: str) -> None:
        self.lines.append(f"st.global.b32 [%out+{4 * self.answers}], {register};")
        self.answers += 1

    def keep_predicate(self, register: str = "%p0") -> None:
        self.do(f"selp.u32 %r100, 1, 0, {register};")
        self.keep("%r100")

    def pending(self, state: str) -> None:
        self.do(f"mbarrier.pending_count.b64 %r101, {state};")
        self.keep("%r101")

    def parities(self, form: str = "test_wait", space: str = ".shared") -> None:
        for parity in (0, 1):
            self.do(f"mbarrier.{form}.parity{space}.b64 %p0, [bar], {parity};")
            self.keep_predicate()

    def test(self, state: str, form: str = "test_wait") -> None:
        self.do(f"mbarrier.{form}.shared.b64 %p0, [bar], {state};")
        self.keep_predicate()

    def family(self, name: str, count: int) -> Family:
        body = ["setp.ne.u32 %p99, %thread, 0;", "@%p99 bra DONE;", f"mbarrier.init.shared.b64 [bar], {count};"]
        body += [*self.lines, "DONE:"]
        return Family(name, kernel({"out": Output((self.answers,), np.uint32)}, body, shared=BAR))


def arrivals() -> Iterator[Family]:
    """Counts that arrivals see, with and without the number of them, over several phases."""
    script = Script()
    script.parities()
    for phase in range(3):
        script.do("mbarrier.arrive.shared.b64 %d0, [bar];")
        script.pending("%d0")
        script.test("%d0")
        script.parities()
        script.do("mbarrier.arrive.shared::cta.b64 %d1, [bar], 2;")
        script.pending("%d1")
        script.do("mbarrier.arrive.noComplete.shared.b64 %d2, [bar], 1;")
        script.pending("%d2")
        script.test("%d2")
        script.parities("test_wait", ".shared::cta")
        script.do(f"mbarrier.arrive.release.{('cta', 'cluster', 'cta')[phase]}.shared.b64 %d3, [bar], 1;")
        script.pending("%d3")
        for state in ("%d0", "%d1", "%d2", "%d3"):
            script.test(state, "try_wait" if phase == 1 else "test_wait")
        script.parities("try_wait" if phase == 2 else "test_wait")
    yield script.family("arrive", 5)


def drops() -> Iterator[Family]:
    script = Script()
    script.do("mbarrier.arrive_drop.shared.b64 %d0, [bar];", "mbarrier.arrive.shared.b64 %d1, [bar], 5;")
    script.pending("%d0")
    script.pending("%d1")
    script.test("%d1")
    # Five are expected now.
    script.do("mbarrier.arrive.shared.b64 %d2, [bar];")
    script.pending("%d2")
    script.do("mbarrier.arrive_drop.noComplete.shared.b64 %d3, [bar], 2;")
    script.pending("%d3")
    script.do("mbarrier.arrive_drop.release.cta.shared::cta.b64 %d4, [bar], 2;")
    script.pending("%d4")
    script.test("%d4")
    script.parities()
    # One is.
    for _ in range(3):
        script.do("mbarrier.arrive.shared.b64 %d5, [bar];")
        script.pending("%d5")
        script.test("%d5")
        script.parities()
    yield script.family("arrive_drop", 6)


def transactions() -> Iterator[Family]:
    script = Script()
    script.do("mbarrier.expect_tx.relaxed.cta.shared.b64 [bar], 4096;")
    script.do("mbarrier.arrive.expect_tx.shared.b64 %d0, [bar], 64;")
    script.pending("%d0")
    script.do("mbarrier.arrive.shared.b64 %d1, [bar];")
    script.pending("%d1")
    script.parities()
    script.do("mbarrier.complete_tx.relaxed.cta.shared.b64 [bar], 4000;")
    script.test("%d1")
    script.do("mbarrier.complete_tx.shared::cta.b64 [bar], 160;")
    script.test("%d1")
    script.parities()
    # More than expected first, in the second phase.
    script.do("mbarrier.complete_tx.shared.b64 [bar], 48;", "mbarrier.arrive.shared.b64 %d2, [bar], 1;")
    script.parities()
    script.do("mbarrier.arrive.expect_tx.release.cta.shared.b64 %d3, [bar], 48;")
    script.test("%d3")
    script.parities()
    script.do("mbarrier.arrive_drop.expect_tx.shared.b64 %d4, [bar], 32;")
    script.do("mbarrier.arrive.shared.b64 %d5, [bar];")
    script.pending("%d4")
    script.pending("%d5")
    script.test("%d5")
    script.do("mbarrier.complete_tx.shared.b64 [bar], 32;")
    script.test("%d5")
    script.do("mbarrier.arrive.shared.b64 %d6, [bar];")
    script.pending("%d6")
    script.test("%d6")
    yield script.family("expect_tx", 2)


def invalidation() -> Iterator[Family]:
    """The place is used again, for numbers, and for another barrier."""
    script = Script()
    script.do("mbarrier.arrive.shared.b64 %d0, [bar];", "mbarrier.inval.shared.b64 [bar];")
    script.do("st.shared.b64 [bar], 0x123456789;", "ld.shared.b32 %r0, [bar];")
    script.keep("%r0")
    script.do("mbarrier.init.shared.b64 [bar], 7;", "mbarrier.arrive.shared.b64 %d1, [bar], 3;")
    script.pending("%d1")
    script.test("%d1")
    script.do("mbarrier.inval.shared.b64 [bar];", "mbarrier.init.shared.b64 [bar], 1048575;")
    script.do("mbarrier.arrive.shared.b64 %d2, [bar], 1048574;")
    script.pending("%d2")
    script.do("mbarrier.arrive.shared.b64 %d3, [bar];")
    script.pending("%d3")
    script.test("%d3")
    yield script.family("inval", 3)


def generic() -> Iterator[Family]:
    """Addresses without a space."""
    script = Script()
    script.do("mov.u64 %d10, bar;", "cvta.shared.u64 %d10, %d10;", "mbarrier.inval.b64 [%d10];")
    script.do("mbarrier.init.b64 [%d10], 2;", "mbarrier.arrive.b64 %d0, [%d10];")
    script.pending("%d0")
    script.do("mbarrier.arrive.expect_tx.b64 %d1, [%d10], 16;")
    script.pending("%d1")
    script.do("mbarrier.test_wait.b64 %p0, [%d10], %d1;")
    script.keep_predicate()
    script.do("mbarrier.complete_tx.shared.b64 [bar], 16;")
    script.do("mbarrier.try_wait.parity.b64 %p0, [%d10], 0;")
    script.keep_predicate()
    script.do("mbarrier.try_wait.b64 %p0, [%d10], %d1, 1000;")
    script.keep_predicate()
    yield script.family("generic", 1)


# Each of four warps waits for the phase.
ROUND_TRIPS = """
    shr.u32 %r0, %thread, 5;
    mov.u32 %r1, box;
    mad.lo.u32 %r2, %thread, 4, %r1;
    add.u32 %r3, %thread, 37;
    and.b32 %r3, %r3, 127;
    mad.lo.u32 %r4, %r3, 4, %r1;
    mul.lo.u32 %r5, %thread, 2654435761;
    mov.u32 %r6, 0;
    ROUND:
    and.b32 %r7, %r6, 1;
    mad.lo.u32 %r8, %r7, 512, %r2;
    mad.lo.u32 %r9, %r7, 512, %r4;
    st.shared.b32 [%r8], %r5;
    mbarrier.arrive.shared.b64 {state}, [bar];
    WAIT:
    mbarrier.{wait};
    @!%p0 bra WAIT;
    {fence}
    ld.shared.b32 %r10, [%r9];
    mad.lo.u32 %r5, %r5, 5, %r10;
    add.u32 %r6, %r6, 1;
    setp.lt.u32 %p1, %r6, 33;
    @%p1 bra ROUND;
    mad.wide.u32 %d0, %thread, 4, %out;
    st.global.b32 [%d0], %r5;
    """


def rounds() -> Iterator[Family]:
    """Four warps hand numbers to each other over many phases; by parity, and by the state that the arrival returned."""
    yield round_trips("rounds.parity", "try_wait.parity.shared.b64 %p0, [bar], %r7")
    yield round_trips("rounds.state", "test_wait.acquire.cta.shared::cta.b64 %p0, [bar], %d1", "%d1")


def round_trips(name: str, wait: str, state: str = "_", fence: str = "") -> Family:
    body = INIT.format(128) + ROUND_TRIPS.format(wait=wait, state=state, fence=fence)
    return Family(name, kernel({"out": Output((128,), np.uint32)}, body, shared=BAR, block=128))


def pipeline() -> Iterator[Family]:
    """A warp produces, three consume, through a ring of four places with a barrier for full and one for empty each."""
    body = """
    setp.eq.u32 %p100, %thread, 0;
    @!%p100 bra READY;
    mov.u32 %r0, bars;
    mov.u32 %r1, 0;
    INIT:
    mbarrier.init.shared.b64 [%r0], 32;
    mbarrier.init.shared.b64 [%r0+32], 96;
    add.u32 %r0, %r0, 8;
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p0, %r1, 4;
    @%p0 bra INIT;
    READY:
    bar.sync 0;
    mov.u32 %r2, box;
    mov.u32 %r3, bars;
    mov.u32 %r4, 0;
    mov.u32 %r20, 0;
    and.b32 %r21, %thread, 31;
    setp.lt.u32 %p1, %thread, 32;
    @%p1 bra PRODUCE;

    CONSUME:
    and.b32 %r5, %r4, 3;
    shr.u32 %r6, %r4, 2;
    and.b32 %r6, %r6, 1;
    mad.lo.u32 %r7, %r5, 8, %r3;
    FULL:
    mbarrier.try_wait.parity.shared.b64 %p2, [%r7], %r6;
    @!%p2 bra FULL;
    mad.lo.u32 %r8, %r5, 128, %r2;
    add.u32 %r9, %thread, %r4;
    and.b32 %r9, %r9, 31;
    mad.lo.u32 %r8, %r9, 4, %r8;
    ld.shared.b32 %r10, [%r8];
    mad.lo.u32 %r20, %r20, 31, %r10;
    mbarrier.arrive.shared.b64 _, [%r7+32];
    add.u32 %r4, %r4, 1;
    setp.lt.u32 %p3, %r4, 50;
    @%p3 bra CONSUME;
    bra DONE;

    PRODUCE:
    and.b32 %r5, %r4, 3;
    shr.u32 %r6, %r4, 2;
    and.b32 %r6, %r6, 1;
    xor.b32 %r6, %r6, 1;
    mad.lo.u32 %r7, %r5, 8, %r3;
    EMPTY:
    mbarrier.try_wait.parity.shared.b64 %p2, [%r7+32], %r6;
    @!%p2 bra EMPTY;
    mad.lo.u32 %r8, %r5, 128, %r2;
    mad.lo.u32 %r8, %r21, 4, %r8;
    mad.lo.u32 %r10, %r4, 1000, %r21;
    mul.lo.u32 %r10, %r10, 40503;
    st.shared.b32 [%r8], %r10;
    mad.lo.u32 %r20, %r20, 3, %r10;
    mbarrier.arrive.shared.b64 _, [%r7];
    add.u32 %r4, %r4, 1;
    setp.lt.u32 %p3, %r4, 50;
    @%p3 bra PRODUCE;

    DONE:
    mad.wide.u32 %d0, %thread, 4, %out;
    st.global.b32 [%d0], %r20;
    """
    yield Family("pipeline", kernel({"out": Output((128,), np.uint32)}, body, shared=BAR, block=128))


def families() -> Iterator[Family]:
    yield from arrivals()
    yield from drops()
    yield from transactions()
    yield from invalidation()
    yield from generic()
    yield from rounds()
    yield from pipeline()
