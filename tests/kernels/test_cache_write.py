"""The kernels that write FP8 caches, on a GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from operations import MODEL1, V32, fp8_cache, int32

import jax_flash_mla as fm
from kernels import cache_write_problem
from kernels.cache_write_problem import runs_the_kernel, tokens
from kernels.poison import POISONS, call_into_poison, donating
from kernels.repeated import different_replays

REPLAYS = 1000


@runs_the_kernel
class QuantizeTest(cache_write_problem.QuantizeKernelTest):
    __test__ = True
    implementation = "cuda"

    @parameterized.product(fmt=(V32, MODEL1), dtype=(jnp.bfloat16, jnp.float16, jnp.float32))
    def test_large(self, fmt, dtype):
        """Every byte that pure JAX writes, whatever was there."""
        latent, rope = tokens(np.random.default_rng(0), fmt, (1000, 65), dtype)
        want = fm.quantize_kv_cache(latent, rope, fmt, implementation="xla")

        def call(latent, rope):
            return (fm.quantize_kv_cache(latent, rope, fmt, implementation="cuda"),)

        for poison in POISONS.values():
            (got,) = call_into_poison(donating(call, 2, 1), (latent, rope), 1, poison)
            np.testing.assert_array_equal(got, want)

    def test_the_kernel_is_what_runs(self):
        latent, rope = tokens(np.random.default_rng(1), V32, (2, 3))
        for implementation, calls in ((None, True), ("cuda", True), ("xla", False)):
            call = jax.jit(functools.partial(fm.quantize_kv_cache, fmt=V32, implementation=implementation))
            text = call.lower(latent, rope).compile().as_text()
            self.assertEqual("jax_flash_mla.quantize.v1" in text, calls)


@runs_the_kernel
class AppendTest(cache_write_problem.AppendKernelTest):
    __test__ = True
    implementation = "cuda"

    @parameterized.product(fmt=(V32, MODEL1), spread=(300, 70_000))
    def test_large(self, fmt, spread):
        """As pure JAX, which sorts the slots."""
        rng = np.random.default_rng(spread)
        cache = fp8_cache(rng, fmt, -(-spread // 64), 64)
        operands = cache, *tokens(rng, fmt, (65_000,)), int32(rng.integers(-100, spread + 100, 65_000))
        want = fm.append_to_kv_cache(*operands, implementation="xla")
        for _ in range(5):
            np.testing.assert_array_equal(self.append(*operands), want)

    @parameterized.parameters(100, 3000)
    def test_replays(self, n):
        """A captured graph with other slots each time."""
        rng = np.random.default_rng(n)
        cache = fp8_cache(rng, V32, 20, 64)
        latent, rope = tokens(rng, V32, (n,))
        kinds = int32(rng.integers(-10, 20 * 64 + 10, (5, n)))

        def call(slots):
            return (fm.append_to_kv_cache(cache, latent, rope, slots, implementation="cuda"),)

        self.assertEqual(different_replays(call, kinds, REPLAYS), 0)

    def test_the_kernel_is_what_runs(self):
        rng = np.random.default_rng(2)
        operands = fp8_cache(rng, V32, 2, 3), *tokens(rng, V32, (2,)), int32([1, 4])
        for implementation, calls in ((None, True), ("cuda", True), ("xla", False)):
            call = jax.jit(functools.partial(fm.append_to_kv_cache, implementation=implementation))
            text = call.lower(*operands).compile().as_text()
            self.assertEqual("jax_flash_mla.append.v1" in text, calls)
