// What a launch of sparse attention's backward takes. Plain data: no JAX, XLA or Python type enters here.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace jax_flash_mla {

// Dimensions of values, which are the first of a key's.
inline constexpr int kSparseBackwardDimV = 512;
// Query rows of one tile. A row is one query head of one query token.
inline constexpr int kSparseBackwardTileRows = 64;

struct SparseBackwardParams {
  // Operands.
  const void* q;               // [s_q, h_q, d_qk], 16-byte aligned
  const void* kv;              // [s_kv, d_qk], 16-byte aligned
  const int32_t* indices;      // [s_q, topk]
  const int32_t* topk_length;  // [s_q]; null where all indices count
  const void* d_out;           // [s_q, h_q, 512], 16-byte aligned
  // Of each row [s_q, h_q]: the natural log-sum-exp of its scores; the part of the probability that is the keys', the rest
  // being the sink's; and what gradients of weights, times that part, are less by.
  const float *lse, *share, *delta;
  // Results.
  void* d_q;    // [s_q, h_q, d_qk]
  float* d_kv;  // [s_kv, d_qk]
  // Where gradients of keys are to be summed in one order; null: in any. The places of `indices` by the token that they name,
  // those of one token ascending; where each token's begin; and scratch, the rows of so many query tokens at a time.
  const int32_t* order;   // [s_q, topk], flat
  const int32_t* starts;  // [s_kv + 1]
  void* rows;             // [chunk, tiles of heads, topk, d_qk], 16-byte aligned
  int32_t chunk;
  // Sizes: h_q is at least 1.
  int32_t s_q, h_q, s_kv, topk;
  float scale;
};

// Each instance, by the dimensions of a key: a launch, and what makes its kernel ready on the current device. The latter
// must have run there before the former is captured in a graph.
cudaError_t launch_sparse_backward_sm90_bf16_576(const SparseBackwardParams& params, int num_sms, cudaStream_t stream);
cudaError_t launch_sparse_backward_sm90_bf16_512(const SparseBackwardParams& params, int num_sms, cudaStream_t stream);
cudaError_t initialize_sparse_backward_sm90_bf16_576();
cudaError_t initialize_sparse_backward_sm90_bf16_512();

}  // namespace jax_flash_mla
