// What a launch of multi-head attention, backward, takes. Plain data: no JAX, XLA or Python type enters here.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/mha/forward_params.h"

namespace jax_flash_mla {

// Queries of a block; and columns of d_q that lie side by side while it is added up.
inline constexpr int kMhaBackwardBlockTokens = 64, kMhaBackwardStripColumns = 32;
// Warpgroups that multiply, each for half of d_q's columns.
inline constexpr int kMhaBackwardHalves = 2;

struct MhaBackwardParams {
  // Operands, 16-byte aligned.
  const void* q;          // [packs, tokens_q, h_q, d]
  const void* k;          // [packs, tokens_kv, h_kv, d]
  const void* v;          // [packs, tokens_kv, h_kv, 128]
  const void* d_out;      // [packs, tokens_q, h_q, 128]
  const float* lse;       // [packs, tokens_q, h_q], natural
  const float* delta;     // [packs, tokens_q, h_q]: the sum of out · d_out, less the cotangent of lse
  MhaSide queries, keys;  // opposite each other
  // Results.
  void* d_q;  // as q
  void* d_k;  // as k
  void* d_v;  // as v
  // Scratch. Sums of d_q before they are scaled and rounded; and, where these are to be added in one order, how many tiles of
  // keys have added to a block of queries, for each half of the columns. Null: in any order.
  float* sums;        // [h_q, d / 32, packs · tokens_q, 32], 16-byte aligned
  int32_t* counters;  // [h_q, packs · tokens_q / 64 + packs · (sequences + 1), 2]
  // Sizes; heads are at least 1, and h_kv divides h_q.
  int32_t h_q, h_kv;
  float scale;
  bool causal;
};

// Counters of a head, for each half of the columns; and where those of a sequence's blocks begin, by its first query of
// all packs': no two sequences share one.
constexpr int64_t counters_of(const MhaSide& queries) {
  const int64_t rows = int64_t(queries.packs) * queries.tokens,
                ranges = int64_t(queries.packs) * (queries.sequences + 1);
  return rows / kMhaBackwardBlockTokens + ranges;
}
constexpr int32_t first_counter_of(int range, int first_row) { return range + first_row / kMhaBackwardBlockTokens; }

// Each instance, by element type and dimensions of a key: its launches, and what makes its kernels ready on the current
// device. The latter must have run there before the former are captured in a graph.
cudaError_t launch_mha_backward_sm90_bf16_192(const MhaBackwardParams& params, int num_sms, cudaStream_t stream);
cudaError_t launch_mha_backward_sm90_bf16_128(const MhaBackwardParams& params, int num_sms, cudaStream_t stream);
cudaError_t launch_mha_backward_sm90_fp16_192(const MhaBackwardParams& params, int num_sms, cudaStream_t stream);
cudaError_t launch_mha_backward_sm90_fp16_128(const MhaBackwardParams& params, int num_sms, cudaStream_t stream);
cudaError_t initialize_mha_backward_sm90_bf16_192();
cudaError_t initialize_mha_backward_sm90_bf16_128();
cudaError_t initialize_mha_backward_sm90_fp16_192();
cudaError_t initialize_mha_backward_sm90_fp16_128();

}  // namespace jax_flash_mla
