"""A language model as DeepSeek-V3 and V3.2 have it, that trains and serves on this library.

Read in this order, one idea a file:

=================  =========================================================================
config.py          every size and setting, as data; the presets
rotary.py          rotary embedding, and YaRN
layers.py          normalisation, feed-forward, initial weights
attention_mla.py   latent attention: one set of weights, two forms (multi-head and absorbed)
attention_dsa.py   sparse attention: the indexer, its choice of tokens, its loss
parallel.py        which array is split over which axis of the mesh
model.py           layers put together: forward for training
data.py            bytes of the standard library, and the bigram model to beat
optimizer.py       the loss, gradients over the mesh, one training step
checkpoint.py      saving and resuming
train.py           the training command
cache.py           the paged caches, and prefill and decode through them
speculative.py     several tokens a step, checked by the whole model
pages.py           who owns which page
engine.py          requests that join and leave
serve.py           the serving command
speed.py           tokens a second, and of what the device could do
demo.py            train, generate, measure
=================  =========================================================================
"""

import importlib.util

_NEEDED = {"optax": "optax", "orbax": "orbax-checkpoint", "matplotlib": "matplotlib"}
_missing = [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]
if _missing:
    raise ImportError(
        f"jax_flash_mla.examples.deepseek needs {', '.join(_missing)}: pip install 'jax-flash-mla[examples]'."
    )
