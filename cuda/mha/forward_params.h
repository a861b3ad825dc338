// What a launch of multi-head attention, forward, takes, on any architecture. Plain data: no JAX, XLA or Python type
// enters here.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/mha/range.h"

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
  void* out;   // [packs, tokens_q, h_q, 128]; on SM100 32-byte aligned
  float* lse;  // [packs, tokens_q, h_q]
  // Sizes; heads are at least 1, and h_kv divides h_q.
  int32_t tokens_kv, h_q, h_kv;
  float scale;
  bool causal;
};

}  // namespace jax_flash_mla
