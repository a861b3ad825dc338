"""The numbers that stand in C++ and in Python are the same."""

from absl.testing import parameterized

from jax_flash_mla import _extension, _support


class ConstantsTest(parameterized.TestCase):
    def test_sizes(self):
        self.assertEqual(_extension.EXTENSION.constants, _support.SIZES)

    def test_sizes_are_those_of_kernels(self):
        written = {operation for operation, archs in _support.WRITTEN.items() if archs}
        self.assertLessEqual(set(_support.SIZES), written)
        # Gradients have no line of their own in the table.
        self.assertLessEqual(set(_support.WORKSPACES), written | {"mha_backward", "sparse_backward"})
