"""Writing and reading caches: byte for byte against the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
from absl.testing import parameterized
from operations import MODEL1, V32, fp8_cache, int32, normal, pages_of, write_token

import jax_flash_mla as fm

FORMATS = [("V32", V32), ("MODEL1", MODEL1)]


def pages(rng, fmt, shape, dtype=jnp.float32, size=1.0):
    """Latent and RoPE of whole pages."""
    return normal(rng, (*shape, fmt.latent_dim), dtype) * size, normal(rng, (*shape, fmt.rope_dim), dtype)


class QuantizeTest(parameterized.TestCase):
    @parameterized.product(fmt=(V32, MODEL1), dtype=(jnp.float32, jnp.bfloat16, jnp.float16), page_size=(1, 7, 64))
    def test_bytes(self, fmt, dtype, page_size):
        latent, rope = pages(np.random.default_rng(page_size), fmt, (3, page_size), dtype)
        cache = fm.quantize_kv_cache(latent, rope, fmt)
        self.assertEqual((cache.shape, cache.dtype), ((3, page_size, 1, fmt.bytes_per_token), jnp.uint8))
        np.testing.assert_array_equal(cache, pages_of(fmt, latent, rope))

    @parameterized.product(fmt=(V32, MODEL1), power_of_two=(False, True))
    def test_all_magnitudes(self, fmt, power_of_two):
        """From the smallest scale to the largest floats, each value of bfloat16 precision."""
        rng = np.random.default_rng(1)
        size = jnp.asarray(10.0 ** rng.uniform(-45, 37, (5, 40, 1)), jnp.float32)
        latent, rope = pages(rng, fmt, (5, 40), size=size)
        latent = latent.astype(jnp.bfloat16).at[0, 0].set(0).at[0, 1].set(-0.0)
        cache = np.asarray(fm.quantize_kv_cache(latent, rope, fmt, power_of_two_scales=power_of_two))
        for page, slot in np.ndindex(5, 40):
            want = oracle.quantize_token(latent[page, slot], rope[page, slot], fmt.name, power_of_two)
            for got, expected in zip(oracle.token_bytes(cache, fmt.name, page, slot), want):
                np.testing.assert_array_equal(got, expected, f"{size[page, slot]}")

    def test_ties_round_to_even(self):
        """A scale of exactly one, so that the values are the quotients."""
        finite = oracle.E4M3[:127]
        middles = (finite[1:] + finite[:-1]) / 2
        values = np.resize(np.concatenate([middles, -middles, finite]), 4 * 127).reshape(4, 127)
        latent = jnp.asarray(np.insert(values, 0, 448, axis=1).reshape(1, 1, 512), jnp.float32)
        rope = jnp.zeros((1, 1, 64), jnp.float32)
        cache = fm.quantize_kv_cache(latent, rope, V32)
        np.testing.assert_array_equal(cache, pages_of(V32, latent, rope))

    def test_division_is_ieee(self):
        """Quotients next to a tie, where one unit in the last place decides."""
        from jax_flash_mla.reference.paged_tokens import divide

        rng = np.random.default_rng(2)
        y = np.abs(rng.standard_normal(200_000) * 2.0 ** rng.uniform(-13, 100, 200_000)).astype(np.float32)
        middles = np.resize((oracle.E4M3[:126] + oracle.E4M3[1:127]) / 2, y.size).astype(np.float32)
        exact = (middles * y).astype(np.float32)
        for x in (
            exact,
            np.nextafter(exact, np.float32(0)),
            np.nextafter(exact, np.float32(np.inf)),
            -exact,
            0 * exact,
        ):
            want = x / y
            got = np.asarray(jax.jit(divide)(x, y))
            np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))

    @parameterized.named_parameters(FORMATS)
    def test_non_finite_groups_read_back_as_nan(self, fmt):
        latent, rope = pages(np.random.default_rng(3), fmt, (1, 4))
        for slot, value in enumerate((np.nan, np.inf, -np.inf)):
            latent = latent.at[0, slot, fmt.scale_group + slot].set(value)
        rope = rope.at[0, 3, 5].set(jnp.nan)
        back, back_rope = fm.dequantize_kv_cache(fm.quantize_kv_cache(latent, rope, fmt), fmt)
        spoiled = np.zeros(latent.shape, bool)
        spoiled[0, :3, fmt.scale_group : 2 * fmt.scale_group] = True
        np.testing.assert_array_equal(np.isnan(back), spoiled)
        np.testing.assert_array_equal(np.isnan(back_rope), np.isnan(rope))

    @parameterized.product(fmt=(V32, MODEL1), power_of_two=(False, True))
    def test_round_trip(self, fmt, power_of_two):
        """Within half a step of e4m3 (2^-4 of the value, or of the least normal one)."""
        latent, rope = pages(np.random.default_rng(4), fmt, (3, 5))
        cache = fm.quantize_kv_cache(latent, rope, fmt, power_of_two_scales=power_of_two)
        back, back_rope = fm.dequantize_kv_cache(cache, fmt)
        self.assertEqual((back.dtype, back_rope.dtype), (jnp.float32, jnp.bfloat16))
        groups = np.abs(latent).reshape(3, 5, fmt.num_scales, -1).max(-1, keepdims=True)
        step = np.repeat(groups / 448 * 2 * 2.0**-6, fmt.scale_group, axis=-1).reshape(latent.shape)
        self.assertTrue((np.abs(back - latent) <= np.maximum(np.abs(latent), step) * 2.0**-4).all())
        np.testing.assert_array_equal(back_rope, rope.astype(jnp.bfloat16))

    @parameterized.named_parameters(FORMATS)
    def test_dequantize_every_byte(self, fmt):
        rng = np.random.default_rng(5)
        cache = rng.integers(0, 256, (2, 30, 1, fmt.bytes_per_token)).astype(np.uint8)
        latent, rope = fm.dequantize_kv_cache(jnp.asarray(cache), fmt)
        for page, slot in np.ndindex(2, 30):
            with np.errstate(all="ignore"):
                want_latent, want_rope = (
                    x.astype(np.float32) for x in oracle.dequantize_token(cache, fmt.name, page, slot)
                )
            # Products below the normal range may be flushed to zero.
            got = np.where(np.abs(want_latent) < 2.0**-126, want_latent, latent[page, slot])
            np.testing.assert_array_equal(got, want_latent)
            np.testing.assert_array_equal(np.asarray(rope[page, slot]).astype(np.float32), want_rope)

    @parameterized.named_parameters(FORMATS)
    def test_empty(self, fmt):
        cache = fm.quantize_kv_cache(*pages(np.random.default_rng(6), fmt, (0, 4)), fmt)
        self.assertEqual(cache.shape, (0, 4, 1, fmt.bytes_per_token))
        self.assertEqual(fm.dequantize_kv_cache(cache, fmt)[0].shape, (0, 4, fmt.latent_dim))


class AppendTest(parameterized.TestCase):
    def want(self, fmt, cache, latent, rope, slots):
        cache = np.array(cache)
        page_size = cache.shape[1]
        for i, slot in enumerate(np.asarray(slots)):
            if 0 <= slot < cache.shape[0] * page_size:
                page, offset = divmod(int(slot), page_size)
                if fmt is None:
                    cache[page, offset, 0] = np.concatenate([latent[i], rope[i]])
                else:
                    write_token(cache, fmt, page, offset, oracle.quantize_token(latent[i], rope[i], fmt.name))
        return cache

    @parameterized.product(fmt=(V32, MODEL1), page_size=(1, 5, 64))
    def test_fp8(self, fmt, page_size):
        rng = np.random.default_rng(page_size)
        cache = fp8_cache(rng, fmt, 6, page_size)
        latent, rope = pages(rng, fmt, (40,))
        slots = int32(rng.integers(-5, 6 * page_size + 5, 40))
        got = fm.append_to_kv_cache(cache, latent, rope, slots)
        np.testing.assert_array_equal(got, self.want(fmt, cache, latent, rope, slots))

    @parameterized.parameters(jnp.bfloat16, jnp.float16, jnp.float32)
    def test_float(self, dtype):
        rng = np.random.default_rng(0)
        cache = normal(rng, (4, 5, 1, 12), dtype)
        latent, rope = normal(rng, (9, 8), jnp.float32), normal(rng, (9, 4), jnp.float32)
        slots = int32([0, 19, 20, -1, 7, 7, 7, 2**31 - 1, -(2**31)])
        got = fm.append_to_kv_cache(cache, latent, rope, slots)
        want = self.want(None, cache, latent.astype(dtype), rope.astype(dtype), slots)
        np.testing.assert_array_equal(np.asarray(got), want)

    @parameterized.parameters(jnp.int8, jnp.float8_e4m3fn)
    def test_containers(self, dtype):
        rng = np.random.default_rng(1)
        cache = fp8_cache(rng, V32, 2, 3)
        latent, rope = pages(rng, V32, (2,))
        got = fm.append_to_kv_cache(jax.lax.bitcast_convert_type(cache, dtype), latent, rope, int32([4, 0]), V32)
        self.assertEqual(got.dtype, dtype)
        want = fm.append_to_kv_cache(cache, latent, rope, int32([4, 0]))
        np.testing.assert_array_equal(jax.lax.bitcast_convert_type(got, jnp.uint8), want)

    def test_any_leading_axes(self):
        rng = np.random.default_rng(2)
        cache = fp8_cache(rng, MODEL1, 2, 6)
        latent, rope = pages(rng, MODEL1, (2, 3))
        slots = int32(rng.permutation(12)[:6].reshape(2, 3))
        got = fm.append_to_kv_cache(cache, latent, rope, slots)
        flat = fm.append_to_kv_cache(cache, latent.reshape(6, -1), rope.reshape(6, -1), slots.reshape(6))
        np.testing.assert_array_equal(got, flat)
        one = fm.append_to_kv_cache(cache, latent[0, 0], rope[0, 0], slots[0, 0])
        np.testing.assert_array_equal(one, fm.append_to_kv_cache(cache, latent[0, :1], rope[0, :1], slots[0, :1]))

    @parameterized.named_parameters(FORMATS)
    def test_writes_what_quantize_writes(self, fmt):
        rng = np.random.default_rng(3)
        latent, rope = pages(rng, fmt, (3, 5))
        empty = jnp.zeros((3, 5, 1, fmt.bytes_per_token), jnp.uint8)
        slots = int32(np.arange(15).reshape(3, 5))
        np.testing.assert_array_equal(
            fm.append_to_kv_cache(empty, latent, rope, slots), fm.quantize_kv_cache(latent, rope, fmt)
        )

    @parameterized.named_parameters(
        ("V32", V32, jnp.uint8),
        ("MODEL1", MODEL1, jnp.uint8),
        ("V32_int8", V32, jnp.int8),
        ("float32", None, jnp.float32),
        ("bfloat16", None, jnp.bfloat16),
    )
    def test_in_place_when_donated(self, fmt, dtype):
        rng = np.random.default_rng(4)
        if fmt is None:
            cache = normal(rng, (64, 16, 1, 12), dtype)
            new = normal(rng, (3, 8), dtype), normal(rng, (3, 4), dtype)
        else:
            cache = jax.lax.bitcast_convert_type(fp8_cache(rng, fmt, 64, 16), dtype)
            new = pages(rng, fmt, (3,))
        slots = int32([5, 700, -1])
        want = np.asarray(fm.append_to_kv_cache(cache, *new, slots))
        append = jax.jit(fm.append_to_kv_cache, donate_argnums=0)
        memory = append.lower(cache, *new, slots).compile().memory_analysis()
        self.assertEqual(memory.alias_size_in_bytes, cache.nbytes)
        # Before 0.10 XLA widens bfloat16 on a CPU, and copies the pool for that.
        if dtype != jnp.bfloat16 or jax.__version_info__ >= (0, 10):
            self.assertLess(memory.temp_size_in_bytes, cache.nbytes // 4)
        pointer = cache.unsafe_buffer_pointer()
        got = append(cache, *new, slots)
        self.assertEqual(got.unsafe_buffer_pointer(), pointer)
        self.assertTrue(cache.is_deleted())
        np.testing.assert_array_equal(np.asarray(got), want)

    def test_nothing_to_write(self):
        rng = np.random.default_rng(5)
        cache = fp8_cache(rng, V32, 2, 3)
        got = fm.append_to_kv_cache(cache, *pages(rng, V32, (0,)), int32([]))
        np.testing.assert_array_equal(got, cache)
        got = fm.append_to_kv_cache(cache, *pages(rng, V32, (2,)), int32([-1, 6]))
        np.testing.assert_array_equal(got, cache)
        empty = fm.append_to_kv_cache(cache[:0], *pages(rng, V32, (2,)), int32([0, 1]))
        self.assertEqual(empty.shape, (0, 3, 1, 656))


class DerivativeTest(parameterized.TestCase):
    def test_differentiation_is_refused(self):
        rng = np.random.default_rng(0)
        latent, rope = pages(rng, V32, (2, 3))
        cache = fm.quantize_kv_cache(latent, rope, V32)
        float_cache = normal(rng, (2, 3, 1, 576), jnp.float32)

        def quantized(latent):
            return fm.dequantize_kv_cache(fm.quantize_kv_cache(latent, rope, V32), V32)[0].sum()

        def appended(latent):
            return fm.append_to_kv_cache(float_cache, latent[0], rope[0], int32([0, 1, 2])).sum()

        def appended_to(float_cache):
            return fm.append_to_kv_cache(float_cache, latent[0], rope[0], int32([0, 1, 2])).sum()

        for name, loss, x in (
            ("quantize_kv_cache", quantized, latent),
            ("append_to_kv_cache", appended, latent),
            ("append_to_kv_cache", appended_to, float_cache),
        ):
            refused = f"{name} has no derivative.*stop_gradient"
            for transform in (jax.grad, lambda f: jax.jit(jax.grad(f))):
                with self.assertRaisesRegex(NotImplementedError, refused):
                    transform(loss)(x)
            with self.assertRaisesRegex(NotImplementedError, refused):
                jax.jvp(loss, (x,), (x,))
        # What is not differentiated passes.
        jax.grad(lambda w: (w * fm.dequantize_kv_cache(cache, V32)[0]).sum())(1.0)
        jax.grad(lambda w: w * appended(jax.lax.stop_gradient(w * latent)))(1.0)


class FormatTest(parameterized.TestCase):
    def test_facts(self):
        facts = [
            (f.bytes_per_token, f.latent_dim, f.rope_dim, f.scale_group, f.num_scales, f.d_qk, f.d_v)
            for f in (V32, MODEL1)
        ]
        self.assertEqual(facts, [(656, 512, 64, 128, 4, 576, 512), (584, 448, 64, 64, 7, 512, 512)])
        self.assertEqual([f.planar for f in (V32, MODEL1)], [False, True])
        self.assertEqual([fm.KVCacheFormat.of_bytes(n) for n in (656, 584, 576)], [V32, MODEL1, None])
