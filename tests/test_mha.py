"""Multi-head attention against the oracle: batched, packed, and each edge of the semantics."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
from absl.testing import parameterized
from base import OperationTest, ProblemTest, for_each_implementation_of
from operations import int32, normal

import jax_flash_mla as fm


class Problem:
    """Operands of one packed call that a test may change, and its options."""

    def __init__(
        self,
        rng,
        cu_q,
        cu_kv,
        *,
        total_q=None,
        total_kv=None,
        h_q=4,
        h_kv=2,
        d=12,
        d_v=8,
        dtype=jnp.float32,
        causal=False,
    ):
        self.cu_q, self.cu_kv = np.array(cu_q, np.int64), np.array(cu_kv, np.int64)
        self.total_q = int(self.cu_q[-1]) if total_q is None else total_q
        self.total_kv = int(self.cu_kv[-1]) if total_kv is None else total_kv
        self.q = normal(rng, (self.total_q, h_q, d), dtype)
        self.k = normal(rng, (self.total_kv, h_kv, d), dtype)
        self.v = normal(rng, (self.total_kv, h_kv, d_v), dtype)
        self.scale, self.causal, self.options = d**-0.5, causal, {}

    def call(self, implementation, q=None, k=None, v=None):
        return fm.flash_attn_varlen_func(
            self.q if q is None else q,
            self.k if k is None else k,
            self.v if v is None else v,
            int32(self.cu_q),
            int32(self.cu_kv),
            softmax_scale=self.scale,
            causal=self.causal,
            implementation=implementation,
            **self.options,
        )

    def ranges(self):
        return oracle.ranges(self.cu_q, self.total_q, self.cu_kv, self.total_kv)

    def want(self):
        q_ranges, kv_ranges, spoiled, _ = self.ranges()
        out, lse = oracle.mha(self.q, self.k, self.v, q_ranges, kv_ranges, scale=self.scale, causal=self.causal)
        out[sorted(spoiled)] = lse[sorted(spoiled)] = np.nan
        return out, lse

    def arrays(self):
        """The differentiable operands."""
        return [self.q, self.k, self.v]

    def want_gradients(self, d_out, d_lse):
        q_ranges, kv_ranges, q_spoiled, kv_spoiled = self.ranges()
        d_q, d_k, d_v = oracle.mha_gradient(
            self.q, self.k, self.v, q_ranges, kv_ranges, d_out, d_lse, scale=self.scale, causal=self.causal
        )
        d_q[sorted(q_spoiled)] = np.nan
        d_k[sorted(kv_spoiled)] = d_v[sorted(kv_spoiled)] = np.nan
        return d_q, d_k, d_v


def cuts(rng, total, sequences):
    return np.concatenate([[0], np.sort(rng.integers(0, total + 1, sequences - 1)), [total]])


@for_each_implementation_of("mha")
class PackedTest(ProblemTest):
    @parameterized.parameters(range(10))
    def test_random_shapes(self, seed):
        rng = np.random.default_rng(seed)
        h_kv, sequences = int(rng.integers(1, 4)), int(rng.integers(1, 6))
        total_q, total_kv = (int(x) for x in rng.integers(1, 60, 2))
        problem = Problem(
            rng,
            cuts(rng, total_q, sequences),
            cuts(rng, total_kv, sequences),
            h_kv=h_kv,
            h_q=h_kv * int(rng.integers(1, 4)),
            d=int(rng.integers(1, 30)),
            d_v=int(rng.integers(1, 30)),
            causal=bool(seed % 2),
            dtype=(jnp.float32, jnp.bfloat16, jnp.float16)[seed % 3],
        )
        self.check(problem)
        if problem.q.dtype == jnp.float32:
            self.check_gradients(problem)

    @parameterized.parameters((192, 128), (128, 128))
    def test_usual_dimensions(self, d, d_v):
        problem = Problem(
            np.random.default_rng(20), [0, 150, 290], [0, 130, 300], d=d, d_v=d_v, causal=True, dtype=jnp.bfloat16
        )
        self.check(problem)
        self.check_gradients(problem, arithmetic=2.0**-8)

    def test_many_tiles(self):
        problem = Problem(np.random.default_rng(21), [0, 300, 310, 700], [0, 500, 500, 650], d=8, causal=True)
        self.check(problem)
        self.check_gradients(problem)

    def test_many_short_sequences(self):
        rng = np.random.default_rng(22)
        problem = Problem(rng, cuts(rng, 200, 150), cuts(rng, 180, 150), h_q=2, h_kv=1, causal=True)
        self.check(problem)
        self.check_gradients(problem)

    def test_more_sequences_than_16_bits_count(self):
        """Of one token or none, so that every output is its value and every lse its logit."""
        rng = np.random.default_rng(40)
        sequences = 2**16 + 1000
        cu = np.concatenate([[0], np.cumsum(rng.integers(0, 2, sequences))])
        problem = Problem(rng, cu, cu, h_q=1, h_kv=1, d=4, d_v=4, causal=True)
        out, lse = problem.call(self.implementation)
        self.assert_close(out, np.asarray(problem.v, np.float64))
        self.assert_close(lse, problem.scale * np.einsum("tnd,tnd->tn", oracle.f64(problem.q), oracle.f64(problem.k)))

    @parameterized.parameters(False, True)
    def test_empty_sequences(self, causal):
        """No queries, no keys, neither; at the ends and in the middle."""
        cu_q, cu_kv = [0, 0, 5, 9, 9, 14, 14], [0, 3, 8, 8, 8, 10, 12]
        problem = Problem(np.random.default_rng(23), cu_q, cu_kv, causal=causal)
        out, lse = self.check(problem)
        self.assertTrue((np.asarray(out[5:9]) == 0).all() and np.isneginf(lse[5:9]).all())
        self.check_gradients(problem)

    def test_more_queries_than_keys(self):
        problem = Problem(np.random.default_rng(24), [0, 8, 20], [0, 3, 8], causal=True)
        out, lse = self.check(problem)
        self.assertTrue(np.isneginf(lse[:5]).all() and np.isfinite(lse[5:8]).all())
        self.check_gradients(problem)

    @parameterized.product(garbage=(np.nan, np.inf), causal=(False, True))
    def test_padding_tails_hold_anything(self, garbage, causal):
        problem = Problem(np.random.default_rng(25), [0, 5, 9], [0, 7, 8], total_q=14, total_kv=13, causal=causal)
        want, gradients = problem.want(), problem.want_gradients(np.ones((14, 4, 8)), np.ones((14, 4)))
        problem.q = problem.q.at[9:].set(garbage)
        problem.k = problem.k.at[8:].set(garbage)
        problem.v = problem.v.at[8:].set(-garbage)
        (out, lse), pull = jax.vjp(
            lambda q, k, v: problem.call(self.implementation, q, k, v), problem.q, problem.k, problem.v
        )
        self.assert_all_close((out, lse), want)
        self.assertTrue((np.asarray(out[9:]) == 0).all() and np.isneginf(lse[9:]).all())
        # Cotangents of the padding hold anything, too.
        d_out, d_lse = jnp.ones_like(out).at[9:].set(garbage), jnp.ones_like(lse).at[9:].set(garbage)
        for got, expected in zip(pull((d_out, d_lse)), gradients):
            self.assert_close(got, expected, arithmetic=1e-5)

    @parameterized.parameters(False, True)
    def test_nan_stays_in_its_sequence(self, causal):
        """Packed neighbours share tiles with it."""
        problem = Problem(np.random.default_rng(26), [0, 5, 9, 16], [0, 7, 11, 17], causal=causal)
        want = problem.want()
        ones = np.ones((16, 4, 8)), np.ones((16, 4))
        gradients = problem.want_gradients(*ones)
        problem.k, problem.v = problem.k.at[8].set(jnp.nan), problem.v.at[7].set(jnp.inf)
        problem.q = problem.q.at[6].set(jnp.nan)
        (out, lse), pull = jax.vjp(
            lambda q, k, v: problem.call(self.implementation, q, k, v), problem.q, problem.k, problem.v
        )
        others_q, others_kv = np.r_[0:5, 9:16], np.r_[0:7, 11:17]
        self.assert_close(out[others_q], want[0][others_q])
        self.assert_close(lse[others_q], want[1][others_q])
        self.assertTrue(np.isnan(out[8]).all())
        d_q, d_k, d_v = pull((jnp.ones_like(out), jnp.ones_like(lse)))
        self.assert_close(d_q[others_q], gradients[0][others_q], arithmetic=1e-5)
        self.assert_close(d_k[others_kv], gradients[1][others_kv], arithmetic=1e-5)
        self.assert_close(d_v[others_kv], gradients[2][others_kv], arithmetic=1e-5)

    @parameterized.named_parameters(
        ("decreasing", [0, 10, 5, 20]),
        ("decreasing_to_the_end", [0, 10, 14, 12]),
        ("past_the_end", [0, 5, 25, 20]),
        ("past_the_end_last", [0, 5, 12, 31]),
        ("negative", [0, 5, -3, 20]),
        ("negative_first", [-4, 5, 12, 20]),
        ("huge", [0, 2**31 - 1, 12, 20]),
        ("hugely_negative", [0, 5, -(2**31), 20]),
        ("nothing_right", [20, 10, 5, -1]),
        ("starts_late", [3, 5, 12, 18]),
    )
    def test_bounds_out_of_order(self, bounds):
        fine = [0, 7, 12, 20]
        for cu_q, cu_kv in ((bounds, fine), (fine, bounds), (bounds, bounds)):
            problem = Problem(np.random.default_rng(27), cu_q, cu_kv, total_q=20, total_kv=20, causal=True)
            self.check(problem)
            self.check_gradients(problem)

    @parameterized.parameters(0.0, -0.4, 1e-30)
    def test_scales(self, scale):
        problem = Problem(np.random.default_rng(28), [0, 6, 9], [0, 4, 9], causal=True)
        problem.scale = scale
        self.check(problem)
        self.check_gradients(problem)

    def test_longest_lengths_are_hints(self):
        problem = Problem(np.random.default_rng(29), [0, 100, 130], [0, 40, 200], causal=True)
        want = problem.want()
        for hints in ((1, 1), (0, 0), (100, 160), (10**6, None)):
            problem.options = dict(max_seqlen_qo=hints[0], max_seqlen_kv=hints[1])
            self.assert_all_close(problem.call(self.implementation), want)
        self.check_gradients(problem)

    def test_empty_arrays(self):
        for total_q, total_kv in ((0, 4), (4, 0), (0, 0)):
            problem = Problem(np.random.default_rng(30), [0, total_q], [0, total_kv])
            self.check(problem)
            self.check_gradients(problem)

    def test_side_by_side_forms(self):
        rng = np.random.default_rng(31)
        problem = Problem(rng, [0, 5, 9], [0, 5, 9], h_q=3, h_kv=3, d=12, d_v=8)
        problem.scale = 12**-0.5
        cu = int32(problem.cu_q)
        qkv = jnp.concatenate([problem.q, problem.k, problem.v], axis=-1)
        got = fm.flash_attn_varlen_qkvpacked_func(qkv, cu, 5, 12, causal=True, implementation=self.implementation)
        problem.causal = True
        self.assert_all_close(got, problem.want())
        kv = jnp.concatenate([problem.k, problem.v], axis=-1)
        problem.cu_kv = np.array([0, 2, 9])
        got = fm.flash_attn_varlen_kvpacked_func(
            problem.q, kv, cu, int32(problem.cu_kv), None, None, 12, implementation=self.implementation
        )
        problem.causal = False
        self.assert_all_close(got, problem.want())

        def loss(qkv):
            out, lse = fm.flash_attn_varlen_qkvpacked_func(qkv, cu, None, 12, implementation=self.implementation)
            return out.sum() + lse.sum()

        problem.cu_kv = problem.cu_q
        want = problem.want_gradients(np.ones((9, 3, 8)), np.ones((9, 3)))
        self.assert_close(jax.grad(loss)(qkv), np.concatenate(want, axis=-1), arithmetic=1e-5)

    def test_huge_and_tiny_magnitudes(self):
        for size in (1e-20, 1e4):
            problem = Problem(np.random.default_rng(32), [0, 9], [0, 7])
            problem.q, problem.scale = problem.q * size, problem.scale / size
            self.check(problem)

    def test_same_bits_every_time(self):
        problem = Problem(np.random.default_rng(33), [0, 100, 200], [0, 120, 150], causal=True, dtype=jnp.bfloat16)
        problem.options = dict(deterministic=True)

        def run():
            results, pull = jax.vjp(
                lambda q, k, v: problem.call(self.implementation, q, k, v), problem.q, problem.k, problem.v
            )
            return (*results, *pull(tuple(jnp.ones_like(x) for x in results)))

        for x, y in zip(run(), run()):
            np.testing.assert_array_equal(np.asarray(x).view(np.uint8), np.asarray(y).view(np.uint8))


@for_each_implementation_of("mha")
class BatchedTest(OperationTest):
    def operands(self, rng, b=3, t=6, s=9, n=4, k=2, d=12, e=8, dtype=jnp.float32):
        return normal(rng, (b, t, n, d), dtype), normal(rng, (b, s, k, d), dtype), normal(rng, (b, s, k, e), dtype)

    def want(self, q, k, v, q_seqlens, kv_seqlens, causal):
        out, lse = np.zeros((*q.shape[:3], v.shape[-1])), np.zeros(q.shape[:3])
        for i in range(len(q)):
            n, m = int(q_seqlens[i]), int(kv_seqlens[i])
            if not 0 <= n <= q.shape[1]:
                out[i] = lse[i] = np.nan
                continue
            if not 0 <= m <= k.shape[1]:
                out[i, :n] = lse[i, :n] = np.nan
                out[i, n:], lse[i, n:] = 0, -np.inf
                continue
            out[i], lse[i] = oracle.mha(q[i], k[i], v[i], [(0, n)], [(0, m)], scale=q.shape[-1] ** -0.5, causal=causal)
        return out, lse

    @parameterized.product(causal=(False, True), t=(6, 140), s=(9, 150))
    def test_lengths(self, causal, t, s):
        rng = np.random.default_rng(0)
        q, k, v = self.operands(rng, t=t, s=s)
        for q_seqlens, kv_seqlens in (([t, t, t], [s, s, s]), ([0, 3, t], [s, 0, 5]), ([t, 2, 1], [1, s, 7])):
            got = fm.flash_attn_func(
                q,
                k,
                v,
                causal=causal,
                q_seqlens=int32(q_seqlens),
                kv_seqlens=int32(kv_seqlens),
                implementation=self.implementation,
            )
            self.assert_all_close(got, self.want(q, k, v, q_seqlens, kv_seqlens, causal))

    def test_no_lengths(self):
        q, k, v = self.operands(np.random.default_rng(1))
        got = fm.flash_attn_func(q, k, v, causal=True, implementation=self.implementation)
        self.assert_all_close(got, self.want(q, k, v, [6] * 3, [9] * 3, True))

    @parameterized.parameters(-1, 7, 2**31 - 1, -(2**31))
    def test_lengths_out_of_range(self, length):
        q, k, v = self.operands(np.random.default_rng(2), s=6)
        for q_seqlens, kv_seqlens in (([6, length, 2], [6, 3, 6]), ([6, 4, 2], [6, length, 6])):
            got = fm.flash_attn_func(
                q, k, v, q_seqlens=int32(q_seqlens), kv_seqlens=int32(kv_seqlens), implementation=self.implementation
            )
            self.assert_all_close(got, self.want(q, k, v, q_seqlens, kv_seqlens, False))

    def test_padding_holds_anything(self):
        q, k, v = self.operands(np.random.default_rng(3))
        q_seqlens, kv_seqlens = [6, 0, 2], [9, 4, 3]
        want = self.want(q, k, v, q_seqlens, kv_seqlens, True)
        for i in range(3):
            q = q.at[i, q_seqlens[i] :].set(jnp.nan)
            k = k.at[i, kv_seqlens[i] :].set(jnp.inf)
            v = v.at[i, kv_seqlens[i] :].set(jnp.nan)

        def call(q, k, v):
            return fm.flash_attn_func(
                q,
                k,
                v,
                causal=True,
                q_seqlens=int32(q_seqlens),
                kv_seqlens=int32(kv_seqlens),
                implementation=self.implementation,
            )

        results, pull = jax.vjp(call, q, k, v)
        self.assert_all_close(results, want)
        for gradient, lengths in zip(
            pull(tuple(jnp.ones_like(x) for x in results)), (q_seqlens, kv_seqlens, kv_seqlens)
        ):
            self.assertTrue(np.isfinite(gradient).all())
            for i, length in enumerate(lengths):
                self.assertTrue((np.asarray(gradient[i, length:]) == 0).all())

    def test_empty_batch(self):
        q, k, v = self.operands(np.random.default_rng(4), b=0)
        out, lse = fm.flash_attn_func(q, k, v, implementation=self.implementation)
        self.assertEqual((out.shape, lse.shape), ((0, 6, 4, 8), (0, 6, 4)))

    def test_packed_and_batched_agree(self):
        q, k, v = self.operands(np.random.default_rng(5))
        batched = fm.flash_attn_func(q, k, v, causal=True, implementation=self.implementation)
        cu_q, cu_kv = int32(np.arange(4) * 6), int32(np.arange(4) * 9)
        packed = fm.flash_attn_varlen_func(
            *(x.reshape(-1, *x.shape[2:]) for x in (q, k, v)),
            cu_q,
            cu_kv,
            causal=True,
            implementation=self.implementation,
        )
        for x, y in zip(batched, packed):
            self.assert_close(x.reshape(y.shape), np.asarray(y, np.float64))
