"""mbarrier's instructions with every order, scope and space, in the own CTA and in another one."""

from collections.abc import Iterator

import numpy as np
from devices import Output
from writing import kernel

from families import Family
from families.clusters import BARRIERS, MEET
from families.mbarriers import Script, round_trips

OWN_SPACES = ("", ".shared", ".shared::cta")
ARRIVALS = ("", ".release.cta", ".release.cluster", ".relaxed.cta", ".relaxed.cluster")
WAITS = ("", ".acquire.cta", ".acquire.cluster", ".relaxed.cta", ".relaxed.cluster")
TRANSACTIONS = ("", ".relaxed.cta", ".relaxed.cluster")


def place(space: str) -> str:
    """The barrier: by its generic address where no space is named."""
    return "[bar]" if space else "[%d10]"


def script() -> Script:
    out = Script()
    out.do("mov.u64 %d10, bar;", "cvta.shared.u64 %d10, %d10;")
    return out


class Phases:
    """A script, with how many arrivals are pending and expected."""

    def __init__(self, count: int):
        self.script = script()
        self.pending = self.expected = count

    def arrive(self, words: str, space: str, last: str = "", count: int = 1) -> None:
        """`words`: the instruction up to its space; `last`: operands after the address."""
        self.script.do(f"mbarrier.{words}{space}.b64 %d0, {place(space)}{last};")
        self.script.pending("%d0")
        self.pending -= count
        if words.startswith("arrive_drop"):
            self.expected -= count
        assert self.pending > 0

    def finish(self) -> None:
        """The rest of this phase, and what the next one expects."""
        if self.pending > 1:
            self.script.do(f"mbarrier.arrive.shared.b64 %d1, [bar], {self.pending - 1};")
        self.script.parities()
        self.script.do("mbarrier.arrive.shared.b64 %d1, [bar];")
        self.script.test("%d1")
        self.script.parities()
        self.script.do("mbarrier.arrive.shared.b64 %d1, [bar];")
        self.script.pending("%d1")
        self.pending = self.expected - 1


def arrivals() -> Iterator[Family]:
    for what in ("arrive", "arrive_drop"):
        phases = Phases(400)
        for space in OWN_SPACES:
            for order in ARRIVALS:
                phases.arrive(f"{what}{order}", space)
                phases.arrive(f"{what}{order}", space, ", 3", 3)
                phases.arrive(f"{what}.expect_tx{order}", space, ", 48")
                phases.script.do(f"mbarrier.complete_tx{space}.b64 {place(space)}, 48;")
            for order in ("", ".release.cta"):
                phases.arrive(f"{what}.noComplete{order}", space, ", 2", 2)
            phases.finish()
        yield phases.script.family(f"{what}.forms", 400)


def transactions() -> Iterator[Family]:
    out = script()
    for i, space in enumerate(OWN_SPACES):
        for k, order in enumerate(TRANSACTIONS):
            bytes_ = 16 * (3 * i + k + 1)
            out.do(f"mbarrier.expect_tx{order}{space}.b64 {place(space)}, {bytes_ + 32};")
            out.do("mbarrier.arrive.shared.b64 %d0, [bar];")
            out.test("%d0")
            out.do(f"mbarrier.complete_tx{order}{space}.b64 {place(space)}, {bytes_};")
            out.parities()
            out.do(f"mbarrier.complete_tx{order}{space}.b64 {place(space)}, 32;")
            out.test("%d0")
            out.parities()
    yield out.family("expect_tx.forms", 1)


