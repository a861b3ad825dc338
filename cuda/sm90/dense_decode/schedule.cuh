// Which blocks of which tiles a thread block works on.
//
// The items of a launch, one for each strip of each request, come in order, and are dealt to `parts`. Thread block (part, lane)
// works on tile `strip · lanes + lane` of each item of its part; the lanes of a part run side by side and read the same
// keys. There are two ways to deal:
//
//   whole  Each part gets as many items as any other, give or take one. Nothing is split, and nothing is combined.
//   cut    Items are laid out on a line, each as long as its key blocks and a constant for what a tile costs besides. The
//          line is cut into equal pieces. A cut may fall into an item, whose parts are then combined. Where it would leave
//          a small piece of the item, it moves to the item's end.
//
// The former is chosen where it takes no longer. Everybody computes this from the lengths: no state is kept between
// calls, and nothing is read on the host.
#pragma once

#include "cuda/device/barrier.cuh"
#include "cuda/sm90/dense_decode/config.h"
#include "cuda/sm90/dense_decode/tile.cuh"
#include "cuda/sm90/dense_decode/work.h"

namespace jax_flash_mla::dense_decode_sm90 {

// How much of a request there is to attend to.
struct Extent {
  int32_t keys;    // 0 where it is unsound
  int32_t blocks;  // of kBlockN keys
  bool sound;      // its length is not negative and its row of the table covers it
};

template <typename Config>
__device__ __forceinline__ Extent extent_of(const DenseDecodeParams& params, int request) {
  const int keys = params.cache_seqlens[request];
  const bool sound = keys >= 0 && keys <= int64_t(params.max_pages) * params.page_size;
  return {sound ? keys : 0, sound ? int((int64_t(keys) + Config::kBlockN - 1) / Config::kBlockN) : 0, sound};
}

// A cut so many blocks into an item, after it has moved: it leaves nothing of the item on one side, or `least` on both.
__device__ __forceinline__ int moved_cut(int64_t blocks_before, int blocks, int least) {
  if (blocks_before < least && 2 * blocks_before <= blocks) return 0;
  return blocks - blocks_before < least ? blocks : int(blocks_before);
}

// The line, and its cuts.
struct Line {
  int64_t length;
  int32_t parts;  // pieces, at most one for each unit of length
  int32_t least;  // pieces are at least four times as long, so that no cut passes another one when it moves

  __device__ __forceinline__ Line(int64_t length, int most_parts, int least_piece)
      : length(length), parts(int(min(int64_t(most_parts), length))) {
    least = int(max(min(length / parts / 4, int64_t(least_piece)), int64_t(1)));
  }

  __device__ __forceinline__ int64_t cut(int part) const { return length * part / parts; }

  // The last part that begins at a position or before it.
  __device__ __forceinline__ int part_at(int64_t position) const { return int(((position + 1) * parts - 1) / length); }

