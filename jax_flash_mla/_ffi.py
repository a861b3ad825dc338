"""The custom calls: the only place that calls ``jax.ffi``.

The extension holds the handlers of all targets. It is absent from a build without CUDA
kernels; then, and where it cannot be used, ``UNAVAILABLE`` says why.
"""

from __future__ import annotations

import importlib
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from jax_flash_mla import _vma

# A name's version stands for its contract, which never changes: a changed one is a new name.
DENSE_DECODE = "jax_flash_mla.dense_decode.v1"

# Of the same handlers where test builds have their kernels on the CPU.
EMULATED_SUFFIX = ".emulated"

# Scratch of split work: each thread block leaves at most two partial tiles of 64 rows, and
# one entry of the plan. Constants, so that a compiled program fits every device.
MAX_CTAS = 160
TILE_ROWS = 64
PARTIAL_TILES = 2 * MAX_CTAS
PLAN_ENTRY = 4


def dense_decode_with_scratch(
    q, k_cache, block_table, cache_seqlens, attn_sink, *, d_v: int, scale: float, causal: bool, emulated: bool = False
):
    """Dense decode by the kernel of the device.

    Args:
      q: [b, s_q, h_q, d].
      k_cache: [pages, page_size, h_kv, d] of q's dtype.
      block_table: int32 [b, columns].
      cache_seqlens: int32 [b].
      attn_sink: float32 [m, h_q]; m divides b.
      d_v, scale, causal: as in ``flash_mla_with_kvcache``.
      emulated: whether to run the kernel for GPUs on the CPU; in test builds alone.

    Returns:
      out [b, s_q, h_q, d_v] of q's dtype, lse float32 [b, h_q, s_q]; then the scratch,
      which means nothing to the caller: partial outputs, partial lse, and the plan.
    """
    b, s_q, h_q, _ = q.shape
    results = (
        jax.ShapeDtypeStruct((b, s_q, h_q, d_v), q.dtype),
        jax.ShapeDtypeStruct((b, h_q, s_q), jnp.float32),
        jax.ShapeDtypeStruct((PARTIAL_TILES, TILE_ROWS, d_v), jnp.float32),
        jax.ShapeDtypeStruct((PARTIAL_TILES, TILE_ROWS), jnp.float32),
        jax.ShapeDtypeStruct((MAX_CTAS, PLAN_ENTRY), jnp.int32),
    )
    call = jax.ffi.ffi_call(DENSE_DECODE + (EMULATED_SUFFIX if emulated else ""), results)
    computed = call(q, k_cache, block_table, cache_seqlens, attn_sink, scale=np.float32(scale), causal=np.bool_(causal))
    return _vma.vary_like(tuple(computed), q)


def dense_decode(*operands, **options):
    """The results of ``dense_decode_with_scratch`` without the scratch."""
    return dense_decode_with_scratch(*operands, **options)[:2]


def _load(name: str = "_C"):
    """An extension of this package, or None, and why it is not used."""
    try:
        extension = importlib.import_module(f"jax_flash_mla.{name}")
    except ModuleNotFoundError:
        return None, "it is pure JAX"
    except ImportError as error:
        return None, f"the extension of jax_flash_mla does not load ({error})"
    # Handlers built for a newer interface would keep the whole backend from starting.
    installed = _interface_version()
    if installed < extension.xla_ffi_version:
        built, has = (".".join(map(str, version)) for version in (extension.xla_ffi_version, installed))
        return None, f"the kernels were built for XLA FFI {built} and this jaxlib has {has}"
    return extension, None


def _interface_version() -> tuple[int, int]:
    """Version of the FFI of the installed jaxlib."""
    header = pathlib.Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    return tuple(int(re.search(rf"#define XLA_FFI_API_{part} (\d+)", header)[1]) for part in ("MAJOR", "MINOR"))


EXTENSION, UNAVAILABLE = _load()
# Test builds bring the same targets for the CPU: written plainly, and the kernels in an emulator.
EMULATOR, _ = _load("_C_emulated")
# {platform: {target: {stage: capsule}}}
_REGISTERED = EXTENSION.targets() if EXTENSION else {}
TARGETS = tuple(sorted(_REGISTERED.get("CUDA", ())))
HAS_HOST_TARGETS = "cpu" in _REGISTERED

for _registered in (_REGISTERED, EMULATOR.targets() if EMULATOR else {}):
    for _platform, _targets in _registered.items():
        for _name, _stages in _targets.items():
            jax.ffi.register_ffi_target(_name, _stages, platform=_platform, api_version=1)
