"""Looking at a kernel while it runs: docs/emulator.md says how."""

import os
import tempfile
import unittest
from unittest import mock

import ml_dtypes
import numpy as np
from absl.testing import parameterized
from devices import Emulated, Input, Output, has_emulator
from writing import kernel

# Thread t puts t, as a float16, into the place of element t of a tile; then adds. MASK: of the 16-byte chunks in a line
# that a swizzle exchanges.
TILE = """
    cvt.rn.f16.u32 %h0, %thread;
    shl.b32 %r0, %thread, 1;
    shr.u32 %r1, %r0, 3;
    and.b32 %r1, %r1, MASK;
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
    def run_with(self, swizzle=16, **variables):
        """What the kernel wrote and what it printed, with JAX_FLASH_MLA_EMULATOR_… set."""
        body = TILE.replace("MASK", str(swizzle - 16))
        numbers = np.arange(256, dtype=np.uint32) * 1000
        arguments = {"a": Input(numbers), "out": Output((256,), np.uint32)}
        made = kernel(arguments, body, shared='.file 1 "path/looked_at.cu"\n', block=256, dynamic_shared=512)
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
        self.assertEqual(self.run_with(TRACE="", STOP=""), "")

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

    def test_trace_of_an_instruction(self):
        lines = self.run_with(TRACE="warp=2 op=ld.global").splitlines()
        self.assertLen(lines, 1)
        self.assertIn("looked_at.cu:20 ld.global.b32 ", lines[0])

    def report_of(self, **more):
        with self.assertRaises(RuntimeError) as caught:
            self.run_with(**more)
        return str(caught.exception)

    @parameterized.parameters(("", 16, 64), (":swizzle32", 32, 16), (":swizzle64", 64, 32), (":swizzle128", 128, 64))
    def test_stop(self, tail, swizzle, columns):
        report = self.report_of(
            STOP=f"warp=3 lane=5 at=looked_at.cu:22 tile=0:{256 // columns}:{columns}:f16{tail}", swizzle=swizzle
        )
        for words in ("Stopped", "looked_at.cu:22", "warp 3", f"rows of {columns} f16"):
            self.assertIn(words, report)
        rows = report[report.index("f16:") :].splitlines()[1 : 256 // columns + 1]
        want = np.arange(256).reshape(-1, columns)
        np.testing.assert_array_equal([[float(x) for x in row.split()] for row in rows], want)

    @parameterized.parameters(
        ("bf16", ml_dtypes.bfloat16),
        ("f32", np.float32),
        ("e4m3", ml_dtypes.float8_e4m3fn),
        ("e5m2", ml_dtypes.float8_e5m2),
        ("u32", np.uint32),
        ("u16", np.uint16),
        ("u8", np.uint8),
    )
    def test_types_of_a_tile(self, name, dtype):
        values = np.arange(256).astype(np.float16).view(dtype)[:128]
        report = self.report_of(STOP=f"at=looked_at.cu:22 tile=0:1:{values.size}:{name}")
        shown = report[report.index(f"{name}:") :].splitlines()[1].split()
        np.testing.assert_allclose([float(x) for x in shown], values.astype(np.float64), rtol=1e-5)

    @parameterized.parameters((510, 2), (512, 0), (2**32 - 1, 0), (2**32 - 1024, 0))
    def test_tiles_that_end_outside(self, offset, shown):
        report = self.report_of(STOP=f"at=looked_at.cu:22 tile={offset}:1:4:u8")
        row = report[report.index("u8:") :].splitlines()[1]
        self.assertEndsWith(row, " (beyond what the CTA has)")
        self.assertLen(row.split("(")[0].split(), shown)

    def test_stop_at_the_second_warp_that_comes(self):
        with self.assertRaisesRegex(RuntimeError, "warp [0-7]"):
            self.run_with(STOP="at=looked_at.cu:21 count=8")
        self.run_with(STOP="at=looked_at.cu:21 count=9")

    @parameterized.parameters(
        *("warp", "warp=x", "warp=1x", "warp=-1", "lane=32", "lane=", "cta=1", "cta=0,0,z", "at=here", "at=here:0"),
        *("op", "nobody=1", "count=1"),
    )
    def test_what_means_nothing(self, text):
        with self.assertRaisesRegex(ValueError, f"JAX_FLASH_MLA_EMULATOR_TRACE .* means nothing: {text}"):
            self.run_with(TRACE=text)
        with self.assertRaisesRegex(ValueError, "says neither at=file:line nor op=name"):
            self.run_with(STOP="warp=1")

    def test_counts_that_mean_nothing(self):
        with self.assertRaisesRegex(ValueError, "JAX_FLASH_MLA_EMULATOR_STOP .* means nothing: count=0"):
            self.run_with(STOP="at=looked_at.cu:21 count=0")

    @parameterized.parameters(
        ("0:4:64", "it is not offset:rows:columns:type"),
        ("0:4:64:f8", "there is no type f8; there are bf16, f16, f32, e4m3, e5m2, u32, u16, u8"),
        ("0:4:64:f16:swizzled", "there is no swizzle swizzled; there are swizzle32, swizzle64, swizzle128"),
        ("0:4:many:f16", "many is no number"),
        ("0:4:6x:f16", "6x is no number"),
    )
    def test_tiles_that_mean_nothing(self, tile, why):
        with self.assertRaises(ValueError) as caught:
            self.run_with(STOP=f"at=looked_at.cu:22 tile={tile}")
        self.assertIn(why, str(caught.exception))
