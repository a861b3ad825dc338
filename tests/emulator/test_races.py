"""Races: kernels that lack some order, what their report says, and the same kernels with it, which are right.

The two accesses are at lines 41 and 42. Which of them is reported as the later one depends on who has his turn first.
"""

import os
import unittest
from unittest import mock

import numpy as np
from absl.testing import parameterized
from devices import Input, Kernel, Output, TensorMap, has_emulator
from reports import BOTH_PLACES, ReportTest
from writing import FAULTY, kernel

SHARED = (
    FAULTY + ".shared .align 8 .b64 bar;\n.shared .align 8 .b64 other;\n.shared .align 128 .b8 box[4096];\n"
    ".shared .align 4 .b32 flag;\n"
)

# Each thread has a word of the box at %r10, and another thread's at %r11: of another warp, or of the same.
PLACES = """
mov.u32 %r1, box;
mad.lo.u32 %r10, %thread, 4, %r1;
xor.b32 %r2, %thread, {distance};
mad.lo.u32 %r11, %r2, 4, %r1;
shr.u32 %r3, %thread, 5;
setp.eq.u32 %p0, %thread, 0;
setp.eq.u32 %p1, %r3, 0;
"""
FIRST, SECOND = ".loc 1 41 0\n", "\n.loc 1 42 0\n"
WRITE, READ = "st.shared.b32 [%r10], %thread;", "ld.shared.b32 %r20, [%r11];"
FILL = "st.shared.b32 [%r10], 0;\nbar.sync 0;\n"
INIT = "@%p0 mbarrier.init.shared.b64 [bar], {};\n@%p0 fence.mbarrier_init.release.cluster;\nbar.sync 0;\n"
WAIT = "{{\nWAIT{0}:\nmbarrier.try_wait.parity{1}.shared.b64 %p5, [{2}], {0};\n@!%p5 bra WAIT{0};\n}}\n"


def wait(parity: int = 0, order: str = "", barrier: str = "bar") -> str:
    return WAIT.format(parity, order, barrier)


def racing(body: str, distance: int = 32, **more) -> Kernel:
    arguments = {"a": Input(np.arange(256, dtype=np.uint32)), "out": Output((256,), np.uint32)}
    more = {"block": 64} | more
    arguments |= more.pop("arguments", {})
    return kernel(arguments, PLACES.format(distance=distance) + body + "\nOUT:\n", shared=SHARED, **more)


class RacesTest(ReportTest):
    has_both_places = True  # of all reports that name both lines

    def assert_race(self, made: Kernel, *words: str, lines=(41, 42)) -> None:
        """The report has these words, and both places."""
        report = self.report(made)
        for word in (*words, "kernel test_kernel", *(f"faulty.cu:{line}" for line in lines)):
            self.assertIn(word, report)
        self.assertIn("warp", report)
        if self.has_both_places and len(lines) == 2:
            self.assertRegex(report, BOTH_PLACES)

    def assert_both(self, body: str, without: str, with_: str, *words: str, lines=(41, 42), **more) -> None:
        """The body is a race with one text in place of SYNC, and none with the other."""
        self.assert_race(racing(body.replace("SYNC", without), **more), *words, lines=lines)
        self.emulator.run(racing(body.replace("SYNC", with_), **more))


