// d_q from the sums that all tiles of keys have added to: scaled, rounded, in its own order.
//
// Warps take tiles of queries of a head as thread blocks of multi-head attention do, a few rows at a time, each thread eight columns.
#pragma once

#include "cuda/device/math.cuh"
#include "cuda/mha/tiles.cuh"
#include "cuda/sm90/mha_backward/config.h"

namespace jax_flash_mla::mha_backward_sm90 {

template <typename Config>
class QueryGradient {
 public:
  static constexpr int kVectors = Config::kDimQK / 8;  // of a row, one a thread
  static constexpr int kRowsAtOnce = 16, kSteps = 4;   // of a thread block; that a thread has asked for at a time
  static constexpr int kThreads = kVectors * kRowsAtOnce;
  static constexpr int kTileRows = kRowsAtOnce * kSteps;

  __device__ __forceinline__ explicit QueryGradient(const MhaBackwardParams& params) : params_(params) {}

  __device__ __forceinline__ void run() const {
    mha::Tiles<kTileRows> tiles(params_.queries, params_.h_q);
    while (tiles.next()) write(tiles.current, params_.queries.ranges[tiles.current.range]);
  }

 private:
  using Element = typename Config::Element;
  const MhaBackwardParams& params_;

  __device__ __forceinline__ void write(const mha::Tile& tile, const MhaRange& range) const {
    const MhaSide& side = params_.queries;
    const int first = tile.block * kTileRows + threadIdx.x / kVectors, vector = threadIdx.x % kVectors;
    const int rows = tile.is_gap ? range.gap : range.length;
    const int before = range.first + (tile.is_gap ? range.length : 0);
    const int64_t first_row = int64_t(tile.pack) * side.tokens + before, all_rows = int64_t(side.packs) * side.tokens;
    const int strip = vector * 8 / Config::kStripColumns, unit = vector % (Config::kStripColumns / 8);
    const float* sums =
        params_.sums + (int64_t(tile.head) * Config::kStrips + strip) * all_rows * Config::kStripColumns;
    // The first query that sees anything; those of a gap do not.
    const int seeing = tile.is_gap || range.other_length == 0 ? rows
                       : params_.causal                       ? range.length - range.other_length
                                                              : 0;
    float4 x[kSteps][2] = {};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int row = first + step * kRowsAtOnce;
      if (row < seeing || row >= rows) continue;
      const int64_t place = first_row + row;
      const auto* source = reinterpret_cast<const float4*>(sums + place * Config::kStripColumns);
      const int shifted = unit ^ int(place % 4);
      x[step][0] = __ldcs(source + shifted * 2);
      x[step][1] = __ldcs(source + shifted * 2 + 1);
    }
    const bool may_be_claimed = tile.is_gap && !side.ranges[tile.pack * (side.sequences + 1)].sound;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int row = first + step * kRowsAtOnce;
      if (row >= rows) continue;
      const bool is_claimed = may_be_claimed && mha::is_claimed(side, tile.pack, before + row);
      const float factor = is_claimed ? device::kNaN : params_.scale;
      const float4 low = x[step][0], high = x[step][1];
      auto* target =
          static_cast<Element*>(params_.d_q) + ((first_row + row) * params_.h_q + tile.head) * Config::kDimQK;
      reinterpret_cast<uint4*>(target)[vector] = make_uint4(device::pack<Element>(low.x * factor, low.y * factor),
                                                            device::pack<Element>(low.z * factor, low.w * factor),
                                                            device::pack<Element>(high.x * factor, high.y * factor),
                                                            device::pack<Element>(high.z * factor, high.w * factor));
    }
  }
};

template <typename Config>
__global__ void __launch_bounds__(QueryGradient<Config>::kThreads)
    mha_query_gradient_kernel(const __grid_constant__ MhaBackwardParams params) {
  QueryGradient<Config>(params).run();
}

}  // namespace jax_flash_mla::mha_backward_sm90
