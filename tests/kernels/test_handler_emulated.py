"""The handlers on the emulator: what they refuse, what is empty, and a device that they have no kernel for."""

import os
import subprocess
import sys

from absl.testing import parameterized

from kernels.dense_decode_problem import HandlerTest

CALL = """
import jax, jax.numpy as jnp, jax_flash_mla as fm
q, cache = jnp.zeros((1, 1, 2, 576), jnp.bfloat16), jnp.zeros((1, 16, 1, 576), jnp.bfloat16)
table, lengths = jnp.zeros((1, 1), jnp.int32), jnp.full(1, 5, jnp.int32)
try:
    out, _ = jax.block_until_ready(fm.flash_mla_with_kvcache(q, cache, table, lengths, implementation="emulated"))
    print("shape", out.shape)
except jax.errors.JaxRuntimeError as error:
    print(error)
"""


class DenseDecodeHandlerTest(HandlerTest):
    __test__ = True
    emulated = True


class DispatchTest(parameterized.TestCase):
    """The emulator poses with other compute capabilities."""

    def call_on(self, capability):
        """What a process says that sees a device of a compute capability, which it asks for once."""
        environment = os.environ | {"JAX_FLASH_MLA_EMULATOR_CAPABILITY": capability}
        done = subprocess.run(
            [sys.executable, "-P", "-c", CALL], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    @parameterized.parameters(("8.0", "H200"), ("8.9", "H200"), ("10.0", "B200"), ("12.0", "H200"))
    def test_no_kernel_for_the_device(self, capability, name):
        self.assertRegex(
            self.call_on(capability),
            rf"^FAILED_PRECONDITION: jax_flash_mla has no dense_decode kernel for NVIDIA {name} \(emulated\) "
            rf'\(compute capability {capability}\); pass implementation="xla"$',
        )

    def test_the_kernel_for_the_device(self):
        self.assertEqual(self.call_on("9.0"), "shape (1, 1, 2, 512)")
