"""What tests of the emulator's reports have in common."""

from absl.testing import parameterized
from devices import Emulated, Kernel


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
