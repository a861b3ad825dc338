// The launch of one instance of SM90 dense decode: the kernel, then the combination of what it split.
#pragma once

#include <algorithm>

#include "cuda/device/tensor_map.h"
#include "cuda/sm90/dense_decode/combine.cuh"
#include "cuda/sm90/dense_decode/kernel.cuh"

namespace jax_flash_mla::dense_decode_sm90 {

// Most tiles that run side by side on the same keys.
inline constexpr int kMaxLanes = 4;

inline int ceil_div(int a, int b) { return (a + b - 1) / b; }

template <int kBlockN, int kHalfTiles>
Grid make_grid(const DenseDecodeParams& params, int num_sms) {
  Grid grid;
  grid.group = params.h_q / params.h_kv;
  grid.rows = params.s_q * grid.group;
  grid.tiles_per_head = ceil_div(grid.rows, kDenseDecodeTileRows);
  grid.tiles = grid.tiles_per_head * params.h_kv;
  const int blocks = std::min(num_sms, kDenseDecodeMaxCtas);
  grid.strips = ceil_div(grid.tiles, std::min(kMaxLanes, blocks));
  grid.lanes = ceil_div(grid.tiles, grid.strips);
  grid.parts = blocks / grid.lanes;
  grid.box_slots = std::min(params.page_size & -params.page_size, kBlockN);
  grid.box_tiles = grid.box_slots == kBlockN ? kHalfTiles : 1;
  return grid;
}

// The keys as columns of a tile × heads × slots × pages × tiles, in boxes of some slots by some tiles.
template <typename Config>
cudaError_t make_key_map(const DenseDecodeParams& params, int slots, int tiles, CUtensorMap* map) {
  constexpr uint64_t kElementBytes = sizeof(typename Config::Element);
  const uint64_t row_bytes = Config::kDimQK * kElementBytes;
  const uint64_t slot_bytes = row_bytes * params.h_kv;
  const uint64_t sizes[5] = {uint64_t(Config::kTileColumns), uint64_t(params.h_kv), uint64_t(params.page_size),
                             uint64_t(params.num_pages), uint64_t(Config::kTiles)};
  const uint64_t strides[4] = {row_bytes, slot_bytes, slot_bytes * params.page_size,
                               Config::kTileColumns * kElementBytes};
  const uint32_t box[5] = {uint32_t(Config::kTileColumns), 1, uint32_t(slots), 1, uint32_t(tiles)};
  constexpr bool kIsBf16 = std::is_same_v<typename Config::Element, __nv_bfloat16>;
  constexpr auto kType = kIsBf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  return device::make_tensor_map(map, kType, params.k_cache, sizes, strides, box);
}

template <typename Config>
cudaError_t initialize() {
  cudaFuncAttributes attributes;
  // Asking for attributes loads the kernel, which must not happen while a graph is captured.
  if (auto error = cudaFuncGetAttributes(&attributes, combine_kernel<typename Config::Element>); error != cudaSuccess) {
    return error;
  }
  return cudaFuncSetAttribute(dense_decode_kernel<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              sizeof(typename Config::SharedStorage));
}

template <typename Config>
cudaError_t launch(const DenseDecodeParams& params, int num_sms, cudaStream_t stream) {
  const Grid grid = make_grid<Config::kBlockN, Config::kHalfTiles>(params, num_sms);
  KeyMaps maps;
  if (auto error = make_key_map<Config>(params, grid.box_slots, grid.box_tiles, &maps.values); error != cudaSuccess) {
    return error;
  }
  if (auto error = make_key_map<Config>(params, grid.box_slots, 1, &maps.last_tile); error != cudaSuccess) return error;

  cudaLaunchConfig_t config = {};
  config.stream = stream;
  config.gridDim = dim3(grid.lanes * grid.parts);
  config.blockDim = dim3(Config::kThreads);
  config.dynamicSmemBytes = sizeof(typename Config::SharedStorage);
  if (auto error = cudaLaunchKernelEx(&config, dense_decode_kernel<Config>, params, grid, maps);
      error != cudaSuccess || grid.parts == 1) {
    return error;
  }
  config.gridDim = dim3(CombineConfig::kRowGroups, grid.lanes, grid.parts - 1);
  config.blockDim = dim3(CombineConfig::kThreads);
  config.dynamicSmemBytes = 0;
  return cudaLaunchKernelEx(&config, combine_kernel<typename Config::Element>, params, grid);
}

}  // namespace jax_flash_mla::dense_decode_sm90
