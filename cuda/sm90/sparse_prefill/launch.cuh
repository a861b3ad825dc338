// The launch of one instance of SM90 sparse prefill.
#pragma once

#include <algorithm>

#include "cuda/device/launch.h"
#include "cuda/sm90/sparse_prefill/kernel.cuh"

namespace jax_flash_mla::sparse_prefill_sm90 {

template <typename Config>
cudaError_t initialize() {
  return device::prepare(sparse_prefill_kernel<Config>, sizeof(typename Config::SharedStorage));
}

template <typename Config>
cudaError_t launch(const SparsePrefillParams& params, int num_sms, cudaStream_t stream) {
  Grid grid;
  grid.scale_log2 = device::scale_log2(params.scale);
  grid.tiles = (params.h_q + Config::kBlockM - 1) / Config::kBlockM;
  grid.items = int64_t(params.s_q) * grid.tiles;
  const device::Blocks blocks = {int(std::clamp<int64_t>(grid.items, 1, num_sms)), Config::kThreads,
                                 sizeof(typename Config::SharedStorage), false};
  return device::launch(sparse_prefill_kernel<Config>, blocks, stream, params, grid);
}

}  // namespace jax_flash_mla::sparse_prefill_sm90
