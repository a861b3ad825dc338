// The launch of one instance of SM90 dense decode.
#pragma once

#include <algorithm>

#include "cuda/device/launch.h"
#include "cuda/device/tensor_map.h"
#include "cuda/sm90/dense_decode/kernel.cuh"

namespace jax_flash_mla::dense_decode_sm90 {

template <typename Config>
Grid make_grid(const DenseDecodeParams& params, int num_sms) {
  Grid grid;
  grid.scale_log2 = device::scale_log2(params.scale);
  grid.group = params.h_q / params.h_kv;
  grid.rows = params.s_q * grid.group;
  grid.tiles_per_head = split_sm90::ceil_div(grid.rows, Config::kBlockM);
  grid.box_slots = std::min(params.page_size & -params.page_size, Config::kBlockN);
  const int tiles = grid.tiles_per_head * params.h_kv;
  grid.layout = split_sm90::make_layout(params.b, std::min(grid.rows, Config::kBlockM), tiles, num_sms);
  return grid;
}

// The keys as columns of all heads × slots of all pages, in boxes of one tile's columns by some slots.
template <typename Config>
cudaError_t make_key_map(const DenseDecodeParams& params, int slots, CUtensorMap* map) {
  constexpr bool kIsBf16 = std::is_same_v<typename Config::Element, __nv_bfloat16>;
  constexpr auto kType = kIsBf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  const uint64_t columns = uint64_t(params.h_kv) * Config::kDimQK;
  const uint64_t rows = uint64_t(params.num_pages) * params.page_size;
  return device::make_tensor_map(map, kType, params.k_cache, columns, rows, columns * sizeof(typename Config::Element),
                                 Config::kTileColumns, slots);
}

template <typename Config>
cudaError_t initialize() {
  return device::prepare(dense_decode_kernel<Config>, sizeof(typename Config::SharedStorage));
}

template <typename Config>
cudaError_t launch(const DenseDecodeParams& params, int num_sms, cudaStream_t stream) {
  const Grid grid = make_grid<Config>(params, num_sms);
  CUtensorMap keys;
  if (auto error = make_key_map<Config>(params, grid.box_slots, &keys); error != cudaSuccess) return error;
  const device::Blocks blocks = {grid.layout.lanes * grid.layout.parts, Config::kThreads,
                                 sizeof(typename Config::SharedStorage), true};
  return device::launch(dense_decode_kernel<Config>, blocks, stream, params, grid, keys);
}

}  // namespace jax_flash_mla::dense_decode_sm90
