"""Kernels that wait forever: who waits where, for what, and what is missing."""

import os
import time
import unittest
from unittest import mock

import numpy as np
from absl.testing import parameterized
from devices import Kernel, Output, has_emulator
from reports import ReportTest
from writing import BARRIERS, FAULTY, kernel


def stuck(body: str, **more) -> Kernel:
    """A kernel of four warps whose bodies are at different lines; who should not wait goes to OUT."""
    more = {"grid": 2, "block": 128} | more
    text = "shr.u32 %r0, %thread, 5;\n" + body + "\nOUT:\n"
    return kernel({"out": Output((16,), np.uint32)}, text, shared=FAULTY + BARRIERS, **more)


# Everywhere but in CTA 1 nothing happens.
ONLY_ONE = "mov.u32 %r90, %ctaid.x;\nsetp.ne.u32 %p90, %r90, 1;\n@%p90 bra OUT;\n"


def spinning(body: str, **more) -> Kernel:
    """Of a word that is zero, and another."""
    more = {"grid": 2, "block": 128} | more
    return kernel({"out": Output((2,), np.uint32, np.zeros(2, np.uint32))}, body, shared=FAULTY + BARRIERS, **more)


INNER_LOOP = """
mov.u32 %r2, 5;
INNER:
sub.u32 %r2, %r2, 1;
setp.ne.u32 %p2, %r2, 0;
@%p2 bra INNER;
"""


class WaitingTest(ReportTest):
    headline = "Deadlock: no thread can go on."

    def report(self, made: Kernel) -> str:
        report = super().report(made)
        self.assertIn(self.headline, report)
        self.assertIn("kernel test_kernel", report)
        return report


