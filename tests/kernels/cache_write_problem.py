"""Tests of the kernels that write FP8 caches, byte for byte; for the emulator and for GPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
from absl.testing import parameterized
from base import OperationTest, implementations_of, on_a_gpu
from operations import MODEL1, V32, fp8_cache, int32, pages_of, write_token

import jax_flash_mla as fm

HAS_KERNEL = all("cuda" in implementations_of(operation) for operation in ("quantize", "append"))
runs_the_kernel = on_a_gpu(HAS_KERNEL, "no GPU here has kernels that write caches")
FORMATS = [("V32", V32), ("MODEL1", MODEL1)]
MANY = 2500  # tokens: more than search each other's slots


def tokens(rng, fmt, shape, dtype=jnp.bfloat16, rope_dtype=jnp.bfloat16):
    """Latent vectors and rotary keys, [*shape, dims]."""
    drawn = (rng.standard_normal((*shape, dims), np.float32) for dims in (fmt.latent_dim, fmt.rope_dim))
    return tuple(jnp.asarray(x, kind) for x, kind in zip(drawn, (dtype, rope_dtype)))


def appended(fmt, cache, latent, rope, slots):
    """The oracle's cache: token after token."""
    cache = np.array(cache)
    page_size = cache.shape[1]
    last = {int(slot): i for i, slot in enumerate(slots) if 0 <= slot < cache.shape[0] * page_size}
    for slot, i in last.items():
        write_token(cache, fmt, *divmod(slot, page_size), oracle.quantize_token(latent[i], rope[i], fmt.name))
    return cache


class QuantizeKernelTest(OperationTest):
    def quantize(self, latent, rope, fmt, power_of_two=False):
        call = jax.jit(fm.quantize_kv_cache, static_argnames=("fmt", "power_of_two_scales", "implementation"))
        options = dict(power_of_two_scales=power_of_two, implementation=self.implementation)
        return np.asarray(call(latent, rope, fmt=fmt, **options))

    @parameterized.product(
        fmt=(V32, MODEL1),
        types=(
            (jnp.bfloat16, jnp.bfloat16),
            (jnp.float16, jnp.float32),
            (jnp.float32, jnp.float16),
            (jnp.float32, jnp.bfloat16),
        ),
        shape=((1, 1), (3, 7), (2, 64)),
    )
    def test_bytes(self, fmt, types, shape):
        latent, rope = tokens(np.random.default_rng(shape[1]), fmt, shape, *types)
        np.testing.assert_array_equal(self.quantize(latent, rope, fmt), pages_of(fmt, latent, rope))

    @parameterized.product(fmt=(V32, MODEL1), dtype=(jnp.bfloat16, jnp.float32), power_of_two=(False, True))
    def test_all_magnitudes(self, fmt, dtype, power_of_two):
        """From subnormal numbers to the largest; zeros of either sign."""
        rng = np.random.default_rng(1)
        latent = rng.standard_normal((4, 20, fmt.latent_dim)) * 10.0 ** rng.uniform(-45, 37, (4, 20, 1))
        latent = jnp.asarray(latent.astype(np.float32)).astype(dtype).at[0, 0].set(0).at[0, 1].set(-0.0)
        latent = latent.at[0, 2, ::3].set(-0.0)
        _, rope = tokens(rng, fmt, (4, 20))
        got = self.quantize(latent, rope, fmt, power_of_two)
        for page, slot in np.ndindex(4, 20):
            want = oracle.quantize_token(latent[page, slot], rope[page, slot], fmt.name, power_of_two)
            for part, expected in zip(oracle.token_bytes(got, fmt.name, page, slot), want, strict=True):
                np.testing.assert_array_equal(part, expected)

    @parameterized.named_parameters(FORMATS)
    def test_quotients_next_to_a_tie(self, fmt):
        """Where the last place of the division decides about the code."""
        rng = np.random.default_rng(2)
        groups = (2, 16, fmt.num_scales)
        largest = (448 * 2.0 ** rng.uniform(-10, 60, groups)).astype(np.float32)
        scale = largest / np.float32(448)
        if fmt is MODEL1:
            scale = np.exp2(np.ceil(np.log2(scale))).astype(np.float32)
        middles = rng.choice((oracle.E4M3[:126] + oracle.E4M3[1:127]) / 2, (*groups, fmt.scale_group))
        x = (middles * scale[..., None]).astype(np.float32)
        step = rng.integers(-1, 2, x.shape)
        x = np.where(step == 0, x, np.nextafter(x, np.where(step > 0, np.inf, -np.inf).astype(np.float32)))
        x *= rng.choice([-1, 1], x.shape).astype(np.float32)
        x[..., 0] = largest
        latent = jnp.asarray(x.reshape(2, 16, fmt.latent_dim))
        _, rope = tokens(rng, fmt, (2, 16))
        np.testing.assert_array_equal(self.quantize(latent, rope, fmt), pages_of(fmt, latent, rope))

    @parameterized.named_parameters(FORMATS)
    def test_non_finite_groups(self, fmt):
        """As in pure JAX: NaN in all of the group, and nowhere else."""
        latent, rope = tokens(np.random.default_rng(3), fmt, (1, 5))
        for slot, value in enumerate((np.nan, np.inf, -np.inf)):
            latent = latent.at[0, slot, fmt.scale_group * slot + 17 * slot].set(value)
        latent = latent.at[0, 3].set(np.nan)
        rope = rope.at[0, 4, 5].set(np.inf)
        want = fm.quantize_kv_cache(latent, rope, fmt, implementation="xla")
        np.testing.assert_array_equal(self.quantize(latent, rope, fmt), want)

    @parameterized.named_parameters(FORMATS)
    def test_nothing(self, fmt):
        for shape in ((0, 4), (3, 0)) if fmt is V32 else ((0, 4),):
            got = self.quantize(*tokens(np.random.default_rng(4), fmt, shape), fmt)
            self.assertEqual(got.shape, (*shape, 1, fmt.bytes_per_token))

    @parameterized.named_parameters(FORMATS)
    def test_vmap(self, fmt):
        latent, rope = tokens(np.random.default_rng(5), fmt, (2, 3, 4))
        rope = rope[0]

        def call(latent):
            return fm.quantize_kv_cache(latent, rope, fmt, implementation=self.implementation)

        got = jax.jit(jax.vmap(call))(latent)
        for i in range(2):
            np.testing.assert_array_equal(got[i], pages_of(fmt, latent[i], rope))


