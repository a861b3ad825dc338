"""The handlers on the emulator: what they refuse, what is empty, and a device that they have no kernel for."""

import itertools
import os
import subprocess
import sys
import unittest

from absl.testing import parameterized

from jax_flash_mla import _support
from kernels import dense_decode_problem, sparse_prefill_problem

OPERATIONS = ("dense_decode", "sparse_prefill")
CALL = """
import sys
import jax, jax.numpy as jnp, jax_flash_mla as fm
def mha(*operands):
    return fm.flash_attn_func(*operands, implementation="emulated")
zeros, ints = (lambda *shape: jnp.zeros(shape, jnp.bfloat16)), (lambda *shape: jnp.ones(shape, jnp.int32))
calls = dict(
    dense_decode=lambda: fm.flash_mla_with_kvcache(
        zeros(1, 1, 2, 576), zeros(2, 16, 1, 576), ints(1, 1), ints(1), implementation="emulated"
    ),
    sparse_prefill=lambda: fm.flash_mla_sparse_fwd(
        zeros(1, 2, 576), zeros(5, 1, 576), ints(1, 1, 3), 0.1, implementation="emulated"
    ),
    mha=lambda: mha(*[zeros(1, 1, 2, 128)] * 3),
    mha_of_float16=lambda: mha(*[jnp.zeros((1, 1, 2, 128), jnp.float16)] * 3),
    mha_backward=lambda: jax.vjp(mha, *[zeros(1, 1, 2, 128)] * 3)[1]((zeros(1, 1, 2, 128), jnp.zeros((1, 1, 2), jnp.float32))),
)
try:
    print("shape", jax.block_until_ready(calls[sys.argv[1]]())[0].shape)
except jax.errors.JaxRuntimeError as error:
    print(error)
"""


class DenseDecodeHandlerTest(dense_decode_problem.HandlerTest):
    __test__ = True
    emulated = True


class SparsePrefillHandlerTest(sparse_prefill_problem.HandlerTest):
    __test__ = True
    emulated = True


class DispatchTest(parameterized.TestCase):
    """The emulator poses with other compute capabilities."""

    def call_on(self, capability, operation):
        """What a process says that sees a device of a compute capability, which it asks for once."""
        environment = os.environ | {"JAX_FLASH_MLA_EMULATOR_CAPABILITY": capability}
        done = subprocess.run(
            [sys.executable, "-P", "-c", CALL, operation], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    @parameterized.parameters(
        *itertools.product(("8.0", "8.9", "10.0", "12.0"), OPERATIONS),
        ("8.9", "mha"),
        ("10.0", "mha_of_float16"),
    )
    def test_no_kernel_for_the_device(self, capability, call):
        operation = {"mha": "mha_forward", "mha_of_float16": "mha_forward"}.get(call, call)
        self.assert_no_kernel(capability, call, operation)

    def assert_no_kernel(self, capability, call, operation):
        name = "B200" if capability == "10.0" else "H200"
        self.assertRegex(
            self.call_on(capability, call),
            rf"^FAILED_PRECONDITION: jax_flash_mla has no {operation} kernel for NVIDIA {name} \(emulated\) "
            rf'\(compute capability {capability}\); pass implementation="xla"$',
        )

    def test_the_kernel_for_the_device(self):
        self.assertEqual(self.call_on("9.0", "dense_decode"), "shape (1, 1, 2, 512)")
        self.assertEqual(self.call_on("9.0", "sparse_prefill"), "shape (1, 2, 512)")

    @unittest.skipUnless("sm100" in _support.KERNELS["mha"], "this build has no kernels for sm100")
    def test_the_kernel_for_the_family_of_devices(self):
        for capability in ("10.0", "10.3"):
            self.assertEqual(self.call_on(capability, "mha"), "shape (1, 1, 2, 128)")
        self.assert_no_kernel("10.0", "mha_backward", "mha_backward")
