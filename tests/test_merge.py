"""Merging states against the oracle, and against attention over all keys at once."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
from absl.testing import parameterized
from base import OperationTest
from operations import int32, normal

import jax_flash_mla as fm


class MergeTest(OperationTest):
    __test__ = True

    @parameterized.product(base=("e", 2), parts=(1, 2, 5), dtype=(jnp.float32, jnp.bfloat16))
    def test_random(self, base, parts, dtype):
        rng = np.random.default_rng(parts)
        outs, lses = normal(rng, (parts, 3, 4, 6), dtype), normal(rng, (parts, 3, 4), jnp.float32) * 10
        lses = lses.at[0, 1].set(-jnp.inf).at[:, 2, 3].set(-jnp.inf)
        got = fm.merge_attention_states(outs, lses, lse_base=base)
        self.assertEqual(got[0].dtype, dtype)
        self.assert_all_close(got, oracle.merge(outs, lses, np.e if base == "e" else 2.0))

    def test_parts_without_keys_may_hold_anything(self):
        rng = np.random.default_rng(0)
        outs, lses = normal(rng, (2, 4, 6), jnp.float32), normal(rng, (2, 4), jnp.float32)
        outs, lses = (
            outs.at[0, 1].set(jnp.nan).at[:, 2].set(jnp.inf),
            lses.at[0, 1].set(-jnp.inf).at[:, 2].set(-jnp.inf),
        )
        out, lse = fm.merge_attention_states(outs, lses)
        self.assert_close(out[1], np.asarray(outs[1, 1], np.float64))
        self.assertTrue((np.asarray(out[2]) == 0).all() and np.isneginf(lse[2]))

        def loss(outs, lses):
            out, lse = fm.merge_attention_states(outs, lses)
            return out.sum() + jnp.where(jnp.isfinite(lse), lse, 0).sum()

        for gradient in jax.grad(loss, argnums=(0, 1))(outs, lses):
            self.assertTrue(np.isfinite(gradient).all())

    def test_a_spoiled_part_spoils_its_row_alone(self):
        rng = np.random.default_rng(1)
        outs, lses = normal(rng, (3, 4, 6), jnp.float32), normal(rng, (3, 4), jnp.float32)
        out, lse = fm.merge_attention_states(outs.at[1, 2].set(jnp.nan), lses.at[1, 2].set(jnp.nan))
        self.assertEqual(np.isnan(np.asarray(out)).all(-1).tolist(), [False, False, True, False])
        self.assertEqual(np.isnan(np.asarray(lse)).tolist(), [False, False, True, False])

    def test_gradients(self):
        rng = np.random.default_rng(2)
        outs, lses = normal(rng, (3, 4, 5), jnp.float32), normal(rng, (3, 4), jnp.float32)
        lses = lses.at[2, 1].set(-jnp.inf)
        jax.test_util.check_grads(
            lambda o, f: fm.merge_attention_states(o, lses.at[:2].set(f)),
            (outs, lses[:2]),
            order=1,
            rtol=2e-2,
            atol=2e-2,
        ) if hasattr(jax, "test_util") else None
        weights = jax.nn.softmax(lses, axis=0)

        def direct(outs, finite):
            f = lses.at[:2].set(finite)
            w = jax.nn.softmax(f, axis=0)
            return (w[..., None] * outs).sum() + jax.scipy.special.logsumexp(f, axis=0).sum()

        def ours(outs, finite):
            out, lse = fm.merge_attention_states(outs, lses.at[:2].set(finite))
            return out.sum() + lse.sum()

        for got, want in zip(jax.grad(ours, (0, 1))(outs, lses[:2]), jax.grad(direct, (0, 1))(outs, lses[:2])):
            self.assert_close(got, np.asarray(want, np.float64))
        self.assert_close(jax.grad(ours)(outs, lses[:2]), np.repeat(np.asarray(weights)[..., None], 5, -1))

    def test_halves_make_a_whole(self):
        """Over the two halves of the keys and over all of them; gradients through the merge too."""
        rng = np.random.default_rng(3)
        b, t, s, n, d = 2, 5, 8, 3, 12
        q, k, v = (normal(rng, (b, x, n, d), jnp.float32) for x in (t, s, s))

        def whole(q, k, v):
            return fm.flash_attn_func(q, k, v)

        def halves(q, k, v):
            parts = [fm.flash_attn_func(q, k[:, i], v[:, i]) for i in (slice(0, 3), slice(3, 8))]
            return fm.merge_attention_states(*(jnp.stack(x) for x in zip(*parts)))

        self.assert_all_close(halves(q, k, v), whole(q, k, v))

        def loss(f):
            return lambda *a: sum((x**2).sum() for x in f(*a))

        for got, want in zip(jax.grad(loss(halves), (0, 1, 2))(q, k, v), jax.grad(loss(whole), (0, 1, 2))(q, k, v)):
            self.assert_close(got, np.asarray(want, np.float64), arithmetic=1e-5)

    def test_base_two_states_of_sparse_prefill(self):
        rng = np.random.default_rng(4)
        q, kv = normal(rng, (4, 2, 12), jnp.float32), normal(rng, (9, 1, 12), jnp.float32)
        indices = int32(rng.permuted(np.tile(np.arange(9), (4, 1, 1)), axis=2))
        whole = fm.flash_mla_sparse_fwd(q, kv, indices, 0.3, 8)
        parts = [fm.flash_mla_sparse_fwd(q, kv, indices[:, :, i], 0.3, 8) for i in (slice(0, 4), slice(4, 9))]
        out, lse = fm.merge_attention_states(
            jnp.stack([p[0] for p in parts]), jnp.stack([p[2] for p in parts]), lse_base=2
        )
        self.assert_all_close((out, lse), (whole[0], whole[2]))
