// Which blocks of which tiles a thread block works on.
//
// The items of a launch, one for each strip of each request, are laid out on a line. An item is as long as its number
// of key blocks, plus a constant for what a tile costs besides. The line is cut into `parts` pieces of equal length, so
// that a cut may fall into an item: it is then split, and its parts are combined. Thread block (part, lane) works on
// tile `strip · lanes + lane` of each item in its piece; the lanes of a part run side by side and read the same keys.
//
// Everybody computes the cuts from the lengths: no state is kept between calls, and nothing is read on the host.
#pragma once

#include "cuda/sm90/dense_decode/config.h"

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

// The piece of one part.
struct Part {
  int64_t begin, end;                  // on the line
  int64_t first_item_begin;            // where the item begins into which `begin` falls
  int32_t first_request, first_strip;  // of that item
  int64_t total;                       // length of the line
  int32_t parts;                       // pieces that it is cut into, at most one for each unit of length
};

__device__ __forceinline__ int64_t cut(int64_t total, int parts, int part) { return total * part / parts; }

// The part whose piece holds a position.
__device__ __forceinline__ int part_at(int64_t total, int parts, int64_t position) {
  return int(((position + 1) * parts - 1) / total);
}

// Called by all threads of the block.
template <typename Config>
__device__ Part find_part(const DenseDecodeParams& params, const Grid& grid, int part,
                          typename Config::SharedStorage& shared) {
  constexpr int kWarps = Config::kMathThreads / 32;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const bool scans = thread < Config::kMathThreads;
  const auto item_length = [&](int request) { return extent_of<Config>(params, request).blocks + Config::kItemCost; };
  const auto length = [&](int request) { return int64_t(grid.strips) * item_length(request); };

  // Each thread adds up some consecutive requests; then a scan over threads.
  const int per_thread = (params.b + Config::kMathThreads - 1) / Config::kMathThreads;
  const int first = int(min(int64_t(thread) * per_thread, int64_t(params.b)));
  const int last = min(first + per_thread, params.b);
  int64_t own = 0;
  if (scans) {
    for (int request = first; request < last; ++request) own += length(request);
  }
  int64_t up_to = own;
  for (int step = 1; step < 32; step *= 2) {
    const int64_t other = __shfl_up_sync(~0u, up_to, step);
    if (lane >= step) up_to += other;
  }
  if (scans && lane == 31) shared.scan[warp] = up_to;
  __syncthreads();
  int64_t total = 0;
  for (int i = 0; i < kWarps; ++i) {
    if (i == warp) up_to += total;
    total += shared.scan[i];
  }

  Part result;
  result.total = total;
  result.parts = int(min(int64_t(grid.parts), total));
  const bool has_work = part < result.parts;
  result.begin = has_work ? cut(total, result.parts, part) : total;
  result.end = has_work ? cut(total, result.parts, part + 1) : total;

  // The thread in whose requests the piece begins finds the item.
  int64_t position = up_to - own;
  if (scans && position <= result.begin && result.begin < up_to) {
    int request = first;
    for (; position + length(request) <= result.begin; ++request) position += length(request);
    const int strip = int((result.begin - position) / item_length(request));
    shared.first_request = request;
    shared.first_strip = strip;
    shared.first_item_begin = position + int64_t(strip) * item_length(request);
  }
  __syncthreads();
  result.first_request = has_work ? shared.first_request : params.b;
  result.first_strip = has_work ? shared.first_strip : 0;
  result.first_item_begin = has_work ? shared.first_item_begin : total;
  return result;
}

// A thread block's share of an item: some blocks of one tile.
struct Item {
  int32_t request;
  int32_t tile;  // of the request
  Extent extent;
  int32_t first_block, last_block;  // first inclusive, last exclusive

  __device__ __forceinline__ bool is_whole() const { return first_block == 0 && last_block == extent.blocks; }
};

// Walks a thread block's items.
template <typename Config>
class Items {
 public:
  Item current;

  __device__ __forceinline__ Items(const DenseDecodeParams& params, const Grid& grid, const Part& part, int lane)
      : params_(params),
        grid_(grid),
        lane_(lane),
        begin_(part.begin),
        end_(part.end),
        item_begin_(part.first_item_begin),
        request_(part.first_request),
        strip_(part.first_strip) {}

  // Steps to the next item with work for this thread block; false at the end.
  __device__ __forceinline__ bool next() {
    while (item_begin_ < end_) {
      const Extent extent = extent_of<Config>(params_, request_);
      const int first_block = int(max(min(begin_ - item_begin_, int64_t(extent.blocks)), int64_t(0)));
      const int last_block = int(min(end_ - item_begin_, int64_t(extent.blocks)));
      // Items without keys belong to the part in which they begin.
      const bool has_work = first_block < last_block || (extent.blocks == 0 && item_begin_ >= begin_);
      current = {request_, strip_ * grid_.lanes + lane_, extent, first_block, last_block};
      item_begin_ += extent.blocks + Config::kItemCost;
      if (++strip_ == grid_.strips) {
        strip_ = 0;
        ++request_;
      }
      if (has_work && current.tile < grid_.tiles) return true;
    }
    return false;
  }

 private:
  const DenseDecodeParams& params_;
  const Grid& grid_;
  const int lane_;
  int64_t begin_, end_, item_begin_;
  int request_, strip_;
};

// What the combination of a split item needs. Kept at the item's first cut; elsewhere `request` is -1.
struct Split {
  int32_t request, strip;
  int32_t first_part, last_part;  // both inclusive
};

// Partial results of an item: its first part leaves them in slot 1 of its thread block, all others in slot 0.
__device__ __forceinline__ int partial_tile(int block, bool is_first_part) {
  return 2 * block + (is_first_part ? 1 : 0);
}

// The split at the cut where a part begins.
template <typename Config>
__device__ Split split_at(const DenseDecodeParams& params, const Grid& grid, const Part& piece, int part) {
  const Split none = {-1, 0, 0, 0};
  if (part == 0 || piece.begin == piece.end) return none;
  const int64_t item_begin = piece.first_item_begin;
  const int64_t item_end = item_begin + extent_of<Config>(params, piece.first_request).blocks;
  const bool falls_into_item = item_begin < piece.begin && piece.begin < item_end;
  const int first_part = part_at(piece.total, piece.parts, item_begin);
  if (!falls_into_item || part != first_part + 1) return none;
  return {piece.first_request, piece.first_strip, first_part, part_at(piece.total, piece.parts, item_end - 1)};
}

}  // namespace jax_flash_mla::dense_decode_sm90
