"""Random operands, made on the device.

Never zeros, and never pages in order: both flatter a card. Large arrays are drawn in
pieces, since drawing a whole one takes several times its memory.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jax_flash_mla as fm

PIECES = 64


def _pieces(n: int) -> int:
    """The largest number of equal pieces of n things, up to ``PIECES``."""
    return max(p for p in range(1, PIECES + 1) if n % p == 0)


@functools.partial(jax.jit, static_argnames=("shape", "dtype"))
def normal(key, shape: tuple[int, ...], dtype=jnp.bfloat16):
    """Standard normal numbers: [shape] of dtype."""
    pieces = _pieces(shape[0])
    part = (shape[0] // pieces, *shape[1:])
    drawn = jax.lax.map(lambda key: jax.random.normal(key, part, dtype), jax.random.split(key, pieces))
    return drawn.reshape(shape)


@functools.partial(jax.jit, static_argnames=("fmt", "num_pages", "page_size"))
def fp8_cache(key, fmt: fm.KVCacheFormat, num_pages: int, page_size: int):
    """Quantised standard normal tokens: uint8 [num_pages, page_size, 1, fmt.bytes_per_token]."""
    pieces = _pieces(num_pages)
    tokens = (num_pages // pieces, page_size)

    def piece(key):
        latent, rope = jax.random.split(key)
        return fm.quantize_kv_cache(
            jax.random.normal(latent, (*tokens, fmt.latent_dim), jnp.bfloat16),
            jax.random.normal(rope, (*tokens, fmt.rope_dim), jnp.bfloat16),
            fmt,
        )

    pages = jax.lax.map(piece, jax.random.split(key, pieces))
    return pages.reshape(num_pages, page_size, 1, fmt.bytes_per_token)


@functools.partial(jax.jit, static_argnames=("lists", "tokens", "topk"))
def distinct_tokens(key, lists: int, tokens: int, topk: int):
    """For each list, topk of 0 … tokens − 1, none twice, in random order: int32 [lists, topk]."""

    def choose(key):
        return jnp.argsort(jax.random.bits(key, (tokens,)))[:topk].astype(jnp.int32)

    return jax.lax.map(choose, jax.random.split(key, lists), batch_size=min(lists, 64))


def random_pages(rng: np.random.Generator, lengths: np.ndarray, page_size: int) -> np.ndarray:
    """A table of just the pages that the lengths need, randomly permuted: int32 [b, max pages].

    Entries past a request's pages are 0.
    """
    counts = -(-lengths // page_size)
    pages = rng.permutation(int(counts.sum())).astype(np.int32)
    table = np.zeros((len(lengths), int(counts.max())), np.int32)
    table[np.arange(table.shape[1]) < counts[:, None]] = pages
    return table


def varlen_lengths(rng: np.random.Generator, batch: int, mean: int, shortest: int) -> np.ndarray:
    """Normally distributed with standard deviation mean / 2, at least ``shortest``: int32 [batch]."""
    return np.maximum(rng.normal(mean, mean / 2, batch), shortest).astype(np.int32)
