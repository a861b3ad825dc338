"""What a test build adds to a release, by which everything around the kernels is tested without a GPU."""

from absl.testing import parameterized
from base import implementations_of

from jax_flash_mla import _extension, _ffi, _support


class TestBuildTest(parameterized.TestCase):
    def test_every_target_is_there_on_the_cpu_too(self):
        """Once written plainly, under the same name, and once emulated."""
        self.assertNotEmpty(_extension.TARGETS)
        self.assertEqual(_extension.HOST_TARGETS, _extension.TARGETS)
        emulated = _extension.EMULATOR.targets()["cpu"]
        self.assertEqual(set(emulated), {target + _ffi.EMULATED_SUFFIX for target in _extension.TARGETS})

    def test_every_operation_with_a_kernel_is_tested_through_the_custom_call(self):
        for operation, archs in _support.WRITTEN.items():
            self.assertEqual(_support.HOST in implementations_of(operation), bool(archs), operation)
