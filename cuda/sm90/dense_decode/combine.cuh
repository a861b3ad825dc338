// Joins the partial results of split items. A launch of its own, after the kernel that leaves them.
//
// Each thread block takes a few rows of one tile at one cut, and leaves at once where no split begins at that cut.
#pragma once

#include "cuda/device/math.cuh"
#include "cuda/sm90/dense_decode/kernel.cuh"
#include "cuda/sm90/dense_decode/schedule.cuh"

namespace jax_flash_mla::dense_decode_sm90 {

struct CombineConfig {
  static constexpr int kRows = 2;          // of a thread block
  static constexpr int kRowThreads = 128;  // each with four of the 512 columns
  static constexpr int kThreads = kRows * kRowThreads;
  static constexpr int kRowGroups = kDenseDecodeTileRows / kRows;
  static_assert(kRowThreads * 4 == kDenseDecodeDimV);
};

// Grid: row groups × lanes × cuts.
template <typename Element>
__global__ void __launch_bounds__(CombineConfig::kThreads)
    combine_kernel(const __grid_constant__ DenseDecodeParams params, const __grid_constant__ Grid grid) {
  __shared__ float weights[CombineConfig::kRows][kDenseDecodeMaxCtas];
  const int cut = blockIdx.z + 1, grid_lane = blockIdx.y;
  const Split split = reinterpret_cast<const Split*>(params.plan)[cut];
  const int tile_index = split.strip * grid.lanes + grid_lane;
  if (split.request < 0 || tile_index >= grid.tiles) return;
  const Tile tile(grid, tile_index);

  const int block_row = threadIdx.x / CombineConfig::kRowThreads, thread = threadIdx.x % CombineConfig::kRowThreads;
  const int tile_row = blockIdx.x * CombineConfig::kRows + block_row;
  const bool exists = tile_row < tile.rows;
  const int num_partials = split.last_part - split.first_part + 1;
  const auto row_of_partial = [&](int i) {
    const int block = (split.first_part + i) * grid.lanes + grid_lane;
    return int64_t(partial_tile(block, i == 0)) * kDenseDecodeTileRows + tile_row;
  };

  // The first warp of each row finds the weight of each partial result. A NaN among them passes the maximum by and
  // makes the sum NaN.
  if (thread < 32 && exists) {
    float row_max = -device::kInfinity;
    for (int i = thread; i < num_partials; i += 32) row_max = fmaxf(row_max, params.partial_lse[row_of_partial(i)]);
    row_max = device::max_over_warp(row_max);
    const float origin = row_max == -device::kInfinity ? 0.0f : row_max;
    float sum = 0.0f;
    for (int i = thread; i < num_partials; i += 32) {
      const float weight = exp2f(params.partial_lse[row_of_partial(i)] - origin);
      weights[block_row][i] = weight;
      sum += weight;
    }
    sum = device::sum_over_warp(sum);
    const Row row(grid, tile, tile_row);
    const float lse = sum == 0.0f ? -device::kInfinity : (origin + log2f(sum)) * device::kLn2;
    const float factor = sum == 0.0f ? 0.0f : keys_share(params, split.request, row.head, lse) / sum;
    for (int i = thread; i < num_partials; i += 32) weights[block_row][i] *= factor;
    if (thread == 0) params.lse[row.lse_index(params, split.request)] = lse;
  }
  __syncthreads();
  if (!exists) return;

  float4 total = make_float4(0, 0, 0, 0);
#pragma unroll 4
  for (int i = 0; i < num_partials; ++i) {
    const float weight = weights[block_row][i];
    const float4 x =
        *reinterpret_cast<const float4*>(params.partial_out + row_of_partial(i) * kDenseDecodeDimV + thread * 4);
    total.x += weight * x.x;
    total.y += weight * x.y;
    total.z += weight * x.z;
    total.w += weight * x.w;
  }
  const int64_t index = Row(grid, tile, tile_row).index(params, split.request);
  *reinterpret_cast<uint2*>(static_cast<Element*>(params.out) + index * kDenseDecodeDimV + thread * 4) =
      make_uint2(device::pack<Element>(total.x, total.y), device::pack<Element>(total.z, total.w));
}

}  // namespace jax_flash_mla::dense_decode_sm90
