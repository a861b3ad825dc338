// Which tiles a thread block works on.
//
// Tiles come in order of packs, of the ranges of a pack, of heads, and backwards along the queries, so that of a causal
// sequence the longest come first; those of the gap behind a range, which only have to be filled, follow. Thread blocks take
// tiles in turn: those at work at a time share keys.
#pragma once

#include <cstdint>

#include "cuda/sm90/mha_forward/config.h"

namespace jax_flash_mla::mha_forward_sm90 {

// Walks a thread block's tiles; by all lanes of a warp, each of which knows one range of 32.
template <typename Config>
class Tiles {
 public:
  Item current;
  int32_t kv_row;  // the first row of the item's keys, of [packs · tokens_kv]

  __device__ __forceinline__ explicit Tiles(const MhaForwardParams& params)
      : params_(params), ranges_(params.packs * (params.sequences + 1)), tile_(blockIdx.x) {
    look_at(0);
  }

  // Steps to the next tile; false at the end.
  __device__ __forceinline__ bool next() {
    while (tile_ >= begin_ + __shfl_sync(~0u, up_to_, 31)) {
      if (first_range_ + 32 >= ranges_) return false;
      begin_ += __shfl_sync(~0u, up_to_, 31);
      look_at(first_range_ + 32);
    }
    const int64_t within = tile_ - begin_;
    const int lane = __ffs(__ballot_sync(~0u, up_to_ > within)) - 1;
    const int blocks = __shfl_sync(~0u, blocks_, lane), all_blocks = blocks + __shfl_sync(~0u, gap_blocks_, lane);
    const int of_range = int(within - __shfl_sync(~0u, up_to_, lane) + int64_t(all_blocks) * params_.h_q);
    describe(first_range_ + lane, of_range / all_blocks, of_range % all_blocks, blocks);
    tile_ += gridDim.x;
    return true;
  }

 private:
  const MhaForwardParams& params_;
  const int ranges_;
  int64_t tile_;             // the next one
  int first_range_;          // of those that the lanes know
  int64_t begin_ = 0;        // tiles before it
  int64_t up_to_;            // tiles from there to the end of this lane's range
  int blocks_, gap_blocks_;  // of the latter, for each head

  __device__ __forceinline__ void look_at(int first_range) {
    first_range_ = first_range;
    blocks_ = gap_blocks_ = 0;
    if (const int range = first_range + threadIdx.x % 32; range < ranges_) {
      blocks_ = ceil_div(params_.ranges[range].q_length);
      gap_blocks_ = ceil_div(params_.ranges[range].gap);
    }
    up_to_ = int64_t(blocks_ + gap_blocks_) * params_.h_q;
    for (int step = 1; step < 32; step *= 2) {
      const int64_t other = __shfl_up_sync(~0u, up_to_, step);
      if (threadIdx.x % 32 >= step) up_to_ += other;
    }
  }

  __device__ __forceinline__ static int ceil_div(int tokens) {
    return (tokens + Config::kBlockM - 1) / Config::kBlockM;
  }

  __device__ __forceinline__ void describe(int number, int head, int block, int blocks) {
    const MhaRange& range = params_.ranges[number];
    const int pack = number / (params_.sequences + 1);
    const bool is_gap = block >= blocks;
    const int first = (is_gap ? block - blocks : blocks - 1 - block) * Config::kBlockM;
    const int before = is_gap ? range.q_first + range.q_length : range.q_first;
    const int length = is_gap ? range.gap : range.q_length;
    current.first_row = int64_t(pack) * params_.tokens_q + before + first;
    current.rows = min(Config::kBlockM, length - first);
    current.head = head;
    current.keys = is_gap ? 0 : range.kv_length;
    // Aligned at the last key: query i of n sees the keys up to i + keys - n.
    current.first_visible = params_.causal && !is_gap ? first + 1 + range.kv_length - range.q_length : current.keys;
    const int seen = params_.causal ? min(current.first_visible + current.rows - 1, current.keys) : current.keys;
    current.blocks = (max(seen, 0) + Config::kBlockN - 1) / Config::kBlockN;
    const bool all_sound = params_.ranges[pack * (params_.sequences + 1)].sound;
    current.pack = is_gap && !all_sound ? pack : -1;
    kv_row = pack * params_.tokens_kv + range.kv_first;
  }
};

}  // namespace jax_flash_mla::mha_forward_sm90
