// What a launch that writes tokens into an FP8 cache takes. Plain data: no JAX, XLA or Python type enters here.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace jax_flash_mla {

// Rotary dimensions of a token in any format.
inline constexpr int kCacheWriteRotary = 64;
// Most tokens whose places other tokens may take again.
inline constexpr int kCacheWriteMaxPlaced = 1 << 28;

enum class FloatType : int32_t { kBf16, kFp16, kFp32 };

// Places of the table below for each token: half of them at least stay empty, so that searches are short, and end.
inline constexpr int kCacheWriteClaimPlaces = 2;

// Which tokens have claimed a slot: a hash table.
struct SlotClaims {
  int32_t* slots;  // -1 where nothing is
  int32_t* last;   // of the tokens for that slot; behind all slots
  uint32_t places;
};

struct CacheWriteParams {
  // Operands.
  const void* latent;    // [tokens, latent dims], 16-byte aligned
  const void* rope;      // [tokens, 64], 8-byte aligned
  const int32_t* slots;  // [tokens], page · page_size + slot; null where tokens go to the slots in order
  FloatType latent_type, rope_type;
  bool power_of_two_scales;
  // Result: what no token goes to stays as it is.
  void* cache;  // [num_pages, page_size] tokens in the instance's format, 16-byte aligned
  // Scratch where there are slots; may hold anything at launch.
  SlotClaims claims;
  // Sizes.
  int32_t tokens, num_pages, page_size;
};

// Each instance, by the format of the cache: a launch, and what makes its kernels ready on the current device. The latter
// must have run there before the former is captured in a graph.
cudaError_t launch_cache_write_sm90_v32(const CacheWriteParams& params, int num_sms, cudaStream_t stream);
cudaError_t launch_cache_write_sm90_model1(const CacheWriteParams& params, int num_sms, cudaStream_t stream);
cudaError_t initialize_cache_write_sm90_v32();
cudaError_t initialize_cache_write_sm90_model1();

}  // namespace jax_flash_mla
