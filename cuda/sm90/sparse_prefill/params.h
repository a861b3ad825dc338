// What a sparse prefill launch takes. Plain data: no JAX, XLA or Python type enters here.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace jax_flash_mla {

// Dimensions of values, which are the first of a key's.
inline constexpr int kSparsePrefillDimV = 512;
// Query rows of one tile. A row is one query head of one query token.
inline constexpr int kSparsePrefillTileRows = 64;

struct SparsePrefillParams {
  // Operands.
  const void* q;               // [s_q, h_q, d_qk], 16-byte aligned
  const void* kv;              // [s_kv, d_qk], 16-byte aligned
  const int32_t* indices;      // [s_q, topk]
  const int32_t* topk_length;  // [s_q]; null where all indices count
  const float* attn_sink;      // [sink_rows, h_q]; sink_rows divides s_q; null where there is none
  // Results.
  void* out;          // [s_q, h_q, 512]
  float* max_logits;  // [s_q, h_q]
  float* lse;         // [s_q, h_q]
  // Sizes: h_q and sink_rows are at least 1.
  int32_t s_q, h_q, s_kv, topk, sink_rows;
  float scale;
  bool base2;  // the unit of max_logits and lse: base 2, or natural
};

// Each instance, by the dimensions of a key: a launch, and what makes its kernel ready on the current device. The latter
// must have run there before the former is captured in a graph.
cudaError_t launch_sparse_prefill_sm90_bf16_576(const SparsePrefillParams& params, int num_sms, cudaStream_t stream);
cudaError_t launch_sparse_prefill_sm90_bf16_512(const SparsePrefillParams& params, int num_sms, cudaStream_t stream);
cudaError_t initialize_sparse_prefill_sm90_bf16_576();
cudaError_t initialize_sparse_prefill_sm90_bf16_512();

}  // namespace jax_flash_mla
