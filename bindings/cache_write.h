// What the two operations that write FP8 caches have in common, quantising whole pages and appending tokens: the check of a
// call, and its kernel.
#pragma once

#include <cstdint>
#include <limits>

#include "bindings/cache_format.h"
#include "bindings/kernel.h"
#include "cuda/sm90/cache_write/params.h"

namespace jax_flash_mla {

// By the format.
inline Kernel<CacheWriteParams> cache_write_kernel_for(const Device& device, int64_t token_bytes) {
#ifdef JAX_FLASH_MLA_SM90
  if (device.major == 9) {
    if (token_bytes == kV32.token_bytes) return {launch_cache_write_sm90_v32, initialize_cache_write_sm90_v32};
    return {launch_cache_write_sm90_model1, initialize_cache_write_sm90_model1};
  }
#endif
  return {};
}

inline xla::ffi::ErrorOr<FloatType> read_float_type(const char* operation, const char* name, xla::ffi::DataType type) {
  if (type == xla::ffi::BF16) return FloatType::kBf16;
  if (type == xla::ffi::F16) return FloatType::kFp16;
  if (type == xla::ffi::F32) return FloatType::kFp32;
  return xla::ffi::Unexpected(refuse(operation, name, " must be BF16, F16 or F32, got ", type));
}

// Reads latent vectors and rotary keys, [..., dims] each, and the cache they are for. What a caller's other operands say is
// then filled in.
inline xla::ffi::ErrorOr<CacheWriteParams> read_cache_write(const char* operation, xla::ffi::AnyBuffer latent,
                                                            xla::ffi::AnyBuffer rope, void* cache, Sizes cache_sizes) {
  namespace ffi = xla::ffi;
  const auto refused = [&](const auto&... parts) { return ffi::Unexpected(refuse(operation, parts...)); };
  const Sizes latent_sizes = latent.dimensions(), rope_sizes = rope.dimensions();
  const auto operands = [&] {
    return "latent " + listed(latent_sizes) + ", rope " + listed(rope_sizes) + ", cache " + listed(cache_sizes);
  };
  if (latent_sizes.size() == 0 || rope_sizes.size() != latent_sizes.size() || cache_sizes.size() != 4) {
    return refused("latent and rope must have equally many dimensions and cache four, got ", operands());
  }
  if (!all_between(0, cache_sizes) || !all_between(1, cache_sizes.last(3))) {
    return refused("no dimension may pass 2147483647, and a page must have a slot, got ", operands());
  }
  bool fits = cache_sizes[2] == 1 && rope_sizes.back() == kCacheWriteRotary;
  int64_t tokens = 1;
  for (size_t i = 0; i + 1 < latent_sizes.size(); ++i) {
    fits &= latent_sizes[i] == rope_sizes[i];
    tokens *= latent_sizes[i];
  }
  for (const CacheFormat& format : {kV32, kModel1}) {
    if (cache_sizes[3] == format.token_bytes) fits &= latent_sizes.back() == format.latent;
  }
  if (cache_sizes[3] != kV32.token_bytes && cache_sizes[3] != kModel1.token_bytes) {
    return ffi::Unexpected(refuse_token_bytes(operation, cache_sizes[3]));
  }
  if (!fits) return refused("the shapes do not fit together, got ", operands());
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (tokens > kMost) return refused("there must be at most ", kMost, " tokens, got ", operands());
  const auto latent_type = read_float_type(operation, "latent", latent.element_type());
  if (latent_type.has_error()) return ffi::Unexpected(latent_type.error());
  const auto rope_type = read_float_type(operation, "rope", rope.element_type());
  if (rope_type.has_error()) return ffi::Unexpected(rope_type.error());

  CacheWriteParams params = {};
  params.latent = latent.untyped_data();
  params.rope = rope.untyped_data();
  params.latent_type = *latent_type;
  params.rope_type = *rope_type;
  params.cache = cache;
  params.tokens = int32_t(tokens);
  params.num_pages = int32_t(cache_sizes[0]);
  params.page_size = int32_t(cache_sizes[1]);
  return params;
}

// What a call holds.
struct CacheWriteCall {
  CacheWriteParams params;
  int64_t token_bytes;
};

inline xla::ffi::Error launch_cache_write(const char* operation, const CacheWriteCall& call, cudaStream_t stream) {
  const auto kernel = [&](const Device& device) { return cache_write_kernel_for(device, call.token_bytes); };
  return launch_kernel(operation, kernel, call.params, stream);
}

inline xla::ffi::Error initialize_cache_write(const char* operation) {
  return initialize_kernels(operation, cache_write_kernel_for, {kV32.token_bytes, kModel1.token_bytes});
}

}  // namespace jax_flash_mla
