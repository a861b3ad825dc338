"""Every wrong call is refused when it is traced, in one sentence: the argument, what it got, the limit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import jax_flash_mla as fm

BF16, F32, I32, U8 = jnp.bfloat16, jnp.float32, jnp.int32, jnp.uint8
V32, MODEL1 = fm.KVCacheFormat.V32, fm.KVCacheFormat.MODEL1


def zeros(*shape, dtype=BF16):
    return jnp.zeros(shape, dtype)


def decode(**changes):
    arguments = dict(
        q=zeros(2, 3, 4, 24),
        k_cache=zeros(5, 16, 1, 24),
        block_table=zeros(2, 6, dtype=I32),
        cache_seqlens=zeros(2, dtype=I32),
        head_dim_v=16,
    )
    return fm.flash_mla_with_kvcache(**(arguments | changes))


def sparse(**changes):
    arguments = dict(
        q=zeros(2, 3, 4, 576),
        k_cache=zeros(5, 16, 1, 656, dtype=U8),
        block_table=None,
        cache_seqlens=None,
        is_fp8_kvcache=True,
        indices=zeros(2, 3, 8, dtype=I32),
    )
    return fm.flash_mla_with_kvcache(**(arguments | changes))


def floats(**changes):
    return sparse(**(dict(k_cache=zeros(5, 16, 1, 576), is_fp8_kvcache=False) | changes))


def prefill(**changes):
    arguments = dict(q=zeros(7, 4, 24), kv=zeros(9, 1, 24), indices=zeros(7, 1, 8, dtype=I32), sm_scale=0.1, d_v=16)
    return fm.flash_mla_sparse_fwd(**(arguments | changes))


def batched(**changes):
    arguments = dict(q=zeros(2, 5, 4, 12), k=zeros(2, 6, 2, 12), v=zeros(2, 6, 2, 8))
    return fm.flash_attn_func(**(arguments | changes))


def packed(**changes):
    arguments = dict(
        q=zeros(5, 4, 12),
        k=zeros(6, 2, 12),
        v=zeros(6, 2, 8),
        cu_seqlens_qo=zeros(3, dtype=I32),
        cu_seqlens_kv=zeros(3, dtype=I32),
    )
    return fm.flash_attn_varlen_func(**(arguments | changes))


def quantize(**changes):
    return fm.quantize_kv_cache(**(dict(latent=zeros(2, 3, 512), rope=zeros(2, 3, 64), fmt=V32) | changes))


def append(**changes):
    arguments = dict(
        cache=zeros(2, 3, 1, 656, dtype=U8), latent=zeros(4, 512), rope=zeros(4, 64), slots=zeros(4, dtype=I32)
    )
    return fm.append_to_kv_cache(**(arguments | changes))


def metadata(**changes):
    return fm.get_mla_metadata(
        **(dict(cache_seqlens=zeros(3, dtype=I32), num_q_tokens_per_head_k=16, num_heads_k=1) | changes)
    )


def merge(**changes):
    return fm.merge_attention_states(**(dict(outs=zeros(2, 3, 4), lses=zeros(2, 3, dtype=F32)) | changes))


def case(name, call, changes, error, text):
    return name, functools.partial(call, **changes), error, text


# fmt: off
REFUSALS = [
    # Rank, shape, and what must agree.
    case("decode_rank", decode, dict(q=zeros(2, 4, 24)), ValueError, r"q must have 4 dimensions \[b, s_q, h_q, d_qk\], got shape \(2, 4, 24\)\."),
    case("decode_not_an_array", decode, dict(q=[1.0]), TypeError, r"q must be an array of shape \[b, s_q, h_q, d_qk\], got \[1.0\] of type list\."),
    case("decode_batch", decode, dict(cache_seqlens=zeros(3, dtype=I32)), ValueError, r"cache_seqlens has b = 3 in dimension 0 of its shape \(3,\), but q has b = 2\."),
    case("decode_table_batch", decode, dict(block_table=zeros(1, 6, dtype=I32)), ValueError, "block_table has b = 1 .* but q has b = 2"),
    case("decode_head_dim", decode, dict(k_cache=zeros(5, 16, 1, 32)), ValueError, "k_cache has d_qk = 32 in dimension 3 .* but q has d_qk = 24"),
    case("decode_value_dim", decode, dict(head_dim_v=25), ValueError, "head_dim_v must be at most the head dimension of k_cache, 24, got 25"),
    case("decode_no_value_dim", decode, dict(head_dim_v=0), ValueError, "head_dim_v must be at least 1, got 0"),
    case("decode_default_value_dim", decode, dict(head_dim_v=512), ValueError, "head_dim_v must be at most .* 24, got 512"),
    case("decode_heads", decode, dict(k_cache=zeros(5, 16, 3, 24)), ValueError, "q has 4 heads, which is not a multiple of the 3 heads of k_cache"),
    case("decode_no_heads", decode, dict(q=zeros(2, 3, 0, 24)), ValueError, "q must have a number of heads of at least 1, got 0"),
    case("decode_no_page", decode, dict(k_cache=zeros(5, 0, 1, 24)), ValueError, "k_cache must have a page size of at least 1, got 0"),
    case("decode_no_table", decode, dict(block_table=None), TypeError, r"block_table must be an array of shape \[b, max_pages\], got None"),
    case("decode_no_lengths", decode, dict(cache_seqlens=None), TypeError, r"cache_seqlens must be an array of shape \[b\], got None"),
    case("decode_sink_heads", decode, dict(attn_sink=zeros(3, dtype=F32)), ValueError, "attn_sink has h_q = 3 .* but q has h_q = 4"),
    case("decode_metadata", decode, dict(tile_scheduler_metadata=zeros(3, 2, dtype=I32)), ValueError, "tile_scheduler_metadata has b = 3 .* b = 2"),
    case("decode_num_splits", decode, dict(num_splits=zeros(2, dtype=I32)), ValueError, "num_splits must have 3 entries, one more than q has requests, got 2"),
    # Dtypes.
    case("decode_query_dtype", decode, dict(q=zeros(2, 3, 4, 24, dtype=I32)), TypeError, "q must be bfloat16, float16 or float32, got int32"),
    case("decode_cache_dtype", decode, dict(k_cache=zeros(5, 16, 1, 24, dtype=F32)), TypeError, "k_cache must have the dtype of q, bfloat16, got float32"),
    case("decode_bytes_without_fp8", decode, dict(k_cache=zeros(5, 16, 1, 24, dtype=U8)), TypeError, "k_cache must be bfloat16, float16 or float32, got uint8"),
    case("decode_int64_table", decode, dict(block_table=np.zeros((2, 6), np.int64)), TypeError, "block_table must be int32, got int64"),
    case("decode_int64_lengths", decode, dict(cache_seqlens=np.zeros(2, np.int64)), TypeError, "cache_seqlens must be int32, got int64"),
    case("decode_float_lengths", decode, dict(cache_seqlens=zeros(2, dtype=F32)), TypeError, "cache_seqlens must be int32, got float32"),
    case("decode_float64", decode, dict(q=np.zeros((2, 3, 4, 24))), TypeError, "q must be bfloat16, float16 or float32, got float64"),
    case("decode_sink_dtype", decode, dict(attn_sink=zeros(4)), TypeError, "attn_sink must be float32, got bfloat16"),
    case("decode_metadata_dtype", decode, dict(tile_scheduler_metadata=zeros(2, 2, dtype=F32)), TypeError, "tile_scheduler_metadata must be int32, got float32"),
    # Static options of the wrong kind.
    case("decode_scale_for_causal", decode, dict(causal=0.1), TypeError, r"causal must be a bool, got 0\.1 of type float \(softmax_scale is passed by keyword\)"),
    case("decode_int_for_causal", decode, dict(causal=1), TypeError, "causal must be a bool, got 1 of type int"),
    case("decode_bool_for_scale", decode, dict(softmax_scale=True), TypeError, "softmax_scale must be a real number, got True of type bool"),
    case("decode_array_for_scale", decode, dict(softmax_scale=jnp.float32(1)), TypeError, "softmax_scale must be a real number, got .* of type ArrayImpl"),
    case("decode_infinite_scale", decode, dict(softmax_scale=float("inf")), ValueError, "softmax_scale must be finite in float32, got inf"),
    case("decode_nan_scale", decode, dict(softmax_scale=float("nan")), ValueError, "softmax_scale must be finite in float32, got nan"),
    case("decode_huge_scale", decode, dict(softmax_scale=1e39), ValueError, r"softmax_scale must be finite in float32, got 1e\+39"),
    case("decode_float_value_dim", decode, dict(head_dim_v=16.0), TypeError, "head_dim_v must be an int, got 16.0 of type float"),
    case("decode_int_for_fp8", decode, dict(is_fp8_kvcache=0), TypeError, "is_fp8_kvcache must be a bool, got 0 of type int"),
    case("decode_implementation", decode, dict(implementation="cudnn"), ValueError, "implementation must be one of None, 'cuda', 'xla', got 'cudnn'"),
    # Dense against sparse.
    case("decode_fp8_without_indices", decode, dict(is_fp8_kvcache=True), NotImplementedError, "is_fp8_kvcache=True needs indices"),
    case("decode_topk_length_without_indices", decode, dict(topk_length=zeros(2, dtype=I32)), ValueError, "topk_length was given without indices"),
    case("decode_extra_without_indices", decode, dict(extra_k_cache=zeros(1, 2, 1, 24)), ValueError, "extra_k_cache was given without indices"),
    case("sparse_causal", sparse, dict(causal=True), ValueError, "causal=True excludes indices"),
    case("sparse_rank", sparse, dict(indices=zeros(2, 8, dtype=I32)), ValueError, r"indices must have 3 dimensions \[b, s_q, topk\], got shape \(2, 8\)"),
    case("sparse_batch", sparse, dict(indices=zeros(3, 3, 8, dtype=I32)), ValueError, "indices has b = 3 .* but q has b = 2"),
    case("sparse_int64", sparse, dict(indices=np.zeros((2, 3, 8), np.int64)), TypeError, "indices must be int32, got int64"),
    case("sparse_last_dim", sparse, dict(k_cache=zeros(5, 16, 1, 640, dtype=U8)), ValueError, r"k_cache must have a last dimension of 656 \(V32\) or 584 \(MODEL1\) bytes a token, got 640"),
    case("sparse_key_heads", sparse, dict(k_cache=zeros(5, 16, 2, 656, dtype=U8)), ValueError, r"k_cache must have size 1 in dimension 2, got shape \(5, 16, 2, 656\)"),
    case("sparse_cache_dtype", sparse, dict(k_cache=zeros(5, 16, 1, 576)), TypeError, "k_cache must be uint8, int8 or float8_e4m3fn, got bfloat16"),
    case("sparse_head_dim", sparse, dict(q=zeros(2, 3, 4, 512)), ValueError, "q must have head dimension 576 for a V32 cache, got 512"),
    case("sparse_head_dim_model1", sparse, dict(k_cache=zeros(5, 16, 1, 584, dtype=U8)), ValueError, "q must have head dimension 512 for a MODEL1 cache, got 576"),
    case("sparse_value_dim", sparse, dict(head_dim_v=256), ValueError, "head_dim_v must be 512 for a V32 cache, got 256"),
    case("sparse_extra_alone", sparse, dict(extra_k_cache=zeros(1, 2, 1, 656, dtype=U8)), ValueError, "extra_k_cache was given without extra_indices_in_kvcache"),
    case("sparse_extra_indices_alone", sparse, dict(extra_indices_in_kvcache=zeros(2, 3, 8, dtype=I32)), ValueError, "extra_indices_in_kvcache was given without extra_k_cache"),
    case("sparse_extra_length_alone", sparse, dict(extra_topk_length=zeros(2, dtype=I32)), ValueError, "extra_topk_length was given without extra_k_cache"),
    case("sparse_extra_format", sparse, dict(extra_k_cache=zeros(1, 2, 1, 584, dtype=U8), extra_indices_in_kvcache=zeros(2, 3, 8, dtype=I32)), ValueError, "extra_k_cache has width = 584 .* but k_cache has width = 656"),
    case("sparse_topk_length_too_long", sparse, dict(topk_length=np.array([8, 9], np.int32)), ValueError, "topk_length must not exceed topk = 8, got 9"),
    case("sparse_topk_length_negative", sparse, dict(topk_length=np.array([8, -1], np.int32)), ValueError, "topk_length must not be negative, got -1"),
    case("sparse_topk_length_rank", sparse, dict(topk_length=zeros(2, 3, 8, dtype=I32)), ValueError, r"topk_length must have 2 dimensions \[b, s_q\], got shape \(2, 3, 8\)"),
    case("sparse_topk_length_batch", sparse, dict(topk_length=zeros(3, dtype=I32)), ValueError, "topk_length has b = 3 .* but q has b = 2"),
    case("sparse_topk_length_none_array", sparse, dict(topk_length=5), TypeError, "topk_length must be an array of shape .*, got 5 of type int"),
    case("floats_head_dim", floats, dict(k_cache=zeros(5, 16, 1, 512)), ValueError, "k_cache must have the head dimension of q, 576, got 512"),
    case("floats_dtype", floats, dict(k_cache=zeros(5, 16, 1, 576, dtype=F32)), TypeError, "k_cache must have the dtype of q, bfloat16, got float32"),
    case("floats_extra_dtype", floats, dict(extra_k_cache=zeros(1, 2, 1, 576, dtype=F32), extra_indices_in_kvcache=zeros(2, 3, 8, dtype=I32)), TypeError, "extra_k_cache must have the dtype of q, bfloat16, got float32"),
    case("floats_bytes", floats, dict(k_cache=zeros(5, 16, 1, 656, dtype=U8)), TypeError, "k_cache must be bfloat16, float16 or float32, got uint8"),
    # Sparse prefill.
    case("prefill_rank", prefill, dict(kv=zeros(9, 24)), ValueError, r"kv must have 3 dimensions \[s_kv, 1, d_qk\], got shape \(9, 24\)"),
    case("prefill_key_heads", prefill, dict(kv=zeros(9, 2, 24)), ValueError, "kv must have size 1 in dimension 1"),
    case("prefill_indices_heads", prefill, dict(indices=zeros(7, 2, 8, dtype=I32)), ValueError, "indices must have size 1 in dimension 1"),
    case("prefill_tokens", prefill, dict(indices=zeros(6, 1, 8, dtype=I32)), ValueError, "indices has s_q = 6 .* but q has s_q = 7"),
    case("prefill_head_dim", prefill, dict(kv=zeros(9, 1, 25)), ValueError, "kv has d_qk = 25 .* but q has d_qk = 24"),
    case("prefill_value_dim", prefill, dict(d_v=32), ValueError, "d_v must be at most the head dimension of kv, 24, got 32"),
    case("prefill_no_scale", prefill, dict(sm_scale=None), TypeError, "sm_scale must be a real number, got None of type NoneType"),
    case("prefill_bool_for_scale", prefill, dict(sm_scale=False), TypeError, "sm_scale must be a real number, got False of type bool"),
    case("prefill_base", prefill, dict(lse_base=10), ValueError, "lse_base must be one of 2, 'e', got 10"),
    case("prefill_base_true", prefill, dict(lse_base=2.0), ValueError, "lse_base must be one of 2, 'e', got 2.0"),
    case("prefill_topk_length_too_long", prefill, dict(topk_length=np.full(7, 9, np.int32)), ValueError, "topk_length must not exceed topk = 8, got 9"),
    case("prefill_topk_length_shape", prefill, dict(topk_length=zeros(6, dtype=I32)), ValueError, "topk_length has s_q = 6 .* but q has s_q = 7"),
    case("prefill_dtype", prefill, dict(kv=zeros(9, 1, 24, dtype=jnp.float16)), TypeError, "kv must have the dtype of q, bfloat16, got float16"),
    case("prefill_deterministic", prefill, dict(deterministic=1), TypeError, "deterministic must be a bool, got 1 of type int"),
    # Multi-head attention.
    case("batched_rank", batched, dict(q=zeros(5, 4, 12)), ValueError, r"q must have 4 dimensions \[B, T, N, D\], got shape \(5, 4, 12\)"),
    case("batched_batch", batched, dict(k=zeros(3, 6, 2, 12)), ValueError, "k has B = 3 .* but q has B = 2"),
    case("batched_tokens", batched, dict(v=zeros(2, 7, 2, 8)), ValueError, "v has S = 7 .* but k has S = 6"),
    case("batched_heads", batched, dict(q=zeros(2, 5, 3, 12)), ValueError, "q has 3 heads, which is not a multiple of the 2 heads of k"),
    case("batched_value_heads", batched, dict(v=zeros(2, 6, 1, 8)), ValueError, "v has K = 1 .* but k has K = 2"),
    case("batched_head_dim", batched, dict(k=zeros(2, 6, 2, 16)), ValueError, "k has D = 16 .* but q has D = 12"),
    case("batched_no_value_dim", batched, dict(v=zeros(2, 6, 2, 0)), ValueError, "v must have a head dimension of at least 1, got 0"),
    case("batched_dtype", batched, dict(v=zeros(2, 6, 2, 8, dtype=F32)), TypeError, "v must have the dtype of q, bfloat16, got float32"),
    case("batched_lengths", batched, dict(q_seqlens=zeros(3, dtype=I32)), ValueError, "q_seqlens has B = 3 .* but q has B = 2"),
    case("batched_length_dtype", batched, dict(kv_seqlens=np.zeros(2, np.int64)), TypeError, "kv_seqlens must be int32, got int64"),
    case("batched_causal", batched, dict(causal="yes"), TypeError, "causal must be a bool, got 'yes' of type str"),
    case("batched_deterministic", batched, dict(deterministic=None), TypeError, "deterministic must be a bool, got None"),
    case("packed_sequences", packed, dict(cu_seqlens_kv=zeros(4, dtype=I32)), ValueError, r"cu_seqlens_kv has b\+1 = 4 .* but cu_seqlens_qo has b\+1 = 3"),
    case("packed_no_sequences", packed, dict(cu_seqlens_qo=zeros(1, dtype=I32), cu_seqlens_kv=zeros(1, dtype=I32)), ValueError, "cu_seqlens_qo must have a length of at least 2, got 1"),
    case("packed_int64", packed, dict(cu_seqlens_qo=np.zeros(3, np.int64)), TypeError, "cu_seqlens_qo must be int32, got int64"),
    case("packed_longest", packed, dict(max_seqlen_qo=-1), ValueError, "max_seqlen_qo must be at least 0, got -1"),
    case("packed_longest_float", packed, dict(max_seqlen_kv=1.5), TypeError, "max_seqlen_kv must be an int, got 1.5"),
    case("qkvpacked_width", fm.flash_attn_varlen_qkvpacked_func, dict(qkv=zeros(5, 4, 24), cu_seqlens=zeros(3, dtype=I32), max_seqlen=None, head_dim_qk=12), ValueError, "qkv must have a last dimension above 2 · head_dim_qk = 24, got 24"),
    case("kvpacked_width", fm.flash_attn_varlen_kvpacked_func, dict(q=zeros(5, 4, 12), kv=zeros(5, 4, 12), cu_seqlens_qo=zeros(3, dtype=I32), cu_seqlens_kv=zeros(3, dtype=I32), max_seqlen_qo=None, max_seqlen_kv=None, head_dim_qk=12), ValueError, "kv must have a last dimension above head_dim_qk = 12, got 12"),
    case("kvpacked_head_dim", fm.flash_attn_varlen_kvpacked_func, dict(q=zeros(5, 4, 8), kv=zeros(5, 4, 20), cu_seqlens_qo=zeros(3, dtype=I32), cu_seqlens_kv=zeros(3, dtype=I32), max_seqlen_qo=None, max_seqlen_kv=None, head_dim_qk=12), ValueError, "q has head_dim_qk = 8 .* head_dim_qk = 12"),
    # Caches.
    case("quantize_format", quantize, dict(fmt="V32"), TypeError, "fmt must be a KVCacheFormat, got 'V32' of type str"),
    case("quantize_latent_dim", quantize, dict(fmt=MODEL1), ValueError, "latent has latent_dim = 512 .* MODEL1 has latent_dim = 448"),
    case("quantize_rope_dim", quantize, dict(rope=zeros(2, 3, 32)), ValueError, "rope has rope_dim = 32 .* V32 has rope_dim = 64"),
    case("quantize_pages", quantize, dict(rope=zeros(2, 4, 64)), ValueError, "rope has page_size = 4 .* but latent has page_size = 3"),
    case("quantize_dtype", quantize, dict(latent=zeros(2, 3, 512, dtype=I32)), TypeError, "latent must be bfloat16, float16 or float32, got int32"),
    case("quantize_power_of_two", quantize, dict(power_of_two_scales=1), TypeError, "power_of_two_scales must be a bool, got 1"),
    case("dequantize_width", fm.dequantize_kv_cache, dict(cache=zeros(2, 3, 1, 584, dtype=U8), fmt=V32), ValueError, "cache has bytes_per_token = 584 .* V32 has bytes_per_token = 656"),
    case("dequantize_dtype", fm.dequantize_kv_cache, dict(cache=zeros(2, 3, 1, 656), fmt=V32), TypeError, "cache must be uint8, int8 or float8_e4m3fn, got bfloat16"),
    case("append_width", append, dict(cache=zeros(2, 3, 1, 600, dtype=U8)), ValueError, r"cache must have a last dimension of 656 \(V32\) or 584 \(MODEL1\) bytes a token, got 600"),
    case("append_wrong_format", append, dict(fmt=MODEL1), ValueError, "cache must have a last dimension of 584 bytes a token for MODEL1, got 656"),
    case("append_latent_dim", append, dict(latent=zeros(4, 448)), ValueError, "latent has latent_dim = 448 .* V32 has latent_dim = 512"),
    case("append_tokens", append, dict(rope=zeros(5, 64)), ValueError, "rope has n0 = 5 .* but slots has n0 = 4"),
    case("append_int64", append, dict(slots=np.zeros(4, np.int64)), TypeError, "slots must be int32, got int64"),
    case("append_format_of_floats", append, dict(cache=zeros(2, 3, 1, 576), fmt=V32), TypeError, "fmt must be None for a cache of bfloat16"),
    case("append_floats_dims", append, dict(cache=zeros(2, 3, 1, 512)), ValueError, "latent and rope must have 512 dimensions together, as cache has, got 512 and 64"),
    case("append_key_heads", append, dict(cache=zeros(2, 3, 2, 656, dtype=U8)), ValueError, "cache must have size 1 in dimension 2"),
    # Metadata and states.
    case("metadata_rank", metadata, dict(cache_seqlens=zeros(3, 1, dtype=I32)), ValueError, r"cache_seqlens must have 1 dimension \[b\], got shape \(3, 1\)"),
    case("metadata_dtype", metadata, dict(cache_seqlens=np.zeros(3, np.int64)), TypeError, "cache_seqlens must be int32, got int64"),
    case("metadata_rows", metadata, dict(num_q_tokens_per_head_k=0), ValueError, "num_q_tokens_per_head_k must be at least 1, got 0"),
    case("metadata_fp8", metadata, dict(is_fp8_kvcache=True), NotImplementedError, "is_fp8_kvcache=True needs topk"),
    case("metadata_heads", metadata, dict(topk=64), ValueError, "num_heads_q must be given with topk"),
    case("metadata_heads_uneven", metadata, dict(topk=64, num_heads_q=5), ValueError, "num_heads_q must divide num_q_tokens_per_head_k · num_heads_k = 16, got 5"),
    case("merge_shapes", merge, dict(outs=zeros(2, 4, 4)), ValueError, "outs has n0 = 4 .* but lses has n0 = 3"),
    case("merge_rank", merge, dict(outs=zeros(2, 3)), ValueError, r"outs must have 3 dimensions \[k, n0, d\], got shape \(2, 3\)"),
    case("merge_lse_dtype", merge, dict(lses=zeros(2, 3)), TypeError, "lses must be float32, got bfloat16"),
    case("merge_no_parts", merge, dict(outs=zeros(0, 3, 4), lses=zeros(0, 3, dtype=F32)), ValueError, "outs must have a number of parts of at least 1, got 0"),
    case("merge_base", merge, dict(lse_base="2"), ValueError, "lse_base must be one of 'e', 2, got '2'"),
]
# fmt: on

STATIC = [
    ("decode", decode, dict(head_dim_v=16, softmax_scale=0.1, causal=True, is_fp8_kvcache=False)),
    ("sparse", sparse, dict(head_dim_v=512, softmax_scale=0.1, is_fp8_kvcache=True)),
    ("prefill", prefill, dict(sm_scale=0.1, d_v=16, lse_base=2, deterministic=True)),
    ("batched", batched, dict(softmax_scale=0.1, causal=True, deterministic=True)),
    ("packed", packed, dict(softmax_scale=0.1, causal=True, deterministic=True, max_seqlen_qo=5, max_seqlen_kv=5)),
    ("quantize", quantize, dict(power_of_two_scales=True)),
    (
        "metadata",
        metadata,
        dict(num_q_tokens_per_head_k=16, num_heads_k=1, num_heads_q=16, topk=64, is_fp8_kvcache=False),
    ),
    ("merge", merge, dict(lse_base=2)),
]
STATIC = [
    (f"{name}_{option}", call, option, value) for name, call, options in STATIC for option, value in options.items()
]


class RefusalTest(parameterized.TestCase):
    @parameterized.named_parameters(REFUSALS)
    def test_refused(self, call, error, text):
        with self.assertRaisesRegex(error, text) as caught:
            call()
        self.assertIs(type(caught.exception), error)
        self.assertEqual(str(caught.exception).count("\n"), 0)
        self.assertTrue(str(caught.exception).endswith("."))

    @parameterized.named_parameters(STATIC)
    def test_traced_value_for_a_static_argument(self, call, option, value):
        text = f"{option} must be known when the function is traced.*static_argnames='{option}'"
        with self.assertRaisesRegex(TypeError, text):
            jax.jit(lambda x: call(**{option: x}))(value)

    def test_numpy_bools_and_numbers_are_fine(self):
        decode(causal=np.bool_(True), softmax_scale=np.float32(0.1), head_dim_v=np.int64(16))
        batched(softmax_scale=1)
        prefill(sm_scale=np.float64(0.5))
