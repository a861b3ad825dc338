// What the loading warpgroup does: brings queries and the keys that indices name to shared memory, ahead of those who
// multiply them.
//
// Two warps for each stage copy its blocks, 16 bytes a thread: eight lanes a row of a tile, tile by tile as tiles are given
// back. Those of stage 1, whose first block is wanted later, copy the queries besides. Where an index names nothing, zeros
// are copied, and a bit tells.
#pragma once

#include "cuda/device/barrier.cuh"
#include "cuda/device/copy.cuh"
#include "cuda/device/swizzle.cuh"
#include "cuda/device/wgmma.cuh"
#include "cuda/sm90/sparse_prefill/config.h"

namespace jax_flash_mla::sparse_prefill_sm90 {

template <typename Config>
class Loader {
 public:
  // Arrivals that complete an item's queries, and a tile of keys: the threads' copies, and what comes with them.
  static constexpr int kCopyingThreads = Config::kStageWarps * 32;
  static constexpr int kQueryArrivals = kCopyingThreads + 1;
  __device__ __forceinline__ static int key_arrivals(int stage, int tile) {
    return kCopyingThreads + (tile == first_tile(stage) ? Config::kStageWarps : 0);
  }

  __device__ __forceinline__ Loader(const SparsePrefillParams& params, const Grid& grid,
                                    typename Config::SharedStorage& shared)
      : params_(params), grid_(grid), shared_(shared) {
    const int warp = device::uniform(threadIdx.x % Config::kLoaderThreads / 32);
    stage_ = warp / Config::kStageWarps;
    warp_ = warp % Config::kStageWarps;
  }

  __device__ __forceinline__ void run() {
    uint32_t count = 0, round = 0;
    for (int64_t i = blockIdx.x; i < grid_.items; i += gridDim.x, ++count) {
      const int query = int(i / grid_.tiles);
      const int length = params_.topk_length ? params_.topk_length[query] : params_.topk;
      const bool sound = length >= 0 && length <= params_.topk;
      const int keys = sound ? length : 0;
      if (stage_ == 1) {
        load_queries({query, int(i % grid_.tiles), (keys + Config::kBlockN - 1) / Config::kBlockN, sound}, count);
      }
      load_keys(query, keys, round);
    }
    if (stage_ == 1) {
      wait_for_room(count);
      announce({-1, 0, 0, true}, count);
    }
  }

 private:
  using Element = typename Config::Element;
  // Eight lanes copy a row of a tile, a warp four rows at once.
  static constexpr int kRowChunks = Config::kTileRowBytes / 16, kRowsAtOnce = 32 / kRowChunks;
  static constexpr int kRows = Config::kWarpRows / kRowsAtOnce;  // of a block, for each thread

  const SparsePrefillParams& params_;
  const Grid& grid_;
  typename Config::SharedStorage& shared_;
  int stage_, warp_;

  // The tile that is loaded, and multiplied, before the others.
  __device__ __forceinline__ static int first_tile(int stage) { return stage * Config::kHalfTiles; }

  __device__ __forceinline__ int row() const { return threadIdx.x % 32 / kRowChunks; }
  __device__ __forceinline__ int chunk() const { return threadIdx.x % kRowChunks; }

  // Until the item before needs its queries no more.
  __device__ __forceinline__ void wait_for_room(uint32_t count) { device::wait(shared_.q_empty, (count + 1) % 2); }

  // This thread's share of the item's queries is on its way.
  __device__ __forceinline__ void announce(const Item& item, uint32_t count) {
    if (warp_ == 0 && threadIdx.x % 32 == 0) {
      shared_.items[count % 2] = item;
      device::arrive(shared_.q_full);
    }
    device::arrive_after_copies(shared_.q_full);
  }

  __device__ __forceinline__ void load_queries(const Item& item, uint32_t count) {
    const int first_head = item.tile * Config::kBlockM, heads = params_.h_q - first_head;
    const auto* source = static_cast<const Element*>(params_.q) +
                         (int64_t(item.query) * params_.h_q + first_head) * Config::kDimQK + chunk() * 8;
    wait_for_room(count);
#pragma unroll 1
    for (int first = warp_ * kRowsAtOnce; first < Config::kBlockM; first += Config::kStageWarps * kRowsAtOnce) {
      const int head = first + row();
      const bool exists = head < heads;
      auto* target = reinterpret_cast<uint8_t*>(shared_.q) + device::swizzled_chunk(head, chunk());
#pragma unroll
      for (int t = 0; t < Config::kTiles; ++t) {
        device::copy_16_bytes(target + t * Config::kTileBytes,
                              source + (exists ? head : 0) * Config::kDimQK + t * Config::kTileColumns, exists);
      }
    }
    announce(item, count);
  }

  // The key that a lane looks up for its warp; -1 where there is none.
  __device__ __forceinline__ int look_up(int64_t first_index, int key, int keys) const {
    if (key >= keys) return -1;
    const int index = params_.indices[first_index + key];
    return index < params_.s_kv ? index : -1;
  }

  // Those blocks of the item that go to this warp's stage.
  __device__ __forceinline__ void load_keys(int query, int keys, uint32_t& round) {
    const int64_t first_index = int64_t(query) * params_.topk;
    const int lane_key = warp_ * Config::kWarpRows + threadIdx.x % 32;
    int next = look_up(first_index, stage_ * Config::kBlockN + lane_key, keys);
#pragma unroll 1
    for (int first = stage_ * Config::kBlockN; first < keys; first += Config::kStages * Config::kBlockN, ++round) {
      const int index = next;
      next = look_up(first_index, first + Config::kStages * Config::kBlockN + lane_key, keys);
      const uint32_t valid = __ballot_sync(~0u, index >= 0);
      const Element* sources[kRows];
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        const int token = max(__shfl_sync(~0u, index, j * kRowsAtOnce + row()), 0);
        sources[j] = static_cast<const Element*>(params_.kv) + int64_t(token) * Config::kDimQK + chunk() * 8;
      }
      const auto load = [&](int t) {
        auto* target = reinterpret_cast<uint8_t*>(shared_.k[stage_][t].elements);
#pragma unroll
        for (int j = 0; j < kRows; ++j) {
          const int tile_row = warp_ * Config::kWarpRows + j * kRowsAtOnce + row();
          device::copy_16_bytes(target + device::swizzled_chunk(tile_row, chunk()),
                                sources[j] + t * Config::kTileColumns, valid >> (j * kRowsAtOnce + row()) & 1);
        }
        device::arrive_after_copies(shared_.full[stage_][t]);
      };
      // The half of the stage's own warpgroup comes free first; the other one with the last tile.
      device::wait(shared_.empty[stage_][stage_], (round + 1) % 2);
      if (threadIdx.x % 32 == 0) {
        shared_.valid[stage_][warp_] = valid;
        device::arrive(shared_.full[stage_][first_tile(stage_)]);
      }
#pragma unroll 1
      for (int t = 0; t < Config::kHalfTiles; ++t) load(first_tile(stage_) + t);
      device::wait(shared_.empty[stage_][1 - stage_], (round + 1) % 2);
#pragma unroll 1
      for (int t = 0; t < Config::kHalfTiles; ++t) load(first_tile(1 - stage_) + t);
      if constexpr (Config::kTiles > Config::kValueTiles) load(Config::kLastTile);
    }
  }
};

}  // namespace jax_flash_mla::sparse_prefill_sm90
