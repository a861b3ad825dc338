// What the loading warpgroup does: brings queries and keys to shared memory, ahead of those who multiply them.
//
// Two warps have the copy engine bring keys, one for each stage, tile by tile as tiles are given back. The two others copy
// queries. All of them walk the schedule; the multiplying warps learn of an item with its queries. Where a block's keys
// are is looked up a block ahead.
#pragma once

#include "cuda/device/barrier.cuh"
#include "cuda/device/copy.cuh"
#include "cuda/device/swizzle.cuh"
#include "cuda/device/wgmma.cuh"
#include "cuda/sm90/dense_decode/config.h"
#include "cuda/sm90/dense_decode/problem.cuh"
#include "cuda/sm90/split/schedule.cuh"

namespace jax_flash_mla::dense_decode_sm90 {

template <typename Config>
class Loader {
 public:
  static constexpr int kKeyWarps = Config::kStages, kQueryWarps = Config::kLoaderThreads / 32 - kKeyWarps;
  // Arrivals that make an item's queries complete.
  static constexpr int kQueryArrivals = kQueryWarps * 32 + 1;

  // Finds its part of the work: with more registers than `run` has, so call it before they are given back.
  __device__ __forceinline__ Loader(const Problem<Config>& problem, const CUtensorMap& keys,
                                    typename Config::SharedStorage& shared)
      : problem_(problem), params_(problem.params), keys_(keys), shared_(shared) {
    const int part = blockIdx.x / problem_.layout().lanes;
    work_ = split_sm90::find_work(problem_, part, shared_.search, mla_sm90::kLoaderBarrier);
  }

  // Whether results are to be combined.
  __device__ __forceinline__ bool run() {
    split_sm90::Piece piece;
    const auto next = [&] {
      return split_sm90::next_piece(problem_, blockIdx.x % problem_.layout().lanes, work_, piece);
    };
    const int warp = device::uniform(threadIdx.x % Config::kLoaderThreads / 32);
    if (warp < kKeyWarps) {
      load_keys(warp, piece, next);
    } else {
      uint32_t count = 0;
      for (; next(); ++count) load_queries(piece, warp - kKeyWarps, count);
      Item none = {};
      none.piece.request = -1;
      none.piece.whole = work_.whole;
      wait_for_room(count);
      announce(none, count);
      // In the place of queries.
      if (warp == kKeyWarps && !work_.whole) split_sm90::find_splits(problem_, shared_.splits());
    }
    return !work_.whole;
  }

 private:
  using Element = typename Config::Element;

  const Problem<Config>& problem_;
  const DenseDecodeParams& params_;
  const CUtensorMap& keys_;
  typename Config::SharedStorage& shared_;
  split_sm90::Work work_;

  // Until the item before needs its queries no more.
  __device__ __forceinline__ void wait_for_room(uint32_t count) { device::wait(shared_.q_empty, (count + 1) % 2); }

  // This thread's share of the item's queries is on its way.
  __device__ __forceinline__ void announce(const Item& item, uint32_t count) {
    if (threadIdx.x % Config::kLoaderThreads == kKeyWarps * 32) {
      shared_.items[count % 2] = item;
      device::arrive(shared_.q_full);
    }
    device::arrive_after_copies(shared_.q_full);
  }

