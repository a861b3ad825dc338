"""Looking at a kernel while it runs: docs/emulator.md says how."""

import os
import tempfile
import unittest
from unittest import mock

import numpy as np
from absl.testing import parameterized
from devices import Emulated, Input, Output, has_emulator
from writing import kernel

# Thread t puts t, as a float16, into the swizzled place of element t of a tile of 4 rows of 64; then adds.
TILE = """
    cvt.rn.f16.u32 %h0, %thread;
    shl.b32 %r0, %thread, 1;
    shr.u32 %r1, %r0, 3;
    and.b32 %r1, %r1, 0x70;
    xor.b32 %r0, %r0, %r1;
    mov.u32 %r2, smem;
    add.u32 %r2, %r2, %r0;
    st.shared.b16 [%r2], %h0;
    bar.sync 0;
    mad.wide.u32 %d0, %thread, 4, %a;
    .loc 1 20 0
    ld.global.b32 %r3, [%d0];
    .loc 1 21 0
    add.u32 %r4, %r3, 7;
    .loc 1 22 0
    mad.wide.u32 %d1, %thread, 4, %out;
    st.global.b32 [%d1], %r4;
"""


@unittest.skipUnless(has_emulator(), "this build has no emulator")
class DebuggerTest(parameterized.TestCase):
    def run_with(self, **variables):
        """What the kernel wrote and what it printed, with JAX_FLASH_MLA_EMULATOR_… set."""
        numbers = np.arange(256, dtype=np.uint32) * 1000
        arguments = {"a": Input(numbers), "out": Output((256,), np.uint32)}
        made = kernel(arguments, TILE, shared='.file 1 "path/looked_at.cu"\n', block=256, dynamic_shared=512)
        environment = {f"JAX_FLASH_MLA_EMULATOR_{name}": value for name, value in variables.items()}
        with mock.patch.dict(os.environ, environment), tempfile.TemporaryFile() as printed:
            stderr = os.dup(2)
            os.dup2(printed.fileno(), 2)
            try:
                (out,) = Emulated().run(made)
            finally:
                os.dup2(stderr, 2)
                os.close(stderr)
            printed.seek(0)
            text = printed.read().decode()
        np.testing.assert_array_equal(out, numbers + 7)
        return text

    def test_nothing_is_printed(self):
        self.assertEqual(self.run_with(), "")

    def test_trace_of_a_line(self):
        lines = self.run_with(TRACE="cta=0,0,0 warp=3 lane=5 at=looked_at.cu:21").splitlines()
        self.assertLen(lines, 1)
        self.assertStartsWith(lines[0], "[CTA 0,0,0 warp 3 lanes ffffffff] looked_at.cu:21 add.u32 ")
        self.assertIn(f"%r4=0x{101_007:x}=101007=", lines[0])

    def test_trace_of_a_warp(self):
        lines = self.run_with(TRACE="warp=1").splitlines()
        self.assertGreater(len(lines), 15)
        self.assertTrue(all("warp 1 " in line for line in lines))
        self.assertEmpty(self.run_with(TRACE="cta=1,0,0"))

    def test_stop(self):
        with self.assertRaises(RuntimeError) as caught:
            self.run_with(STOP="warp=3 lane=5 at=looked_at.cu:22 tile=0:4:64:f16:swizzled")
        report = str(caught.exception)
        for words in ("Stopped", "looked_at.cu:22", "warp 3", "4 rows of 64 f16"):
            self.assertIn(words, report)
        rows = report[report.index("f16:") :].splitlines()[1:5]
        want = np.arange(256).reshape(4, 64)
        np.testing.assert_array_equal([[float(x) for x in row.split()] for row in rows], want)

    def test_stop_at_the_second_warp_that_comes(self):
        with self.assertRaisesRegex(RuntimeError, "warp [0-7]"):
            self.run_with(STOP="at=looked_at.cu:21 count=8")
        self.run_with(STOP="at=looked_at.cu:21 count=9")

    @parameterized.parameters("warp", "warp=x", "at=here", "nobody=1", "cta=1")
    def test_what_means_nothing(self, text):
        with self.assertRaisesRegex(ValueError, f"JAX_FLASH_MLA_EMULATOR_TRACE .* means nothing: {text}"):
            self.run_with(TRACE=text)
        with self.assertRaisesRegex(ValueError, "there is no at=file:line"):
            self.run_with(STOP="warp=1")
