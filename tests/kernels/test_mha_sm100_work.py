"""What docs/kernels/mha_sm100.md says that a block of keys costs, of what the emulator has executed."""

import unittest

from absl.testing import parameterized

from jax_flash_mla import _ffi, _support
from kernels import mha_sm100_work as work
from kernels.posing import Posing

HAS_KERNEL = bool(_ffi.EMULATOR) and "sm100" in _support.KERNELS["mha"]
TILES, ROWS, PANEL_BYTES = 2, 128, 16384
BF16, DEPTH = 2, 16  # of a product: so many elements of a sum
# What an SM does in a clock: published rates of a B200.
FLOP, EXPONENTIALS, FMA, SHARED_BYTES, MAXIMA, COPIED_BYTES = 8192, 16, 128, 128, 64, 64


@unittest.skipUnless(HAS_KERNEL, "this build has no kernels for sm100")
class WorkTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.b200 = Posing("10.0", 2)
        cls.addClassCleanup(cls.b200.close)

    @parameterized.parameters((192, 24, 5, 2560, 2688), (128, 16, 4, 2048, 2048))
    def test_a_block_of_keys(self, d, score_products, panels, tensor_clocks, shared_clocks):
        softmax, other = (self.b200(work.of_a_block, d, warp) for warp in work.SOFTMAX)
        self.assertEqual(softmax, other)
        products, loads = (self.b200(work.of_a_block, d, warp) for warp in (work.PRODUCTS, work.LOADS))

        with self.subTest("products"):
            counts = sorted((count for name, count in products.items() if "tcgen05.mma" in name), reverse=True)
            scores, values = TILES * d // DEPTH, TILES * work.BLOCK // DEPTH
            self.assertEqual(scores, score_products)
            self.assertEqual(sorted((scores, values), reverse=True), counts)
            flop = 2 * ROWS * work.BLOCK * DEPTH * sum(counts)
            self.assertEqual(flop / FLOP, tensor_clocks)
        with self.subTest("exponentials"):
            exponentials = TILES * ROWS * softmax["ex2.approx.ftz.f32"]
            self.assertEqual((exponentials, exponentials / EXPONENTIALS), (32768, 2048))
        with self.subTest("pairs of floats"):
            self.assertEqual((softmax["fma.rn.f32x2"], softmax["add.rn.f32x2"]), (64, 67))
            pairs = TILES * ROWS * (softmax["fma.rn.f32x2"] + softmax["add.rn.f32x2"])
            self.assertEqual(2 * pairs / FMA, 524)
        with self.subTest("maxima and conversions"):
            # Of the maxima, ptxas makes one of three numbers from two.
            self.assertEqual((softmax["max.f32"], softmax["cvt.rn.bf16x2.f32"]), (127, 64))
            self.assertEqual(TILES * ROWS * (65 + softmax["cvt.rn.bf16x2.f32"]) / MAXIMA, 516)
        with self.subTest("copies"):
            self.assertEqual(loads["mbarrier.arrive.expect_tx.shared::cta.b64"], panels)
            self.assertEqual(panels * PANEL_BYTES / COPIED_BYTES, {192: 1280, 128: 1024}[d])
        with self.subTest("shared memory"):
            factors = BF16 * DEPTH * (2 * ROWS * scores + ROWS * values)  # weights are in tensor memory
            self.assertEqual((factors + panels * PANEL_BYTES) / SHARED_BYTES, shared_clocks)
        with self.subTest("tensor memory"):
            # 32 columns at a time, of a tile's lanes.
            self.assertEqual(softmax["tcgen05.ld.sync.aligned.32x32b.x32.b32"], 4)
            self.assertEqual(softmax["tcgen05.st.sync.aligned.32x32b.x32.b32"], 2)
        with self.subTest("outputs that stay as they are"):
            correction = self.b200(work.of_a_block, d, work.CORRECTION)
            self.assertEqual(sum("tcgen05.ld" in name or "tcgen05.st" in name for name in correction), 0)


if __name__ == "__main__":
    unittest.main()