@unittest.skipUnless(has_emulator(), "this build has no emulator")
class ThreadsTest(RacesTest):
    """Loads and stores of threads, and what orders them."""

    @parameterized.named_parameters(
        ("read_after_write", WRITE, READ),
        ("write_after_read", "ld.shared.b32 %r20, [%r10];", "st.shared.b32 [%r11], 7;"),
        ("write_after_write", WRITE, "st.shared.b32 [%r11], 99;"),
    )
    def test_warps(self, first, second):
        body = FILL + FIRST + first + "\nSYNC" + SECOND + second
        self.assert_both(body, "bar.warp.sync -1;", "bar.sync 0;", "nothing orders the two")

    def test_report(self):
        body = "@!%p1 bra OTHER;\n" + FIRST + WRITE + "\nbra OUT;\nOTHER:" + SECOND + READ
        self.assertEqual(
            self.report(racing(body)).splitlines()[0],
            "Race: lane 0 reads shared offset 128, which another one has written, and nothing orders the two.",
        )
        report = "\n".join(self.report(racing(body)).splitlines()[1:])
        self.assertRegex(
            report,
            r"^  kernel test_kernel\n"
            r"  CTA \(0, 0, 0\), warp 1, lanes 0-31\n  at faulty.cu:42; PTX line \d+: 'ld.shared.b32'\n"
            r"  and written by\n"
            r"  CTA \(0, 0, 0\), warp 0, lanes 0\n  at faulty.cu:41; PTX line \d+: 'st.shared.b32'$",
        )

    @parameterized.parameters(
        "shfl.sync.idx.b32 %r30, %r1, 0, 31, -1;",
        "vote.sync.any.pred %p9, %p0, -1;",
        "elect.sync %r30|%p9, -1;",
        "match.any.sync.b32 %r30, %r1, -1;",
        "redux.sync.add.u32 %r30, %r1, -1;",
    )
    def test_lanes(self, no_order):
        """A warp's lanes are ordered by its barrier, not by what they do together."""
        body = FIRST + WRITE + "\nSYNC" + SECOND + READ
        self.assert_both(body, no_order, "bar.warp.sync -1;", "lane 0 reads", distance=1, block=32)

    def test_lanes_that_are_not_named(self):
        body = """
        and.b32 %r30, %thread, 2;
        mov.b32 %r31, 0x33333333;
        shl.b32 %r31, %r31, %r30;
        """
        body += FIRST + WRITE + "\nbar.warp.sync SYNC;" + SECOND + READ
        self.assert_both(body, "%r31", "-1", distance=2, block=32)

    def test_lanes_that_write_at_once(self):
        body = ".loc 1 42 0\nst.shared.b32 [box], SYNC;"
        self.assert_both(body, "%thread", "5", "lanes 0 and 1 write different values", lines=(42,), block=32)

    @parameterized.named_parameters(
        ("not_the_same_barrier", "bar.sync 2, 64;", "bar.sync 1, 64;"),
        ("arrival", "bar.arrive 1, 64;", "bar.sync 1, 64;"),
        ("reduction", "bar.red.or.pred %p9, 2, 64, %p0;", "bar.red.or.pred %p9, 1, 64, %p0;"),
    )
    def test_named_barriers(self, without, with_):
        """Of three warps; the third comes to barrier 2 with the second."""
        roles = """
        setp.eq.u32 %p2, %r3, 2;
        @%p2 bra THIRD;
        @!%p1 bra SECOND;
        """
        body = FILL + roles + FIRST + WRITE + "\nbar.arrive 1, 64;\nbra OUT;\n"
        body += "THIRD:\nbar.arrive 2, 64;\nbra OUT;\nSECOND:\nSYNC" + SECOND + READ
        self.assert_both(body, without, with_, block=96)

    MBARRIER = FILL + INIT.format(32) + "@!%p1 bra OTHER;\n{}\nbra OUT;\nOTHER:\n{}" + SECOND + READ
    ARRIVE = "mbarrier.arrive{}.shared.b64 _, [bar];\n"

    @parameterized.named_parameters(
        ("arrival", FIRST + WRITE + "\nSYNC", wait(), ARRIVE.format(".relaxed.cta"), ARRIVE.format("")),
        (
            "wait",
            FIRST + WRITE + "\n" + ARRIVE.format(""),
            "SYNC",
            wait(0, ".relaxed.cta"),
            wait(0, ".acquire.cta"),
        ),
        (
            "fences",
            FIRST + WRITE + "\nSYNC\n" + ARRIVE.format(".relaxed.cta"),
            wait(0, ".relaxed.cta") + "fence.acq_rel.cta;",
            "",
            "fence.acq_rel.cta;",
        ),
        (
            "too_early",
            "SYNC\n" + FIRST + WRITE,
            wait(),
            ARRIVE.format(""),
            "st.shared.b32 [%r10+256], 1;\n" + FIRST + WRITE + "\n" + ARRIVE.format("") + "bra OUT;",
        ),
    )
    def test_mbarriers(self, first, second, without, with_):
        self.assert_both(self.MBARRIER.format(first, second), without, with_)

    def test_barrier_that_may_not_be_there_yet(self):
        body = FIRST + "@%p0 mbarrier.init.shared.b64 [bar], 64;\nSYNC" + SECOND
        body += "@!%p1 mbarrier.arrive.shared.b64 _, [bar];"
        self.assert_both(body, "bar.warp.sync -1;", "bar.sync 0;", "atomically changes")

    def test_barrier_that_is_taken_away(self):
        body = INIT.format(64) + ".loc 1 41 0\nmbarrier.arrive.shared.b64 _, [bar];\n" + wait()
        body += "SYNC" + SECOND + "@%p0 mbarrier.inval.shared.b64 [bar];"
        self.assert_both(body, "", "bar.sync 0;", "writes", lines=(42,))

    CLUSTER = """
    mov.u32 %r4, %cluster_ctarank;
    xor.b32 %r5, %r4, 1;
    mapa.shared::cluster.u32 %r12, %r10, %r5;
    """

    def test_other_ctas(self):
        body = self.CLUSTER + FIRST + "st.shared::cluster.b32 [%r12], %thread;\nSYNC\nbarrier.cluster.wait;"
        body += SECOND + "ld.shared.b32 %r20, [%r10];\nbarrier.cluster.arrive;\nbarrier.cluster.wait;"
        arrive = "barrier.cluster.arrive{};"
        without, with_ = arrive.format(".relaxed"), arrive.format("")
        self.assert_both(body, without, with_, "CTA (1, 0, 0)", grid=2, cluster=2)

    FLAG = """
    st.shared.b32 [flag], 0;
    bar.sync 0;
    @!%p1 bra SPIN;
    .loc 1 41 0
    st.shared.b32 [%r10], %thread;
    bar.warp.sync -1;
    PUBLISH
    bra OUT;
    SPIN:
    READ_FLAG
    setp.eq.u32 %p3, %r21, 0;
    @%p3 bra SPIN;
    ACQUIRE
    .loc 1 42 0
    ld.shared.b32 %r20, [%r11];
    """

    @parameterized.named_parameters(
        ("release", "st.release.cta.shared.b32 [flag], 1;", "ld.acquire.cta.shared.b32 %r21, [flag];", "", True),
        ("relaxed_write", "st.relaxed.cta.shared.b32 [flag], 1;", "ld.acquire.cta.shared.b32 %r21, [flag];", "", False),
        ("relaxed_read", "st.release.cta.shared.b32 [flag], 1;", "ld.relaxed.cta.shared.b32 %r21, [flag];", "", False),
        ("volatile", "st.volatile.shared.b32 [flag], 1;", "ld.volatile.shared.b32 %r21, [flag];", "", False),
        (
            *("fences", "membar.cta;\nst.volatile.shared.b32 [flag], 1;", "ld.volatile.shared.b32 %r21, [flag];"),
            *("fence.acq_rel.cta;", True),
        ),
        (
            *("one_fence", "membar.cta;\nst.volatile.shared.b32 [flag], 1;", "ld.volatile.shared.b32 %r21, [flag];"),
            *("", False),
        ),
        (
            *("atomics", "@%p0 red.release.cta.shared.add.u32 [flag], 1;"),
            *("atom.acquire.cta.shared.add.u32 %r21, [flag], 0;", "", True),
        ),
        (
            *("relaxed_atomics", "@%p0 red.shared.add.u32 [flag], 1;"),
            *("atom.shared.add.u32 %r21, [flag], 0;", "", False),
        ),
        (
            *("global_flag", "st.release.gpu.global.b32 [%out], 1;", "ld.acquire.gpu.global.b32 %r21, [%out];", ""),
            True,
        ),
    )
    def test_flags(self, publish, read, acquire, is_right):
        body = self.FLAG.replace("PUBLISH", publish).replace("READ_FLAG", read).replace("ACQUIRE", acquire)
        made = racing(body, arguments={"out": Output((256,), np.uint32, np.zeros(256, np.uint32))})
        if is_right:
            self.emulator.run(made)
        else:
            self.assert_race(made, "ld.shared.b32")

    def test_atomics_and_others(self):
        body = "st.shared.b32 [flag], 0;\nbar.sync 0;\n@!%p1 bra OTHER;\n" + FIRST
        body += "red.shared.add.u32 [flag], 1;\nbra OUT;\nOTHER:" + SECOND + "SYNC"
        self.assert_both(body, "ld.shared.b32 %r20, [flag];", "atom.shared.add.u32 %r20, [flag], 1;")

    def test_atomics_after_others(self):
        """Of the thread that wrote before, and of one that does not know of it."""
        body = FIRST + "@%p0 st.shared.b32 [flag], 0;\nSYNC" + SECOND + "atom.shared.add.u32 %r20, [flag], 1;"
        self.assert_both(body, "", "bar.warp.sync -1;", "lane 1 atomically changes", block=32)

    def test_bytes(self):
        body = "and.b32 %r30, %thread, SYNC;\nadd.u32 %r30, %r30, %r1;\n.loc 1 42 0\nst.shared.u8 [%r30], %thread;"
        self.assert_both(body, "31", "63", "writes shared offset", lines=(42,))

    def test_vectors(self):
        body = "and.b32 %r30, %thread, SYNC;\nmad.lo.u32 %r30, %r30, 8, %r1;\n.loc 1 42 0\n"
        self.assert_both(body + "st.shared.v2.b32 [%r30], {3, %thread};", "31", "63", "writes", lines=(42,))

    def test_switched_off(self):
        made = racing(FILL + FIRST + WRITE + SECOND + READ)
        self.assert_race(made)
        with mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_RACES="0"):
            self.emulator.run(made)


