// The warp that loads: keys and values of a tile, then blocks of queries and of their cotangents.
#pragma once

#include "cuda/device/barrier.cuh"
#include "cuda/device/copy.cuh"
#include "cuda/device/math.cuh"
#include "cuda/mha/tiles.cuh"
#include "cuda/sm90/mha_backward/config.h"

namespace jax_flash_mla::mha_backward_sm90 {

template <typename Config>
class Loader {
 public:
  // At a block's barrier: each lane writes something of it.
  static constexpr int kBlockArrivals = 32;

  __device__ __forceinline__ Loader(const MhaBackwardParams& params, const Maps& maps,
                                    typename Config::SharedStorage& shared)
      : params_(params), maps_(maps), shared_(shared) {}

  __device__ __forceinline__ void run() {
    const int group = params_.h_q / params_.h_kv;
    mha::Tiles<Config::kTileTokens> tiles(params_.keys, params_.h_kv, !params_.counters || params_.causal);
    uint32_t count = 0, round = 0;
    for (; tiles.next(); ++count) {
      const MhaRange& range = params_.keys.ranges[tiles.current.range];
      announce(describe(tiles.current, range), count);
      // Read anew from there on, for there are few registers.
      const Item& item = shared_.items[count % 2];
#pragma unroll 1
      for (int i = 0; i < group; ++i) {
#pragma unroll 1
        for (int block = item.first_block; block < item.last_block; ++block, ++round) {
          load_block(round, item.head * group + i, item.first_query, block, item.queries);
        }
      }
    }
    announce({}, count);
  }

 private:
  static constexpr int kPanels = Config::kKeyPanels + Config::kValuePanels;  // of a tile, or a block

  const MhaBackwardParams& params_;
  const Maps& maps_;
  typename Config::SharedStorage& shared_;

  __device__ __forceinline__ static int lane() { return threadIdx.x % 32; }

  // Causal sequences are aligned at the last key: query i of n sees the keys up to i + keys - n. Where additions to d_q come in
  // one order, causal tiles are dealt from the last one on: each comes to its first block before those behind it do.
  __device__ __forceinline__ Item describe(const mha::Tile& tile, const MhaRange& range) const {
    const MhaSide &keys = params_.keys, &queries = params_.queries;
    const bool backwards = params_.counters && params_.causal && !tile.is_gap;
    const int first = (backwards ? tile.blocks - 1 - tile.block : tile.block) * Config::kTileTokens;
    Item item = {};
    item.first_row = tile.pack * keys.tokens + range.first + (tile.is_gap ? range.length : 0) + first;
    item.rows = min(Config::kTileTokens, (tile.is_gap ? range.gap : range.length) - first);
    item.head = tile.head;
    item.pack = tile.is_gap && !keys.ranges[tile.pack * (keys.sequences + 1)].sound ? tile.pack : -1;
    if (tile.is_gap) return item;
    item.first_query = tile.pack * queries.tokens + range.other_first;
    item.first_counter = first_counter_of(tile.range, item.first_query);
    item.queries = range.other_length;
    item.turn = tile.block;
    item.first_visible = first + range.other_length - range.length;
    const int seen_from = params_.causal ? max(item.first_visible, 0) : 0;
    item.last_block = (range.other_length + Config::kBlockTokens - 1) / Config::kBlockTokens;
    item.first_block = min(seen_from / Config::kBlockTokens, item.last_block);
    return item;
  }

  // Once the item before needs its operands no more.
  __device__ __forceinline__ void announce(const Item& item, uint32_t count) {
    device::wait(shared_.own_empty, (count + 1) % 2);
    const bool has_work = item.first_block < item.last_block;
    if (lane() == 0) {
      shared_.items[count % 2] = item;
      device::arrive_and_expect(shared_.own_full, has_work ? kPanels * Config::kTilePanelBytes : 0);
    }
    __syncwarp();
    if (!has_work) return;
    copy_panels(shared_.keys, shared_.values, maps_.keys, maps_.values, shared_.own_full, item.head, item.first_row);
  }

  __device__ __forceinline__ void load_block(uint32_t round, int head, int first_row, int block, int length) {
    const int stage = round % Config::kStages, first = block * Config::kBlockTokens;
    float lse[2], delta[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = first + i * 32 + lane();
      const int64_t place = (int64_t(first_row) + token) * params_.h_q + head;
      lse[i] = token < length ? params_.lse[place] : -device::kInfinity;
      delta[i] = token < length ? params_.delta[place] : 0.0f;
    }
    device::wait(shared_.empty[stage], (round / Config::kStages + 1) % 2);
    // Weights of queries that see nothing, or are none, are zero.
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      shared_.lse[stage][i * 32 + lane()] = lse[i] == -device::kInfinity ? device::kInfinity : lse[i] * device::kLog2E;
      shared_.delta[stage][i * 32 + lane()] = delta[i];
    }
    if (lane() != 0) {
      device::arrive(shared_.full[stage]);
    } else {
      device::arrive_and_expect(shared_.full[stage], kPanels * Config::kBlockPanelBytes);
    }
    __syncwarp();
    copy_panels(shared_.queries[stage], shared_.d_out[stage], maps_.queries, maps_.d_out, shared_.full[stage], head,
                first_row + first);
  }

  // Panels side by side, one by each lane.
  template <typename Panel>
  __device__ __forceinline__ static void copy_panels(Panel (&keys)[Config::kKeyPanels],
                                                     Panel (&values)[Config::kValuePanels], const CUtensorMap& key_map,
                                                     const CUtensorMap& value_map, device::Barrier& full, int head,
                                                     int row) {
    const int panel = lane(), value_panel = lane() - Config::kKeyPanels;
    if (value_panel < 0) {
      const int column = head * Config::kDimQK + panel * Config::kPanelColumns;
      device::copy_box(keys[panel].elements, key_map, full, column, row);
    } else if (value_panel < Config::kValuePanels) {
      const int column = head * Config::kDimV + value_panel * Config::kPanelColumns;
      device::copy_box(values[value_panel].elements, value_map, full, column, row);
    }
  }
};

}  // namespace jax_flash_mla::mha_backward_sm90
