// Which tiles of packed sequences a thread block works on.
//
// Tiles come in order of packs, of the ranges of a pack, of heads, and of tokens; those of the gap behind a range, which only
// have to be filled, follow its own. Thread blocks take tiles in turn: those at work at a time share what is opposite. Every
// other round goes backwards: under a causal mask tiles differ in length, and who had a longer one than its neighbour in one
// round has a shorter one in the next. Not where tiles of one length wait for each other: who is first in one round
// is so in the next, too.
#pragma once

#include <cstdint>

#include "cuda/mha/range.h"

namespace jax_flash_mla::mha {

struct Tile {
  int range;  // of all packs
  int pack, head;
  int block;   // of the range, or of its gap
  int blocks;  // of the range
  bool is_gap;
};

// Walks a thread block's tiles; by all lanes of a warp, each of which knows one range of 32.
template <int BlockTokens>
class Tiles {
 public:
  Tile current;

  __device__ __forceinline__ Tiles(const MhaSide& side, int heads, bool turns = true)
      : side_(side),
        heads_(heads),
        ranges_(side.packs * (side.sequences + 1)),
        tile_(blockIdx.x),
        step_(turns ? 2 * (gridDim.x - blockIdx.x) - 1 : gridDim.x) {
    look_at(0);
  }

  // Steps to the next tile; false at the end.
  __device__ __forceinline__ bool next() {
    while (tile_ >= __shfl_sync(~0u, up_to_, 31)) {
      if (first_range_ + 32 >= ranges_) return false;
      tile_ -= __shfl_sync(~0u, up_to_, 31);
      look_at(first_range_ + 32);
    }
    const int lane = __ffs(__ballot_sync(~0u, up_to_ > tile_)) - 1;
    const int blocks = __shfl_sync(~0u, blocks_, lane), all_blocks = blocks + __shfl_sync(~0u, gap_blocks_, lane);
    const int of_range = int(tile_ - __shfl_sync(~0u, up_to_, lane) + int64_t(all_blocks) * heads_);
    current.range = first_range_ + lane;
    current.pack = current.range / (side_.sequences + 1);
    current.head = of_range / all_blocks;
    current.block = of_range % all_blocks;
    current.blocks = blocks;
    current.is_gap = current.block >= blocks;
    if (current.is_gap) current.block -= blocks;
    tile_ += step_;
    step_ = 2 * gridDim.x - step_;
    return true;
  }

 private:
  const MhaSide& side_;
  const int heads_, ranges_;
  int64_t tile_;             // the next one, counted from the first range's first
  int step_;                 // from it to the next: as far as it is to the end of the round and back
  int first_range_;          // of those that the lanes know
  int64_t up_to_;            // tiles from there to the end of this lane's range
  int blocks_, gap_blocks_;  // of the latter, for each head

  __device__ __forceinline__ void look_at(int first_range) {
    first_range_ = first_range;
    blocks_ = gap_blocks_ = 0;
    if (const int range = first_range + threadIdx.x % 32; range < ranges_) {
      blocks_ = ceil_div(side_.ranges[range].length);
      gap_blocks_ = ceil_div(side_.ranges[range].gap);
    }
    up_to_ = int64_t(blocks_ + gap_blocks_) * heads_;
    for (int step = 1; step < 32; step *= 2) {
      const int64_t other = __shfl_up_sync(~0u, up_to_, step);
      if (threadIdx.x % 32 >= step) up_to_ += other;
    }
  }

  __device__ __forceinline__ static int ceil_div(int tokens) { return (tokens + BlockTokens - 1) / BlockTokens; }
};

// Whether an unsound sequence claims a token that no other one owns. Tokens from the last bound on are padding, whoever
// claims them.
__device__ __forceinline__ bool is_claimed(const MhaSide& side, int pack, int token) {
  const int first = pack * (side.sequences + 1);
  const int32_t* bounds = side.bounds + first;
  if (token >= bounds[side.sequences]) return false;
  for (int i = 0; i < side.sequences; ++i) {
    if (!side.ranges[first + 1 + i].sound && bounds[i] <= token && token < bounds[i + 1]) return true;
  }
  return false;
}

}  // namespace jax_flash_mla::mha
