"""The transformer: embedding, layers of attention and feed-forward, and a head over bytes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jax_flash_mla.examples.deepseek import attention_dsa as dsa
from jax_flash_mla.examples.deepseek import attention_mla as mla
from jax_flash_mla.examples.deepseek.config import ModelConfig
from jax_flash_mla.examples.deepseek.layers import dense, init_ffn, rms_norm, swiglu
from jax_flash_mla.examples.deepseek.parallel import ONE_DEVICE, Axes

# The results of attention, named by the library: saving them spares its second forward call.
REMAT_POLICY = jax.checkpoint_policies.save_only_these_names("jax_flash_mla.out", "jax_flash_mla.lse")


def init(key, config: ModelConfig) -> dict:
    """All weights, in float32."""
    embedding, head, *layers = jax.random.split(key, 2 + config.layers)
    return {
        "embedding": dense(embedding, (config.vocabulary, config.d_model), config.d_model),
        "layers": [_init_layer(key, config) for key in layers],
        "norm": jnp.ones(config.d_model, jnp.float32),
        "head": dense(head, (config.d_model, config.vocabulary), config.d_model),
    }


def _init_layer(key, config: ModelConfig) -> dict:
    attention, indexer, ffn = jax.random.split(key, 3)
    weights = mla.init(attention, config)
    if config.indexer is not None:
        weights["indexer"] = dsa.init(indexer, config)
    return {
        "attention_norm": jnp.ones(config.d_model, jnp.float32),
        "attention": weights,
        "ffn_norm": jnp.ones(config.d_model, jnp.float32),
        "ffn": init_ffn(ffn, config),
    }


def cast(weights: dict, config: ModelConfig) -> dict:
    """The weights in the dtype of activations."""
    return jax.tree.map(lambda x: x.astype(config.dtype), weights)


def embed(weights: dict, tokens, config: ModelConfig):
    """[..., d_model], of size one."""
    return weights["embedding"][tokens] * jnp.asarray(config.d_model**0.5, weights["embedding"].dtype)


def layer(weights: dict, x, config: ModelConfig, axes: Axes, attention):
    """One layer; ``attention(weights, x)`` returns what is added to x, and something to pass on."""
    added, *rest = attention(weights["attention"], rms_norm(x, weights["attention_norm"], config.norm_epsilon))
    x = x + added
    return x + swiglu(weights["ffn"], rms_norm(x, weights["ffn_norm"], config.norm_epsilon), axes), *rest


def logits(weights: dict, x, config: ModelConfig):
    """Float32 [..., vocabulary]."""
    x = rms_norm(x, weights["norm"], config.norm_epsilon)
    return jnp.einsum("...m,mv->...v", x, weights["head"], preferred_element_type=jnp.float32)


def forward(
    weights: dict,
    tokens,
    config: ModelConfig,
    axes: Axes = ONE_DEVICE,
    *,
    lengths=None,
    dense_stage: bool = False,
    remat: bool = False,
):
    """Whole sequences.

    Args:
      weights: as ``cast`` makes them.
      tokens: int32 [batch, tokens]; over the context axis, this device's.
      lengths: int32 [batch]; tokens of each sequence, where some are padding. One device only.
      dense_stage: of training with an indexer: attention is dense yet.
      remat: computes layers again in the backward pass.

    Returns:
      Logits float32 [batch, tokens, vocabulary]; for each layer, what a cache would hold of each
      token; and the loss of the indexers, summed over layers and tokens.
    """

    def attention(weights, x):
        if config.indexer is None:
            return *mla.self_attention(weights, x, config, axes, lengths), jnp.float32(0)
        # Tokens past a length stand behind all others, and are seen by none of them.
        return dsa.self_attention(weights, x, config, axes, dense_stage)

    run = functools.partial(layer, config=config, axes=axes, attention=attention)
    if remat:
        run = jax.checkpoint(run, policy=REMAT_POLICY)
    x, remembered, index_loss = embed(weights, tokens, config), [], jnp.float32(0)
    for each in weights["layers"]:
        x, kept, loss = run(each, x)
        remembered.append(kept)
        index_loss += loss
    return logits(weights, x, config), remembered, index_loss
