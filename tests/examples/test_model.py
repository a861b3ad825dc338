"""The model: its two forms of attention, paged decode and sparse attention give the same logits."""

import dataclasses
import functools
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from absl.testing import parameterized
from tiny import setUpModule, tearDownModule  # noqa: F401

from jax_flash_mla.examples.deepseek import attention_dsa as dsa
from jax_flash_mla.examples.deepseek import cache as paged
from jax_flash_mla.examples.deepseek import config as configs
from jax_flash_mla.examples.deepseek import model, rotary
from jax_flash_mla.examples.deepseek.config import Indexer, ServeConfig, Yarn
from jax_flash_mla.examples.deepseek.parallel import ONE_DEVICE

LENGTH = 24
PAGES = ServeConfig(requests=2, pages=8, page_size=16, max_length=32, prompt_lengths=(32,))
# Float32 sums in another order.
TOLERANCE = dict(rtol=0, atol=2e-5)


@functools.lru_cache
def forward(config, dense_stage=False):
    """Logits, what is remembered and the indexer's loss of two sequences."""
    run = jax.jit(functools.partial(model.forward, config=config, dense_stage=dense_stage))
    return jax.tree.map(np.asarray, run(tiny.weights(tiny.SPARSE), tiny.tokens(2, LENGTH)))


def with_topk(topk):
    return dataclasses.replace(tiny.SPARSE, indexer=dataclasses.replace(tiny.SPARSE.indexer, topk=topk))


def decoded(config, serve, first, widths):
    """Logits of the tokens from ``first`` on, by paged decode, some at a time; the tokens before by prefill."""
    weights, tokens = tiny.weights(tiny.SPARSE), tiny.tokens(2, LENGTH)
    caches = paged.empty(config, serve)
    # Pages out of order, and those of the two requests mixed.
    table = jnp.array([[5, 2, 7], [0, 6, 1]], jnp.int32)[:, : serve.table_width]
    prefill = jax.jit(functools.partial(paged.prefill, model=config, serve=serve))
    decode = jax.jit(functools.partial(paged.decode, model=config, serve=serve))
    last = []
    for row in range(2):
        prompt = np.zeros((1, 32), np.int32)
        prompt[0, :first] = tokens[row, :first]
        logits, caches = prefill(weights, caches, prompt, jnp.int32(first), table[row : row + 1])
        last.append(logits)
    out, at = [np.stack(last)[:, None]], first
    for width in widths:
        lengths = jnp.full(2, at, jnp.int32)
        logits, caches = decode(weights, caches, tokens[:, at : at + width], lengths, table, jnp.ones(2, bool))
        out.append(np.asarray(logits))
        at += width
    return np.concatenate(out, axis=1)


