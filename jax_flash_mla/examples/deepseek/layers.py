"""What every transformer has: normalisation, a gated feed-forward, initial weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_flash_mla.examples.deepseek.config import ModelConfig
from jax_flash_mla.examples.deepseek.parallel import Axes


def dense(key, shape: tuple[int, ...], fan_in: int):
    """Normal weights that keep the size of what goes through: float32 [shape]."""
    return jax.random.normal(key, shape, jnp.float32) * fan_in**-0.5


def rms_norm(x, weight, epsilon: float):
    """``x`` scaled to a mean square of one along the last axis, in float32."""
    wide = x.astype(jnp.float32)
    size = jax.lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + epsilon)
    return (wide * size).astype(x.dtype) * weight.astype(x.dtype)


def layer_norm(x, weight, bias, epsilon: float):
    """``x`` with mean zero and variance one along the last axis, in float32."""
    wide = x.astype(jnp.float32)
    wide = wide - jnp.mean(wide, -1, keepdims=True)
    wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + epsilon)
    return (wide * weight + bias).astype(x.dtype)


def init_ffn(key, config: ModelConfig) -> dict:
    """Weights of ``swiglu``."""
    gate, up, down = jax.random.split(key, 3)
    return {
        "gate": dense(gate, (config.d_model, config.d_ffn), config.d_model),
        "up": dense(up, (config.d_model, config.d_ffn), config.d_model),
        "down": dense(down, (config.d_ffn, config.d_model), config.d_ffn * 2 * config.layers),
    }


def swiglu(weights: dict, x, axes: Axes):
    """The gated feed-forward; over the tensor axis each device has some of the hidden numbers."""
    hidden = jax.nn.silu(x @ weights["gate"]) * (x @ weights["up"])
    return axes.sum_over_tensor(hidden @ weights["down"])
