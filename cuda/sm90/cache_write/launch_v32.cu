#include "cuda/sm90/cache_write/launch.cuh"

namespace jax_flash_mla {

cudaError_t initialize_cache_write_sm90_v32() { return cache_write_sm90::initialize<cache_write_sm90::V32>(); }

cudaError_t launch_cache_write_sm90_v32(const CacheWriteParams& params, int, cudaStream_t stream) {
  return cache_write_sm90::launch<cache_write_sm90::V32>(params, stream);
}

}  // namespace jax_flash_mla
