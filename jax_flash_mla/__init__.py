"""Multi-head latent attention and DeepSeek sparse attention for JAX.

The names are FlashMLA's, the manners JAX's: pure functions that work under ``jit``,
``vmap``, ``grad``, ``scan``, ``remat``, ``shard_map`` and ``jax.export``, with the same
results on every device.
"""

from jax_flash_mla._build import VERSION as __version__  # noqa: F401
from jax_flash_mla._build import build_info, export_safety_checks
from jax_flash_mla._decode import flash_mla_with_kvcache
from jax_flash_mla._kv_cache import append_to_kv_cache, dequantize_kv_cache, quantize_kv_cache
from jax_flash_mla._kv_cache_format import KVCacheFormat
from jax_flash_mla._merge import merge_attention_states
from jax_flash_mla._metadata import get_mla_metadata
from jax_flash_mla._mha import (
    flash_attn_func,
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)
from jax_flash_mla._sparse_prefill import flash_mla_sparse_fwd
from jax_flash_mla._support import supports, which_implementation

__all__ = [
    "KVCacheFormat",
    "append_to_kv_cache",
    "build_info",
    "dequantize_kv_cache",
    "export_safety_checks",
    "flash_attn_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_mla_sparse_fwd",
    "flash_mla_with_kvcache",
    "get_mla_metadata",
    "merge_attention_states",
    "quantize_kv_cache",
    "supports",
    "which_implementation",
]


def __dir__():
    return [*__all__, "__version__"]
