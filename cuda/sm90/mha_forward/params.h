// What a launch of multi-head attention, forward, takes. Plain data: no JAX, XLA or Python type enters here.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/sm90/mha/range.h"

namespace jax_flash_mla {

// Dimensions of a value; keys have 128 or 192.
inline constexpr int kMhaDimV = 128;

struct MhaForwardParams {
  // Operands.
  const void* q;    // [packs, tokens_q, h_q, d], 16-byte aligned
  const void* k;    // [packs, tokens_kv, h_kv, d], likewise
  const void* v;    // [packs, tokens_kv, h_kv, 128], likewise
  MhaSide queries;  // opposite: keys
  // Results.
  void* out;   // [packs, tokens_q, h_q, 128]
  float* lse;  // [packs, tokens_q, h_q]
  // Sizes; heads are at least 1, and h_kv divides h_q.
  int32_t tokens_kv, h_q, h_kv;
  float scale;
  bool causal;
};

// Each instance, by element type and dimensions of a key: a launch, and what makes its kernel ready on the current device.
// The latter must have run there before the former is captured in a graph.
cudaError_t launch_mha_forward_sm90_bf16_192(const MhaForwardParams& params, int num_sms, cudaStream_t stream);
cudaError_t launch_mha_forward_sm90_bf16_128(const MhaForwardParams& params, int num_sms, cudaStream_t stream);
cudaError_t launch_mha_forward_sm90_fp16_192(const MhaForwardParams& params, int num_sms, cudaStream_t stream);
cudaError_t launch_mha_forward_sm90_fp16_128(const MhaForwardParams& params, int num_sms, cudaStream_t stream);
cudaError_t initialize_mha_forward_sm90_bf16_192();
cudaError_t initialize_mha_forward_sm90_bf16_128();
cudaError_t initialize_mha_forward_sm90_fp16_192();
cudaError_t initialize_mha_forward_sm90_fp16_128();

}  // namespace jax_flash_mla
