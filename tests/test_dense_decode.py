"""Dense decode against the oracle: random shapes, and each edge of the semantics."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
from absl.testing import parameterized
from base import ProblemTest, for_each_implementation_of
from operations import int32, normal

import jax_flash_mla as fm


class Problem:
    """Operands of one call, as NumPy or JAX arrays that a test may change, and its options."""

    def __init__(
        self,
        rng,
        *,
        b=3,
        s_q=2,
        h_q=4,
        h_kv=1,
        d=24,
        d_v=16,
        page_size=4,
        lengths=None,
        spare=2,
        dtype=jnp.float32,
        scale=0.2,
        causal=False,
        sink=False,
    ):
        lengths = rng.integers(0, 12, b) if lengths is None else np.asarray(lengths)
        columns = max(1, int(-(-lengths.max() // page_size)) + 1)
        pages = b * columns + spare
        self.q = normal(rng, (b, s_q, h_q, d), dtype)
        self.k_cache = normal(rng, (pages, page_size, h_kv, d), dtype)
        self.block_table = rng.permutation(pages)[: b * columns].reshape(b, columns).astype(np.int32)
        self.cache_seqlens = lengths.astype(np.int32)
        self.attn_sink = normal(rng, (h_q,), jnp.float32) if sink else None
        self.options = dict(head_dim_v=d_v, causal=causal)
        self.scale = scale

    def used(self):
        """bool [pages, page_size]: slots that some request attends to."""
        used = np.zeros(self.k_cache.shape[:2], bool)
        for row, length in zip(self.block_table, self.cache_seqlens):
            for position in range(length):
                page, slot = divmod(position, used.shape[1])
                used[row[page], slot] = True
        return used

    def call(self, implementation, q=None, k_cache=None, attn_sink=None):
        return fm.flash_mla_with_kvcache(
            self.q if q is None else q,
            self.k_cache if k_cache is None else k_cache,
            int32(self.block_table),
            int32(self.cache_seqlens),
            softmax_scale=self.scale,
            attn_sink=self.attn_sink if attn_sink is None else attn_sink,
            implementation=implementation,
            **self.options,
        )

    def want(self):
        return oracle.dense_decode(
            self.q,
            self.k_cache,
            self.block_table,
            self.cache_seqlens,
            scale=self.scale,
            attn_sink=self.attn_sink,
            **self.options,
        )

    def arrays(self):
        """The differentiable operands."""
        return [self.q, self.k_cache] + ([] if self.attn_sink is None else [self.attn_sink])

    def want_gradients(self, d_out, d_lse):
        gradients = oracle.dense_decode_gradient(
            self.q,
            self.k_cache,
            self.block_table,
            self.cache_seqlens,
            d_out,
            d_lse,
            scale=self.scale,
            attn_sink=self.attn_sink,
            **self.options,
        )
        return [x for x in gradients if x is not None]


@for_each_implementation_of("dense_decode")
class DenseDecodeTest(ProblemTest):
    @parameterized.parameters(range(10))
    def test_random_shapes(self, seed):
        rng = np.random.default_rng(seed)
        h_kv = int(rng.integers(1, 4))
        d = int(rng.integers(1, 40))
        self.check(
            Problem(
                rng,
                b=int(rng.integers(1, 5)),
                s_q=int(rng.integers(1, 6)),
                h_kv=h_kv,
                h_q=h_kv * int(rng.integers(1, 7)),
                d=d,
                d_v=int(rng.integers(1, d + 1)),
                page_size=int(rng.integers(1, 20)),
                causal=bool(rng.integers(2)),
                sink=bool(rng.integers(2)),
                dtype=(jnp.float32, jnp.bfloat16, jnp.float16)[seed % 3],
            )
        )

    def test_latent_attention_dimensions(self):
        rng = np.random.default_rng(20)
        self.check(
            Problem(
                rng,
                b=2,
                s_q=2,
                h_q=16,
                d=576,
                d_v=512,
                page_size=64,
                lengths=[130, 64],
                dtype=jnp.bfloat16,
                scale=None or 576**-0.5,
            )
        )

    @parameterized.parameters(1, 3, 64, 576)
    def test_page_sizes(self, page_size):
        rng = np.random.default_rng(page_size)
        self.check(Problem(rng, page_size=page_size, lengths=[600, 1, 577], s_q=1, causal=True))

    def test_many_blocks_and_tiles(self):
        """Lengths over several blocks of keys, query tokens over several tiles."""
        rng = np.random.default_rng(21)
        problem = Problem(rng, b=2, s_q=70, h_q=16, d=8, d_v=8, page_size=16, lengths=[1200, 40], causal=True)
        self.check(problem)
        self.check_gradients(problem)

    def test_a_million_queries(self):
        """One key for each of the last three, more or less by the causal mask."""
        problem = Problem(np.random.default_rng(40), b=1, s_q=2**20, h_q=1, d=4, d_v=4, lengths=[3], causal=True)
        out, lse = (np.asarray(x) for x in problem.call(self.implementation))
        self.assertTrue((out[0, :-3] == 0).all() and np.isneginf(lse[0, 0, :-3]).all())
        problem.q = problem.q[:, -3:]
        want_out, want_lse = problem.want()
        self.assert_close(out[:, -3:], want_out)
        self.assert_close(lse[:, :, -3:], want_lse)

    @parameterized.parameters(False, True)
    def test_empty_requests(self, causal):
        problem = Problem(np.random.default_rng(22), lengths=[0, 5, 0], causal=causal, sink=True)
        out, lse = self.check(problem)
        self.assertTrue((np.asarray(out[0]) == 0).all() and np.isneginf(lse[0]).all())
        self.check_gradients(problem)

    def test_more_queries_than_keys(self):
        problem = Problem(np.random.default_rng(23), s_q=6, lengths=[3, 6, 1], causal=True, sink=True)
        out, lse = self.check(problem)
        self.assertTrue(np.isneginf(lse[0, :, :3]).all() and np.isfinite(lse[0, :, 3:]).all())
        self.check_gradients(problem)

    @parameterized.parameters(np.nan, np.inf)
    def test_unused_slots_hold_anything(self, garbage):
        problem = Problem(np.random.default_rng(24), lengths=[5, 0, 9], sink=True, causal=True)
        clean = problem.call(self.implementation)
        unused = ~problem.used()[..., None, None]
        problem.k_cache = jnp.where(unused, garbage, problem.k_cache)
        self.assert_all_close(self.check(problem), [np.asarray(x, np.float64) for x in clean])
        _, pull = jax.vjp(lambda q, k: problem.call(self.implementation, q, k), problem.q, problem.k_cache)
        d_q, d_cache = pull(tuple(jnp.ones_like(x) for x in clean))
        self.assertTrue(np.isfinite(d_q).all() and np.isfinite(d_cache).all())

    def test_nan_stays_in_its_request(self):
        problem = Problem(np.random.default_rng(25), lengths=[5, 7, 9])
        clean = problem.want()
        problem.k_cache = problem.k_cache.at[problem.block_table[1, 0], 1].set(jnp.nan)
        out, lse = problem.call(self.implementation)
        self.assertTrue(np.isnan(out[1]).all() and np.isnan(lse[1]).all())
        for i in (0, 2):
            self.assert_close(out[i], clean[0][i])
            self.assert_close(lse[i], clean[1][i])

    def test_garbage_past_the_needed_pages(self):
        problem = Problem(np.random.default_rng(26), lengths=[5, 0, 4], page_size=4)
        want = problem.want()
        for row, length in zip(problem.block_table, problem.cache_seqlens):
            row[-(-int(length) // 4) :] = 2147480000
        self.assert_all_close(problem.call(self.implementation), want)
        problem.block_table[0, 2:] = -7
        self.assert_all_close(problem.call(self.implementation), want)

    @parameterized.parameters(-1, 10**9, -(2**31))
    def test_page_outside_the_pool(self, page):
        problem = Problem(np.random.default_rng(27), lengths=[5, 6, 7], sink=True)
        problem.block_table[1, 1] = page
        out, _ = self.check(problem)
        self.assertEqual([bool(np.isnan(x).all()) for x in out], [False, True, False])
        self.check_gradients(problem)
        problem.block_table[1, 1] = problem.k_cache.shape[0]
        self.check(problem)

    @parameterized.parameters(-1, -(2**31), 17, 2**31 - 1)
    def test_length_out_of_range(self, length):
        problem = Problem(np.random.default_rng(28), lengths=[5, 12, 7], sink=True, causal=True)
        problem.cache_seqlens[0] = length
        out, lse = self.check(problem)
        self.assertTrue(np.isnan(out[0]).all() and np.isnan(lse[0]).all())
        self.check_gradients(problem)

    @parameterized.parameters(0.0, -0.3, 1e-30, 1e-45, 50.0)
    def test_scales(self, scale):
        problem = Problem(np.random.default_rng(29), lengths=[5, 12, 0], scale=scale, causal=True)
        self.check(problem)

    @parameterized.parameters(0.0, -0.3)
    def test_gradients_at_scales(self, scale):
        self.check_gradients(Problem(np.random.default_rng(30), lengths=[5, 12, 0], scale=scale, causal=True))

    def test_default_scale(self):
        problem = Problem(np.random.default_rng(31), lengths=[5, 12, 3])
        problem.scale = problem.q.shape[-1] ** -0.5
        want = problem.want()
        problem.scale = None
        self.assert_all_close(problem.call(self.implementation), want)

    def test_infinite_sinks(self):
        problem = Problem(np.random.default_rng(32), lengths=[5, 0, 3], sink=True)
        problem.attn_sink = jnp.asarray([jnp.inf, -jnp.inf, 0.0, 1e30], jnp.float32)
        out, lse = self.check(problem)
        self.assertTrue((np.asarray(out)[:, :, 0] == 0).all())
        self.check_gradients(problem)

    def test_contiguous_cache(self):
        rng = np.random.default_rng(33)
        b, s = 3, 37
        problem = Problem(rng, b=b, page_size=s, lengths=[37, 5, 20], spare=0)
        problem.k_cache = problem.k_cache[:b]
        problem.block_table = np.arange(b, dtype=np.int32)[:, None]
        self.check(problem)

    def test_pages_shared_between_requests(self):
        problem = Problem(np.random.default_rng(34), lengths=[8, 8, 8], sink=True)
        problem.block_table[:] = problem.block_table[0]
        self.check(problem)
        self.check_gradients(problem)

    def test_empty_arrays(self):
        rng = np.random.default_rng(35)
        none = fm.flash_mla_with_kvcache(
            jnp.zeros((0, 2, 4, 24), jnp.float32),
            jnp.zeros((3, 4, 1, 24), jnp.float32),
            int32(np.zeros((0, 2))),
            int32(np.zeros(0)),
            16,
            implementation=self.implementation,
        )
        self.assertEqual([x.shape for x in none], [(0, 2, 4, 16), (0, 4, 2)])
        problem = Problem(rng, lengths=[0, 0, 1])
        problem.k_cache = problem.k_cache[:0]
        out, lse = self.check(problem)
        self.assertEqual([bool(np.isnan(x).any()) for x in out], [False, False, True])
        problem.block_table = problem.block_table[:, :0]
        self.check(problem)
        problem.q = problem.q[:, :0]
        self.assertEqual(problem.call(self.implementation)[0].shape, (3, 0, 4, 16))

    def test_huge_and_tiny_magnitudes(self):
        for size in (1e-20, 1e4):
            problem = Problem(np.random.default_rng(36), lengths=[5, 12, 3])
            problem.q, problem.scale = problem.q * size, 0.2 / size
            self.check(problem)
            problem.q, problem.k_cache = problem.q / size, problem.k_cache * size
            out, lse = problem.call(self.implementation)
            want_out, want_lse = problem.want()
            self.assert_close(np.asarray(out) / size, want_out / size, dtype=jnp.float32)
            self.assert_close(lse, want_lse)

    def test_same_bits_every_time(self):
        problem = Problem(np.random.default_rng(37), b=4, lengths=[50, 12, 3, 700], dtype=jnp.bfloat16)
        first, second = problem.call(self.implementation), problem.call(self.implementation)
        for x, y in zip(first, second):
            np.testing.assert_array_equal(np.asarray(x).view(np.uint8), np.asarray(y).view(np.uint8))

    def test_flashmla_calling_convention(self):
        """The positional call of FlashMLA's documentation, metadata and all."""
        problem = Problem(np.random.default_rng(38), d=576, d_v=512, page_size=64, lengths=[70, 3, 1])
        problem.scale = 576**-0.5
        table, lengths = int32(problem.block_table), int32(problem.cache_seqlens)
        metadata, num_splits = fm.get_mla_metadata(lengths, 2 * 4 // 1, 1)
        causal, is_fp8, indices = True, False, None
        got = fm.flash_mla_with_kvcache(
            problem.q, problem.k_cache, table, lengths, 512, metadata, num_splits, causal, is_fp8, indices
        )
        problem.options["causal"] = True
        self.assert_all_close(got, problem.want())

    def test_metadata_is_advice(self):
        problem = Problem(np.random.default_rng(39), lengths=[5, 12, 3])
        want = problem.want()
        for lengths in (problem.cache_seqlens, [0, 0, 0], [2**31 - 1, -5, 7]):
            metadata, num_splits = fm.get_mla_metadata(int32(lengths), 8, 1)
            problem.options |= dict(tile_scheduler_metadata=metadata, num_splits=num_splits)
            self.assert_all_close(problem.call(self.implementation), want)

    def test_metadata_is_dropped_by_vmap(self):
        problem = Problem(np.random.default_rng(41), lengths=[5, 12, 3])
        lengths = int32([[5, 12, 3], [1, 0, 7]])

        def call(lengths, metadata, num_splits):
            return fm.flash_mla_with_kvcache(
                problem.q,
                problem.k_cache,
                int32(problem.block_table),
                lengths,
                16,
                metadata,
                num_splits,
                softmax_scale=problem.scale,
                implementation=self.implementation,
            )

        metadata = jax.vmap(lambda x: fm.get_mla_metadata(x, 8, 1))(lengths)
        out, lse = jax.vmap(call)(lengths, *metadata)
        for i in range(2):
            problem.cache_seqlens = np.asarray(lengths[i])
            self.assert_all_close((out[i], lse[i]), problem.want())