@unittest.skipUnless(has_emulator(), "this build has no emulator")
class DeadlockTest(WaitingTest):
    def test_mbarriers(self):
        """Two warps, each waiting for what the other would do after it."""
        body = (
            ONLY_ONE
            + """
        setp.eq.u32 %p0, %thread, 0;
        @%p0 mbarrier.init.shared.b64 [bar], 2;
        @%p0 mbarrier.init.shared.b64 [box], 1;
        bar.sync 0;
        setp.ge.u32 %p1, %r0, 2;
        @%p1 bra OUT;
        setp.eq.u32 %p2, %r0, 1;
        @%p2 bra SECOND;
        .loc 1 41 0
        @%p0 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 4096;
        FIRST:
        .loc 1 42 0
        mbarrier.try_wait.parity.shared.b64 %p3, [bar], 0;
        @!%p3 bra FIRST;
        mbarrier.arrive.shared.b64 _, [box];
        bra OUT;
        SECOND:
        .loc 1 43 0
        mbarrier.try_wait.parity.shared.b64 %p3, [box], 0;
        @!%p3 bra SECOND;
        mbarrier.arrive.shared.b64 _, [bar];
        """
        )
        report = self.report(stuck(body))
        for words in (
            "CTA (1, 0, 0), warp 0, lanes 0-31 waits for the end of a phase of parity 0 of the mbarrier at shared offset 0 "
            "(in phase 0, 1 of 2 arrivals pending, 4096 bytes pending)",
            "CTA (1, 0, 0), warp 1, lanes 0-31 waits for the end of a phase of parity 0 of the mbarrier at shared offset 16 "
            "(in phase 0, 1 of 1 arrivals pending, 0 bytes pending)",
            *("faulty.cu:42", "faulty.cu:43", "'mbarrier.try_wait.parity.shared.b64'"),
        ):
            self.assertIn(words, report)
        self.assertNotIn("CTA (0, 0, 0)", report)
        self.assertNotIn("warp 2", report)

    def test_wrong_parity(self):
        """A second wait for the same phase's parity, when that has become the parity of the one to come."""
        body = """
        setp.eq.u32 %p0, %thread, 0;
        @%p0 mbarrier.init.shared.b64 [bar], 128;
        bar.sync 0;
        mbarrier.arrive.shared.b64 _, [bar];
        AGAIN:
        .loc 1 50 0
        mbarrier.try_wait.parity.shared.b64 %p3, [bar], 0;
        @!%p3 bra AGAIN;
        OTHER:
        .loc 1 51 0
        mbarrier.try_wait.parity.shared.b64 %p3, [bar], 1;
        @!%p3 bra OTHER;
        """
        report = self.report(stuck(body))
        self.assertIn(
            "waits for the end of a phase of parity 1 of the mbarrier at shared offset 0 (in phase 1, 128 of 128",
            report,
        )
        self.assertIn("faulty.cu:51", report)

    def test_loops_that_test(self):
        """Threads that ask again and again, without waiting."""
        body = """
        setp.eq.u32 %p0, %thread, 0;
        @%p0 mbarrier.init.shared.b64 [bar], 1;
        bar.sync 0;
        AGAIN:
        .loc 1 60 0
        mbarrier.test_wait.parity.shared.b64 %p3, [bar], 0;
        @!%p3 bra AGAIN;
        """
        self.assertIn("faulty.cu:60", self.report(stuck(body)))

    def test_named_barriers(self):
        body = (
            ONLY_ONE
            + """
        setp.eq.u32 %p1, %r0, 1;
        @%p1 bra SECOND;
        setp.ge.u32 %p1, %r0, 2;
        @%p1 bra OUT;
        .loc 1 42 0
        bar.sync 3, 64;
        bar.sync 4, 64;
        bra OUT;
        SECOND:
        .loc 1 43 0
        bar.sync 4, 64;
        bar.sync 3, 64;
        """
        )
        report = self.report(stuck(body))
        for words in (
            "CTA (1, 0, 0), warp 0, lanes 0-31 waits at barrier 3 (32 threads arrived of 64)",
            "CTA (1, 0, 0), warp 1, lanes 0-31 waits at barrier 4 (32 threads arrived of 64)",
            *("faulty.cu:42", "faulty.cu:43", "'bar.sync'"),
        ):
            self.assertIn(words, report)

    def test_warps_that_spin(self):
        """Two warps waiting for words that the other would write after it."""
        body = """
        setp.ge.u32 %p1, %r0, 2;
        @%p1 bra OUT;
        mad.lo.u32 %r2, %r0, 4, 0;
        mov.u32 %r1, box;
        st.shared.b64 [%r1], 0;
        add.u32 %r1, %r1, %r2;
        bar.sync 1, 64;
        SPIN:
        .loc 1 70 0
        ld.volatile.shared.b32 %r3, [%r1];
        setp.eq.u32 %p2, %r3, 0;
        @%p2 bra SPIN;
        """
        body = body.replace("st.shared.b64 [%r1], 0;", "mov.b64 %d0, 0;\nst.shared.b64 [%r1], %d0;")
        report = self.report(stuck(body))
        self.assertIn("goes on without effect", report)
        self.assertIn("faulty.cu:70", report)

    def test_cluster(self):
        """One CTA leaves the other's arrival out."""
        body = """
        mov.u32 %r1, %cluster_ctarank;
        setp.eq.u32 %p0, %r1, 0;
        .loc 1 80 0
        @%p0 barrier.cluster.arrive;
        @%p0 barrier.cluster.wait;
        mbarrier.init.shared.b64 [bar], 1000;
        .loc 1 81 0
        bar.sync 0;
        setp.eq.u32 %p0, %r0, 99;
        AGAIN:
        .loc 1 82 0
        mbarrier.try_wait.parity.shared.b64 %p1, [bar], 0;
        @!%p1 bra AGAIN;
        """
        report = self.report(stuck(body, cluster=2))
        missing = "waits at the barrier of its cluster, where these are missing: CTA (1, 0, 0), warps 0-3\n"
        for warp in range(4):
            self.assertIn(f"CTA (0, 0, 0), warp {warp}, lanes 0-31 {missing}", report)
        self.assertIn("CTA (1, 0, 0), warp 0, lanes 0-31 waits for the end of a phase", report)

    def test_cluster_that_lacks_some_lanes(self):
        """Of two warps, in different CTAs."""
        body = """
        mov.u32 %r1, %cluster_ctarank;
        mad.lo.u32 %r2, %r1, 64, 37;
        setp.eq.u32 %p0, %thread, %r2;
        @%p0 bra STAY;
        barrier.cluster.arrive;
        barrier.cluster.wait;
        bra OUT;
        STAY:
        bar.sync 1, 64;
        """
        report = self.report(stuck(body, cluster=2))
        self.assertIn("missing: CTA (0, 0, 0), warps 1; CTA (1, 0, 0), warps 3\n", report)

    def test_registers(self):
        """A warpgroup wants more than another gives up; each of 384 threads has 168 at the launch."""
        body = """
        setp.lt.u32 %p0, %thread, 128;
        @%p0 bra GIVES;
        setp.lt.u32 %p0, %thread, 256;
        @%p0 bra OUT;
        .loc 1 85 0
        setmaxnreg.inc.sync.aligned.u32 232;
        bra OUT;
        GIVES:
        setmaxnreg.dec.sync.aligned.u32 160;
        """
        report = self.report(stuck(body, block=384, grid=1))
        for warp in range(8, 12):
            self.assertIn(
                f"warp {warp}, lanes 0-31 waits for 2048 registers; others of its CTA have given up 1024", report
            )
        self.assertIn("faulty.cu:85", report)

    def test_lanes_of_a_warp(self):
        """Half of a warp meets at a barrier of all of it; the others wait for something else."""
        body = """
        setp.eq.u32 %p0, %thread, 0;
        @%p0 mbarrier.init.shared.b64 [bar], 1;
        bar.sync 0;
        setp.lt.u32 %p1, %thread, 16;
        @%p1 bra LOW;
        .loc 1 90 0
        bar.warp.sync -1;
        bra OUT;
        LOW:
        .loc 1 91 0
        mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0;
        @!%p2 bra LOW;
        bar.warp.sync -1;
        """
        report = self.report(stuck(body, block=32, grid=1))
        self.assertIn("warp 0, lanes 16-31 waits for lanes 0-15 of its warp", report)
        self.assertIn("faulty.cu:90", report)
        self.assertIn("warp 0, lanes 0-15 waits for the end of a phase", report)

    @parameterized.named_parameters(
        ("load", "ld.acquire.gpu.global.b32 %r1, [%out];"),
        ("compare_and_swap", "atom.global.cas.b32 %r1, [%out], 1, 2;"),
        ("exchange", "atom.global.exch.b32 %r1, [%out], 5;"),
        ("load_and_store", "mov.b64 %d0, 7;\nst.shared.b64 [bar], %d0;\nld.acquire.gpu.global.b32 %r1, [%out];"),
        ("sleep", "nanosleep.u32 20;\nld.acquire.gpu.global.b32 %r1, [%out];"),
        ("inner_loop", INNER_LOOP + "ld.acquire.gpu.global.b32 %r1, [%out];"),
    )
    def test_spins(self, instructions):
        """All of the grid's warps, which have the same in their registers each time round: found at once."""
        body = f"SPIN:\n.loc 1 95 0\n{instructions}\nsetp.ne.u32 %p0, %r1, 1;\n@%p0 bra SPIN;"
        begin = time.monotonic()
        report = self.report(spinning(body))
        self.assertLess(time.monotonic() - begin, 5)
        self.assertIn("CTA (1, 0, 0), warp 3, lanes 0-31 goes on without effect", report)
        self.assertIn("faulty.cu:95", report)

    def test_one_lane_spins(self):
        """For its warp, which waits at a barrier of lanes."""
        body = """
        setp.ne.u32 %p1, %thread, 3;
        @%p1 bra MEET;
        SPIN:
        ld.acquire.gpu.global.b32 %r1, [%out];
        setp.ne.u32 %p0, %r1, 1;
        @%p0 bra SPIN;
        MEET:
        bar.warp.sync -1;
        """
        report = self.report(spinning(body, block=32, grid=1))
        self.assertIn("lanes 3 goes on without effect", report)
        self.assertIn("lanes 0-2, 4-31 waits for lanes 3 of its warp", report)


