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
// calls, and nothing is read on the host. How the partial results of a thread block lie in scratch ends this file.
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
};

// Walks the cuts of a line in order, without a division for each.
class Cuts {
 public:
  // Begins with the part that a position belongs to.
  __device__ __forceinline__ Cuts(const Line& line, int64_t position)
      : part_(line.part_at(position)), parts_(line.parts), begin_(line.cut(part_)) {
    rest_ = int(line.length * part_ - begin_ * parts_);
    step_ = line.length / parts_;
    step_rest_ = int(line.length - step_ * parts_);
  }

  __device__ __forceinline__ int part() const { return part_; }
  __device__ __forceinline__ int64_t begin() const { return begin_; }  // of the part
  __device__ __forceinline__ int64_t end() const { return begin_ + step_ + (rest_ + step_rest_ >= parts_ ? 1 : 0); }

  __device__ __forceinline__ void advance() {
    begin_ = end();
    rest_ += step_rest_;
    if (rest_ >= parts_) rest_ -= parts_;
    ++part_;
  }

 private:
  int part_, parts_;
  int64_t begin_, step_;
  int rest_, step_rest_;  // what the divisions by parts_ that give begin_ and step_ leave
};

// What some threads know of the requests together: each of those it looks at, and what lies before them.
struct Scan {
  int32_t first, last;  // this thread's requests; the last exclusive
  int64_t begin, own;   // length of all requests before these, and of these; with one strip
  int64_t total;        // of all requests
  int32_t longest;      // blocks of any request
};

// Called by all threads of a warp.
template <typename Config>
__device__ __forceinline__ Scan scan_requests(const DenseDecodeParams& params, int thread, int threads) {
  const int per_thread = (params.b + threads - 1) / threads;
  Scan scan;
  scan.first = int(min(int64_t(thread) * per_thread, int64_t(params.b)));
  scan.last = int(min(int64_t(scan.first) + per_thread, int64_t(params.b)));
  scan.own = 0;
  scan.longest = 0;
  for (int request = scan.first; request < scan.last; ++request) {
    const int blocks = extent_of<Config>(params, request).blocks;
    scan.own += blocks + Config::kItemCost;
    scan.longest = max(scan.longest, blocks);
  }
  int64_t up_to = scan.own;
  for (int step = 1; step < 32; step *= 2) {
    const int64_t other = __shfl_up_sync(~0u, up_to, step);
    if (thread % 32 >= step) up_to += other;
  }
  scan.begin = up_to - scan.own;
  scan.total = __shfl_sync(~0u, up_to, 31);
  scan.longest = __reduce_max_sync(~0u, scan.longest);
  return scan;
}

// This thread block's part of the work. Called by all threads of the loading warpgroup.
template <typename Config>
__device__ __forceinline__ Work find_work(const DenseDecodeParams& params, const Grid& grid, int part,
                                          typename Config::SharedStorage& shared) {
  constexpr int kThreads = Config::kLoaderThreads, kWarps = kThreads / 32;
  const int thread = threadIdx.x % kThreads, warp = thread / 32;
  Scan scan = scan_requests<Config>(params, thread, kThreads);
  if (thread % 32 == 0) shared.scan[warp] = {scan.total, scan.longest};
  device::named_sync(mla_sm90::kLoaderBarrier, kThreads);
  scan.total = 0;
  for (int i = 0; i < kWarps; ++i) {
    if (i == warp) scan.begin += scan.total;
    scan.total += shared.scan[i].length;
    scan.longest = max(scan.longest, shared.scan[i].longest);
  }

  const Line line(scan.total * grid.strips, grid.parts, Config::kLeastPiece);
  const int64_t items = int64_t(params.b) * grid.strips;
  const int64_t most_items = (items + grid.parts - 1) / grid.parts;
  if (most_items * (scan.longest + Config::kItemCost) <= line.length / line.parts + Config::kSplitCost) {
    const auto begins_with = [&](int part) { return (items * part + grid.parts - 1) / grid.parts; };
    const int64_t begin = begins_with(part), end = begins_with(part + 1);
    return {int(begin / grid.strips), int(begin % grid.strips), 0, 1, end - begin, true};
  }
  if (part >= line.parts) return {params.b, 0, 0, 1, 0, false};

  // The thread in whose requests the piece begins finds the item.
  const int64_t begin = line.cut(part), end = line.cut(part + 1);
  int64_t position = scan.begin * grid.strips;
  if (position <= begin && begin < (scan.begin + scan.own) * grid.strips) {
    int request = scan.first;
    int blocks = extent_of<Config>(params, request).blocks;
    const auto length = [&] { return int64_t(blocks) + Config::kItemCost; };
    while (position + length() * grid.strips <= begin) {
      position += length() * grid.strips;
      blocks = extent_of<Config>(params, ++request).blocks;
    }
    int strip = int((begin - position) / length());
    position += strip * length();
    int skip = moved_cut(begin - position, blocks, line.least);
    if (begin > position && skip >= blocks) {
      position += length();
      skip = 0;
      if (++strip == grid.strips) {
        strip = 0;
        ++request;
      }
    }
    shared.work = {request, strip, skip, line.least, end - position, false};
  }
  device::named_sync(mla_sm90::kLoaderBarrier, kThreads);
  return shared.work;
}

