"""How far the results of kernels may be from the float64 oracle."""

import numpy as np
from absl.testing import parameterized

from jax_flash_mla._check.tolerance import ARITHMETIC, ROUNDING


class KernelTest(parameterized.TestCase):
    def assert_same_kinds(self, got, want):
        """NaN where the oracle has NaN, and its infinities."""
        got = got.astype(np.float64)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_array_equal(np.isinf(got) * np.sign(got), np.isinf(want) * np.sign(want))

    def assert_out(self, out, want, spread, summed=None):
        """Every element within what the rounding of weights and of the result allows.

        Rounded weights have errors of half a unit in the last place at most, which spread
        over the interval: four times the spread is more than six standard deviations, and no
        less than the largest error possible with 16 keys or fewer. ``summed`` is the type that
        weights were rounded to, where it is not the result's.
        """
        self.assert_same_kinds(out, want)
        finite = np.isfinite(want)
        largest = max(1.0, np.abs(want[finite]).max(initial=0))
        rounding, rounding_of_weights = ROUNDING[out.dtype.name], ROUNDING[summed or out.dtype.name]
        allowed = ARITHMETIC * largest + rounding * np.abs(want) + rounding_of_weights * 4 * spread
        error = np.abs(out.astype(np.float64) - want)[finite] / allowed[finite]
        self.assertLessEqual(error.max(initial=0), 1)

    def assert_logits(self, got, want):
        """Maxima and log-sum-exps: float32 arithmetic, in proportion to the largest of them."""
        self.assert_same_kinds(got, want)
        finite = np.isfinite(want)
        largest = max(1.0, np.abs(want[finite]).max(initial=0))
        self.assertLessEqual(np.abs(got[finite] - want[finite]).max(initial=0), ARITHMETIC * largest)
