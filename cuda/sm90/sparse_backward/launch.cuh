// The launches of one instance of SM90 sparse attention, backward.
#pragma once

#include <algorithm>

#include "cuda/device/launch.h"
#include "cuda/sm90/sparse_backward/kernel.cuh"
#include "cuda/sm90/sparse_backward/order.cuh"

namespace jax_flash_mla::sparse_backward_sm90 {

template <typename Element, int DimQK>
cudaError_t initialize() {
  using Any = Config<Element, DimQK, false>;
  using Ordered = Config<Element, DimQK, true>;
  for (const cudaError_t error :
       {device::prepare(sparse_backward_kernel<Any>, sizeof(typename Any::SharedStorage)),
        device::prepare(sparse_backward_kernel<Ordered>, sizeof(typename Ordered::SharedStorage)),
        device::prepare(sum_rows_kernel<Ordered>, 0)}) {
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

// Of `count` query tokens.
template <typename Config>
cudaError_t launch_gradients(const SparseBackwardParams& params, int first_query, int count, int num_sms,
                             cudaStream_t stream) {
  Grid grid;
  grid.scale_log2 = device::scale_log2(params.scale);
  grid.tiles = (params.h_q + Config::kRows - 1) / Config::kRows;
  grid.first_query = first_query;
  grid.first_item = int64_t(first_query) * grid.tiles;
  grid.items = (int64_t(first_query) + count) * grid.tiles;
  const device::Blocks blocks = {int(std::clamp<int64_t>(grid.items - grid.first_item, 1, num_sms)), Config::kThreads,
                                 sizeof(typename Config::SharedStorage), false};
  return device::launch(sparse_backward_kernel<Config>, blocks, stream, params, grid);
}

// As many launches as there are chunks, which follow from sizes alone.
template <typename Config>
cudaError_t launch_ordered(const SparseBackwardParams& params, int num_sms, cudaStream_t stream) {
  const int tiles = (params.h_q + Config::kRows - 1) / Config::kRows;
  for (int64_t first = 0; first < params.s_q; first += params.chunk) {
    const int count = int(std::min<int64_t>(params.chunk, params.s_q - first));
    if (auto error = launch_gradients<Config>(params, int(first), count, num_sms, stream); error != cudaSuccess) {
      return error;
    }
    const device::Blocks blocks = {std::clamp(params.s_kv, 1, kMostSumBlocks), kSumThreads<Config>, 0, false};
    const Chunk chunk = {tiles, int(first), count};
    if (auto error = device::launch(sum_rows_kernel<Config>, blocks, stream, params, chunk); error != cudaSuccess) {
      return error;
    }
  }
  return cudaSuccess;
}

template <typename Element, int DimQK>
cudaError_t launch(const SparseBackwardParams& params, int num_sms, cudaStream_t stream) {
  // What the kernels add to.
  const size_t bytes = size_t(params.s_kv) * DimQK * sizeof(float);
  if (bytes > 0) {
    if (auto error = cudaMemsetAsync(params.d_kv, 0, bytes, stream); error != cudaSuccess) return error;
  }
  if (params.order) return launch_ordered<Config<Element, DimQK, true>>(params, num_sms, stream);
  return launch_gradients<Config<Element, DimQK, false>>(params, 0, params.s_q, num_sms, stream);
}

}  // namespace jax_flash_mla::sparse_backward_sm90
