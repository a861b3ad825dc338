"""Paged caches, and the model run through them: prefill writes a prompt, decode adds a few tokens.

Each layer has a pool of pages, and all pools share one table: the pages of each request, in order.

    table[request]  = [7, 2, 9, …]       token t lies in page table[t // page_size], place t % page_size
    latent pool     [pages, page_size, 1, 576], or 656 bytes a token
    index pool      [pages, page_size, 1, dim of the indexer], for sparse attention
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_flash_mla import KVCacheFormat, append_to_kv_cache, flash_mla_with_kvcache, get_mla_metadata
from jax_flash_mla.examples.deepseek import attention_dsa as dsa
from jax_flash_mla.examples.deepseek import attention_mla as mla
from jax_flash_mla.examples.deepseek import model as transformer
from jax_flash_mla.examples.deepseek.config import ModelConfig, ServeConfig
from jax_flash_mla.examples.deepseek.parallel import ONE_DEVICE
from jax_flash_mla.examples.deepseek.rotary import softmax_scale


class LayerCache(NamedTuple):
    """The pools of one layer; ``index`` is None where attention is dense."""

    latent: jax.Array
    index: jax.Array | None


def as_served(model: ModelConfig, serve: ServeConfig) -> ModelConfig:
    """The model without its indexer, where attention is dense; cuDNN is for training alone."""
    if model.attention == "cudnn":
        model = dataclasses.replace(model, attention="auto")
    return model if serve.sparse else dataclasses.replace(model, indexer=None)


def empty(model: ModelConfig, serve: ServeConfig) -> list[LayerCache]:
    """A cache for each layer."""
    pages = (serve.pages, serve.page_size, 1)

    def layer():
        if serve.cache == "fp8":
            latent = jnp.zeros((*pages, KVCacheFormat.V32.bytes_per_token), jnp.uint8)
        else:
            latent = jnp.zeros((*pages, model.kv_rank + model.rope_dim), model.dtype)
        return LayerCache(latent, jnp.zeros((*pages, model.indexer.dim), model.dtype) if serve.sparse else None)

    return [layer() for _ in range(model.layers)]


def slots_of(table, tokens, page_size: int):
    """Where tokens [requests, n] lie in a pool; −1 where they are negative."""
    pages = jnp.take_along_axis(table, jnp.maximum(tokens, 0) // page_size, axis=1)
    return jnp.where(tokens >= 0, pages * page_size + tokens % page_size, -1)


def _append(cache: LayerCache, remembered, slots) -> LayerCache:
    """The cache with new tokens: latent, rotary part and, for sparse attention, the indexer's key."""
    latent, rope, *index_key = remembered
    cache = cache._replace(latent=append_to_kv_cache(cache.latent, latent, rope, slots))
    if cache.index is not None:
        halves = jnp.split(index_key[0], 2, axis=-1)
        cache = cache._replace(index=append_to_kv_cache(cache.index, *halves, slots))
    return cache


def prefill(weights: dict, caches: list, tokens, length, table, model: ModelConfig, serve: ServeConfig):
    """Writes a prompt into the cache, in the form that training uses.

    Args:
      tokens: int32 [1, padded length].
      length: int32 scalar.
      table: int32 [1, table_width], the request's pages.

    Returns:
      The logits after the last token, [vocabulary], and the cache.
    """
    logits, remembered, _ = transformer.forward(weights, tokens, model, lengths=length[None])
    order = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    slots = slots_of(table, jnp.where(order < length, order, -1), serve.page_size)
    caches = [_append(cache, kept, slots) for cache, kept in zip(caches, remembered, strict=True)]
    return logits[0, length - 1], caches


def decode(
    weights: dict, caches: list, tokens, lengths, table, active, model: ModelConfig, serve: ServeConfig, layers=None
):
    """Runs a few tokens of each request, in the absorbed form, and adds them to the cache.

    Args:
      tokens: int32 [requests, n].
      lengths: int32 [requests], tokens in the cache before.
      table: int32 [requests, table_width].
      active: bool [requests]; others leave no trace.
      layers: how many of the model's first ones to run; all by default.

    Returns:
      Logits [requests, n, vocabulary], and the cache.
    """
    count = tokens.shape[1]
    positions = lengths[:, None] + jnp.arange(count, dtype=jnp.int32)
    slots = slots_of(table, jnp.where(active[:, None], positions, -1), serve.page_size)
    seen = jnp.where(active, lengths + count, 0)
    # One schedule for all layers.
    schedule = get_mla_metadata(seen, count * model.heads, 1)

    def attend(q, cache: LayerCache, chosen):
        call = functools.partial(
            flash_mla_with_kvcache,
            q,
            cache.latent,
            table,
            seen,
            model.kv_rank,
            softmax_scale=softmax_scale(model),
            implementation=model.implementation,
        )
        if chosen is None:
            out, _ = call(*schedule, causal=True)
        else:
            out, _ = call(is_fp8_kvcache=serve.cache == "fp8", indices=chosen)
        return out

    def choose(weights, x, q_latent, cache: LayerCache):
        """Slots of the tokens that each query attends to, or None for all up to its own."""
        order = jnp.arange(serve.table_width * serve.page_size, dtype=jnp.int32)
        visible = active[:, None, None] & (order <= positions[..., None])
        if serve.sparse:
            keys = cache.index[table].reshape(len(table), len(order), -1)
            index_q, index_w = dsa.index_queries(weights["indexer"], x, q_latent, positions, model)
            chosen = dsa.choose(dsa.scores(index_q, index_w, keys, visible), model.indexer.topk)
        elif serve.cache == "fp8":
            # There is no dense decode from FP8: all tokens are named.
            chosen = jnp.where(visible, order, -1)
        else:
            return None
        return slots_of(table, chosen.reshape(len(table), -1), serve.page_size).reshape(chosen.shape)

    def attention(weights, x, cache):
        q_latent = mla.query_latent(weights, x, model)
        remembered = mla.latents(weights, x, positions, model)
        if serve.sparse:
            remembered = (*remembered, dsa.index_keys(weights["indexer"], x, positions, model))
        cache = _append(cache, remembered, slots)
        q = mla.absorb(weights, *mla.queries(weights, q_latent, positions, model))
        out = attend(q, cache, choose(weights, x, q_latent, cache))
        return mla.project_latent(weights, out, ONE_DEVICE), cache

    x = transformer.embed(weights, tokens, model)
    caches = list(caches)
    for i, each in enumerate(weights["layers"][:layers]):
        x, caches[i] = transformer.layer(each, x, model, ONE_DEVICE, functools.partial(attention, cache=caches[i]))
    return transformer.logits(weights, x, model), caches