@unittest.skipUnless(has_emulator(), "this build has no emulator")
class GlobalTest(RacesTest):
    """Global memory, that two thread blocks access. The first is FIRST, the second SECOND; they have 32 threads each."""

    has_both_places = False  # the warp of the first access is not kept

    ROLES = """
    mov.u32 %r4, %ctaid.x;
    setp.ne.u32 %p2, %r4, 0;
    mad.wide.u32 %d1, %thread, 4, %data;
    @%p2 bra SECOND;
    .loc 1 41 0
    FIRST_DOES
    bra OUT;
    SECOND:
    BETWEEN
    .loc 1 42 0
    SECOND_DOES
    """

    def blocks(self, first: str, second: str, between: str = "", **more) -> Kernel:
        body = self.ROLES.replace("FIRST_DOES", first).replace("SECOND_DOES", second).replace("BETWEEN", between)
        arguments = {
            "data": Output((64,), np.uint32, np.zeros(64, np.uint32)),
            "sign": Output((1,), np.uint32, np.zeros(1, np.uint32)),
        }
        return racing(body, block=32, grid=2, arguments=arguments, **more)

    WRITE, READ = "st.global.b32 [%d1], 7;", "ld.global.b32 %r20, [%d1];"

    @parameterized.named_parameters(
        ("read_and_write", WRITE, READ),
        ("writes", WRITE, "st.global.b32 [%d1], 8;"),
        ("atomic_and_read", "red.global.add.u32 [%d1], 1;", READ),
        ("bytes", "st.global.u8 [%d1+1], 5;", "ld.global.u16 %h0, [%d1];"),
        ("vector", WRITE, "mad.wide.u32 %d1, %thread, 8, %data;\nld.global.v2.b32 {%r20, %r21}, [%d1];"),
    )
    def test_races(self, first, second):
        self.assert_race(self.blocks(first, second), "of an allocation of 256 bytes", "CTA (0, 0, 0)", "CTA (1, 0, 0)")

    @parameterized.named_parameters(
        ("reads", READ, READ),
        ("the_same_value", WRITE, WRITE),
        ("atomics", "red.global.add.u32 [%d1], 1;", "atom.global.add.u32 %r20, [%d1], 1;"),
        ("volatile", "st.volatile.global.b32 [%d1], 7;", "ld.volatile.global.b32 %r20, [%d1];"),
        ("other_bytes", "st.global.u8 [%d1+1], 5;", "st.global.u8 [%d1], 6;"),
        ("other_words", WRITE, "ld.global.b32 %r20, [%d1+128];"),
    )
    def test_no_races(self, first, second):
        self.emulator.run(self.blocks(first, second))

    SPIN = "SPIN:\nld{}.global.b32 %r21, [%sign];\nsetp.eq.u32 %p3, %r21, 0;\n@%p3 bra SPIN;"

    @parameterized.named_parameters(
        ("release", "", "st.release.gpu.global.b32 [%sign], 1;", True),
        ("fence", "membar.gl;", "st.volatile.global.b32 [%sign], 1;", True),
        ("atomic", "fence.acq_rel.gpu;", "@%p0 red.global.add.u32 [%sign], 1;", True),
        ("no_fence", "", "st.relaxed.gpu.global.b32 [%sign], 1;", False),
    )
    def test_signs(self, fence, publish, is_right):
        first = f"{self.WRITE}\nbar.warp.sync -1;\n{fence}\n{publish}"
        made = self.blocks(first, self.READ, between=self.SPIN.format(".acquire.gpu"))
        if is_right:
            self.emulator.run(made)
        else:
            self.assert_race(made, "reads offset")

    def test_copies(self):
        shared = "st.shared.b32 [%r10], 9;\nfence.proxy.async;\nbar.warp.sync -1;\n"
        store = "@%p0 cp.async.bulk.global.shared::cta.bulk_group [%data], [%r1], 128;\n"
        store += "cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;"
        self.assert_race(self.blocks(shared + store, self.READ), "cp.async.bulk.global.shared::cta.bulk_group")
        self.emulator.run(self.blocks(shared + store, "ld.global.b32 %r20, [%d1+128];"))

    def test_report(self):
        report = self.report(self.blocks(self.WRITE, "st.global.b32 [%d1], 8;"))
        self.assertRegex(
            report,
            r"^Race: lane \d+ writes offset \d+ of an allocation of 256 bytes, which another cluster has written, and "
            r"nothing orders the two\.\n  kernel test_kernel\n  CTA \([01], 0, 0\), warp 0, lanes 0-31\n"
            r"  at faulty.cu:4[12]; PTX line \d+: 'st.global.b32'\n"
            r"  and written by\n  CTA \([01], 0, 0\)\n  at faulty.cu:4[12]; PTX line \d+: 'st.global.b32'$",
        )

    def test_clusters(self):
        """Thread blocks of a cluster count as one."""
        self.emulator.run(self.blocks(self.WRITE, self.READ, cluster=2))


