"""Multi-head latent attention: one set of weights, two forms.

A token is remembered as 512 latent numbers, which all heads share, and 64 rotary ones:

    x ─ kv_down ─┬─ norm ─► latent 512 ─┬─ k_up ─► 128 a head ┐ key
                 └─ rotate ► rope    64 ┼──────────────────── ┘ 192 a head
                                        └─ v_up ─► 128 a head   value
    x ─ q_down ─ norm ─ q_up ─► 128 + 64 a head                 query

multi-head form  keys and values are made from the latents, attention is that of 192 and 128
                 dimensions: least arithmetic where there are many queries, in training and prefill
absorbed form    k_up is applied to the query instead, v_up to the result: every head attends to
                 the latents themselves, 576 and 512 dimensions, one key head. A decode step then
                 reads 576 numbers a token, whatever the number of heads

Both give the same numbers but for rounding.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_flash_mla import flash_attn_func
from jax_flash_mla.examples.deepseek.config import ModelConfig
from jax_flash_mla.examples.deepseek.layers import dense, rms_norm
from jax_flash_mla.examples.deepseek.parallel import Axes
from jax_flash_mla.examples.deepseek.rotary import rotate, softmax_scale


def init(key, config: ModelConfig) -> dict:
    """Weights of one layer."""
    keys = jax.random.split(key, 6)
    heads, width = config.heads, config.heads * config.v_dim
    return {
        "q_down": dense(keys[0], (config.d_model, config.q_rank), config.d_model),
        "q_norm": jnp.ones(config.q_rank, jnp.float32),
        "q_up": dense(keys[1], (config.q_rank, heads, config.qk_dim), config.q_rank),
        "kv_down": dense(keys[2], (config.d_model, config.kv_rank + config.rope_dim), config.d_model),
        "kv_norm": jnp.ones(config.kv_rank, jnp.float32),
        "k_up": dense(keys[3], (config.kv_rank, heads, config.nope_dim), config.kv_rank),
        "v_up": dense(keys[4], (config.kv_rank, heads, config.v_dim), config.kv_rank),
        "out": dense(keys[5], (heads, config.v_dim, config.d_model), width * 2 * config.layers),
    }


def query_latent(weights: dict, x, config: ModelConfig):
    """What queries are made from: [..., q_rank]."""
    return rms_norm(x @ weights["q_down"], weights["q_norm"], config.norm_epsilon)


def queries(weights: dict, latent, positions, config: ModelConfig):
    """From ``query_latent``: queries without position [..., heads, 128], and their rotary part [..., heads, 64]."""
    q = jnp.einsum("...r,rhd->...hd", latent, weights["q_up"])
    return q[..., : config.nope_dim], rotate(q[..., config.nope_dim :], positions[..., None], config)


def latents(weights: dict, x, positions, config: ModelConfig):
    """What is remembered of each token: [..., 512] and, rotated, [..., 64]."""
    down = x @ weights["kv_down"]
    latent = rms_norm(down[..., : config.kv_rank], weights["kv_norm"], config.norm_epsilon)
    return latent, rotate(down[..., config.kv_rank :], positions, config)


def absorb(weights: dict, q_nope, q_rope):
    """Queries of the absorbed form: [..., heads, 576]."""
    return jnp.concatenate([jnp.einsum("...hd,rhd->...hr", q_nope, weights["k_up"]), q_rope], axis=-1)


def project(weights: dict, out, axes: Axes):
    """Values [..., heads, 128] to the model's width."""
    return axes.sum_over_tensor(jnp.einsum("...hd,hdm->...m", out, weights["out"]))


def project_latent(weights: dict, out, axes: Axes):
    """Results of the absorbed form [..., heads, 512] to the model's width."""
    return project(weights, jnp.einsum("...hr,rhd->...hd", out, weights["v_up"]), axes)


def self_attention(weights: dict, x, config: ModelConfig, axes: Axes, lengths=None):
    """Causal attention of each sequence to itself, in the multi-head form.

    Args:
      x: [batch, tokens, d_model]; over the context axis, this device's tokens.
      lengths: int32 [batch]; tokens of each sequence, where some are padding. One device only.

    Returns:
      [batch, tokens, d_model], and the latents of this device's tokens.
    """
    positions = axes.first_token(x.shape[1]) + jnp.arange(x.shape[1], dtype=jnp.int32)
    q = queries(weights, query_latent(weights, x, config), positions, config)
    mine = latents(weights, x, positions, config)
    out, _ = multi_head(weights, q, mine, config, axes, lengths)
    return project(weights, out, axes), mine


def multi_head(weights: dict, q, latents_here, config: ModelConfig, axes: Axes, lengths=None):
    """Causal attention in the multi-head form, from what ``queries`` and ``latents`` made of this device's tokens.

    Returns:
      [batch, tokens, heads, 128], and the log-sum-exp [batch, tokens, heads].
    """
    q = jnp.concatenate(q, axis=-1)
    batch, tokens, _, _ = q.shape
    latent, rope = (axes.gather_tokens(part) for part in latents_here)
    k_nope = jnp.einsum("bsr,rhd->bshd", latent, weights["k_up"])
    k_rope = jnp.broadcast_to(rope[:, :, None], (*k_nope.shape[:3], config.rope_dim))
    k = jnp.concatenate([k_nope, k_rope], axis=-1)
    v = jnp.einsum("bsr,rhd->bshd", latent, weights["v_up"])
    q_lengths = kv_lengths = lengths
    if axes.context is not None:
        # Causal masks align the last query with the last key: this device's keys end where its queries do.
        kv_lengths = jnp.full(batch, axes.first_token(tokens) + tokens, jnp.int32)
    if config.attention == "cudnn":
        return _cudnn(q, k, v, kv_lengths, config)
    return flash_attn_func(
        q,
        k,
        v,
        softmax_scale=softmax_scale(config),
        causal=True,
        q_seqlens=q_lengths,
        kv_seqlens=kv_lengths,
        implementation=config.implementation,
    )


def _cudnn(q, k, v, kv_lengths, config: ModelConfig):
    """The same by cuDNN, to compare with: it wants values as wide as keys, and returns no log-sum-exp."""
    if jax.default_backend() != "gpu":
        raise ValueError(f'attention="cudnn" needs an NVIDIA GPU, and JAX runs on {jax.default_backend()} here.')
    if kv_lengths is not None:
        raise ValueError('attention="cudnn" takes whole sequences alone: no padding, and a context axis of 1.')
    wide = jnp.pad(v, [(0, 0)] * 3 + [(0, q.shape[-1] - v.shape[-1])])
    out = jax.nn.dot_product_attention(q, k, wide, scale=softmax_scale(config), is_causal=True, implementation="cudnn")
    return out[..., : v.shape[-1]], None
