// Gradients of keys as sums in one order: of each token the rows that a chunk of query tokens left for it, by the places of
// their indices.
//
// A thread block takes a token, each warp a tile of 64 columns. A warp reads four rows at once, eight lanes each; the lanes
// of one row add every fourth place of the token's list, and the four sums are added last. All of that follows from the
// list alone: neither the number of multiprocessors nor time has a say.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/device/math.cuh"
#include "cuda/sm90/sparse_backward/config.h"

namespace jax_flash_mla::sparse_backward_sm90 {

template <typename Config>
inline constexpr int kSumThreads = 32 * Config::kTiles;
// The kernel takes tokens in turn if there are more.
inline constexpr int kMostSumBlocks = 1 << 20;

// The query tokens whose rows are there.
struct Chunk {
  int32_t tiles;  // of the heads of a query token
  int32_t first_query, queries;
};

template <typename Config>
class RowSums {
 public:
  __device__ __forceinline__ RowSums(const SparseBackwardParams& params, const Chunk& chunk)
      : params_(params),
        chunk_(chunk),
        first_place_(int64_t(chunk.first_query) * params.topk),
        places_(int64_t(chunk.queries) * params.topk),
        lane_(threadIdx.x % 32) {}

  __device__ __forceinline__ void run() const {
    for (int token = blockIdx.x; token < params_.s_kv; token += gridDim.x) add(token);
  }

 private:
  using Element = typename Config::Element;
  static constexpr int kVector = 8;  // columns of a lane
  static constexpr int kLanes = Config::kTileColumns / kVector, kRowsAtOnce = 32 / kLanes, kSteps = 32 / kRowsAtOnce;

  const SparseBackwardParams& params_;
  const Chunk& chunk_;
  const int64_t first_place_, places_;
  const int lane_;

  // The first of a token's places, which are from `begin` to `end` of all, that is not before `place`.
  __device__ __forceinline__ int find(int begin, int end, int64_t place) const {
    while (begin < end) {
      const int middle = begin + (end - begin) / 2;
      if (params_.order[middle] < place) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    return begin;
  }

  // The row of a place, of the first tile of heads; those of the next ones are `topk` rows on each.
  __device__ __forceinline__ int row_of(int64_t place) const {
    const int query = int(place / params_.topk);
    return int(place) + query * (chunk_.tiles - 1) * params_.topk;
  }

  __device__ __forceinline__ void add(int token) const {
    const int last = params_.starts[token + 1];
    const int begin = find(params_.starts[token], last, first_place_), end = find(begin, last, first_place_ + places_);
    if (begin >= end) return;
    const int column = threadIdx.x / 32 * Config::kTileColumns + lane_ % kLanes * kVector;
    const auto* rows = static_cast<const Element*>(params_.rows) + column;
    float sums[kVector] = {};
#pragma unroll 1
    for (int i = begin; i < end; i += 32) {
      // Behind the end the last one again, which is not added: other rows may hold anything.
      const int row = row_of(params_.order[min(i + lane_, end - 1)] - first_place_);
#pragma unroll 1
      for (int tile = 0; tile < chunk_.tiles; ++tile) add_rows(rows, row + tile * params_.topk, end - i, sums);
    }
#pragma unroll
    for (float& sum : sums) {
#pragma unroll
      for (int distance = kLanes; distance < 32; distance *= 2) sum += __shfl_xor_sync(~0u, sum, distance);
    }
    if (lane_ >= kLanes) return;
    auto* target = reinterpret_cast<float4*>(params_.d_kv + int64_t(token) * Config::kDimQK + column);
#pragma unroll
    for (int i = 0; i < kVector / 4; ++i) {
      const float4 x = target[i];
      target[i] = make_float4(x.x + sums[4 * i], x.y + sums[4 * i + 1], x.z + sums[4 * i + 2], x.w + sums[4 * i + 3]);
    }
  }

  // The first `count` of the rows that the lanes have found: all are asked for before the first is added.
  __device__ __forceinline__ static void add_rows(const Element* rows, int row, int count, float (&sums)[kVector]) {
    uint4 values[kSteps];
    const int first = threadIdx.x % 32 / kLanes;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int own = __shfl_sync(~0u, row, step * kRowsAtOnce + first);
      values[step] = __ldcs(reinterpret_cast<const uint4*>(rows + int64_t(own) * Config::kDimQK));
    }
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const bool exists = step * kRowsAtOnce + first < count;
      const uint4 value = values[step];
      const uint32_t pairs[] = {exists ? value.x : 0, exists ? value.y : 0, exists ? value.z : 0, exists ? value.w : 0};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 x = device::unpack<Element>(pairs[i]);
        sums[2 * i] += x.x;
        sums[2 * i + 1] += x.y;
      }
    }
  }
};

template <typename Config>
__global__ void __launch_bounds__(kSumThreads<Config>)
    sum_rows_kernel(const __grid_constant__ SparseBackwardParams params, const __grid_constant__ Chunk chunk) {
  RowSums<Config>(params, chunk).run();
}

}  // namespace jax_flash_mla::sparse_backward_sm90