class FormsTest(parameterized.TestCase):
    @parameterized.named_parameters(("one_by_one", (1, 1, 1)), ("several", (2, 3)))
    def test_paged_decode_is_the_multi_head_form(self, widths):
        first = LENGTH - sum(widths)
        got = decoded(tiny.DENSE, PAGES, first, widths)
        np.testing.assert_allclose(got, forward(tiny.DENSE)[0][:, first - 1 :], **TOLERANCE)

    def test_absorbed_form_is_the_multi_head_form(self):
        """Sparse attention is in the absorbed form, and sees everything here."""
        np.testing.assert_allclose(forward(with_topk(LENGTH))[0], forward(tiny.DENSE)[0], **TOLERANCE)

    def test_sparse_paged_decode_is_sparse_prefill(self):
        serve = dataclasses.replace(PAGES, sparse=True)
        got = decoded(tiny.SPARSE, serve, LENGTH - 3, (1, 2))
        np.testing.assert_allclose(got, forward(tiny.SPARSE)[0][:, -4:], **TOLERANCE)
        # The choice matters: dense attention gives something else.
        self.assertGreater(np.abs(got - forward(tiny.DENSE)[0][:, -4:]).max(), 0.01)

    @parameterized.named_parameters(("dense", False), ("sparse", True))
    def test_fp8_cache(self, sparse):
        """Within the rounding of e4m3 of a float cache, and not equal to it."""
        serve = dataclasses.replace(PAGES, sparse=sparse)
        config = paged.as_served(tiny.SPARSE, serve)
        exact = decoded(config, serve, LENGTH - 3, (3,))
        got = decoded(config, dataclasses.replace(serve, cache="fp8"), LENGTH - 3, (3,))
        off = np.abs(got - exact)[:, 1:].max()
        self.assertLess(off, 0.1)
        self.assertGreater(off, 1e-4)

    def test_padding_changes_nothing(self):
        weights, tokens = tiny.weights(tiny.SPARSE), tiny.tokens(2, LENGTH)
        padded = np.pad(tokens, ((0, 0), (0, 8)))
        lengths = jnp.full(2, LENGTH, jnp.int32)
        for config in (tiny.DENSE, tiny.SPARSE):
            got = jax.jit(functools.partial(model.forward, config=config))(weights, padded, lengths=lengths)[0]
            np.testing.assert_allclose(got[:, :LENGTH], forward(config)[0], **TOLERANCE)

    def test_bfloat16(self):
        """Half of the mantissa is gone, and nothing else."""
        config = dataclasses.replace(tiny.DENSE, compute="bfloat16")
        weights = model.cast(tiny.weights(tiny.SPARSE), config)
        got = jax.jit(functools.partial(model.forward, config=config))(weights, tiny.tokens(2, LENGTH))[0]
        self.assertLess(np.abs(got - forward(tiny.DENSE)[0]).max(), 0.1)


class IndexerTest(parameterized.TestCase):
    def test_choice_is_the_best_visible(self):
        scores = jnp.array([[3.0, -jnp.inf, -jnp.inf, -jnp.inf], [1.0, 4.0, 2.0, -jnp.inf]])
        self.assertEqual(dsa.choose(scores, 2).tolist(), [[0, -1], [1, 2]])
        self.assertEqual(dsa.choose(scores, 9).tolist(), [[0, -1, -1, -1], [1, 2, 0, -1]])

    def test_loss_is_that_of_its_formula(self):
        """Of one layer, in float64 and without blocks: where all heads looked, against a softmax of scores."""
        config, weights = with_topk(LENGTH), tiny.weights(tiny.SPARSE)["layers"][0]["attention"]
        x = jax.random.normal(jax.random.key(3), (1, LENGTH, config.d_model), jnp.float32)
        _, _, dense = dsa.self_attention(weights, x, config, ONE_DEVICE, True)
        _, _, sparse = dsa.self_attention(weights, x, config, ONE_DEVICE, False)
        self.assertAlmostEqual(float(dense), float(sparse), places=4)

        w, x = jax.tree.map(lambda v: np.asarray(v, np.float64), (weights, x[0]))

        def turned(v):
            angle = np.arange(LENGTH)[:, None] * rotary.frequencies(config).astype(np.float64)
            angle = angle.reshape(LENGTH, *(1,) * (v.ndim - 2), -1)
            pairs = v.reshape(*v.shape[:-1], -1, 2)
            turn = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angle)
            return np.stack([turn.real, turn.imag], -1).reshape(v.shape)

        def normed(v):
            return v / np.sqrt((v**2).mean(-1, keepdims=True) + config.norm_epsilon)

        def softmax(v):
            v = np.where(np.tril(np.ones((LENGTH, LENGTH), bool)), v, -np.inf)
            e = np.exp(v - v.max(-1, keepdims=True))
            return e / e.sum(-1, keepdims=True)

        q_latent, kv = normed(x @ w["q_down"]), x @ w["kv_down"]
        q = np.einsum("tr,rhd->thd", q_latent, w["q_up"])
        k = np.einsum("sr,rhd->shd", normed(kv[:, :512]), w["k_up"])
        dots = np.einsum("thd,shd->hts", q[..., :128], k)
        dots += np.einsum("thd,sd->hts", turned(q[..., 128:]), turned(kv[:, 512:]))
        looked = softmax(dots * config.qk_dim**-0.5).mean(0)
        key = x @ w["indexer"]["key"]
        key = (key - key.mean(-1, keepdims=True)) / np.sqrt(key.var(-1, keepdims=True) + config.norm_epsilon)
        index = np.einsum("thd,sd->hts", turned(np.einsum("tr,rhd->thd", q_latent, w["indexer"]["query"])), turned(key))
        index = np.einsum("th,hts->ts", x @ w["indexer"]["weight"], np.maximum(index, 0)) * 128**-0.5
        want = (looked * np.log(np.where(looked > 0, looked / np.where(looked > 0, softmax(index), 1), 1))).sum()
        self.assertAlmostEqual(float(dense), want, places=4)

    def test_its_loss_moves_nothing_else(self):
        weights, tokens = tiny.weights(tiny.SPARSE), tiny.tokens(2, LENGTH)
        gradient = jax.jit(jax.grad(lambda w: model.forward(w, tokens, tiny.SPARSE)[2]))(weights)
        for path, x in jax.tree_util.tree_leaves_with_path(gradient):
            moved = float(jnp.abs(x).max()) > 0
            self.assertEqual(moved, "indexer" in jax.tree_util.keystr(path), jax.tree_util.keystr(path))

    def test_queries_in_blocks(self):
        """Blocks of queries change nothing."""
        want = forward(tiny.SPARSE)
        with_blocks = dsa.QUERY_BLOCK
        try:
            dsa.QUERY_BLOCK = 7
            forward.cache_clear()
            got = forward(tiny.SPARSE)
        finally:
            dsa.QUERY_BLOCK = with_blocks
            forward.cache_clear()
        np.testing.assert_allclose(got[0], want[0], **TOLERANCE)
        np.testing.assert_allclose(got[2], want[2], rtol=1e-5)


