"""Sparse prefill against the oracle: random shapes, both bases, each edge of the semantics."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
from absl.testing import parameterized
from base import ProblemTest, for_each_implementation_of
from inspection import stage_calls
from operations import int32, normal

import jax_flash_mla as fm


class Problem:
    """Operands of one call that a test may change, and its options."""

    def __init__(self, rng, *, s_q=6, s_kv=20, h_q=4, d=24, d_v=16, topk=9, dtype=jnp.float32, sink=False, base=2):
        self.q = normal(rng, (s_q, h_q, d), dtype)
        self.kv = normal(rng, (s_kv, 1, d), dtype)
        self.indices = rng.integers(0, s_kv, (s_q, 1, topk)).astype(np.int32)
        self.attn_sink = normal(rng, (h_q,), jnp.float32) if sink else None
        self.topk_length = None
        self.d_v, self.scale, self.base = d_v, 0.3, base
        self.deterministic = False

    def call(self, implementation, q=None, kv=None, attn_sink=None):
        lengths = None if self.topk_length is None else int32(self.topk_length)
        return fm.flash_mla_sparse_fwd(
            self.q if q is None else q,
            self.kv if kv is None else kv,
            int32(self.indices),
            self.scale,
            self.d_v,
            attn_sink=self.attn_sink if attn_sink is None else attn_sink,
            topk_length=lengths,
            lse_base=self.base,
            deterministic=self.deterministic,
            implementation=implementation,
        )

    @property
    def unit(self):
        return 1 / oracle.LN2 if self.base == 2 else 1.0

    def lists(self):
        return [(oracle.flat_fetch(self.kv[:, 0]), self.indices[:, 0], self.topk_length)]

    def want(self):
        out, top, lse = oracle.sparse_attention(
            self.q, self.lists(), d_v=self.d_v, scale=self.scale, attn_sink=self.attn_sink
        )
        return out, top * self.unit, lse * self.unit

    def arrays(self):
        """The differentiable operands."""
        return [self.q, self.kv] + ([] if self.attn_sink is None else [self.attn_sink])

    def want_gradients(self, d_out, d_lse):
        d_q, (d_kv,), d_sink = oracle.sparse_gradient(
            self.q,
            self.lists(),
            [len(self.kv)],
            np.asarray(d_out),
            np.asarray(d_lse) * self.unit,
            d_v=self.d_v,
            scale=self.scale,
            attn_sink=self.attn_sink,
        )
        return [d_q, d_kv[:, None]] + ([] if d_sink is None else [d_sink])


@for_each_implementation_of("sparse_prefill")
class SparsePrefillTest(ProblemTest):
    @parameterized.parameters(range(8))
    def test_random_shapes(self, seed):
        rng = np.random.default_rng(seed)
        d, topk = int(rng.integers(1, 40)), int(rng.integers(1, 30))
        problem = Problem(
            rng,
            s_q=int(rng.integers(1, 9)),
            s_kv=int(rng.integers(1, 40)),
            h_q=int(rng.integers(1, 7)),
            d=d,
            d_v=int(rng.integers(1, d + 1)),
            topk=topk,
            sink=bool(rng.integers(2)),
            base=(2, "e")[seed % 2],
            dtype=(jnp.float32, jnp.bfloat16, jnp.float16)[seed % 3],
        )
        if rng.integers(2):
            problem.topk_length = rng.integers(0, topk + 1, len(problem.q))
        self.check(problem)
        if problem.q.dtype == jnp.float32:
            self.check_gradients(problem)

    def test_latent_attention_dimensions(self):
        for d in (576, 512):
            problem = Problem(np.random.default_rng(10), h_q=16, d=d, d_v=512, topk=64, s_kv=100, dtype=jnp.bfloat16)
            problem.scale = d**-0.5
            self.check(problem)

    def test_bfloat16_gradients(self):
        """Within the rounding of the stored out, which the gradient starts from."""
        problem = Problem(np.random.default_rng(11), dtype=jnp.bfloat16, sink=True)
        self.check_gradients(problem, arithmetic=2.0**-8)

    def test_many_blocks_and_tokens(self):
        problem = Problem(np.random.default_rng(12), s_q=150, s_kv=300, h_q=8, topk=600, sink=True)
        problem.topk_length = np.random.default_rng(13).integers(0, 601, 150)
        self.check(problem)
        self.check_gradients(problem)

    def test_a_million_queries(self):
        problem = Problem(np.random.default_rng(30), s_q=2**20, h_q=1, d=4, d_v=4, topk=2, base="e")
        out, top, lse = problem.call(self.implementation)
        keys = oracle.f64(problem.kv)[problem.indices[:, 0], 0]
        logits = problem.scale * np.einsum("qd,qkd->qk", oracle.f64(problem.q)[:, 0], keys)
        weights = np.exp(logits)
        self.assert_close(out[:, 0], np.einsum("qk,qkd->qd", weights, keys) / weights.sum(1, keepdims=True))
        self.assert_close(top[:, 0], logits.max(1))
        self.assert_close(lse[:, 0], np.log(weights.sum(1)))

    @parameterized.parameters(2, "e")
    def test_units(self, base):
        """P = sm_scale · q·k · log2(e) in base 2; max_logits = max P, lse = log2 Σ 2^P."""
        problem = Problem(np.random.default_rng(14), base=base)
        _, top, lse = problem.call(self.implementation)
        logits = problem.scale * np.einsum("qhd,qkd->qhk", problem.q, problem.kv[:, 0][problem.indices[:, 0]])
        if base == 2:
            logits = logits * np.log2(np.e)
            want = np.log2(np.exp2(logits.astype(np.float64)).sum(-1))
        else:
            want = np.log(np.exp(logits.astype(np.float64)).sum(-1))
        self.assert_close(top, logits.max(-1))
        self.assert_close(lse, want)

    def test_nothing_to_attend_to(self):
        problem = Problem(np.random.default_rng(15), sink=True)
        problem.indices[1] = -1
        problem.topk_length = np.array([0, 9, 9, 9, 0, 3])
        out, top, lse = self.check(problem)
        for row in (0, 1, 4):
            self.assertTrue((np.asarray(out[row]) == 0).all())
            self.assertTrue(np.isneginf(top[row]).all() and np.isneginf(lse[row]).all())
        self.check_gradients(problem)

    @parameterized.parameters(1, 3, 300)
    def test_deterministic(self, s_kv):
        """Few tokens that all choose many times, and many of which most are chosen by nobody."""
        rng = np.random.default_rng(31)
        problem = Problem(rng, s_q=20, s_kv=s_kv, topk=50, sink=True)
        problem.deterministic = True
        problem.indices[rng.random(problem.indices.shape) < 0.2] = rng.choice([-1, -(2**31), 2**31 - 1, s_kv])
        problem.topk_length = rng.integers(0, 51, 20)
        self.check(problem)
        self.check_gradients(problem)

    def test_deterministic_keeps_nan_where_it_is(self):
        """A query that is NaN spoils the tokens that it chose, whoever is beside them in the order of sums."""
        problem = Problem(np.random.default_rng(32), s_q=6, s_kv=40, topk=9)
        problem.deterministic = True
        q = jnp.asarray(problem.q).at[2].set(jnp.nan)
        d_kv = jax.grad(lambda kv: problem.call(self.implementation, q, kv)[0].sum())(problem.kv)[:, 0]
        spoiled = np.isin(np.arange(40), problem.indices[2])
        self.assertTrue(np.isnan(d_kv[spoiled]).all() and np.isfinite(d_kv[~spoiled]).all())

    def test_any_index(self):
        problem = Problem(np.random.default_rng(16), sink=True)
        problem.indices[2, 0] = [-1, -(2**31), 2**31 - 1, 20, 19, 0, -123456, 21, 7]
        self.check(problem)
        self.check_gradients(problem)

    def test_duplicates_count_twice(self):
        problem = Problem(np.random.default_rng(17))
        problem.indices[:, :, 2:] = problem.indices[:, :, :1]
        self.check(problem)
        self.check_gradients(problem)

    @parameterized.parameters(-1, 10, 2**31 - 1, -(2**31))
    def test_topk_length_out_of_range(self, length):
        problem = Problem(np.random.default_rng(18), sink=True)
        problem.topk_length = np.array([9, length, 3, 0, 9, 1])
        out, top, lse = self.check(problem)
        self.assertEqual(np.isnan(np.asarray(out)).all((1, 2)).tolist(), [i == 1 for i in range(6)])
        self.check_gradients(problem)

    def test_nan_in_tokens_that_no_valid_index_names(self):
        """Those past topk_length too."""
        problem = Problem(np.random.default_rng(19), sink=True)
        problem.indices = np.where(np.isin(problem.indices, (0, 5)), 6, problem.indices)
        problem.topk_length = np.array([9, 4, 3, 0, 9, 1])
        want = problem.want()
        problem.indices[1, 0, 4:] = 5
        problem.indices[0, 0, 0] = 6
        problem.kv = problem.kv.at[jnp.array([0, 5])].set(jnp.nan)
        want = problem.want()
        self.assertTrue(np.isfinite(want[0]).all())
        self.assert_all_close(problem.call(self.implementation), want)
        self.check_gradients(problem)

    def test_nan_stays_in_its_query_token(self):
        problem = Problem(np.random.default_rng(20))
        problem.indices = np.where(problem.indices == 5, 6, problem.indices)
        want = problem.want()
        problem.indices[3, 0, 1] = 5
        problem.kv = problem.kv.at[5].set(jnp.inf)
        out, _, lse = problem.call(self.implementation)
        for i in (0, 1, 2, 4, 5):
            self.assert_close(out[i], want[0][i])
        self.assertFalse(np.isfinite(out[3]).all() and np.isfinite(lse[3]).all())

    def test_infinite_sinks(self):
        problem = Problem(np.random.default_rng(21), sink=True)
        problem.attn_sink = jnp.asarray([jnp.inf, -jnp.inf, 0.0, 1e30], jnp.float32)
        problem.indices[0] = -1
        self.check(problem)
        self.check_gradients(problem)

    @parameterized.parameters(0.0, -0.5, 1e-30, 30.0)
    def test_scales(self, scale):
        problem = Problem(np.random.default_rng(22))
        problem.scale = scale
        self.check(problem)
        self.check_gradients(problem, arithmetic=1e-5 * max(1, abs(scale)))

    def test_empty_arrays(self):
        problem = Problem(np.random.default_rng(23))
        problem.kv = problem.kv[:0]
        self.check(problem)
        problem.indices = problem.indices[:, :, :0]
        self.check(problem)
        self.check_gradients(problem)
        problem.q, problem.indices = problem.q[:0], problem.indices[:0]
        self.assertEqual([x.shape for x in problem.call(self.implementation)], [(0, 4, 16), (0, 4), (0, 4)])

    def test_same_bits_every_time(self):
        problem = Problem(np.random.default_rng(24), s_q=40, topk=300, dtype=jnp.bfloat16)
        for x, y in zip(problem.call(self.implementation), problem.call(self.implementation)):
            np.testing.assert_array_equal(np.asarray(x).view(np.uint8), np.asarray(y).view(np.uint8))

    def test_vmap_over_prompts_is_one_call(self):
        problem = Problem(np.random.default_rng(25))
        q = jnp.stack([problem.q, 2 * problem.q, -problem.q])
        jaxpr = jax.make_jaxpr(jax.vmap(lambda q: problem.call(self.implementation, q)))(q)
        self.assertEqual(stage_calls(jaxpr, "sparse_prefill_forward"), 1)

    def test_mapped_pools_past_int32_are_refused(self):
        members, s_kv = 3, 2**30
        kv = jax.ShapeDtypeStruct((members, s_kv, 1, 2), jnp.bfloat16)
        q = jax.ShapeDtypeStruct((members, 1, 1, 2), jnp.bfloat16)
        indices = jax.ShapeDtypeStruct((members, 1, 1, 4), jnp.int32)
        call = jax.vmap(lambda q, kv, i: fm.flash_mla_sparse_fwd(q, kv, i, 1.0, 2, implementation=self.implementation))
        with self.assertRaisesRegex(ValueError, "indices cannot address 3 mapped pools of 1073741824"):
            jax.eval_shape(call, q, kv, indices)
