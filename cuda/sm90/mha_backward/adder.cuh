// The threads that add to d_q, one for each multiplying warpgroup: strips of a block's columns, from shared memory to the sums of
// all tiles of keys.
//
// In any order, or, where there are counters, in that in which tiles are dealt: a counter says how many tiles have added to a
// warpgroup's columns of a block. Thread blocks take tiles in that order, too, and are all there: whoever waits, waits
// for one that has begun.
#pragma once

#include "cuda/device/barrier.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/sm90/mha_backward/config.h"

namespace jax_flash_mla::mha_backward_sm90 {

template <typename Config>
class Adder {
 public:
  __device__ __forceinline__ Adder(const MhaBackwardParams& params, typename Config::SharedStorage& shared, int self)
      : params_(params), shared_(shared), self_(self) {}

  __device__ __forceinline__ void run() {
    uint32_t round = 0;
#pragma unroll 1
    for (uint32_t items = 0;; ++items) {
      device::wait(shared_.own_full, items % 2);
      const Item& item = shared_.items[items % 2];
      if (item.rows == 0) break;
#pragma unroll 1
      for (int rest = params_.h_q / params_.h_kv; rest > 0; --rest) {
        int blocks;
        const int head = (item.head + 1) * (params_.h_q / params_.h_kv) - rest;
        look_at(item, head, &blocks);
        // What there is to know of the item is known.
        if (rest == 1) device::arrive(shared_.own_empty);
#pragma unroll 1
        for (; blocks > 0; --blocks, ++round) {
          device::wait(shared_.d_q_full[self_], round % 2);
          add();
          device::arrive(shared_.d_q_empty[self_]);
        }
      }
    }
  }

 private:
  static constexpr int kBlockTokens = Config::kBlockTokens, kStripColumns = Config::kStripColumns;

  const MhaBackwardParams& params_;
  typename Config::SharedStorage& shared_;
  const int self_;

  // Of the next block.
  float* target_;     // in a head's first strip
  int rest_;          // queries of the sequence from there on
  int32_t* counter_;  // if there is one
  int to_diagonal_;   // from the first query that sees the tile's first key to the block's first, under a causal mask
  int turn_;          // otherwise, when the tile's turn is

  // All blocks of a head.
  __device__ __forceinline__ void look_at(const Item& item, int head, int* blocks) {
    const int first = item.first_block * kBlockTokens;
    const int64_t row = int64_t(head) * Config::kStrips * all_rows() + item.first_query + first;
    target_ = params_.sums + row * kStripColumns;
    rest_ = item.queries - first;
    *blocks = item.last_block - item.first_block;
    if (!params_.counters) return;
    const int64_t place = head * counters_of(params_.queries) + item.first_counter + item.first_block;
    counter_ = params_.counters + place * Config::kWarpgroups + self_;
    to_diagonal_ = first - item.first_visible;
    turn_ = item.turn;
  }

  __device__ __forceinline__ int64_t all_rows() const {
    return int64_t(params_.queries.packs) * params_.queries.tokens;
  }

  // Until the strips may be overwritten.
  __device__ __forceinline__ void add() {
    if (!params_.counters) {
      start();
      device::wait_for_bulk_reads();
    } else {
      const int turn = params_.causal ? (to_diagonal_ + min(kBlockTokens, rest_) - 1) / Config::kTileTokens : turn_;
      while (device::load_acquire(*counter_) != turn) {
      }
      start();
      device::wait_for_bulk_additions();
      device::store_release(*counter_, turn + 1);
      counter_ += Config::kWarpgroups;
      to_diagonal_ += kBlockTokens;
    }
    target_ += kBlockTokens * kStripColumns;
    rest_ -= kBlockTokens;
  }

  __device__ __forceinline__ void start() const {
    const int bytes = min(kBlockTokens, rest_) * kStripColumns * int(sizeof(float));
#pragma unroll
    for (int i = 0; i < Config::kOwnStrips; ++i) {
      const int strip = i < 2 ? self_ * 2 + i : Config::kWarpgroups * 2 + self_;
      device::add_bulk(target_ + strip * all_rows() * kStripColumns, shared_.d_q[self_][i].elements, bytes);
    }
    device::commit_bulk_additions();
  }
};

}  // namespace jax_flash_mla::mha_backward_sm90
