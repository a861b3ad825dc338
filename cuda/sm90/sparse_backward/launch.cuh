// The launch of one instance of SM90 sparse attention, backward.
#pragma once

#include <algorithm>

#include "cuda/device/launch.h"
#include "cuda/sm90/sparse_backward/kernel.cuh"

namespace jax_flash_mla::sparse_backward_sm90 {

template <typename Config>
cudaError_t initialize() {
  return device::prepare(sparse_backward_kernel<Config>, sizeof(typename Config::SharedStorage));
}

template <typename Config>
cudaError_t launch(const SparseBackwardParams& params, int num_sms, cudaStream_t stream) {
  // What the kernel adds to.
  const size_t bytes = size_t(params.s_kv) * Config::kDimQK * sizeof(float);
  if (bytes > 0) {
    if (auto error = cudaMemsetAsync(params.d_kv, 0, bytes, stream); error != cudaSuccess) return error;
  }
  Grid grid;
  grid.scale_log2 = device::scale_log2(params.scale);
  grid.tiles = (params.h_q + Config::kRows - 1) / Config::kRows;
  grid.items = int64_t(params.s_q) * grid.tiles;
  const device::Blocks blocks = {int(std::clamp<int64_t>(grid.items, 1, num_sms)), Config::kThreads,
                                 sizeof(typename Config::SharedStorage), false};
  return device::launch(sparse_backward_kernel<Config>, blocks, stream, params, grid);
}

}  // namespace jax_flash_mla::sparse_backward_sm90
