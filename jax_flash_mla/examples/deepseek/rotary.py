"""Rotary embedding: pairs of neighbouring dimensions, turned by an angle that grows with the position."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from jax_flash_mla.examples.deepseek.config import ModelConfig


def frequencies(config: ModelConfig) -> np.ndarray:
    """Radians a token, for each pair of dimensions: float32 [rope_dim / 2].

    With YaRN, pairs that turn many times within the trained context keep their frequency, those
    that turn less than once are slowed by the factor, and those between get something between.
    """
    pairs = np.arange(config.rope_dim // 2)
    plain = config.rope_theta ** (-2 * pairs / config.rope_dim)
    if config.yarn is None:
        return plain.astype(np.float32)
    yarn = config.yarn

    def pair_that_turns(times: float) -> float:
        length = yarn.original_length / (2 * math.pi * times)
        return config.rope_dim * math.log(length) / (2 * math.log(config.rope_theta))

    first = max(0, math.floor(pair_that_turns(yarn.fast)))
    last = min(config.rope_dim // 2 - 1, math.ceil(pair_that_turns(yarn.slow)))
    slowed = np.clip((pairs - first) / max(last - first, 1e-3), 0, 1)
    return (plain * (1 - slowed) + plain / yarn.factor * slowed).astype(np.float32)


def softmax_scale(config: ModelConfig) -> float:
    """1 / √d of a key; YaRN sharpens it, since longer contexts flatten attention."""
    sharper = 1.0 if config.yarn is None else 0.1 * math.log(config.yarn.factor) + 1.0
    return config.qk_dim**-0.5 * sharper**2


def rotate(x, positions, config: ModelConfig):
    """``x`` [..., rope_dim], turned by ``positions``, which broadcasts against its leading axes."""
    angles = positions[..., None].astype(jnp.float32) * frequencies(config)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    even, odd = (x[..., i::2].astype(jnp.float32) for i in (0, 1))
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
