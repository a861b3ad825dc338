"""Environment variables that are numbers: they are read at each launch."""

import os
import tempfile
import unittest
from unittest import mock

import numpy as np
from absl.testing import parameterized
from devices import Emulated, Output, has_emulator
from writing import kernel

BODY = "mov.u32 %r0, %nsmid;\nst.global.b32 [%out], %r0;"


@unittest.skipUnless(has_emulator(), "this build has no emulator")
class EnvironmentTest(parameterized.TestCase):
    def multiprocessors(self, **variables):
        """How many the kernel sees with JAX_FLASH_MLA_EMULATOR_… set, and what is printed."""
        environment = {f"JAX_FLASH_MLA_EMULATOR_{name}": value for name, value in variables.items()}
        with mock.patch.dict(os.environ, environment), tempfile.TemporaryFile() as printed:
            stderr = os.dup(2)
            os.dup2(printed.fileno(), 2)
            try:
                (out,) = Emulated().run(kernel({"out": Output((1,), np.uint32)}, BODY, block=1))
            finally:
                os.dup2(stderr, 2)
                os.close(stderr)
            printed.seek(0)
            return int(out[0]), printed.read().decode()

    def test_numbers(self):
        for sms in (1, 7, 132, 1024):
            self.assertEqual(self.multiprocessors(SMS=str(sms), THREADS="2", PATIENCE="3", RACES="0"), (sms, ""))
        self.assertEqual(self.multiprocessors(), (132, ""))

    @parameterized.product(name=("SMS", "THREADS", "PATIENCE"), value=("0", "-3", "4x", "many", "99999999999999999999"))
    def test_what_is_no_number(self, name, value):
        sms, printed = self.multiprocessors(**{name: value})
        self.assertEqual(sms, 132)
        self.assertRegex(printed, f"^JAX_FLASH_MLA_EMULATOR_{name}={value}: not a number from 1 to [0-9]+, ignored\n")

    @parameterized.parameters("2", "-1", "on")
    def test_what_is_neither_0_nor_1(self, value):
        printed = f"JAX_FLASH_MLA_EMULATOR_RACES={value}: not a number from 0 to 1, ignored\n"
        self.assertEqual(self.multiprocessors(RACES=value), (132, printed))

    def test_without_an_instruction(self):
        body = "mov.u32 %r0, 5;\nst.global.b32 [%out], %r0;\nmov.u32 %r1, 6;\nst.global.b32 [%out], %r1;"
        made = kernel({"out": Output((1,), np.uint32)}, body, block=1)
        second = 1 + max(i for i, line in enumerate(made.ptx.splitlines()) if "st.global" in line)
        for without, expected in (("", 6), (f"test_kernel:{second}", 5), (f"other_kernel:{second}", 6)):
            with mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_WITHOUT=without):
                (out,) = Emulated().run(made)
            self.assertEqual(out[0], expected)
        with (
            mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_WITHOUT="test_kernel:1"),
            self.assertRaisesRegex(ValueError, "test_kernel:1 names a line where the kernel has no instruction"),
        ):
            Emulated().run(made)
