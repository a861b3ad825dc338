"""DeepSeek sparse attention: an indexer scores all tokens cheaply, attention sees the best of them.

    score(t, s) = Σ_j  w_j(t) · relu(q_j(t) · k(s))      a few heads j, one key a token

The tokens with the topk greatest scores are attended to, in the absorbed form. Choosing has no
gradient: the indexer learns by a loss of its own, the divergence of its softmax from where
attention looked. It sees detached activations, so that its loss moves nothing else.

Training has two stages. First attention is dense and the indexer learns from all tokens; then
attention is sparse and it learns from those that it chose.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_flash_mla import flash_mla_sparse_fwd
from jax_flash_mla.examples.deepseek import attention_mla as mla
from jax_flash_mla.examples.deepseek.config import ModelConfig
from jax_flash_mla.examples.deepseek.layers import dense, layer_norm
from jax_flash_mla.examples.deepseek.parallel import Axes
from jax_flash_mla.examples.deepseek.rotary import rotate, softmax_scale

# Queries that are scored at a time: no array grows with queries × tokens × heads.
QUERY_BLOCK = 128


def init(key, config: ModelConfig) -> dict:
    """Weights of one layer's indexer."""
    query, token, weight = jax.random.split(key, 3)
    heads, dim = config.indexer.heads, config.indexer.dim
    return {
        "query": dense(query, (config.q_rank, heads, dim), config.q_rank),
        "key": dense(token, (config.d_model, dim), config.d_model),
        "key_norm": jnp.ones(dim, jnp.float32),
        "key_bias": jnp.zeros(dim, jnp.float32),
        "weight": dense(weight, (config.d_model, heads), config.d_model),
    }


def _rotate_first(x, positions, config: ModelConfig):
    rope = config.rope_dim
    return jnp.concatenate([rotate(x[..., :rope], positions, config), x[..., rope:]], axis=-1)


def index_keys(weights: dict, x, positions, config: ModelConfig):
    """What the indexer remembers of each token: [..., dim]."""
    key = layer_norm(x @ weights["key"], weights["key_norm"], weights["key_bias"], config.norm_epsilon)
    return _rotate_first(key, positions, config)


def index_queries(weights: dict, x, query_latent, positions, config: ModelConfig):
    """Queries [..., heads, dim] and float32 weights [..., heads] of the indexer."""
    q = jnp.einsum("...r,rhd->...hd", query_latent, weights["query"])
    scale = (config.indexer.heads * config.indexer.dim) ** -0.5
    return _rotate_first(q, positions[..., None], config), (x @ weights["weight"]).astype(jnp.float32) * scale


def scores(queries, weights, keys, visible):
    """The formula above: float32 [..., queries, tokens], −inf where a token is not visible."""
    dots = jnp.einsum("...qhd,...sd->...hqs", queries, keys, preferred_element_type=jnp.float32)
    total = jnp.einsum("...qh,...hqs->...qs", weights, jax.nn.relu(dots))
    return jnp.where(visible, total, -jnp.inf)


def choose(scores, topk: int):
    """Tokens with the greatest scores: int32 [..., topk or fewer]; −1 where fewer are visible."""
    best, tokens = jax.lax.top_k(scores, min(topk, scores.shape[-1]))
    return jnp.where(best > -jnp.inf, tokens, -1).astype(jnp.int32)


