// The launch of one instance of SM90 sparse prefill.
#pragma once

#include <algorithm>

#include "cuda/sm90/sparse_prefill/kernel.cuh"

namespace jax_flash_mla::sparse_prefill_sm90 {

// Makes the kernel ready: setting attributes loads it, which must not happen while a graph is captured.
template <typename Config>
cudaError_t initialize() {
  return cudaFuncSetAttribute(sparse_prefill_kernel<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              sizeof(typename Config::SharedStorage));
}

template <typename Config>
cudaError_t launch(const SparsePrefillParams& params, int num_sms, cudaStream_t stream) {
  Grid grid;
  grid.scale_log2 = mla_sm90::scale_log2(params.scale);
  grid.tiles = (params.h_q + Config::kBlockM - 1) / Config::kBlockM;
  grid.items = int64_t(params.s_q) * grid.tiles;

  cudaLaunchConfig_t config = {};
  config.stream = stream;
  config.gridDim = dim3(int(std::clamp<int64_t>(grid.items, 1, num_sms)));
  config.blockDim = dim3(Config::kThreads);
  config.dynamicSmemBytes = sizeof(typename Config::SharedStorage);
  return cudaLaunchKernelEx(&config, sparse_prefill_kernel<Config>, params, grid);
}

}  // namespace jax_flash_mla::sparse_prefill_sm90