class RotaryTest(parameterized.TestCase):
    def test_only_distance_counts(self):
        q, k = (jax.random.normal(jax.random.key(i), (64,), jnp.float32) for i in (0, 1))

        def dot(i, j):
            turned = (rotary.rotate(x, jnp.int32(at), tiny.DENSE) for x, at in ((q, i), (k, j)))
            return float(jnp.vdot(*turned))

        self.assertAlmostEqual(dot(9, 4), dot(105, 100), places=3)
        self.assertNotAlmostEqual(dot(9, 4), dot(9, 5), places=3)

    def test_yarn(self):
        """Fast pairs stay, slow ones are slowed by the factor, none is sped up."""
        stretched = dataclasses.replace(tiny.DENSE, yarn=Yarn(factor=40, original_length=4096))
        ratio = rotary.frequencies(tiny.DENSE) / rotary.frequencies(stretched)
        np.testing.assert_allclose(ratio[:8], 1, rtol=1e-6)
        np.testing.assert_allclose(ratio[-8:], 40, rtol=1e-5)
        self.assertTrue((np.diff(ratio) >= -1e-4).all())
        # As published for DeepSeek-V3: (0.1 ln 40 + 1)^2 / √192.
        self.assertAlmostEqual(rotary.softmax_scale(stretched), 1.3688879**2 / 192**0.5, places=6)


class ConfigTest(parameterized.TestCase):
    def test_a_file_holds_all_of_it(self):
        config = dataclasses.replace(
            configs.PRESETS["smoke-dsa"],
            model=dataclasses.replace(tiny.SPARSE, yarn=Yarn(2, 64), indexer=Indexer(1, 64, 3, 4)),
        )
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "config.json"
            configs.save(config, file)
            self.assertEqual(configs.load(file), config)

    @parameterized.named_parameters(("attention", "gpu"), ("compute", "int8"))
    def test_refusals(self, value):
        name = self._testMethodName.rsplit("_", 1)[1]
        with self.assertRaisesRegex(ValueError, f"{name} must be one of .* got '{value}'"):
            dataclasses.replace(tiny.DENSE, **{name: value})
