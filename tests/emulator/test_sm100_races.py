"""Races in tensor memory, and in what is multiplied from shared memory: a kernel for each, and what makes it right."""

import numpy as np
from absl.testing import parameterized
from devices import Kernel
from reports import BOTH_PLACES
from sm100 import wait_for_barrier
from sm100_warps import AFTER, BEFORE, LOAD, WarpsTest, in_warp

WAIT_FOR_LOADS, WAIT_FOR_STORES = "tcgen05.wait::ld.sync.aligned;\n", "tcgen05.wait::st.sync.aligned;\n"
STORE = "tcgen05.st.sync.aligned.32x32b.x1.b32 [%mine], {%thread};\n"
LOAD_MINE = LOAD.format("%mine") + "\n" + WAIT_FOR_LOADS
KEEP = "mad.wide.u32 %row, %thread, 4, %out;\nst.global.b32 [%row], %r0;\n"
FENCE = "fence.proxy.async.shared::cta;\n"


class TensorRacesTest(WarpsTest):
    """All begins in one warp, with 64 columns that it has written; a product is one of rows in shared"""

    def assert_race(self, wrong, right, *words):
        """The report has these words, and both places; the other kernel has no race."""
        with self.assertRaisesRegex(RuntimeError, BOTH_PLACES) as caught:
            self.emulator.run(wrong)
        for word in words:
            self.assertIn(word, str(caught.exception))
        self.emulator.run(right)

    def test_store_and_load(self):
        self.assert_race(
            self.made(STORE + LOAD_MINE),
            self.made(STORE + WAIT_FOR_STORES + LOAD_MINE),
            "lane 64, column 0 of tensor memory, which another one has",
        )

    def test_product_and_load(self):
        done = self.COMMIT + wait_for_barrier("DONE") + AFTER
        self.assert_race(
            self.product(LOAD_MINE + KEEP),
            self.product(done + LOAD_MINE + KEEP),
            "of tensor memory, which another one has",
        )

    def test_product_and_store(self):
        done = self.COMMIT + wait_for_barrier("DONE") + AFTER
        self.assert_race(
            self.product(STORE + WAIT_FOR_STORES),
            self.product(done + STORE + WAIT_FOR_STORES),
            "of tensor memory, which another one has written",
        )

    def test_store_of_a_warp_and_product_of_another(self):
        """Who starts the product must have heard that the store is done, and not only that it was begun."""
        plain = self.product(self.COMMIT + wait_for_barrier("DONE") + AFTER, fill=False)

        def made(wait):
            text = ".loc 1 600 0\n" + in_warp(1, STORE + wait + BEFORE + "barrier.sync 2, 64;", "STORED")
            text += in_warp(0, "barrier.sync 2, 64;\n" + AFTER, "HEARD")
            ptx = plain.ptx.replace("@%first mbarrier.init", text + "@%first mbarrier.init")
            return Kernel(ptx, plain.entry, plain.arguments, plain.grid, plain.block)

        words = ("of tensor memory, which another one has written", "tcgen05.mma")
        self.assert_race(made(""), made(WAIT_FOR_STORES), *words)

    @parameterized.named_parameters(
        ("read", "add.u32 %r1, %r0, 1;\n", "It reads a register that a tcgen05.ld fills"),
        ("stored", "st.shared.b32 [box], %r0;\n", "It reads a register that a tcgen05.ld fills"),
        ("copied", "mov.b32 %r1, %r0;\nadd.u32 %r1, %r1, 1;\n", "It reads a register that a tcgen05.ld fills"),
        ("packed", "mov.b64 %d0, {%r0, %r0};\nadd.u64 %d0, %d0, 1;\n", "It reads a register that a tcgen05.ld fills"),
        ("written", "add.u32 %r0, %warp, 1;\n", "It writes a register that a tcgen05.ld fills"),
    )
    def test_loads_that_nobody_waited_for(self, use, words):
        load = LOAD.format("%mine") + "\n"
        self.assert_race(self.made(load + use), self.made(load + WAIT_FOR_LOADS + use), words, "tcgen05.ld")

    def test_copies_of_what_is_being_loaded(self):
        """Compilers copy before the wait. A copy of something else is none of it; a later load is waited for as well."""
        text = LOAD.format("%mine") + "\nmov.b32 %r1, %r0;\nmov.b32 %r2, %warp;\nadd.u32 %r2, %r2, 1;\n"
        text += LOAD.format("%mine").replace("%r0", "%r3") + "\nmov.b32 %r1, %warp;\nadd.u32 %r1, %r1, 1;\n"
        self.emulator.run(self.made(text + WAIT_FOR_LOADS + "add.u32 %r0, %r0, %r3;\n"))

    def test_fences(self):
        """Before the barrier that a store is published by, and after the one that a product is."""
        right = self.product(self.COMMIT + wait_for_barrier("DONE") + AFTER + LOAD_MINE + KEEP)
        without = self.product(self.COMMIT + wait_for_barrier("DONE") + LOAD_MINE + KEEP)
        self.assert_race(without, right, "without tcgen05.fence", "tcgen05.ld", "tcgen05.mma")
        for fence in (BEFORE, AFTER):
            ptx = right.ptx.replace(fence, "", 1)
            wrong = Kernel(ptx, right.entry, right.arguments, right.grid, right.block)
            self.assert_race(wrong, right, "without tcgen05.fence", "tcgen05.mma", "tcgen05.st")

    def test_operand_that_is_overwritten(self):
        overwrite, done = "@%first st.shared.b32 [box], 1;\n", self.COMMIT + wait_for_barrier("DONE") + AFTER
        self.assert_race(self.product(overwrite + done), self.product(done + overwrite), "shared offset")

    def test_operand_without_a_fence(self):
        right = self.product(self.COMMIT + wait_for_barrier("DONE") + AFTER)
        wrong = Kernel(right.ptx.replace(FENCE, ""), right.entry, right.arguments, right.grid, right.block)
        self.assert_race(wrong, right, "by the async proxy", "tcgen05.mma")

    def test_products_of_a_thread_are_in_order(self):
        text = (
            self.PRODUCT.format(*self.descriptors()) + self.COMMIT + wait_for_barrier("DONE") + AFTER + LOAD_MINE + KEEP
        )
        (out,) = self.emulator.run(self.product(text))
        np.testing.assert_array_equal(out[:32], 0)
