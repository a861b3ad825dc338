// What the loading warpgroup does: brings queries and their cotangents, then blocks of the keys that indices name, to shared
// memory.
//
// Each warp copies a quarter of the rows, 16 bytes a thread: eight lanes a row of a tile. Where an index names nothing, zeros
// are copied. There is room for one block, which is given back once the sums over its keys are done: the next one comes while
// the sums over heads go on.
#pragma once

#include "cuda/device/barrier.cuh"
#include "cuda/device/copy.cuh"
#include "cuda/device/swizzle.cuh"
#include "cuda/sm90/sparse_backward/config.h"

namespace jax_flash_mla::sparse_backward_sm90 {

template <typename Config>
class Loader {
 public:
  // Arrivals: of the copies of each thread. Those alone would not order what a thread does besides, so that it arrives itself
  // with queries and with a block's first tile.
  static constexpr int kQueryArrivals = 2 * Config::kLoaderThreads;
  __device__ __forceinline__ static int key_arrivals(int tile) { return (tile == 0 ? 2 : 1) * Config::kLoaderThreads; }

  __device__ __forceinline__ Loader(const SparseBackwardParams& params, const Grid& grid,
                                    typename Config::SharedStorage& shared)
      : params_(params), grid_(grid), shared_(shared), warp_(threadIdx.x % Config::kLoaderThreads / 32) {}

  __device__ __forceinline__ void run() {
    uint32_t count = 0, round = 0;
    for (int64_t i = grid_.first_item + blockIdx.x; i < grid_.items; i += gridDim.x, ++count) {
      const Item item = item_at(params_, grid_, i);
      load_queries(item, count);
      load_keys(item, round);
    }
  }

 private:
  using Element = typename Config::Element;
  // Eight lanes copy a row of a tile, a warp four rows at once.
  static constexpr int kRowChunks = Config::kTileRowBytes / 16, kRowsAtOnce = 32 / kRowChunks;
  static constexpr int kWarpRows = Config::kKeys / Config::kLoaderWarps, kSteps = kWarpRows / kRowsAtOnce;

  const SparseBackwardParams& params_;
  const Grid& grid_;
  typename Config::SharedStorage& shared_;
  const int warp_;

  // This thread's row of a step, and its place in it.
  __device__ __forceinline__ int row(int step) const {
    return warp_ * kWarpRows + step * kRowsAtOnce + threadIdx.x % 32 / kRowChunks;
  }
  __device__ __forceinline__ static int chunk() { return threadIdx.x % kRowChunks; }

  // The tiles of one row, from `source` on.
  template <int kTiles, typename Tile>
  __device__ __forceinline__ static void copy_row(Tile (&tiles)[kTiles], int row, const Element* source, bool exists) {
    auto* target = reinterpret_cast<uint8_t*>(tiles) + device::swizzled_chunk(row, chunk());
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      device::copy_16_bytes(target + t * Config::kTileBytes, source + t * Config::kTileColumns, exists);
    }
  }

  // Once the item before needs its own no more.
  __device__ __forceinline__ void load_queries(const Item& item, uint32_t count) {
    device::wait(shared_.q_empty, (count + 1) % 2);
    const int64_t first_row = int64_t(item.query) * params_.h_q + item.first_head;
#pragma unroll 1
    for (int step = 0; step < kSteps; ++step) {
      const bool exists = item.first_head + row(step) < params_.h_q;
      const int64_t place = first_row + (exists ? row(step) : 0);
      copy_row(shared_.q, row(step), static_cast<const Element*>(params_.q) + place * Config::kDimQK + chunk() * 8,
               exists);
      copy_row(shared_.d_out, row(step),
               static_cast<const Element*>(params_.d_out) + place * Config::kDimV + chunk() * 8, exists);
    }
    device::arrive(shared_.q_full);
    device::arrive_after_copies(shared_.q_full);
  }

  // The token that a key of the item is; -1 where there is none. Each warp's first lanes look up its own keys.
  __device__ __forceinline__ int look_up(const Item& item, int key) const {
    if (key >= item.keys) return -1;
    const int index = params_.indices[int64_t(item.query) * params_.topk + key];
    return index >= 0 && index < params_.s_kv ? index : -1;
  }

  __device__ __forceinline__ void load_keys(const Item& item, uint32_t& round) {
    const int lane_key = warp_ * kWarpRows + threadIdx.x % kWarpRows;
    int next = look_up(item, lane_key);
#pragma unroll 1
    for (int first = 0; first < item.keys; first += Config::kKeys, ++round) {
      const int token = next;
      next = look_up(item, first + Config::kKeys + lane_key);
      const Element* sources[kSteps];
      uint32_t exists = 0;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const int own = __shfl_sync(~0u, token, step * kRowsAtOnce + threadIdx.x % 32 / kRowChunks);
        exists |= uint32_t(own >= 0) << step;
        sources[step] = static_cast<const Element*>(params_.kv) + int64_t(max(own, 0)) * Config::kDimQK + chunk() * 8;
      }
      device::wait(shared_.k_empty, (round + 1) % 2);
      if (threadIdx.x % 32 < kWarpRows) shared_.tokens[round % 2][lane_key] = token;
      device::arrive(shared_.k_full[0]);
#pragma unroll 1
      for (int t = 0; t < Config::kTiles; ++t) {
        auto* target = reinterpret_cast<uint8_t*>(shared_.k[t].elements);
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          device::copy_16_bytes(target + device::swizzled_chunk(row(step), chunk()),
                                sources[step] + t * Config::kTileColumns, exists >> step & 1);
        }
        device::arrive_after_copies(shared_.k_full[t]);
      }
    }
  }
};

}  // namespace jax_flash_mla::sparse_backward_sm90