class AppendKernelTest(OperationTest):
    def append(self, *operands):
        call = jax.jit(fm.append_to_kv_cache, static_argnames="implementation")
        return np.asarray(call(*operands, implementation=self.implementation))

    def check(self, fmt, cache, latent, rope, slots):
        slots = int32(slots)
        got = self.append(cache, latent, rope, slots)
        np.testing.assert_array_equal(got, appended(fmt, cache, latent, rope, np.asarray(slots)))

    @parameterized.product(fmt=(V32, MODEL1), page_size=(1, 5, 64), n=(1, 40, 130))
    def test_slots(self, fmt, page_size, n):
        """Some are out of range, some the same."""
        rng = np.random.default_rng(page_size * n)
        cache = fp8_cache(rng, fmt, 6, page_size)
        slots = rng.integers(-5, 6 * page_size + 5, n)
        slots[rng.random(n) < 0.1] = rng.choice([-(2**31), 2**31 - 1, 6 * page_size])
        self.check(fmt, cache, *tokens(rng, fmt, (n,)), slots)

    @parameterized.product(fmt=(V32, MODEL1), spread=(1, 40, 10_000))
    def test_many_tokens(self, fmt, spread):
        """More than search each other's slots; up to all of them for one slot."""
        rng = np.random.default_rng(spread)
        pages = -(-spread // 33)
        cache = fp8_cache(rng, fmt, pages, 33)
        self.check(fmt, cache, *tokens(rng, fmt, (MANY,)), rng.integers(-spread // 50, spread + spread // 50, MANY))

    def test_all_of_many_are_skipped(self):
        rng = np.random.default_rng(6)
        self.check(V32, fp8_cache(rng, V32, 2, 8), *tokens(rng, V32, (MANY,)), np.full(MANY, 16))

    @parameterized.parameters(2047, 2048, 2049)
    def test_either_way_to_find_the_last(self, n):
        rng = np.random.default_rng(n)
        slots = rng.permutation(100)[np.arange(n) % 100]
        self.check(V32, fp8_cache(rng, V32, 10, 10), *tokens(rng, V32, (n,)), slots)

    @parameterized.product(fmt=(V32, MODEL1), dtype=(jnp.int8, jnp.float8_e4m3fn))
    def test_containers(self, fmt, dtype):
        """Of floats too no bit of the others is touched: NaN stay what they are."""
        rng = np.random.default_rng(7)
        cache = jnp.asarray(rng.integers(0, 256, (3, 4, 1, fmt.bytes_per_token)).astype(np.uint8))
        latent, rope = tokens(rng, fmt, (3,), jnp.float32, jnp.float32)
        slots = int32([7, 2, -1])
        got = self.append(jax.lax.bitcast_convert_type(cache, dtype), latent, rope, slots)
        self.assertEqual(got.dtype, dtype)
        np.testing.assert_array_equal(got.view(np.uint8), appended(fmt, cache, latent, rope, np.asarray(slots)))

    def test_any_leading_axes(self):
        rng = np.random.default_rng(8)
        cache = fp8_cache(rng, MODEL1, 2, 6)
        latent, rope = tokens(rng, MODEL1, (2, 3))
        slots = rng.permutation(12)[:6]
        got = self.append(cache, latent, rope, int32(slots.reshape(2, 3)))
        np.testing.assert_array_equal(got, appended(MODEL1, cache, latent.reshape(6, -1), rope.reshape(6, -1), slots))

    @parameterized.product(fmt=(V32, MODEL1), dtype=(jnp.uint8, jnp.float8_e4m3fn))
    def test_in_place_when_donated(self, fmt, dtype):
        rng = np.random.default_rng(9)
        bytes_ = fp8_cache(rng, fmt, 40, 16)
        cache = jax.lax.bitcast_convert_type(bytes_, dtype)
        new = tokens(rng, fmt, (3,))
        slots = int32([5, 600, -1])
        append = jax.jit(fm.append_to_kv_cache, donate_argnums=0, static_argnames="implementation")
        options = dict(implementation=self.implementation)
        memory = append.lower(cache, *new, slots, **options).compile().memory_analysis()
        self.assertEqual(memory.alias_size_in_bytes, cache.nbytes)
        self.assertLess(memory.temp_size_in_bytes, cache.nbytes // 4)
        pointer = cache.unsafe_buffer_pointer()
        got = append(cache, *new, slots, **options)
        self.assertEqual(got.unsafe_buffer_pointer(), pointer)
        want = appended(fmt, bytes_, *new, np.asarray(slots))
        np.testing.assert_array_equal(np.asarray(got).view(np.uint8), want)

    def test_a_cache_that_is_kept(self):
        """What is not donated stays as it is."""
        rng = np.random.default_rng(10)
        cache = fp8_cache(rng, V32, 2, 8)
        before = np.array(cache)
        self.check(V32, cache, *tokens(rng, V32, (5,)), [3, 1, 4, 1, 5])
        np.testing.assert_array_equal(cache, before)

    def test_in_a_loop(self):
        """Step after step into the carried cache."""
        rng = np.random.default_rng(11)
        cache = fp8_cache(rng, MODEL1, 3, 5)
        latent, rope = tokens(rng, MODEL1, (4, 6))
        slots = rng.integers(-2, 17, (4, 6)).astype(np.int32)

        @jax.jit
        def run(cache, *steps):
            def step(cache, step):
                return fm.append_to_kv_cache(cache, *step, implementation=self.implementation), None

            return jax.lax.scan(step, cache, steps)[0]

        want = cache
        for i in range(4):
            want = appended(MODEL1, want, latent[i], rope[i], slots[i])
        np.testing.assert_array_equal(run(cache, latent, rope, jnp.asarray(slots)), want)

    @parameterized.product(fmt=(V32, MODEL1), shared=(False, True))
    def test_vmap(self, fmt, shared):
        """Each member has a cache of its own, whatever was mapped."""
        rng = np.random.default_rng(12)
        cache = fp8_cache(rng, fmt, 4, 3).reshape(2, 2, 3, 1, -1)
        latent, rope = tokens(rng, fmt, (2, 7))
        slots = rng.integers(-2, 9, (2, 7)).astype(np.int32)

        def call(cache, latent, rope, slots):
            return fm.append_to_kv_cache(cache, latent, rope, slots, implementation=self.implementation)

        given = cache[0] if shared else cache
        got = jax.jit(jax.vmap(call, in_axes=(None if shared else 0, 0, 0, 0)))(given, latent, rope, jnp.asarray(slots))
        for i in range(2):
            want = appended(fmt, given if shared else given[i], latent[i], rope[i], slots[i])
            np.testing.assert_array_equal(got[i], want)

    def test_nothing_to_write(self):
        rng = np.random.default_rng(13)
        cache = fp8_cache(rng, V32, 2, 3)
        self.check(V32, cache, *tokens(rng, V32, (0,)), [])
        self.check(V32, cache, *tokens(rng, V32, (2,)), [-1, 6])
        self.check(V32, cache[:0], *tokens(rng, V32, (2,)), [0, 1])