def waits() -> Iterator[Family]:
    """For a phase that is over, for one that is not; by state and parity; with a hint how many nanoseconds to wait."""
    for what, hints in (("test_wait", ("",)), ("try_wait", ("", ", 0", ", 200"))):
        out = script()
        out.do("mbarrier.arrive.shared.b64 %d0, [bar];", "mbarrier.arrive.shared.b64 %d1, [bar];")
        # The second of two arrivals of a phase is there, the first one of the next.
        out.do("mbarrier.arrive.shared.b64 %d2, [bar];")
        for space in OWN_SPACES:
            for order in WAITS:
                for hint in hints:
                    for state in ("%d0", "%d2"):
                        out.do(f"mbarrier.{what}{order}{space}.b64 %p0, {place(space)}, {state}{hint};")
                        out.keep_predicate()
                    for parity in (0, 1):
                        out.do(f"mbarrier.{what}.parity{order}{space}.b64 %p0, {place(space)}, {parity}{hint};")
                        out.keep_predicate()
        yield out.family(f"{what}.forms", 2)


def rounds() -> Iterator[Family]:
    wait = "try_wait{} %p0, [bar], {}, {}"
    yield round_trips("rounds.parity.hint", wait.format(".parity.acquire.cta.shared::cta.b64", "%r7", 20000))
    relaxed = wait.format(".parity.relaxed.cluster.shared.b64", "%r7", 1)
    yield round_trips("rounds.parity.short_hint", relaxed, fence="fence.acq_rel.cta;")
    yield round_trips("rounds.state.hint", wait.format(".acquire.cluster.shared.b64", "%d1", "%r6"), "%d1")


def remote() -> Iterator[Family]:
    """One after the other, a thread of the CTA 1 does something to the barrier of the CTA 0, which sees what it was."""
    arrive = "{}.shared::cluster.b64 _, [%r2]{}"
    complete = ";\n@%p2 mbarrier.complete_tx.shared::cluster.b64 [%r2], 64"
    # Phases end with the last arrival of one of these.
    for what, count in (("arrive", 20), ("arrive_drop", 40)):
        steps = [arrive.format(f"{what}{order}", "") for order in ARRIVALS]
        steps += [arrive.format(f"{what}.expect_tx{order}", ", 64") + complete for order in ARRIVALS]
        steps += [arrive.format(f"{what}{order}", ", 3") for order in ARRIVALS]
        yield observed(f"remote.{what}", [*steps, steps[0]], count)
    forms = [f"{words}{order}" for words in ("expect_tx", "complete_tx") for order in TRANSACTIONS]
    yield observed("remote.expect_tx", [f"{words}.shared::cluster.b64 [%r2], 80" for words in forms], 5)


def observed(name: str, steps: list[str], count: int) -> Family:
    """After each step there is an arrival of the CTA 0, whose answers are kept: what was pending, and which phase it is."""
    answers = 0
    lines = ["mov.u32 %r0, %cluster_ctarank;", "mov.u32 %r1, bar;", "mapa.shared::cluster.u32 %r2, %r1, 0;"]
    lines += ["mad.lo.u32 %r3, %r0, 32, %thread;", "setp.eq.u32 %p1, %r3, 0;", "setp.eq.u32 %p2, %r3, 32;"]
    lines += [f"@%p1 mbarrier.init.shared.b64 [bar], {count};", "@%p1 fence.mbarrier_init.release.cluster;", MEET]
    for step in steps:
        lines += [f"@%p2 mbarrier.{step};", MEET, "@%p1 mbarrier.arrive.shared.b64 %d0, [bar];"]
        lines.append("@%p1 mbarrier.pending_count.b64 %r4, %d0;")
        for parity in (0, 1):
            lines.append(f"@%p1 mbarrier.test_wait.parity.shared.b64 %p3, [bar], {parity};")
            lines.append(f"selp.u32 %r{5 + parity}, 1, 0, %p3;")
        for register in ("%r4", "%r5", "%r6"):
            lines.append(f"@%p1 st.global.b32 [%out+{4 * answers}], {register};")
            answers += 1
        lines.append(MEET)
    made = kernel({"out": Output((answers,), np.uint32)}, lines, shared=BARRIERS, grid=2, cluster=2)
    return Family(name, made)


def families() -> Iterator[Family]:
    yield from arrivals()
    yield from transactions()
    yield from waits()
    yield from rounds()
    yield from remote()
