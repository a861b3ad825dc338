// The launch of one instance that writes an FP8 cache on SM90.
#pragma once

#include <algorithm>

#include "cuda/device/launch.h"
#include "cuda/sm90/cache_write/kernel.cuh"

namespace jax_flash_mla::cache_write_sm90 {

// At least one, which then finds nothing to do: a call that does nothing cannot be captured everywhere.
inline int blocks_for(int tokens, int tokens_of_block) {
  return std::max(1, tokens / tokens_of_block + (tokens % tokens_of_block != 0));
}

template <typename Format>
cudaError_t initialize() {
  const cudaError_t error = device::prepare(claim_kernel<Format>, 0);
  return error == cudaSuccess ? device::prepare(cache_write_kernel<Format>, 0) : error;
}

template <typename Format>
cudaError_t launch(const CacheWriteParams& params, cudaStream_t stream) {
  if (params.slots && params.tokens > kMostSearched) {
    const size_t bytes = 2 * size_t(params.claims.places) * sizeof(int32_t);
    cudaError_t error = cudaMemsetAsync(params.claims.slots, 0xFF, bytes, stream);
    if (error != cudaSuccess) return error;
    const device::Blocks blocks = {blocks_for(params.tokens, kThreads), kThreads, 0, false};
    error = device::launch(claim_kernel<Format>, blocks, stream, params);
    if (error != cudaSuccess) return error;
  }
  const device::Blocks blocks = {blocks_for(params.tokens, kWarps), kThreads, 0, false};
  return device::launch(cache_write_kernel<Format>, blocks, stream, params);
}

}  // namespace jax_flash_mla::cache_write_sm90