  // The parts of the item that begins at a position.
  __device__ __forceinline__ Split parts_of(int request, int strip, int64_t begin, int blocks) const {
    int first = part_at(begin), last = part_at(begin + blocks - 1);
    if (first < last && moved_cut(cut(first + 1) - begin, blocks, least) == 0) ++first;
    if (first < last && moved_cut(cut(last) - begin, blocks, least) == blocks) --last;
    return {request, strip, first, last};
  }
};

// Called by all threads of the loading warpgroup.
template <typename Config>
__device__ __forceinline__ Work find_work(const DenseDecodeParams& params, const Grid& grid, int part,
                                          typename Config::SharedStorage& shared) {
  constexpr int kThreads = Config::kLoaderThreads, kWarps = kThreads / 32;
  constexpr Split kNoSplit = {-1, 0, 0, 0};
  const int thread = threadIdx.x % kThreads, warp = thread / 32, lane = thread % 32;

  // Each thread adds up some consecutive requests; then a scan over threads.
  const int per_thread = (params.b + kThreads - 1) / kThreads;
  const int first = int(min(int64_t(thread) * per_thread, int64_t(params.b)));
  const int last = int(min(int64_t(first) + per_thread, int64_t(params.b)));
  int64_t own = 0;
  int longest = 0;
  for (int request = first; request < last; ++request) {
    const int blocks = extent_of<Config>(params, request).blocks;
    own += blocks + Config::kItemCost;
    longest = max(longest, blocks);
  }
  int64_t up_to = own;
  for (int step = 1; step < 32; step *= 2) {
    const int64_t other = __shfl_up_sync(~0u, up_to, step);
    if (lane >= step) up_to += other;
  }
  longest = __reduce_max_sync(~0u, longest);
  if (lane == 31) shared.scan[warp] = {up_to, longest};
  device::named_sync(kLoaderBarrier, kThreads);
  int64_t total = 0;
  for (int i = 0; i < kWarps; ++i) {
    if (i == warp) up_to += total;
    total += shared.scan[i].length;
    longest = max(longest, shared.scan[i].longest);
  }

  const Line line(total * grid.strips, grid.parts, Config::kLeastPiece);
  const int64_t items = int64_t(params.b) * grid.strips;
  const int64_t most_items = (items + grid.parts - 1) / grid.parts;
  if (most_items * (longest + Config::kItemCost) <= line.length / line.parts + Config::kSplitCost) {
    const auto begins_with = [&](int part) { return (items * part + grid.parts - 1) / grid.parts; };
    const int64_t begin = begins_with(part), end = begins_with(part + 1);
    return {int(begin / grid.strips), int(begin % grid.strips), 0, 1, end - begin, true, kNoSplit};
  }
  if (part >= line.parts) return {params.b, 0, 0, 1, 0, false, kNoSplit};

  // The thread in whose requests the piece begins finds the item.
  const int64_t begin = line.cut(part), end = line.cut(part + 1);
  int64_t position = (up_to - own) * grid.strips;
  if (position <= begin && begin < up_to * grid.strips) {
    int request = first;
    int blocks = extent_of<Config>(params, request).blocks;
    const auto length = [&] { return int64_t(blocks) + Config::kItemCost; };
    while (position + length() * grid.strips <= begin) {
      position += length() * grid.strips;
      blocks = extent_of<Config>(params, ++request).blocks;
    }
    int strip = int((begin - position) / length());
    position += strip * length();
    int skip = moved_cut(begin - position, blocks, line.least);
    Split split = kNoSplit;
    if (begin > position && skip >= blocks) {
      position += length();
      skip = 0;
      if (++strip == grid.strips) {
        strip = 0;
        ++request;
      }
    } else if (skip > 0) {
      const Split parts = line.parts_of(request, strip, position, blocks);
      if (parts.first_part + 1 == part) split = parts;
    }
    shared.work = {request, strip, skip, line.least, end - position, false, split};
  }
  device::named_sync(kLoaderBarrier, kThreads);
  return shared.work;
}

// Walks a thread block's items.
template <typename Config>
class Items {
 public:
  Item current;

  __device__ __forceinline__ Items(const DenseDecodeParams& params, const Grid& grid, const Work& work, int lane)
      : params_(params), grid_(grid), lane_(lane), work_(work) {}

  // Steps to the next item with work for this thread block; false at the end.
  __device__ __forceinline__ bool next() {
    while (work_.left > 0) {
      const Extent extent = extent_of<Config>(params_, work_.request);
      const int first_block = work_.skip;
      const int last_block = work_.whole || work_.left >= extent.blocks
                                 ? extent.blocks
                                 : moved_cut(work_.left, extent.blocks, work_.least);
      const bool has_work = first_block < last_block || extent.blocks == 0;
      current = {work_.request, work_.strip * grid_.lanes + lane_,
                 extent.keys,   0,
                 first_block,   last_block,
                 extent.sound,  first_block == 0 && last_block == extent.blocks};
      work_.left -= work_.whole ? 1 : extent.blocks + Config::kItemCost;
      work_.skip = 0;
      if (++work_.strip == grid_.strips) {
        work_.strip = 0;
        ++work_.request;
      }
      if (has_work && current.tile < grid_.tiles) {
        current.visible_to_all = visible_keys(params_, grid_, Tile(grid_, current.tile), extent.keys, 0);
        return true;
      }
    }
    return false;
  }

 private:
  const DenseDecodeParams& params_;
  const Grid& grid_;
  const int lane_;
  Work work_;
};

// Partial results of an item: its first part leaves them in slot 1 of its thread block, all others in slot 0.
__device__ __forceinline__ int partial_tile(int block, bool is_first_part) {
  return 2 * block + (is_first_part ? 1 : 0);
}

}  // namespace jax_flash_mla::dense_decode_sm90
