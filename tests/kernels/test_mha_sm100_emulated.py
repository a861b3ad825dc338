"""The SM100 kernels of multi-head attention in the emulator, which poses as a B200."""

import unittest

import numpy as np
from absl.testing import parameterized

from jax_flash_mla import _ffi, _support
from kernels.mha_emulated import ForwardTest
from kernels.mha_problem import Problem, run_poisoned
from kernels.posing import Posing

HAS_KERNEL = bool(_ffi.EMULATOR) and "sm100" in _support.KERNELS["mha"]
MULTIPROCESSORS = 2  # so few that each has several items, of different lengths


@unittest.skipUnless(HAS_KERNEL, "this build has no kernels for sm100")
class MhaSm100EmulatedTest(ForwardTest):
    __test__ = True

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.b200 = Posing("10.0", MULTIPROCESSORS)
        cls.addClassCleanup(cls.b200.close)

    def call(self, problem, poison):
        return self.b200(run_poisoned, problem, poison, emulated=True)

    def call_function(self, function, *arguments):
        return self.b200(function, *arguments)

    @parameterized.product(d=(192, 128), causal=(False, True))
    def test_items_of_two_tiles(self, d, causal):
        """More keys than the ring of slots holds; a last item with one tile, and one whose tiles see as many blocks."""
        lengths = dict(q_lengths=[[600], [256]], kv_lengths=[[700], [384]])
        problem = Problem(np.random.default_rng(14), **lengths, h_q=2, d=d, causal=causal)
        problem.spoil_unused(np.nan)
        self.check(problem)

    def test_values_of_items_behind_each_other(self):
        """Items whose values have to be cleared follow each other while their places in the ring are still in use."""
        for d in (192, 128):
            lengths = [[152, 337, 20], [447, 313, 130]]
            problem = Problem(np.random.default_rng(17), q_lengths=lengths, kv_lengths=lengths, padding=3, h_q=1, d=d)
            problem.spoil_unused(np.nan)
            problem.v[0, 489:509] = np.inf  # the third sequence's, which the second one must not see
            out, lse = self.call(problem, np.nan)
            problem.v[0, 489:509] = 0
            want, want_lse = self.call(problem, np.nan)
            others = np.r_[:489, 509 : out.shape[1]]
            np.testing.assert_array_equal(out[:, others], want[:, others])
            np.testing.assert_array_equal(lse, want_lse)
            self.assert_right(problem, (want, want_lse))

    def test_huge_scale(self):
        """Products that are rounded before the maximum is subtracted."""
        problem = Problem(np.random.default_rng(15), q_lengths=[150], kv_lengths=[200], causal=True)
        problem.scale = 1e30
        self.check(problem)

    def test_infinite_values_in_padding(self):
        for d in (192, 128):
            problem = Problem(np.random.default_rng(16), q_lengths=[30, 40], kv_lengths=[61, 130], padding=90, d=d)
            problem.spoil_unused(np.inf)
            self.check(problem)
