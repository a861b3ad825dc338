// Joins the partial results of split items, once all thread blocks have left theirs.
//
// The warps of all thread blocks join units of eight rows by 32 columns. Where there are fewer units than warps, some warps
// of a thread block share one: each adds up some of the partial results, and one of them adds up the sums.
#pragma once

#include "cuda/device/barrier.cuh"
#include "cuda/device/math.cuh"
#include "cuda/sm90/dense_decode/config.h"
#include "cuda/sm90/dense_decode/schedule.cuh"
#include "cuda/sm90/dense_decode/tile.cuh"

namespace jax_flash_mla::dense_decode_sm90 {

template <typename Config>
class Unit {
 public:
  static constexpr int kColumnUnits = Config::kDimV / Config::kUnitColumns;  // of a tile

  // Units of a split item, those of rows that its last tile does not have included.
  __device__ __forceinline__ static int count(const Grid& grid) { return grid.lanes * row_units(grid) * kColumnUnits; }

  __device__ __forceinline__ Unit(const DenseDecodeParams& params, const Grid& grid, const Splits& splits, int number)
      : params_(params), grid_(grid) {
    const int units = count(grid), of_item = number % units, of_lane = of_item % (row_units(grid) * kColumnUnits);
    split_ = splits.list[number / units];
    grid_lane_ = of_item / (row_units(grid) * kColumnUnits);
    row_unit_ = of_lane / kColumnUnits;
    column_unit_ = of_lane % kColumnUnits;
    const int tile = split_.strip * grid.lanes + grid_lane_;
    rows_ = tile < grid.tiles ? Tile(grid, tile).rows : 0;
  }

  __device__ __forceinline__ bool exists() const { return row_unit_ * Config::kUnitRows < rows_; }

  // Adds up every share-th of the partial results from the member-th on.
  __device__ __forceinline__ void add_partials(int member, int share) {
    // Relative to the largest of all. A NaN passes the maximum by and makes the sum NaN.
    row_max_ = -device::kInfinity;
    for (int i = threadIdx.x % 4; i < partials(); i += 4) row_max_ = fmaxf(row_max_, partial_lse(i));
    row_max_ = device::max_over_quad(row_max_);
    if (row_max_ == -device::kInfinity) row_max_ = 0.0f;
    constexpr int kAtOnce = Config::kPartialsAtOnce;
    for (int first = member; first < partials(); first += share * kAtOnce) {
      float4 x[kAtOnce][Config::kUnitVectors];
      float weights[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int i = first + j * share;
        if (i >= partials()) continue;
        weights[j] = partial_lse(i);
#pragma unroll
        for (int v = 0; v < Config::kUnitVectors; ++v) x[j][v] = partial_out(i, v);
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        if (first + j * share >= partials()) continue;
        const float weight = exp2f(weights[j] - row_max_);
        sum_ += weight;
#pragma unroll
        for (int v = 0; v < Config::kUnitVectors; ++v) {
          out_[4 * v] += weight * x[j][v].x;
          out_[4 * v + 1] += weight * x[j][v].y;
          out_[4 * v + 2] += weight * x[j][v].z;
          out_[4 * v + 3] += weight * x[j][v].w;
        }
      }
    }
  }

  // What add_partials has summed up, to and from another warp's.
  using Sums = float[4 * Config::kUnitVectors + 1][32];

  __device__ __forceinline__ void leave(Sums& sums) const {
#pragma unroll
    for (int i = 0; i < 4 * Config::kUnitVectors; ++i) sums[i][threadIdx.x % 32] = out_[i];
    sums[4 * Config::kUnitVectors][threadIdx.x % 32] = sum_;
  }

  __device__ __forceinline__ void add(const Sums& sums) {
#pragma unroll
    for (int i = 0; i < 4 * Config::kUnitVectors; ++i) out_[i] += sums[i][threadIdx.x % 32];
    sum_ += sums[4 * Config::kUnitVectors][threadIdx.x % 32];
  }

