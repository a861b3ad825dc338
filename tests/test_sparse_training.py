"""Gradients through two layers of sparse attention, whose tokens an indexer chooses, against dense attention.

With at least as many choices as tokens each token sees all that come before it, whatever the indexer thinks of them: the
gradients of all weights, and of what goes in, are those of dense attention, though tokens are named in another order.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from base import devices_of, implementations_of, on_a_gpu
from operations import normal

import jax_flash_mla as fm

TOKENS, WIDTH, HEADS, INDEX_DIM = 40, 48, 3, 16


class Model:
    """Two layers: projections to latents and to absorbed queries, attention, projection, residual."""

    def __init__(self, d, d_v, dtype, topk):
        self.d, self.d_v, self.dtype, self.topk, self.scale = d, d_v, dtype, topk, d**-0.5

    def weights(self, rng):
        shapes = dict(
            query=(WIDTH, HEADS, self.d),
            latent=(WIDTH, self.d),
            out=(HEADS, self.d_v, WIDTH),
            index_query=(WIDTH, INDEX_DIM),
            index_key=(WIDTH, INDEX_DIM),
        )
        return [
            {
                name: normal(rng, shape, jnp.float32) * float(np.prod(shape[:-1])) ** -0.5
                for name, shape in shapes.items()
            }
            | {"sink": normal(rng, (HEADS,), jnp.float32)}
            for _ in range(2)
        ]

    def choice(self, layer, x):
        """Visible tokens by the indexer's scores, the best first; −1 where there are fewer."""
        scores = (x @ layer["index_query"]) @ (x @ layer["index_key"]).T
        visible = jnp.tri(len(x), dtype=bool)
        best, chosen = jax.lax.top_k(jnp.where(visible, scores, -jnp.inf), min(self.topk, len(x)))
        chosen = jnp.where(best > -jnp.inf, chosen, -1).astype(jnp.int32)
        return jnp.pad(chosen, ((0, 0), (0, max(self.topk - len(x), 0))), constant_values=-1)

    def sparse(self, implementation, deterministic):
        def attend(layer, x, q, kv):
            return fm.flash_mla_sparse_fwd(
                q,
                kv[:, None],
                self.choice(layer, jax.lax.stop_gradient(x))[:, None],
                self.scale,
                self.d_v,
                attn_sink=layer["sink"],
                deterministic=deterministic,
                implementation=implementation,
            )[0]

        return attend

    def dense(self, layer, x, q, kv):
        scores = self.scale * jnp.einsum("qhd,kd->qhk", q, kv, precision="highest", preferred_element_type=jnp.float32)
        scores = jnp.where(jnp.tri(len(x), dtype=bool)[:, None], scores, -jnp.inf)
        sink = jnp.broadcast_to(layer["sink"][:, None], (*scores.shape[:2], 1))
        weights = jax.nn.softmax(jnp.concatenate([scores, sink], axis=-1))[..., :-1]
        values = kv[:, : self.d_v].astype(jnp.float32)
        return jnp.einsum("qhk,kv->qhv", weights, values, precision="highest").astype(q.dtype)

    def gradients(self, attend, weights, x):
        def loss(weights, x):
            for layer in weights:
                q = jnp.einsum("tw,whd->thd", x, layer["query"], precision="highest").astype(self.dtype)
                kv = jnp.dot(x, layer["latent"], precision="highest").astype(self.dtype)
                out = attend(layer, x, q, kv).astype(jnp.float32)
                x = x + jnp.einsum("thv,hvw->tw", out, layer["out"], precision="highest")
            return (x**2).mean()

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(weights, x)


class SparseTrainingTest(parameterized.TestCase):
    def check(self, model, implementation, deterministic, tolerance):
        rng = np.random.default_rng(0)
        with jax.default_device(devices_of(implementation)[0]):
            weights, x = model.weights(rng), normal(rng, (TOKENS, WIDTH), jnp.float32)
            got = model.gradients(model.sparse(implementation, deterministic), weights, x)
            want = model.gradients(model.dense, weights, x)
        for (path, one), other in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
            if "index" in str(path):
                self.assertEqual(np.abs(one).max(), 0)
                continue
            self.assertGreater(np.abs(other).max(), 0)
            self.assertLess(np.abs(one - other).max() / np.abs(other).max(), tolerance, path)

    @parameterized.product(
        implementation=[x for x in implementations_of("sparse_prefill") if x != "cuda"],
        deterministic=[False, True],
        topk=[TOKENS, TOKENS + 7],
    )
    def test_dense_where_all_are_chosen(self, implementation, deterministic, topk):
        self.check(Model(24, 16, jnp.float32, topk), implementation, deterministic, 1e-5)

    def test_a_choice_matters(self):
        """Fewer choices give other gradients: what is compared above can differ."""
        with self.assertRaises(AssertionError):
            self.check(Model(24, 16, jnp.float32, TOKENS // 2), "xla", False, 1e-2)


@on_a_gpu("cuda" in implementations_of("sparse_prefill"), "no GPU here has a sparse prefill kernel")
class SparseTrainingKernelTest(SparseTrainingTest):
    test_dense_where_all_are_chosen = test_a_choice_matters = None

    @parameterized.product(deterministic=[False, True], d=[576, 512])
    def test_kernel(self, deterministic, d):
        """Within the rounding of activations, which both sides round, and of weights of the softmax."""
        self.check(Model(d, 512, jnp.bfloat16, TOKENS), "cuda", deterministic, 2e-2)