@unittest.skipUnless(has_emulator(), "this build has no emulator")
class CopiesTest(RacesTest):
    """Asynchronous copies: what they may overtake, and what waits for them."""

    PLACE = "mad.lo.u32 %r13, %thread, 16, %r1;\nmad.wide.u32 %d1, %thread, 16, %a;\nmad.lo.u32 %r14, %r2, 16, %r1;\n"
    PLACE += "st.shared.v4.b32 [%r13], {1, 2, 3, 4};\n"
    COPY = "cp.async.ca.shared.global [%r13], [%d1], 16;\n"
    READ_OWN = "ld.shared.b32 %r20, [%r13];"

    @parameterized.named_parameters(
        ("wait", "", "cp.async.wait_all;"),
        ("commit", "cp.async.wait_group 0;", "cp.async.commit_group;\ncp.async.wait_group 0;"),
        ("group", "cp.async.commit_group;\ncp.async.wait_group 1;", "cp.async.commit_group;\ncp.async.wait_group 0;"),
    )
    def test_copies_of_threads(self, without, with_):
        body = self.PLACE + FIRST + self.COPY + "SYNC" + SECOND + self.READ_OWN
        self.assert_both(body, without, with_, "lane 0", block=32)

    def test_later_group(self):
        body = self.PLACE + FIRST + self.COPY + "cp.async.commit_group;\n"
        body += "cp.async.ca.shared.global [%r13+512], [%d1], 16;\ncp.async.commit_group;\ncp.async.wait_group SYNC;"
        self.assert_both(body + SECOND + self.READ_OWN, "2", "1", block=32)

    def test_copies_of_others(self):
        """Who waits for the own copies knows nothing of another lane's."""
        body = self.PLACE + "bar.sync 0;\n" + FIRST + self.COPY + "cp.async.wait_all;\nSYNC"
        body += SECOND + "ld.shared.b32 %r20, [%r14];"
        self.assert_both(body, "", "bar.warp.sync -1;", "was begun there", distance=1, block=32)

    def test_copies_that_arrive(self):
        body = INIT.format(32) + self.PLACE + "bar.sync 0;\n@!%p1 bra OTHER;\n" + FIRST + self.COPY
        body += "SYNC\nbra OUT;\nOTHER:\n" + wait() + SECOND + "ld.shared.b32 %r20, [%r14];"
        arrive = "mbarrier.arrive.shared.b64 _, [bar];"
        self.assert_both(body, arrive, "cp.async.mbarrier.arrive.noinc.shared.b64 [bar];", "what lane 0 began")

    def test_own_copies_that_arrive(self):
        """Who has waited for earlier copies as such may learn of later ones from a barrier."""
        body = INIT.format(32) + self.PLACE + "bar.sync 0;\n" + self.COPY + "cp.async.wait_all;\n" + FIRST + self.COPY
        body += "SYNC\n" + wait() + SECOND + self.READ_OWN
        arrive = "mbarrier.arrive.shared.b64 _, [bar];"
        with_ = "cp.async.mbarrier.arrive.noinc.shared.b64 [bar];"
        self.assert_both(body, arrive, with_, "lane 0", block=32)

    def test_what_who_copies_knew(self):
        """The second of three warps reads, the third learns of it and copies, the first waits for that and writes."""
        body = INIT.format(32) + "st.shared.b32 [%r10], 5;\nbar.sync 0;\nsetp.eq.u32 %p2, %r3, 2;\n"
        body += (
            "@%p1 bra FIRST;\n@%p2 bra THIRD;\n.loc 1 41 0\nld.shared.b32 %r20, [%r11];\nbar.arrive 1, 64;\nbra OUT;\n"
        )
        body += "THIRD:\nSYNC\nmad.wide.u32 %d1, %thread, 4, %a;\ncp.async.ca.shared.global [%r10+1024], [%d1], 4;\n"
        body += "cp.async.mbarrier.arrive.noinc.shared.b64 [bar];\nbra OUT;\nFIRST:\n" + wait()
        body += SECOND + "st.shared.b32 [%r10], 1;"
        self.assert_both(body, "", "bar.sync 1, 64;", block=96)

    BULK = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%a], 256, [bar];\n"
    EXPECT = "mbarrier.arrive.expect_tx.shared.b64 _, [bar], 256;\n"

    def bulk_load(self, before: str, after: str) -> str:
        """The first thread has 256 bytes copied, over what all threads wrote; all of them read."""
        body = INIT.format(1) + WRITE + f"\n{before}\n@!%p0 bra MEET;\n" + self.EXPECT + FIRST + self.BULK
        return body + f"MEET:\n{after}" + SECOND + "ld.shared.b32 %r20, [%r10];"

    def test_bulk_copies(self):
        body = self.bulk_load("bar.sync 0;", "SYNC")
        self.assert_both(body, "bar.sync 0;", wait(), "what lane 0 began")

    def test_bulk_copies_that_overtake(self):
        body = self.bulk_load("SYNC", wait()).replace(WRITE, ".loc 1 42 0\n" + WRITE)
        self.assert_both(body, "bar.warp.sync -1;", "bar.sync 0;", "what lane 0 began writes shared offset")

    def test_boxes(self):
        body = INIT.format(1) + WRITE + "\nbar.sync 0;\n@!%p0 bra MEET;\n" + self.EXPECT + FIRST
        body += "mov.b32 %r30, 0;\ncp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        body += "[%r1], [%map, {%r30}], [bar];\nMEET:\nSYNC" + SECOND + "ld.shared.b32 %r20, [%r10];"
        arguments = {"map": TensorMap("a", "uint32", (256,), (), (64,))}
        self.assert_both(body, "bar.sync 0;", wait(), "what lane 0 began", arguments=arguments)

    def test_barrier_that_the_copy_engine_does_not_know(self):
        body = FIRST + "@%p0 mbarrier.init.shared.b64 [bar], 1;\nSYNC\nbar.sync 0;\n@!%p0 bra MEET;\n"
        body += self.EXPECT + SECOND + self.BULK + "MEET:\n" + wait()
        for fence in ("fence.mbarrier_init.release.cluster;", "fence.proxy.async.shared::cta;", "fence.proxy.async;"):
            self.assert_both(body, "fence.acq_rel.cta;", fence, "with no fence.proxy.async between the two")

    STORE = "cp.async.bulk.global.shared::cta.bulk_group [%out], [%r1], 256;\n"

    @parameterized.named_parameters(("by_the_writers", "SYNC\nbar.sync 0;"), ("by_the_issuer", "bar.sync 0;\nSYNC"))
    def test_proxy_fence(self, order):
        body = FIRST + WRITE + f"\n{order}\n@!%p0 bra OUT;" + SECOND + self.STORE
        body += "cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;"
        without = "fence.proxy.async.global;"
        self.assert_both(body, without, "fence.proxy.async.shared::cta;", "with no fence.proxy.async between the two")
        self.emulator.run(racing(body.replace("SYNC", "fence.proxy.async;")))

    @parameterized.named_parameters(
        ("wait", "cp.async.bulk.commit_group;", "cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;"),
        ("commit", "cp.async.bulk.wait_group.read 0;", "cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;"),
    )
    def test_sources_of_bulk_copies(self, without, with_):
        body = WRITE + "\nfence.proxy.async;\nbar.sync 0;\n@!%p0 bra MEET;\n" + FIRST + self.STORE + "SYNC\nMEET:\n"
        body += "bar.sync 0;" + SECOND + "st.shared.b32 [%r10], 1;"
        self.assert_both(body, without, with_, "cp.async.bulk.global.shared::cta.bulk_group")

    @parameterized.named_parameters(
        ("of_a_group", STORE + "cp.async.bulk.commit_group;\n", "cp.async.bulk.wait_group.read 0;"),
        ("on_a_barrier", EXPECT + BULK, "bra MEET;\nMEET:\n" + wait()),
    )
    def test_copies_that_outlive_their_block(self, copy, wait_for_it):
        body = INIT.format(1) + WRITE + "\nfence.proxy.async;\nbar.sync 0;\n@!%p0 bra OUT;\n.loc 1 42 0\n" + copy
        self.assert_both(body + "SYNC", "", wait_for_it, "The thread block ends while a copy", lines=(42,))

    def test_stores_that_tell_a_barrier(self):
        body = (
            ThreadsTest.CLUSTER
            + INIT.format(1)
            + WRITE
            + "\n@%p0 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 256;\n"
        )
        body += "barrier.cluster.arrive;\nbarrier.cluster.wait;\nmov.u32 %r6, bar;\n"
        body += "mapa.shared::cluster.u32 %r6, %r6, %r5;\n" + FIRST
        body += "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r12], 77, [%r6];\nSYNC" + SECOND
        body += "ld.shared.b32 %r20, [%r10];\nbarrier.cluster.arrive;\nbarrier.cluster.wait;"
        meet = "barrier.cluster.arrive;\nbarrier.cluster.wait;"
        self.assert_both(body, meet, wait(), "was begun there", grid=2, cluster=2)