// All items that are split. Called by all threads of a warp.
template <typename Config>
__device__ __forceinline__ void find_splits(const DenseDecodeParams& params, const Grid& grid, Splits& splits) {
  const int lane = threadIdx.x % 32;
  if (lane == 0) splits.count = 0;
  const Scan scan = scan_requests<Config>(params, lane, 32);
  const Line line(scan.total * grid.strips, grid.parts, Config::kLeastPiece);
  int64_t position = scan.begin * grid.strips;
  Cuts cuts(line, position);
  for (int request = scan.first; request < scan.last; ++request) {
    const int blocks = extent_of<Config>(params, request).blocks;
    for (int strip = 0; strip < grid.strips; ++strip) {
      Split split = {request, strip, cuts.part(), cuts.part()};
      int64_t first_cut = 0;
      while (cuts.end() < position + blocks) {
        cuts.advance();
        if (++split.last_part == split.first_part + 1) first_cut = cuts.begin();
      }
      // Cuts that move to one of the item's ends.
      if (split.first_part < split.last_part && moved_cut(first_cut - position, blocks, line.least) == 0) {
        ++split.first_part;
      }
      if (split.first_part < split.last_part && moved_cut(cuts.begin() - position, blocks, line.least) == blocks) {
        --split.last_part;
      }
      if (split.first_part < split.last_part) splits.list[atomicAdd(&splits.count, 1)] = split;
      position += blocks + Config::kItemCost;
      while (cuts.end() <= position) cuts.advance();
    }
  }
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

// Partial results of an item: its first part leaves them in tile 1 of its thread block, all others in tile 0.
__device__ __forceinline__ int partial_tile(int block, bool is_first_part) {
  return 2 * block + (is_first_part ? 1 : 0);
}

// Where vectors of four of its outputs lie: as accumulators of WGMMA hold them, so that a warp's stores and loads are 512
// bytes in a row. Of a tile's 64 × 512 outputs, `half` has 256 columns, `warp` 16 rows, `row_half` each eight of those; the
// lanes of a vector eight rows by 16 columns, of which lane l has row l / 4, columns 2 · (l % 4), + 1, + 8 and + 9.
__device__ __forceinline__ int64_t partial_vector(int tile, int half, int warp, int row_half, int vector) {
  constexpr int kHalves = 2, kWarps = 4, kRowHalves = 2, kVectors = kDenseDecodeDimV / kHalves / 16;
  const int64_t of_tile = (int64_t(tile) * kHalves + half) * kWarps + warp;
  return ((of_tile * kRowHalves + row_half) * kVectors + vector) * 32 + threadIdx.x % 32;
}

}  // namespace jax_flash_mla::dense_decode_sm90
