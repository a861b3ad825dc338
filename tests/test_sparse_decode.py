"""Sparse decode against the oracle: both FP8 layouts, float caches, each edge of the semantics."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
from absl.testing import parameterized
from base import ProblemTest, for_each_implementation_of
from operations import MODEL1, V32, fp8_cache, int32, normal

import jax_flash_mla as fm

FORMATS = [("V32", V32), ("MODEL1", MODEL1), ("float", None)]
FLOAT_DIMS = (24, 16)


class Problem:
    """Operands of one call that a test may change, and its options."""

    def __init__(
        self, rng, fmt, *, b=2, s_q=2, h_q=3, topk=9, pages=4, page_size=5, dtype=jnp.float32, sink=False, extra=None
    ):
        self.fmt = fmt
        d, self.d_v = FLOAT_DIMS if fmt is None else (fmt.d_qk, fmt.d_v)
        self.scale = d**-0.5
        self.q = normal(rng, (b, s_q, h_q, d), dtype)
        self.k_cache = self.cache(rng, pages, page_size, dtype)
        self.indices = rng.integers(0, pages * page_size, (b, s_q, topk)).astype(np.int32)
        self.attn_sink = normal(rng, (h_q,), jnp.float32) if sink else None
        self.topk_length = None
        self.extra = None
        if extra is not None:
            extra_topk, extra_pages, extra_page_size = extra
            ids = rng.integers(0, extra_pages * extra_page_size, (b, s_q, extra_topk)).astype(np.int32)
            self.extra = [self.cache(rng, extra_pages, extra_page_size, dtype), ids, None]

    def cache(self, rng, pages, page_size, dtype):
        if self.fmt is None:
            return normal(rng, (pages, page_size, 1, FLOAT_DIMS[0]), dtype)
        return fp8_cache(rng, self.fmt, pages, page_size)

    def call(self, implementation, *arrays):
        q, *rest = arrays or self.arrays()
        k_cache = rest.pop(0) if self.fmt is None else self.k_cache
        optional = {}
        if self.attn_sink is not None:
            optional["attn_sink"] = rest.pop(0)
        if self.topk_length is not None:
            optional["topk_length"] = int32(self.topk_length)
        if self.extra is not None:
            optional |= dict(extra_k_cache=self.extra[0], extra_indices_in_kvcache=int32(self.extra[1]))
            if self.extra[2] is not None:
                optional["extra_topk_length"] = int32(self.extra[2])
        return fm.flash_mla_with_kvcache(
            q,
            k_cache,
            None,
            None,
            self.d_v,
            is_fp8_kvcache=self.fmt is not None,
            indices=int32(self.indices),
            softmax_scale=self.scale,
            implementation=implementation,
            **optional,
        )

    def lists(self):
        b, s_q = self.q.shape[:2]
        name = None if self.fmt is None else self.fmt.name

        def one(cache, ids, lengths):
            if lengths is not None:
                lengths = np.broadcast_to(np.asarray(lengths).reshape(b, -1), (b, s_q)).reshape(-1)
            return oracle.paged_fetch(np.asarray(cache), name), ids.reshape(b * s_q, -1), lengths

        first = one(self.k_cache, self.indices, self.topk_length)
        return [first] if self.extra is None else [first, one(*self.extra)]

    def want(self):
        b, s_q, h_q, d = self.q.shape
        out, _, lse = oracle.sparse_attention(
            self.q.reshape(b * s_q, h_q, d), self.lists(), d_v=self.d_v, scale=self.scale, attn_sink=self.attn_sink
        )
        return out.reshape(b, s_q, h_q, self.d_v), lse.reshape(b, s_q, h_q).swapaxes(1, 2)

    def arrays(self):
        """The differentiable operands: queries, a float cache, the sink."""
        caches = [self.k_cache] if self.fmt is None else []
        return [self.q, *caches] + ([] if self.attn_sink is None else [self.attn_sink])

    def want_gradients(self, d_out, d_lse):
        b, s_q, h_q, d = self.q.shape
        caches = [self.k_cache] + ([] if self.extra is None else [self.extra[0]])
        d_q, d_pools, d_sink = oracle.sparse_gradient(
            self.q.reshape(b * s_q, h_q, d),
            self.lists(),
            [c.shape[0] * c.shape[1] for c in caches],
            np.asarray(d_out).reshape(b * s_q, h_q, -1),
            np.asarray(d_lse).swapaxes(1, 2).reshape(b * s_q, h_q),
            d_v=self.d_v,
            scale=self.scale,
            attn_sink=self.attn_sink,
        )
        d_caches = [d_pools[0].reshape(self.k_cache.shape)] if self.fmt is None else []
        return [d_q.reshape(self.q.shape), *d_caches] + ([] if d_sink is None else [d_sink])


@for_each_implementation_of("sparse_decode")
class SparseDecodeTest(ProblemTest):
    @parameterized.parameters(range(9))
    def test_random_shapes(self, seed):
        rng = np.random.default_rng(seed)
        fmt = FORMATS[seed % 3][1]
        extra = (int(rng.integers(1, 9)), 2, int(rng.integers(1, 9))) if rng.integers(2) else None
        topk = int(rng.integers(1, 30))
        problem = Problem(
            rng,
            fmt,
            b=int(rng.integers(1, 4)),
            s_q=int(rng.integers(1, 4)),
            h_q=int(rng.integers(1, 6)),
            topk=topk,
            pages=int(rng.integers(1, 6)),
            page_size=int(rng.integers(1, 20)),
            extra=extra,
            sink=bool(rng.integers(2)),
            dtype=(jnp.float32, jnp.bfloat16, jnp.float16)[seed // 3],
        )
        problem.topk_length = rng.integers(0, topk + 1, problem.q.shape[: 1 + seed % 2])
        self.check(problem)

    @parameterized.product(fmt=(V32, MODEL1), page_size=(1, 61, 576))
    def test_page_sizes(self, fmt, page_size):
        pages = max(2, 64 // page_size)
        self.check(Problem(np.random.default_rng(page_size), fmt, pages=pages, page_size=page_size, h_q=2, topk=20))

    @parameterized.parameters(jnp.uint8, jnp.int8, jnp.float8_e4m3fn)
    def test_containers_are_bytes(self, dtype):
        problem = Problem(np.random.default_rng(10), V32)
        want = problem.call(self.implementation)
        problem.k_cache = jax.lax.bitcast_convert_type(problem.k_cache, dtype)
        for got, expected in zip(problem.call(self.implementation), want):
            np.testing.assert_array_equal(got, expected)

    def test_many_blocks_and_tokens(self):
        problem = Problem(
            np.random.default_rng(11), None, b=3, s_q=50, h_q=8, topk=700, pages=20, page_size=16, sink=True
        )
        problem.topk_length = np.random.default_rng(12).integers(0, 701, (3, 50))
        self.check(problem)
        self.check_gradients(problem)

    @parameterized.named_parameters(FORMATS)
    def test_any_index(self, fmt):
        problem = Problem(np.random.default_rng(13), fmt, sink=True)
        size = problem.k_cache.shape[0] * problem.k_cache.shape[1]
        wild = [-1, -(2**31), 2**31 - 1, size, size - 1, 0, -2, size + 1, 123456789]
        problem.indices[0, 0] = wild
        problem.indices[1, 1] = [-1] * 9
        out, lse = self.check(problem)
        self.assertTrue((np.asarray(out[1, 1]) == 0).all() and np.isneginf(lse[1, :, 1]).all())
        self.check_gradients(problem)

    @parameterized.named_parameters(FORMATS)
    def test_duplicates_count_twice(self, fmt):
        problem = Problem(np.random.default_rng(14), fmt)
        problem.indices[:, :, 3:] = problem.indices[:, :, :1]
        self.check(problem)
        self.check_gradients(problem)

    @parameterized.named_parameters(FORMATS)
    def test_topk_length(self, fmt):
        problem = Problem(np.random.default_rng(15), fmt, extra=(4, 2, 3), sink=True)
        for lengths in ([0, 9], [[0, 1], [8, 9]], [9, 9]):
            problem.topk_length = np.array(lengths)
            problem.extra[2] = np.minimum(problem.topk_length, 4)
            self.check(problem)
        self.check_gradients(problem)

    @parameterized.parameters(-1, 10, 2**31 - 1, -(2**31))
    def test_topk_length_out_of_range(self, length):
        problem = Problem(np.random.default_rng(16), None, extra=(4, 2, 3), sink=True)
        problem.topk_length = np.array([[3, length], [9, 2]])
        out, _ = self.check(problem)
        self.assertEqual(np.isnan(np.asarray(out)).all((2, 3)).tolist(), [[False, True], [False, False]])
        self.check_gradients(problem)
        problem.topk_length, problem.extra[2] = None, np.array([1, length])
        out, _ = self.check(problem)
        self.assertEqual(np.isnan(np.asarray(out)).all((2, 3)).tolist(), [[False, False], [True, True]])

    @parameterized.named_parameters(FORMATS)
    def test_unreferenced_slots_hold_anything(self, fmt):
        """NaN in every slot that no valid index names, those past topk_length and slot 0 included."""
        rng = np.random.default_rng(17)
        problem = Problem(rng, fmt, sink=True)
        problem.topk_length = np.array([4, 6])
        problem.indices = np.where(problem.indices == 0, 1, problem.indices)
        problem.indices[0, 0, 1] = -1
        want = problem.want()
        named = np.zeros(problem.k_cache.shape[:2], bool).reshape(-1)
        for i in range(2):
            row = problem.indices[i, :, : problem.topk_length[i]]
            named[row[row >= 0]] = True
        page_size = problem.k_cache.shape[1]
        if fmt is None:
            mask = named.reshape(-1, page_size)[..., None, None]
            problem.k_cache = jnp.where(mask, problem.k_cache, jnp.nan)
        else:
            cache = np.array(problem.k_cache)
            for slot in np.flatnonzero(~named):
                spoil_token(cache, fmt, *divmod(slot, page_size))
            problem.k_cache = jnp.asarray(cache)
        self.assert_all_close(problem.call(self.implementation), want)
        self.check_gradients(problem)

    def test_nan_stays_in_its_query_token(self):
        problem = Problem(np.random.default_rng(18), None)
        problem.indices[:] = np.where(problem.indices == 7, 8, problem.indices)
        want = problem.want()
        problem.indices[1, 0, 2] = 7
        problem.k_cache = problem.k_cache.at[1, 2].set(jnp.nan)
        out, lse = (np.asarray(x) for x in problem.call(self.implementation))
        self.assertTrue(np.isnan(out[1, 0]).all() and np.isnan(lse[1, :, 0]).all())
        for i, s in ((0, 0), (0, 1), (1, 1)):
            self.assert_close(out[i, s], want[0][i, s])

    @parameterized.product(fmt=(V32, MODEL1, None), sink=(np.inf, -np.inf))
    def test_infinite_sinks(self, fmt, sink):
        problem = Problem(np.random.default_rng(19), fmt, sink=True)
        problem.attn_sink = problem.attn_sink.at[1].set(sink)
        problem.indices[0, 0] = -1
        self.check(problem)
        self.check_gradients(problem)

    @parameterized.product(fmt=(V32, None), scale=(0.0, -0.1, 1e-30))
    def test_scales(self, fmt, scale):
        problem = Problem(np.random.default_rng(20), fmt)
        problem.scale = scale
        self.check(problem)
        self.check_gradients(problem)

    def test_arbitrary_fp8_scales(self):
        """V32 scales from 1e-38 to 1e6, powers of two or not, of either sign, and zero."""
        rng = np.random.default_rng(21)
        problem = Problem(rng, V32, pages=2, page_size=4, topk=6)
        problem.q = problem.q * 1e-3
        cache = np.array(problem.k_cache)
        for slot in range(8):
            scales = np.float32(rng.choice([-1, 1], 4) * 10.0 ** rng.uniform(-3, 3, 4))
            scales[slot % 4] = np.float32([0, 1e-38, 3.0000002, 1e-20, 0.1, 2.0**-100, 7, 1e6])[slot]
            cache.reshape(2, 4, 656)[slot // 4, slot % 4, 512:528] = scales.view(np.uint8)
        problem.k_cache = jnp.asarray(cache)
        self.check(problem)

    @parameterized.named_parameters(FORMATS[:2])
    def test_every_code(self, fmt):
        """All finite e4m3 codes, in keys and values; then the two NaN codes."""
        rng = np.random.default_rng(22)
        problem = Problem(rng, fmt, pages=1, page_size=2, topk=2, h_q=1, b=1, s_q=1)
        problem.q = problem.q * 0.01
        cache = np.array(problem.k_cache)
        codes = np.array([c for c in range(256) if c & 0x7F != 0x7F], np.uint8)
        codes = np.resize(rng.permutation(codes), fmt.latent_dim)
        data = cache.reshape(-1)
        data[: fmt.latent_dim] = codes
        problem.k_cache, problem.indices = jnp.asarray(cache), np.array([[[0, 1]]], np.int32)
        self.check(problem)
        for code in (0x7F, 0xFF):
            data[0] = code
            problem.k_cache = jnp.asarray(cache)
            # The documented reading is NaN or ±480.
            out, _ = problem.call(self.implementation)
            self.assertTrue(np.isnan(out[0, 0, 0, 0]) or abs(float(out[0, 0, 0, 0])) > 1)

    @parameterized.parameters(0, 1, 126, 127, 200, 230)
    def test_model1_scale_codes(self, code):
        rng = np.random.default_rng(23)
        problem = Problem(rng, MODEL1, pages=1, page_size=3, topk=3)
        cache = np.array(problem.k_cache)
        cache.reshape(-1)[576 * 3 : 576 * 3 + 7] = code
        problem.k_cache = jnp.asarray(cache)
        problem.scale = min(1.0, 2.0 ** (127 - code))
        problem.indices = np.resize(np.arange(3, dtype=np.int32), problem.indices.shape)
        out, lse = problem.call(self.implementation)
        want_out, want_lse = problem.want()
        size = max(1.0, np.abs(want_out).max())
        self.assert_close(np.asarray(out, np.float64) / size, want_out / size, dtype=jnp.float32)
        self.assert_close(lse, want_lse, arithmetic=2e-5)

    def test_pages_of_two_sizes(self):
        self.check(Problem(np.random.default_rng(24), V32, extra=(12, 3, 7), sink=True))
        self.check(Problem(np.random.default_rng(25), MODEL1, page_size=64, extra=(12, 20, 2), sink=True))

    def test_no_indices_and_empty_pools(self):
        for fmt in (V32, MODEL1, None):
            problem = Problem(np.random.default_rng(26), fmt)
            problem.k_cache = problem.k_cache[:0]
            out, lse = self.check(problem)
            self.assertTrue((np.asarray(out) == 0).all() and np.isneginf(lse).all())
            problem.indices = problem.indices[:, :, :0]
            self.check(problem)
        problem = Problem(np.random.default_rng(27), V32)
        problem.q, problem.indices = problem.q[:0], problem.indices[:0]
        self.assertEqual([x.shape for x in problem.call(self.implementation)], [(0, 2, 3, 512), (0, 3, 2)])

    def test_block_table_and_lengths_are_ignored(self):
        problem = Problem(np.random.default_rng(28), V32)
        want = problem.call(self.implementation)
        got = fm.flash_mla_with_kvcache(
            problem.q,
            problem.k_cache,
            int32([[5]]),
            int32([-3]),
            512,
            None,
            None,
            False,
            True,
            int32(problem.indices),
            softmax_scale=problem.scale,
            implementation=self.implementation,
        )
        for x, y in zip(got, want):
            np.testing.assert_array_equal(x, y)

    def test_same_bits_every_time(self):
        problem = Problem(np.random.default_rng(29), V32, b=4, topk=300, dtype=jnp.bfloat16, sink=True)
        for x, y in zip(problem.call(self.implementation), problem.call(self.implementation)):
            np.testing.assert_array_equal(np.asarray(x).view(np.uint8), np.asarray(y).view(np.uint8))

    def test_bytes_have_no_gradient(self):
        problem = Problem(np.random.default_rng(30), V32)
        cache = jax.lax.bitcast_convert_type(problem.k_cache, jnp.float8_e4m3fn)

        def loss(cache):
            problem.k_cache = cache
            return problem.call(self.implementation)[0].sum()

        gradient = jax.grad(loss)(cache)
        self.assertTrue((np.asarray(gradient).astype(np.float32) == 0).all())


def spoil_token(cache, fmt, page, slot):
    """NaN in every part of a token: codes, scales, RoPE."""
    page_size = cache.shape[1]
    data = cache[page].reshape(-1)
    if fmt is V32:
        data[656 * slot : 656 * (slot + 1)] = 0xFF
    else:
        data[576 * slot : 576 * (slot + 1)] = 0xFF
        data[576 * page_size + 8 * slot :][:8] = 0xFF
