"""The kernels that write FP8 caches, in the emulator."""

import unittest

from jax_flash_mla import _ffi, _support
from kernels import cache_write_problem


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class QuantizeEmulatedTest(cache_write_problem.QuantizeKernelTest):
    __test__ = True
    implementation = _support.EMULATED


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class AppendEmulatedTest(cache_write_problem.AppendKernelTest):
    __test__ = True
    implementation = _support.EMULATED