  __device__ __forceinline__ void write() const {
    const bool attends = sum_ != 0.0f;
    const int tile_row = this->tile_row();
    const bool exists = tile_row < rows_;
    const Row row(grid_, Tile(grid_, split_.strip * grid_.lanes + grid_lane_), exists ? tile_row : 0);
    const float lse = attends ? (row_max_ + log2f(sum_)) * device::kLn2 : -device::kInfinity;
    const float factor = attends ? keys_share(params_, split_.request, row.head, lse) / sum_ : 0.0f;
    uint32_t pairs[2 * Config::kUnitVectors];
#pragma unroll
    for (int i = 0; i < 2 * Config::kUnitVectors; ++i) {
      pairs[i] = device::pack<typename Config::Element>(attends ? out_[2 * i] * factor : 0.0f,
                                                        attends ? out_[2 * i + 1] * factor : 0.0f);
    }
    device::transpose_quad(pairs);
    if (!exists) return;
    if (column_unit_ == 0 && threadIdx.x % 4 == 0) params_.lse[row.lse_index(params_, split_.request)] = lse;
    auto* target = static_cast<typename Config::Element*>(params_.out) +
                   row.index(params_, split_.request) * Config::kDimV + column_unit_ * Config::kUnitColumns +
                   threadIdx.x % 4 * 8;
    *reinterpret_cast<uint4*>(target) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  }

 private:
  const DenseDecodeParams& params_;
  const Grid& grid_;
  Split split_;
  int grid_lane_, row_unit_, column_unit_;
  int rows_;                    // of the tile
  float row_max_, sum_ = 0.0f;  // of this lane's row
  float out_[4 * Config::kUnitVectors] =
      {};  // columns 2 · (lane % 4) and the next, then of eight columns on, and so on

  __device__ __forceinline__ static int row_units(const Grid& grid) {
    return (min(grid.rows, Config::kBlockM) + Config::kUnitRows - 1) / Config::kUnitRows;
  }

  __device__ __forceinline__ int partials() const { return split_.last_part - split_.first_part + 1; }
  __device__ __forceinline__ int tile_row() const { return row_unit_ * Config::kUnitRows + threadIdx.x % 32 / 4; }

  __device__ __forceinline__ int tile_of(int i) const {
    return partial_tile((split_.first_part + i) * grid_.lanes + grid_lane_, i == 0);
  }

  // Base 2. Rows that do not exist take the last one's.
  __device__ __forceinline__ float partial_lse(int i) const {
    return params_.partial_lse[tile_of(i) * Config::kBlockM + min(tile_row(), rows_ - 1)];
  }

  __device__ __forceinline__ float4 partial_out(int i, int v) const {
    constexpr int kHalfUnits = kColumnUnits / Config::kWarpgroups;
    const int64_t index = partial_vector(tile_of(i), column_unit_ / kHalfUnits, row_unit_ / 2, row_unit_ % 2,
                                         column_unit_ % kHalfUnits * Config::kUnitVectors + v);
    return tile_row() < rows_ ? reinterpret_cast<const float4*>(params_.partial_out)[index] : float4{};
  }
};

// Called by all multiplying threads, when all thread blocks have left their results.
template <typename Config>
__device__ __forceinline__ void combine(const DenseDecodeParams& params, const Grid& grid,
                                        typename Config::SharedStorage& shared) {
  const int units = shared.splits().count * Unit<Config>::count(grid);
  int share = 1;
  while (share < Config::kMathWarps && units * 2 * share <= int(gridDim.x) * Config::kMathWarps) share *= 2;
  const int teams = Config::kMathWarps / share;  // of warps, of a thread block
  const int warp = threadIdx.x / 32, team = warp / share, member = warp % share;
  // Over the multiprocessors first.
  for (int first = 0; first < units; first += gridDim.x * teams) {
    const int number = first + team * gridDim.x + blockIdx.x;
    const bool is_one = number < units;
    Unit<Config> unit(params, grid, shared.splits(), is_one ? number : 0);
    const bool exists = is_one && unit.exists();
    if (exists) unit.add_partials(member, share);
    if (share > 1) {
      if (exists && member > 0) unit.leave(shared.sums_of_warps()[warp]);
      device::named_sync(mla_sm90::kMathBarrier, Config::kMathThreads);
      for (int i = 1; exists && member == 0 && i < share; ++i) unit.add(shared.sums_of_warps()[warp + i]);
      device::named_sync(mla_sm90::kMathBarrier, Config::kMathThreads);
    }
    if (exists && member == 0) unit.write();
  }
}

}  // namespace jax_flash_mla::dense_decode_sm90