@unittest.skipUnless(has_emulator(), "this build has no emulator")
class LivelockTest(WaitingTest):
    """Loops in which something is different each time."""

    headline = "Livelock: in the last 1 million instructions"

    @parameterized.named_parameters(
        (
            "memory",
            "ld.shared.b64 %d0, [bar];\nadd.u64 %d0, %d0, 1;\nst.shared.b64 [bar], %d0;",
            "though memory changes",
        ),
        ("atomics", "atom.global.add.u32 %r1, [%out+4], 1;", "though memory changes"),
        ("registers", "add.u64 %d0, %d0, 1;", "nothing happened"),
    )
    def test_counting(self, count, words):
        body = f"""
        mov.b64 %d0, 0;
        st.shared.b64 [bar], %d0;
        SPIN:
        {count}
        ld.global.b32 %r1, [%out];
        setp.ne.u32 %p0, %r1, 1;
        .loc 1 99 0
        @%p0 bra SPIN;
        """
        patience = "1" if "memory" in words else "8"
        with mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_PATIENCE=patience):
            report = self.report(spinning(body, grid=1, block=1))
        self.assertIn(words, report)
        self.assertIn("goes on without effect", report)


@unittest.skipUnless(has_emulator(), "this build has no emulator")
class WaitingThatEndsTest(WaitingTest):
    """No deadlocks, however much they look like one."""

    def run_one(self, body: str, **more) -> np.ndarray:
        return self.emulator.run(spinning(body, **more))[0]

    @parameterized.named_parameters(("counting", "add.u32 %r9, %r9, 1;"), ("with_the_same_registers", ""))
    def test_for_the_last_block(self, count):
        """Of more than are begun at once: blocks add up to as many as there are."""
        body = f"""
        mov.u32 %r9, 0;
        atom.global.add.u32 %r0, [%out], 1;
        SPIN:
        {count}
        ld.acquire.gpu.global.b32 %r1, [%out];
        setp.ne.u32 %p0, %r1, 9;
        @%p0 bra SPIN;
        """
        with mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_THREADS="2"):
            self.assertEqual(self.run_one(body, grid=9, block=1)[0], 9)

    @parameterized.parameters(2, 3, 4)
    def test_for_its_turn(self, threads):
        """Blocks write in turn, each waiting for another number: all but one find nothing, again and again."""
        body = """
        mov.u32 %r2, %ctaid.x;
        ROUND:
        SPIN:
        ld.acquire.gpu.global.b32 %r1, [%out];
        setp.ne.u32 %p0, %r1, %r2;
        @%p0 bra SPIN;
        add.u32 %r1, %r1, 1;
        st.release.gpu.global.b32 [%out], %r1;
        add.u32 %r2, %r2, 5;
        setp.lt.u32 %p1, %r2, 1000;
        @%p1 bra ROUND;
        """
        with mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_THREADS=str(threads)):
            self.assertEqual(self.run_one(body, grid=5, block=1)[0], 1000)

    def test_a_counter_that_no_register_keeps(self):
        body = """
        .local .align 4 .b8 mine[4];
        mov.u32 %r0, 0;
        st.local.b32 [mine], %r0;
        LOOP:
        ld.local.b32 %r0, [mine];
        add.u32 %r0, %r0, 1;
        st.local.b32 [mine], %r0;
        setp.lt.u32 %p0, %r0, 50000;
        mov.u32 %r0, 0;
        @%p0 bra LOOP;
        ld.local.b32 %r0, [mine];
        st.global.b32 [%out], %r0;
        """
        self.assertEqual(self.run_one(body, grid=1, block=32)[0], 50000)

    def test_for_the_clock(self):
        body = """
        mov.u64 %d0, %globaltimer;
        add.u64 %d0, %d0, 100000000;
        LOOP:
        mov.u64 %d1, %globaltimer;
        setp.lt.u64 %p0, %d1, %d0;
        mov.u64 %d1, 0;
        @%p0 bra LOOP;
        mov.u32 %r0, 1;
        st.global.b32 [%out], %r0;
        """
        self.assertEqual(self.run_one(body, grid=1, block=32)[0], 1)

    @parameterized.named_parameters(
        ("lanes", "setp.eq.u32 %p1, %thread, 3;", 30_000, "bar.warp.sync -1;", 32),
        ("a_warp", "setp.lt.u32 %p1, %thread, 32;", 300_000, "bar.sync 0;", 64),
    )
    def test_for_others_that_count(self, who_waits, count, barrier, block):
        """For a word that is written once the others have counted down."""
        body = f"""
        {who_waits}
        @%p1 bra SPIN;
        mov.u32 %r0, {count};
        COUNT:
        sub.u32 %r0, %r0, 1;
        setp.ne.u32 %p0, %r0, 0;
        @%p0 bra COUNT;
        mov.u32 %r0, 1;
        st.global.b32 [%out], %r0;
        bra MEET;
        SPIN:
        ld.acquire.gpu.global.b32 %r1, [%out];
        setp.ne.u32 %p0, %r1, 1;
        @%p0 bra SPIN;
        MEET:
        {barrier}
        """
        self.assertEqual(self.run_one(body, grid=1, block=block)[0], 1)
