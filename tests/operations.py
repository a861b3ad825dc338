"""The operations that the tests run, small, under every transformation.

An operation that joins the library joins these lists, and is tested under all of them.
"""

from jax_flash_mla._check.operations import (
    MODEL1,
    V32,
    append,
    dense_decode,
    dequantize,
    fp8_cache,
    int32,
    merge,
    mha_batched,
    mha_varlen,
    normal,
    pages_of,
    quantize,
    sparse_decode,
    sparse_prefill,
    write_token,
)

__all__ = [
    "ALL",
    "ATTENTION",
    "KERNEL_SIZED",
    "MODEL1",
    "OTHER",
    "V32",
    "fp8_cache",
    "int32",
    "named",
    "normal",
    "pages_of",
    "write_token",
]

LATENTS = dict(d=576, d_v=512, page_size=16, kernel_sized=True)
ATTENTION = (
    dense_decode("dense_decode", h_q=4, h_kv=1, causal=False),
    dense_decode("dense_decode_causal_grouped", h_q=4, h_kv=2, causal=True),
    sparse_decode("sparse_decode_V32", V32),
    sparse_decode("sparse_decode_MODEL1", MODEL1),
    sparse_decode("sparse_decode_float", None),
    sparse_prefill("sparse_prefill", 2),
    sparse_prefill("sparse_prefill_deterministic", 2, deterministic=True),
    mha_batched("mha_batched_causal_grouped", n_q=4, n_kv=2, causal=True),
    mha_varlen("mha_varlen", n_q=4, n_kv=4, causal=False),
)
OTHER = (
    quantize("quantize_V32", V32),
    quantize("quantize_MODEL1", MODEL1),
    dequantize("dequantize_V32", V32),
    dequantize("dequantize_MODEL1", MODEL1),
    append("append_V32", V32),
    append("append_MODEL1", MODEL1),
    append("append_float", None),
    merge("merge"),
    # What kernels write is of one size: the same once more, for them.
    quantize("quantize_V32_by_kernel", V32, kernel_sized=True),
    quantize("quantize_MODEL1_by_kernel", MODEL1, kernel_sized=True),
    append("append_V32_by_kernel", V32, kernel_sized=True),
    append("append_MODEL1_by_kernel", MODEL1, kernel_sized=True),
)
ALL = ATTENTION + OTHER
# Of the sizes that kernels take; for them alone.
KERNEL_SIZED = (
    dense_decode("dense_decode_of_latents", h_q=8, h_kv=1, causal=False, **LATENTS),
    dense_decode("dense_decode_of_latents_causal_grouped", h_q=4, h_kv=2, causal=True, **LATENTS),
    sparse_decode("sparse_decode_V32_in_bfloat16", V32, kernel_sized=True),
    sparse_decode("sparse_decode_MODEL1_in_bfloat16", MODEL1, kernel_sized=True),
    mha_batched("mha_batched_causal_grouped_192", n_q=4, n_kv=2, causal=True, d=192, e=128, kernel_sized=True),
    mha_varlen("mha_varlen_128", n_q=4, n_kv=4, causal=False, d=128, e=128, kernel_sized=True),
    sparse_prefill("sparse_prefill_of_latents", 2, d=576, d_v=512, topk=70, kernel_sized=True),
    sparse_prefill(
        "sparse_prefill_of_latents_deterministic", 2, d=576, d_v=512, topk=70, deterministic=True, kernel_sized=True
    ),
    sparse_prefill("sparse_prefill_of_latents_without_rotary", "e", d=512, d_v=512, kernel_sized=True),
)


def named(operations):
    """For ``parameterized.named_parameters``."""
    return [(str(operation), operation) for operation in operations]
