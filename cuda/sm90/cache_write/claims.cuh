// Which of several tokens for one slot is the last, which alone is written.
#pragma once

#include <cstdint>

#include "cuda/sm90/cache_write/config.h"

namespace jax_flash_mla::cache_write_sm90 {

// The slot that a token names; negative where that is outside the pool.
__device__ __forceinline__ int32_t named_slot(const CacheWriteParams& params, int token) {
  const int32_t slot = params.slots ? params.slots[token] : token;
  return slot < int64_t(params.num_pages) * params.page_size ? slot : -1;
}

// Where the search for a slot begins, and where it goes on.
__device__ __forceinline__ uint32_t first_place(const SlotClaims& claims, int32_t slot) {
  return __umulhi(uint32_t(slot) * 0x9E3779B1u, claims.places);
}

__device__ __forceinline__ uint32_t next_place(const SlotClaims& claims, uint32_t place) {
  return place + 1 == claims.places ? 0 : place + 1;
}

// Tokens claim their slots, in any order; of each slot the last one stays. The table is empty before: all bytes 0xFF.
template <typename Format>
__global__ void __launch_bounds__(kThreads) claim_kernel(const __grid_constant__ CacheWriteParams params) {
  const int token = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (token >= params.tokens) return;
  const int32_t slot = named_slot(params, token);
  if (slot < 0) return;
  const SlotClaims& claims = params.claims;
  uint32_t place = first_place(claims, slot);
  for (;;) {
    const int32_t found = atomicCAS(claims.slots + place, -1, slot);
    if (found == -1 || found == slot) break;
    place = next_place(claims, place);
  }
  atomicMax(claims.last + place, token);
}

// Whether no later token goes to that slot, which this one names. Called by a whole warp.
__device__ __forceinline__ bool is_last(const CacheWriteParams& params, int token, int32_t slot) {
  if (!params.slots) return true;
  if (params.tokens > kMostSearched) {
    const SlotClaims& claims = params.claims;
    uint32_t place = first_place(claims, slot);
    while (claims.slots[place] != slot) place = next_place(claims, place);
    return claims.last[place] == token;
  }
  bool is_later = false;
  for (int other = token + 1 + int(threadIdx.x) % 32; other < params.tokens; other += 32) {
    is_later |= params.slots[other] == slot;
  }
  return !__any_sync(~0u, is_later);
}

}  // namespace jax_flash_mla::cache_write_sm90
