"""What tests of the emulator's reports have in common."""

import re

from absl.testing import parameterized
from devices import Emulated, Kernel

# A report that says where both accesses were: thread block, warp and lanes, line of the source and of the PTX, and what
# was executed there.
_PLACE = r"\n  CTA \(\d+, \d+, \d+\), warp \d+, lanes [\d, -]+\n  at faulty\.cu:\d+; PTX line \d+: '[^'\n]+'"
BOTH_PLACES = re.compile(rf"\n  kernel test_kernel{_PLACE}\n  and [^\n]+ by{_PLACE}$")


class ReportTest(parameterized.TestCase):
    """Runs kernels in the emulator."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.emulator = Emulated()

    def report(self, made: Kernel) -> str:
        """Of a kernel that goes wrong."""
        with self.assertRaises(RuntimeError) as caught:
            self.emulator.run(made)
        return str(caught.exception)
