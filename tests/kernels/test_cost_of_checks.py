"""Whether looking for races costs the emulator as little as docs/emulator.md says."""

import unittest

from absl.testing import parameterized

from jax_flash_mla import _ffi, _support
from kernels import cost_of_checks


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class CostTest(parameterized.TestCase):
    @parameterized.parameters(*cost_of_checks.FAMILIES)
    def test_ratio(self, name):
        if "SM100" in name and "sm100" not in _support.KERNELS["mha"]:
            self.skipTest("this build has no kernels for sm100")
        with_, without = cost_of_checks.measured(name, runs=1)
        self.assertLess(with_, cost_of_checks.MOST * without)


if __name__ == "__main__":
    unittest.main()
