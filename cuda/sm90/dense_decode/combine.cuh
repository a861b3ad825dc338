// Joins the partial results of split items. A launch of its own, after the kernel that leaves them.
//
// A warp joins a row at a time; or a quarter of one, where there are so few rows that warps would be left over. Everybody
// finds the splits in the plan; nobody waits for anybody.
#pragma once

#include "cuda/device/grid.cuh"
#include "cuda/device/math.cuh"
#include "cuda/sm90/dense_decode/schedule.cuh"
#include "cuda/sm90/dense_decode/tile.cuh"

namespace jax_flash_mla::dense_decode_sm90 {

struct CombineConfig {
  static constexpr int kThreads = 256, kBlocksPerSm = 3;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kQuarters = 4;                            // of a row
  static constexpr int kColumns = kDenseDecodeDimV / kQuarters;  // of a quarter: four a lane
  static_assert(kColumns == 32 * 4);
  static constexpr int kVectorsAtOnce = 8;  // loaded before the first is added
  // Entries of the plan that a lane looks at: lane, lane + 32, …
  static constexpr int kEntries = (kDenseDecodeMaxCtas + 31) / 32;
};

// The splits that the kernel left in the plan.
class Splits {
 public:
  __device__ __forceinline__ Splits(const Split* plan, int parts) : plan_(plan) {
#pragma unroll
    for (int i = 0; i < CombineConfig::kEntries; ++i) {
      const int part = i * 32 + threadIdx.x % 32;
      found_[i] = __ballot_sync(~0u, part < parts && plan[part].request >= 0);
    }
  }

  __device__ __forceinline__ int count() const {
    int count = 0;
#pragma unroll
    for (uint32_t found : found_) count += __popc(found);
    return count;
  }

  // The split of a number; the same in all lanes.
  __device__ __forceinline__ Split get(int number) const {
    const uint32_t lane = threadIdx.x % 32, lower_lanes = (1u << lane) - 1;
    int part = 0;
#pragma unroll
    for (int i = 0; i < CombineConfig::kEntries; ++i) {
      const bool is_it = (found_[i] >> lane & 1) && __popc(found_[i] & lower_lanes) == number;
      if (const uint32_t it = __ballot_sync(~0u, is_it)) part = i * 32 + __ffs(it) - 1;
      number -= __popc(found_[i]);
    }
    return plan_[part];
  }

 private:
  const Split* plan_;
  uint32_t found_[CombineConfig::kEntries];
};

// Joins some quarters of a row. `weights` is this warp's.
template <typename Element, int kQuarters>
__device__ __forceinline__ void combine_row(const DenseDecodeParams& params, const Grid& grid, const Split& split,
                                            int grid_lane, int tile_row, int first_quarter, float* weights) {
  const int tile_index = split.strip * grid.lanes + grid_lane;
  const Tile tile(grid, tile_index);
  if (tile_index >= grid.tiles || tile_row >= tile.rows) return;
  const int lane = threadIdx.x % 32, partials = split.last_part - split.first_part + 1;
  // Fits 32 bits: so do all elements of scratch.
  const auto row_of_partial = [&](int i) {
    return partial_tile((split.first_part + i) * grid.lanes + grid_lane, i == 0) * kDenseDecodeTileRows + tile_row;
  };

  // The weight of each partial result. A NaN among them passes the maximum by and makes the sum NaN.
  float row_max = -device::kInfinity;
  for (int i = lane; i < partials; i += 32) {
    weights[i] = params.partial_lse[row_of_partial(i)];
    row_max = fmaxf(row_max, weights[i]);
  }
  row_max = device::max_over_warp(row_max);
  const float origin = row_max == -device::kInfinity ? 0.0f : row_max;
  float sum = 0.0f;
  for (int i = lane; i < partials; i += 32) sum += weights[i] = exp2f(weights[i] - origin);
  sum = device::sum_over_warp(sum);
  __syncwarp();
  const Row row(grid, tile, tile_row);
  const float lse = sum == 0.0f ? -device::kInfinity : (origin + log2f(sum)) * device::kLn2;
  const float factor = sum == 0.0f ? 0.0f : keys_share(params, split.request, row.head, lse) / sum;
  if (first_quarter == 0 && lane == 0) params.lse[row.lse_index(params, split.request)] = lse;

  const int first_column = first_quarter * CombineConfig::kColumns + lane * 4;
  constexpr int kAtOnce = CombineConfig::kVectorsAtOnce / kQuarters;
  float4 total[kQuarters] = {};
  for (int first = 0; first < partials; first += kAtOnce) {
    float4 x[kAtOnce][kQuarters];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      if (first + j >= partials) continue;
      const float* source = params.partial_out + (row_of_partial(first + j) * kDenseDecodeDimV + first_column);
#pragma unroll
      for (int q = 0; q < kQuarters; ++q) {
        x[j][q] = *reinterpret_cast<const float4*>(source + q * CombineConfig::kColumns);
      }
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      if (first + j >= partials) continue;
      const float weight = weights[first + j] * factor;
#pragma unroll
      for (int q = 0; q < kQuarters; ++q) {
        total[q].x += weight * x[j][q].x;
        total[q].y += weight * x[j][q].y;
        total[q].z += weight * x[j][q].z;
        total[q].w += weight * x[j][q].w;
      }
    }
  }
  __syncwarp();
  auto* target = static_cast<Element*>(params.out) + row.index(params, split.request) * kDenseDecodeDimV + first_column;
#pragma unroll
  for (int q = 0; q < kQuarters; ++q) {
    *reinterpret_cast<uint2*>(target + q * CombineConfig::kColumns) =
        make_uint2(device::pack<Element>(total[q].x, total[q].y), device::pack<Element>(total[q].z, total[q].w));
  }
}

template <typename Element>
__global__ void __launch_bounds__(CombineConfig::kThreads, CombineConfig::kBlocksPerSm)
    combine_kernel(const __grid_constant__ DenseDecodeParams params, const __grid_constant__ Grid grid) {
  __shared__ float all_weights[CombineConfig::kWarps][kDenseDecodeMaxCtas];
  float* weights = all_weights[threadIdx.x / 32];
  device::wait_for_previous_grid();
  const Splits splits(reinterpret_cast<const Split*>(params.plan), grid.parts);
  const int tile_rows = min(grid.rows, kDenseDecodeTileRows), split_rows = tile_rows * grid.lanes;
  // Over the multiprocessors first.
  const int warp = threadIdx.x / 32 * gridDim.x + blockIdx.x, warps = gridDim.x * CombineConfig::kWarps;
  const int rows = splits.count() * split_rows;
  if (rows * 2 >= warps) {
    for (int i = warp; i < rows; i += warps) {
      combine_row<Element, CombineConfig::kQuarters>(params, grid, splits.get(i / split_rows),
                                                     i / tile_rows % grid.lanes, i % tile_rows, 0, weights);
    }
  } else {
    for (int i = warp; i < rows * CombineConfig::kQuarters; i += warps) {
      const int row = i / CombineConfig::kQuarters, quarter = i % CombineConfig::kQuarters;
      combine_row<Element, 1>(params, grid, splits.get(row / split_rows), row / tile_rows % grid.lanes, row % tile_rows,
                              quarter, weights);
    }
  }
}

}  // namespace jax_flash_mla::dense_decode_sm90