def self_attention(weights: dict, x, config: ModelConfig, axes: Axes, dense_stage: bool):
    """Causal sparse attention of each sequence to itself.

    Args:
      weights: those of ``attention_mla``, and the indexer's under "indexer".
      x: [batch, tokens, d_model]; over the context axis, this device's tokens.
      dense_stage: whether attention is dense yet, and the indexer learns from all tokens.

    Returns:
      [batch, tokens, d_model]; the latents and index keys of this device's tokens; and the
      indexer's loss, summed over these tokens.
    """
    positions = axes.first_token(x.shape[1]) + jnp.arange(x.shape[1], dtype=jnp.int32)
    q_latent = mla.query_latent(weights, x, config)
    q_nope, q_rope = mla.queries(weights, q_latent, positions, config)
    q = mla.absorb(weights, q_nope, q_rope)
    latents = mla.latents(weights, x, positions, config)
    detached = jax.lax.stop_gradient((x, q_latent))
    index_q, index_w = index_queries(weights["indexer"], *detached, positions, config)
    index_key = index_keys(weights["indexer"], detached[0], positions, config)
    kv = axes.gather_tokens(jnp.concatenate(latents, axis=-1))
    keys = axes.gather_tokens(index_key)

    if dense_stage:
        chosen = None
        out, lse = mla.multi_head(weights, (q_nope, q_rope), latents, config, axes)
        result = mla.project(weights, out, axes)
    else:

        def choose_block(index_q, index_w, positions, keys):
            return choose(scores(index_q, index_w, keys, _visible(positions, keys)), config.indexer.topk)

        chosen = _by_blocks(choose_block, (index_q, index_w), positions, keys)
        out, lse = jax.vmap(lambda q, kv, chosen: sparse(q, kv, chosen, config))(q, kv, chosen)
        result = mla.project_latent(weights, out, axes)

    def loss_block(index_q, index_w, q, lse, chosen, positions, keys, kv):
        seen = scores(index_q, index_w, keys, _visible(positions, keys))
        target = _where_attention_looked(q, kv, chosen, lse, seen, config, axes)
        return _divergence(target, seen, chosen)

    looked = jax.lax.stop_gradient((q, lse))
    loss = _by_blocks(
        jax.checkpoint(loss_block), (index_q, index_w, *looked, chosen), positions, keys, jax.lax.stop_gradient(kv)
    )
    return result, (*latents, index_key), jnp.sum(loss)


def sparse(q, kv, chosen, config: ModelConfig):
    """Attention of queries [tokens, heads, 576] to chosen ones of kv [tokens, 576]: out, and lse in natural units."""
    out, _, lse = flash_mla_sparse_fwd(
        q,
        kv[:, None],
        chosen[:, None],
        softmax_scale(config),
        config.kv_rank,
        lse_base="e",
        implementation=config.implementation,
    )
    return out, lse


def _visible(positions, keys):
    return jnp.arange(keys.shape[0], dtype=jnp.int32) <= positions[:, None]


def _where_attention_looked(q, kv, chosen, lse, seen, config: ModelConfig, axes: Axes):
    """Attention weights, the mean over all heads: float32 [queries, topk or, where attention is dense, tokens]."""
    keys, there = ("sd", seen > -jnp.inf) if chosen is None else ("qsd", chosen >= 0)
    logits = jnp.einsum(f"qhd,{keys}->qhs", q, kv if chosen is None else kv[chosen], preferred_element_type=jnp.float32)
    logits = jnp.where(there[:, None], logits * softmax_scale(config) - lse[..., None], -jnp.inf)
    return axes.sum_over_tensor(jnp.sum(jnp.exp(logits), axis=1)) / config.heads


def _divergence(target, seen, chosen):
    """Kullback–Leibler divergence from ``target`` of the softmax of scores, over what was chosen: [queries]."""
    logits = seen
    if chosen is not None:
        logits = jnp.where(chosen >= 0, jnp.take_along_axis(seen, jnp.maximum(chosen, 0), axis=-1), -jnp.inf)
    got = jnp.where(logits > -jnp.inf, jax.nn.log_softmax(logits), 0.0)
    want = jnp.log(jnp.where(target > 0, target, 1.0))
    return jnp.sum(target * (want - got), axis=-1)


def _by_blocks(function, per_query, positions, *per_token):
    """``function(*per_query, positions, *per_token)`` of each sequence, for ``QUERY_BLOCK`` queries at a time.

    Args:
      per_query: arrays [batch, queries, ...], or None.
      positions: [queries].
      per_token: arrays [batch, tokens, ...].

    Returns:
      [batch, queries, ...].
    """
    (queries,) = positions.shape
    blocks = next(n for n in range(-(-queries // QUERY_BLOCK), queries + 1) if queries % n == 0)

    def split(x):
        return jnp.moveaxis(x.reshape(x.shape[0], blocks, -1, *x.shape[2:]), 1, 0)

    def one_block(block):
        over_sequences = jax.vmap(lambda mine, all: function(*mine, block[1], *all))
        return over_sequences(block[0], per_token)

    out = jax.lax.map(one_block, (jax.tree.map(split, per_query), positions.reshape(blocks, -1)))
    return jnp.moveaxis(out, 0, 1).reshape(out.shape[1], queries, *out.shape[3:])
