// What the loading warpgroup does: brings queries and the keys that indices name to shared memory, ahead of those who
// multiply them.
//
// All four warps copy each block, 16 rows each, 16 bytes a thread: eight lanes a row of a tile, half by half as these
// are given back. An item's queries come behind the first half of its first block, which may come earlier. Where an index
// names nothing, zeros are copied, and a bit tells.
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
  // Arrivals that complete an item's queries; and half of a block, which the last tile's barrier tells of: the threads' copies,
  // and one of each warp. Copies alone would not order what comes after them behind what was waited for before.
  static constexpr int kQueryArrivals = Config::kLoaderThreads + 1;
  static constexpr int kHalfArrivals = Config::kLoaderThreads + Config::kLoaderWarps;

  __device__ __forceinline__ Loader(const SparsePrefillParams& params, const Grid& grid,
                                    typename Config::SharedStorage& shared)
      : params_(params),
        grid_(grid),
        shared_(shared),
        warp_(device::uniform(threadIdx.x % Config::kLoaderThreads / 32)) {}

  __device__ __forceinline__ void run() {
    uint32_t count = 0;
    for (int64_t i = blockIdx.x; i < grid_.items; i += gridDim.x, ++count) {
      load(int(i / grid_.tiles), int(i % grid_.tiles), count);
    }
    wait_for_room(count);
    announce({-1, 0, 0, true}, count);
  }

 private:
  using Element = typename Config::Element;
  // Eight lanes copy a row of a tile, a warp four rows at once.
  static constexpr int kRowChunks = Config::kTileRowBytes / 16, kRowsAtOnce = 32 / kRowChunks;
  static constexpr int kRows = Config::kWarpRows / kRowsAtOnce;  // of a block, for each thread

  const SparsePrefillParams& params_;
  const Grid& grid_;
  typename Config::SharedStorage& shared_;
  const int warp_;
  uint32_t rounds_[Config::kStages] = {};  // blocks of each stage before

  __device__ __forceinline__ static constexpr int first_tile(int half) { return half * Config::kHalfTiles; }

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
    for (int first = warp_ * kRowsAtOnce; first < Config::kBlockM; first += Config::kLoaderWarps * kRowsAtOnce) {
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

  // The index that a lane looks up for its warp, half of the lanes in either block of a pair; -1 past the end.
  __device__ __forceinline__ int look_up(int query, int pair, int length) const {
    const int lane = threadIdx.x % 32, block = pair * Config::kStages + lane / Config::kWarpRows;
    const int key = block * Config::kBlockN + warp_ * Config::kWarpRows + lane % Config::kWarpRows;
    return key < length ? params_.indices[int64_t(query) * params_.topk + key] : -1;
  }

  __device__ __forceinline__ bool is_valid(int index) const { return index >= 0 && index < params_.s_kv; }

  // How many of a query token's indices there are up to the last block in which one names something: early queries of a
  // prompt have fewer keys than indices.
  __device__ __forceinline__ int named_keys(int query, int keys) const {
    const int32_t* indices = params_.indices + int64_t(query) * params_.topk;
    constexpr int kBlocksAtOnce = 4, kAtOnce = kBlocksAtOnce * Config::kBlockN;
    while (keys > 0) {
      const int first = (keys - 1) / kAtOnce * kAtOnce;
      const int key = first + threadIdx.x % 32;
      int32_t found[kAtOnce / 32];
#pragma unroll
      for (int i = 0; i < kAtOnce / 32; ++i) found[i] = key + i * 32 < keys ? indices[key + i * 32] : -1;
      int last_named = -1;
#pragma unroll
      for (int i = 0; i < kAtOnce / 32; ++i) last_named = is_valid(found[i]) ? key + i * 32 : last_named;
      last_named = __reduce_max_sync(~0u, last_named);
      if (last_named >= 0) return min(keys, (last_named / Config::kBlockN + 1) * Config::kBlockN);
      keys = first;
    }
    return keys;
  }

  __device__ __forceinline__ const Element* key(int index) const {
    return static_cast<const Element*>(params_.kv) + int64_t(index) * Config::kDimQK;
  }

  // An item's blocks, in pairs, and its queries. Indices are looked up two pairs ahead, so that none is wanted as soon as it is
  // asked for.
  __device__ __forceinline__ void load(int query, int tile, uint32_t count) {
    const int claimed = params_.topk_length ? params_.topk_length[query] : params_.topk;
    const bool sound = claimed >= 0 && claimed <= params_.topk;
    const int length = sound ? claimed : 0;
    int next = look_up(query, 0, length), after_next = look_up(query, 1, length);
    const int keys = named_keys(query, length);
    const Item item = {query, tile, (keys + Config::kBlockN - 1) / Config::kBlockN, sound};
    if (item.blocks == 0) {
      wait_for_room(count);
      announce(item, count);
    }
#pragma unroll 1
    for (int first = 0; first < item.blocks; first += Config::kStages) {
      const int index = next;
      next = after_next;
      after_next = look_up(query, first / Config::kStages + 2, length);
      load_keys<0>(index, [&] {
        if (first == 0) load_queries(item, count);
      });
      if (first + 1 < item.blocks) load_keys<1>(index, [] {});
    }
  }

  // A block of keys, with something `between` its halves; its indices are with those lanes that the stage's have looked
  // up. All unrolled, so that copies differ in immediate offsets: an address register may be written only when the copy
  // before has read it, some 50 clocks later.
  template <int kStage, typename Between>
  __device__ __forceinline__ void load_keys(int index, const Between& between) {
    const uint32_t valid = __ballot_sync(~0u, is_valid(index)) >> (kStage * Config::kWarpRows);
    const Element* sources[kRows];
    uint8_t* targets[kRows];
    bool exists[kRows];
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      const int of_row = __shfl_sync(~0u, index, kStage * Config::kWarpRows + j * kRowsAtOnce + row());
      exists[j] = is_valid(of_row);
      sources[j] = key(exists[j] ? of_row : 0) + chunk() * 8;
      targets[j] = reinterpret_cast<uint8_t*>(shared_.k) +
                   device::swizzled_chunk(warp_ * Config::kWarpRows + j * kRowsAtOnce + row(), chunk());
    }
    const auto load = [&](int t) {
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        device::copy_16_bytes_of_row(targets[j] + (kStage * Config::kStageTiles + t) * Config::kTileBytes,
                                     sources[j] + t * Config::kTileColumns, exists[j]);
      }
    };
    const auto load_half = [&](int half) {
#pragma unroll
      for (int t = 0; t < Config::kHalfTiles; ++t) load(first_tile(half) + t);
    };
    const auto announce_half = [&](int last_tile) {
      if (threadIdx.x % 32 == 0) device::arrive(shared_.full[kStage][last_tile]);
      device::arrive_after_copies(shared_.full[kStage][last_tile]);
    };
    // The half of the stage's own warpgroup; the other one, with the last tile.
    const int part = warp_ * Config::kParts / Config::kLoaderWarps;
    const uint32_t parity = (rounds_[kStage]++ + 1) % 2;
    device::wait(shared_.empty[kStage][kStage][part], parity);
    if (threadIdx.x % 32 == 0) shared_.valid[kStage][warp_] = uint16_t(valid);
    load_half(kStage);
    announce_half(first_tile(kStage) + Config::kHalfTiles - 1);
    between();
    device::wait(shared_.empty[kStage][1 - kStage][part], parity);
    load_half(1 - kStage);
    if constexpr (Config::kTiles > Config::kValueTiles) load(Config::kLastTile);
    announce_half(Config::kTiles > Config::kValueTiles ? Config::kLastTile
                                                       : first_tile(1 - kStage) + Config::kHalfTiles - 1);
  }
};

}  // namespace jax_flash_mla::sparse_prefill_sm90
