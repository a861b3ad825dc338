// The launch of one instance of SM90 sparse decode.
#pragma once

#include <algorithm>
#include <limits>

#include "cuda/device/launch.h"
#include "cuda/sm90/sparse_decode/kernel.cuh"

namespace jax_flash_mla::sparse_decode_sm90 {

template <typename Config>
Grid make_grid(const SparseDecodeParams& params, int num_sms) {
  Grid grid;
  grid.scale_log2 = device::scale_log2(params.scale);
  grid.pages_are_aligned = true;
  for (int i = 0; i < 2; ++i) {
    const int64_t slots = int64_t(params.lists[i].num_pages) * params.lists[i].page_size;
    grid.last_slots[i] = int32_t(std::min<int64_t>(slots - 1, std::numeric_limits<int32_t>::max()));
    grid.pages_are_aligned &= int64_t(params.lists[i].page_size) * Config::Format::kTokenBytes % 16 == 0;
  }
  grid.layout = split_sm90::make_layout(params.b * params.s_q, std::min(params.h_q, Config::kBlockM),
                                        split_sm90::ceil_div(params.h_q, Config::kBlockM), num_sms);
  return grid;
}

template <typename Config>
cudaError_t initialize() {
  return device::prepare(sparse_decode_kernel<Config>, sizeof(typename Config::SharedStorage));
}

template <typename Config>
cudaError_t launch(const SparseDecodeParams& params, int num_sms, cudaStream_t stream) {
  device::Blocks blocks = {Config::kClusterSize, Config::kThreads, sizeof(typename Config::SharedStorage), true,
                           Config::kClusterSize};
  if (Config::kPairs) {
    int pairs = 0;
    const cudaError_t error = device::most_clusters(&pairs, sparse_decode_kernel<Config>, blocks);
    if (error != cudaSuccess) return error;
    num_sms = std::min(num_sms, Config::kClusterSize * pairs);
  }
  const Grid grid = make_grid<Config>(params, num_sms);
  blocks.count = grid.layout.lanes * grid.layout.parts;
  return device::launch(sparse_decode_kernel<Config>, blocks, stream, params, grid);
}

}  // namespace jax_flash_mla::sparse_decode_sm90
