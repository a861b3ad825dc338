// The launch of one instance of SM90 multi-head attention, forward.
#pragma once

#include <type_traits>

#include "cuda/device/launch.h"
#include "cuda/device/math.cuh"
#include "cuda/device/tensor_map.h"
#include "cuda/sm90/mha_forward/kernel.cuh"

namespace jax_flash_mla::mha_forward_sm90 {

// Tokens of all packs × columns of all heads, in boxes of one tile. Where there are no tokens nothing is copied.
template <typename Config>
cudaError_t make_map(CUtensorMap* map, const void* base, int packs, int tokens, int heads, int dims) {
  constexpr bool kIsBf16 = std::is_same_v<typename Config::Element, __nv_bfloat16>;
  constexpr auto kType = kIsBf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  const uint64_t rows = uint64_t(packs) * tokens, columns = uint64_t(heads) * dims;
  *map = {};
  if (rows == 0) return cudaSuccess;
  return device::make_tensor_map(map, kType, base, columns, rows, columns * sizeof(typename Config::Element),
                                 Config::kTileColumns, Config::kBlockN);
}

template <typename Config>
cudaError_t initialize() {
  return device::prepare(mha_forward_kernel<Config>, sizeof(typename Config::SharedStorage));
}

template <typename Config>
cudaError_t launch(const MhaForwardParams& params, int num_sms, cudaStream_t stream) {
  const MhaForwardParams& p = params;
  const Grid grid = {device::scale_log2(p.scale)};
  Maps maps;
  for (const cudaError_t error :
       {make_map<Config>(&maps.q, p.q, p.queries.packs, p.queries.tokens, p.h_q, Config::kDimQK),
        make_map<Config>(&maps.k, p.k, p.queries.packs, p.tokens_kv, p.h_kv, Config::kDimQK),
        make_map<Config>(&maps.v, p.v, p.queries.packs, p.tokens_kv, p.h_kv, Config::kDimV)}) {
    if (error != cudaSuccess) return error;
  }
  const device::Blocks blocks = {num_sms, Config::kThreads, sizeof(typename Config::SharedStorage), false};
  return device::launch(mha_forward_kernel<Config>, blocks, stream, params, grid, maps);
}

}  // namespace jax_flash_mla::mha_forward_sm90