  __device__ __forceinline__ void load_queries(const split_sm90::Piece& piece, int warp, uint32_t count) {
    const Tile tile = problem_.tile(piece.tile);
    const Extent extent = problem_.extent(piece.request);
    const Item item = {piece, extent.keys, problem_.visible_keys(tile, extent.keys, 0), extent.sound};
    wait_for_room(count);
    // Four rows of a tile at once: eight lanes copy 16 bytes each of a row.
    constexpr int kRowChunks = Config::kTileRowBytes / 16, kRowsAtOnce = 32 / kRowChunks;
    const int lane = threadIdx.x % 32, chunk = lane % kRowChunks;
#pragma unroll 1
    for (int first = warp * kRowsAtOnce; first < Config::kBlockM; first += kQueryWarps * kRowsAtOnce) {
      const int row = first + lane / kRowChunks;
      const bool exists = row < tile.rows;
      const int64_t index = problem_.place(piece.request, problem_.row(tile, exists ? row : 0));
      const auto* source = static_cast<const Element*>(params_.q) + index * Config::kDimQK + chunk * 8;
      auto* target = reinterpret_cast<uint8_t*>(shared_.q) + device::swizzled_chunk(row, chunk);
#pragma unroll
      for (int t = 0; t < Config::kTiles; ++t) {
        device::copy_16_bytes(target + t * Config::kTileBytes, source + t * Config::kTileColumns, exists);
      }
    }
    announce(item, count);
  }

  // Where this lane's box of a block comes from, in the tensor map.
  struct Source {
    int column;
    int row;  // -64, which the copy engine takes for zeros, beyond the length and where the page is outside the pool
    bool unsound;  // the latter
  };

  // All blocks of the work that go to a stage. `next` steps to the next piece.
  template <typename Next>
  __device__ __forceinline__ void load_keys(int stage, split_sm90::Piece& piece, const Next& next) {
    const int lane = threadIdx.x % 32, boxes = Config::kBlockN / problem_.grid.box_slots;
    const int slot = lane % boxes * problem_.grid.box_slots;  // of the block, with which this lane's box begins
    // The next block to be loaded, and of its piece: its last block, where its keys are, how many the request has.
    int block = 0, last_block = 0, column = 0, keys = 0;
    const int32_t* table = nullptr;
    const auto find = [&](int from) {
      for (block = from; block >= last_block; block = piece.first_block + stage) {
        if (!next()) return false;
        last_block = piece.last_block;
        column = problem_.tile(piece.tile).key_head * Config::kDimQK;
        keys = problem_.extent(piece.request).keys;
        table = params_.block_table + int64_t(piece.request) * params_.max_pages;
      }
      return true;
    };
    const auto look_up = [&] {
      Source source = {column, -Config::kBlockN, false};
      if (const int key = block * Config::kBlockN + slot; key < keys) {
        const int page = table[key / params_.page_size];
        source.unsound = page < 0 || page >= params_.num_pages;
        if (!source.unsound) source.row = page * params_.page_size + key % params_.page_size;
      }
      return source;
    };
    bool goes_on = find(0);
    Source ahead = {};
    if (goes_on) ahead = look_up();
#pragma unroll 1
    for (uint32_t round = 0; goes_on; ++round) {
      const Source source = ahead;
      goes_on = find(block + Config::kStages);
      if (goes_on) ahead = look_up();
      const bool unsound = __any_sync(~0u, source.unsound);
      // Lanes copy side by side: one tile after the other would take too long.
      const auto load = [&](int first_tile, int tiles) {
        const int t = first_tile + lane / boxes;
        const bool copies = lane / boxes < tiles;
        if (copies && slot == 0) device::arrive_and_expect(shared_.full[stage][t], Config::kTileBytes);
        __syncwarp();
        if (copies) {
          device::copy_box(shared_.k[stage][t].elements + slot * Config::kTileColumns, keys_, shared_.full[stage][t],
                           source.column + t * Config::kTileColumns, source.row);
        }
      };
      // The half of the stage's own warpgroup comes free first; the other one with the last tile.
      device::wait(shared_.empty[stage][stage][0], (round + 1) % 2);
      if (lane == 0) shared_.unsound[stage] = unsound;
      __syncwarp();
      load(stage * Config::kHalfTiles, Config::kHalfTiles);
      device::wait(shared_.empty[stage][1 - stage][0], (round + 1) % 2);
      load((1 - stage) * Config::kHalfTiles, Config::kHalfTiles);
      load(Config::kValueTiles, 1);
    }
  }
};

}  // namespace jax_flash_mla::dense_decode_sm90
