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
#include "cuda/device/math.cuh"
#include "cuda/sm90/split/work.h"

namespace jax_flash_mla::split_sm90 {

// An operation's `Problem` has
//   Layout layout()
//   int blocks(request)      of keys; 0 where there is nothing to attend to
//   kItemCost, kSplitCost    in blocks: of starting and finishing a tile; of leaving partial results and combining them
//   kLeastPiece              the least piece of a tile that is worth the latter
// and, for combine.cuh, what that says.

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
template <typename Problem>
__device__ __forceinline__ Scan scan_requests(const Problem& problem, int thread, int threads) {
  const int per_thread = (problem.layout().requests + threads - 1) / threads;
  Scan scan;
  scan.first = int(min(int64_t(thread) * per_thread, int64_t(problem.layout().requests)));
  scan.last = int(min(int64_t(scan.first) + per_thread, int64_t(problem.layout().requests)));
  scan.own = 0;
  scan.longest = 0;
  for (int request = scan.first; request < scan.last; ++request) {
    const int blocks = problem.blocks(request);
    scan.own += blocks + Problem::kItemCost;
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

// This thread block's part of the work. Called by all threads of four warps, which no others join at the named barrier.
template <typename Problem>
__device__ __forceinline__ Work find_work(const Problem& problem, int part, Search& search, int barrier) {
  constexpr int kThreads = 128, kWarps = kThreads / 32;
  const Layout& layout = problem.layout();
  const int thread = threadIdx.x % kThreads, warp = thread / 32;
  Scan scan = scan_requests(problem, thread, kThreads);
  if (thread % 32 == 0) search.of_warps[warp] = {scan.total, scan.longest};
  device::named_sync(barrier, kThreads);
  scan.total = 0;
  for (int i = 0; i < kWarps; ++i) {
    if (i == warp) scan.begin += scan.total;
    scan.total += search.of_warps[i].length;
    scan.longest = max(scan.longest, search.of_warps[i].longest);
  }

  const Line line(scan.total * layout.strips, layout.parts, Problem::kLeastPiece);
  const int64_t items = int64_t(layout.requests) * layout.strips;
  const int64_t most_items = (items + layout.parts - 1) / layout.parts;
  if (most_items * (scan.longest + Problem::kItemCost) <= line.length / line.parts + Problem::kSplitCost) {
    const auto begins_with = [&](int part) { return (items * part + layout.parts - 1) / layout.parts; };
    const int64_t begin = begins_with(part), end = begins_with(part + 1);
    return {int(begin / layout.strips), int(begin % layout.strips), 0, 1, end - begin, true};
  }
  if (part >= line.parts) return {layout.requests, 0, 0, 1, 0, false};

  // The thread in whose requests the piece begins finds the item.
  const int64_t begin = line.cut(part), end = line.cut(part + 1);
  int64_t position = scan.begin * layout.strips;
  if (position <= begin && begin < (scan.begin + scan.own) * layout.strips) {
    int request = scan.first;
    int blocks = problem.blocks(request);
    const auto length = [&] { return int64_t(blocks) + Problem::kItemCost; };
    while (position + length() * layout.strips <= begin) {
      position += length() * layout.strips;
      blocks = problem.blocks(++request);
    }
    int strip = int((begin - position) / length());
    position += strip * length();
    int skip = moved_cut(begin - position, blocks, line.least);
    if (begin > position && skip >= blocks) {
      position += length();
      skip = 0;
      if (++strip == layout.strips) {
        strip = 0;
        ++request;
      }
    }
    search.work = {request, strip, skip, line.least, end - position, false};
  }
  device::named_sync(barrier, kThreads);
  return search.work;
}

// All items that are split. Called by all threads of a warp.
template <typename Problem>
__device__ __forceinline__ void find_splits(const Problem& problem, Splits& splits) {
  const Layout& layout = problem.layout();
  // Not kept from when the part was found: registers are few.
  const int lane = device::opaque(threadIdx.x) % 32;
  if (lane == 0) splits.count = 0;
  __syncwarp();
  const Scan scan = scan_requests(problem, lane, 32);
  const Line line(scan.total * layout.strips, layout.parts, Problem::kLeastPiece);
  int64_t position = scan.begin * layout.strips;
  Cuts cuts(line, position);
  for (int request = scan.first; request < scan.last; ++request) {
    const int blocks = problem.blocks(request);
    for (int strip = 0; strip < layout.strips; ++strip) {
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
      position += blocks + Problem::kItemCost;
      while (cuts.end() <= position) cuts.advance();
    }
  }
}

// Steps to the next of a thread block's items with work for it: false at the end. `work` is what is left to do.
template <typename Problem>
__device__ __forceinline__ bool next_piece(const Problem& problem, int lane, Work& work, Piece& piece) {
  const Layout& layout = problem.layout();
  while (work.left > 0) {
    const int blocks = problem.blocks(work.request), first = work.skip;
    const int last = work.whole || work.left >= blocks ? blocks : moved_cut(work.left, blocks, work.least);
    const bool has_work = first < last || blocks == 0;
    piece = {work.request, work.strip * layout.lanes + lane, first, last, first == 0 && last == blocks};
    work.left -= work.whole ? 1 : blocks + Problem::kItemCost;
    work.skip = 0;
    if (++work.strip == layout.strips) {
      work.strip = 0;
      ++work.request;
    }
    if (has_work && piece.tile < layout.tiles) return true;
  }
  return false;
}

}  // namespace jax_flash_mla::split_sm90