@unittest.skipUnless(has_emulator(), "this build has no emulator")
class WarpgroupsTest(RacesTest):
    """Products, whose operands and results others may not touch; and registers."""

    # Factors of 64 x 16 and 16 x 8 halves, without swizzling; A in shared memory or in registers.
    PREPARE = """
    mad.lo.u32 %r13, %thread, 16, %r1;
    st.shared.v4.b32 [%r13], {0, 0, 0, 0};
    st.shared.v4.b32 [%r13+2048], {0, 0, 0, 0};
    FENCE
    bar.sync 0;
    and.b32 %r14, %r1, 0x3ffff;
    shr.u32 %r14, %r14, 4;
    cvt.u64.u32 %d1, %r14;
    or.b64 %d1, %d1, 0x1000080000;
    add.u64 %d2, %d1, 128;
    mov.f32 %f0, 0f00000000;
    mov.f32 %f1, %f0;
    mov.f32 %f2, %f0;
    mov.f32 %f3, %f0;
    mov.b32 %r40, 0;
    mov.b32 %r41, 0;
    mov.b32 %r42, 0;
    mov.b32 %r43, 0;
    setp.eq.u32 %p3, %thread, 9999;
    """
    MULTIPLY = "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f0, %f1, %f2, %f3}, "
    FROM_SHARED = MULTIPLY + "%d1, %d2, 1, 1, 1, 0, 0;\n"
    FROM_REGISTERS = MULTIPLY + "{%r40, %r41, %r42, %r43}, %d2, 1, 1, 1, 0;\n"
    FENCE, COMMIT, WAIT = (
        f"wgmma.{words}\n"
        for words in ("fence.sync.aligned;", "commit_group.sync.aligned;", "wait_group.sync.aligned 0;")
    )

    def products(self, body: str, fence: str = "fence.proxy.async;") -> str:
        return self.PREPARE.replace("FENCE", fence) + body

    @parameterized.named_parameters(("shared", FROM_SHARED), ("registers", FROM_REGISTERS))
    def test_proxy_fence(self, product):
        body = self.products(self.FENCE + ".loc 1 42 0\n" + product + self.COMMIT + self.WAIT, "SYNC")
        words = "by the async proxy, what lane 0 began reads", "with no fence.proxy.async"
        self.assert_both(body, "", "fence.proxy.async;", *words, lines=(42,), block=128)

    def test_operand_written_before_the_wait(self):
        body = self.products(self.FENCE + FIRST + self.FROM_SHARED + self.COMMIT + "SYNC")
        body += "bar.sync 0;" + SECOND + "st.shared.b32 [%r13], 1;"
        self.assert_both(body, "", self.WAIT, "writes shared offset", "and read, as was begun there", block=128)

    def test_operand_of_another_warp(self):
        body = self.products(self.FENCE + FIRST + self.FROM_SHARED + self.COMMIT + self.WAIT + "SYNC")
        body += SECOND + "st.shared.b32 [%r13+2048], 1;"
        self.assert_both(body, "", "bar.sync 0;", "writes shared offset", block=128)

    def test_operand_in_a_copy(self):
        """A product that begins before the factor's bytes have come."""
        copies = INIT.format(1) + "@!%p0 bra MEET;\n" + CopiesTest.EXPECT + FIRST + CopiesTest.BULK + "MEET:\nSYNC"
        body = self.products(copies + self.FENCE + ".loc 1 42 0\n" + self.FROM_SHARED + self.COMMIT + self.WAIT)
        self.assert_both(body, "bar.sync 0;", wait(), block=128)

    @parameterized.named_parameters(
        ("read", "mov.f32 %f9, %f2;", "It reads an accumulator"),
        ("write", "mov.f32 %f2, 0f00000000;", "It writes an accumulator"),
        ("store", "st.global.f32 [%out], %f0;", "It reads an accumulator"),
    )
    def test_accumulators(self, touch, words):
        body = self.products(self.FENCE + FIRST + self.FROM_SHARED + "SYNC" + SECOND + touch)
        for without in ("", self.COMMIT, self.WAIT, self.COMMIT + self.WAIT.replace("0;", "1;")):
            self.assert_both(body, without, self.COMMIT + self.WAIT, words, "given to the product", block=128)

    def test_factors_in_registers(self):
        body = self.products(
            self.FENCE + FIRST + self.FROM_REGISTERS + self.COMMIT + "SYNC" + SECOND + "add.u32 %r41, %r41, 1;"
        )
        self.assert_both(body, "", self.WAIT, "writes a register that is a factor", block=128)

    def test_products_in_flight_together(self):
        both = self.FROM_REGISTERS + self.FROM_SHARED + self.COMMIT
        self.emulator.run(racing(self.products(self.FENCE + both + both + self.WAIT), block=128))

    @parameterized.named_parameters(
        ("accumulator", "mov.f32 %f1, 0f3f800000;", FROM_SHARED), ("factor", "mov.b32 %r42, 5;", FROM_REGISTERS)
    )
    def test_wgmma_fence(self, change, product):
        body = self.products(
            self.FENCE + product + self.COMMIT + self.WAIT + FIRST + change + "\nSYNC" + SECOND + product
        )
        self.assert_both(
            body + self.COMMIT + self.WAIT, "", self.FENCE, "written after the last wgmma.fence", block=128
        )

    def test_first_wgmma_fence(self):
        body = self.products("SYNC.loc 1 42 0\n" + self.FROM_SHARED + self.COMMIT + self.WAIT)
        self.assert_both(body, "", self.FENCE, "no wgmma.fence before the first product", lines=(42,), block=128)

    def test_registers_changed_twice(self):
        body = "setmaxnreg.dec.sync.aligned.u32 160;\nSYNC.loc 1 42 0\nsetmaxnreg.dec.sync.aligned.u32 152;"
        self.assert_both(body, "", "bar.sync 0;\n", "setmaxnreg follows another one", lines=(42,), block=128)

    def test_registers_changed_differently(self):
        body = "@%p1 bra LESS;\n" + FIRST + "setmaxnreg.dec.sync.aligned.u32 160;\nbra OUT;\nLESS:\n"
        body += SECOND + "setmaxnreg.dec.sync.aligned.u32 SYNC;"
        self.assert_both(body, "152", "160", "setmaxnreg wants", block=128)


if __name__ == "__main__":
    unittest.main()
