"""A model of the real head dimensions, and small otherwise."""

import dataclasses

import jax
import numpy as np

from jax_flash_mla.examples.deepseek import model
from jax_flash_mla.examples.deepseek.config import Indexer, ModelConfig

# In float32 the forms of attention agree closely, whatever the device.
DENSE = ModelConfig(d_model=32, layers=2, heads=2, q_rank=16, d_ffn=32, compute="float32")
SPARSE = dataclasses.replace(DENSE, indexer=Indexer(heads=2, dim=64, topk=8))


def setUpModule():
    """For test modules to import: compiling takes most of their time, and what is compiled runs briefly."""
    jax.config.update("jax_disable_most_optimizations", True)


def tearDownModule():
    jax.config.update("jax_disable_most_optimizations", False)


def weights(config, seed=0):
    """Random weights; those with an indexer serve without it too."""
    return jax.jit(model.init, static_argnums=1)(jax.random.key(seed), config)


def tokens(batch, length, seed=0):
    """Random tokens."""
    return np.random.default_rng(seed).integers(0, 256, (batch, length)).astype(np.int32)
