// The warp that loads: operands of a tile, then blocks of what is opposite.
#pragma once

#include "cuda/device/barrier.cuh"
#include "cuda/device/copy.cuh"
#include "cuda/device/math.cuh"
#include "cuda/mha/tiles.cuh"
#include "cuda/sm90/mha_backward/config.h"

namespace jax_flash_mla::mha_backward_sm90 {

// Tiles are of queries, and blocks of keys, or the other way round.
template <typename Config, bool kTilesOfQueries>
class Loader {
 public:
  // At a block's barrier: of those lanes that write something of it themselves.
  static constexpr int kBlockArrivals = kTilesOfQueries ? 1 : 32;

  __device__ __forceinline__ Loader(const MhaBackwardParams& params, const Maps& maps,
                                    typename Config::SharedStorage& shared)
      : params_(params), maps_(maps), shared_(shared) {}

  __device__ __forceinline__ void run() {
    const MhaSide &own = kTilesOfQueries ? params_.queries : params_.keys,
                  &other = kTilesOfQueries ? params_.keys : params_.queries;
    const int group = params_.h_q / params_.h_kv;
    mha::Tiles<Config::kTileTokens> tiles(own, kTilesOfQueries ? params_.h_q : params_.h_kv);
    uint32_t count = 0, round = 0;
    for (; tiles.next(); ++count) {
      const MhaRange& range = own.ranges[tiles.current.range];
      const Item item = describe(own, tiles.current, range);
      announce(item, count);
      const int first_row = tiles.current.pack * other.tokens + range.other_first;
#pragma unroll 1
      for (int i = 0; i < item.heads; ++i) {
        const int head = kTilesOfQueries ? item.head / group : item.head * group + i;
#pragma unroll 1
        for (int block = item.first_block; block < item.last_block; ++block, ++round) {
          load_block(round, head, first_row, block, range.other_length);
        }
      }
    }
    announce({}, count);
  }

 private:
  const MhaBackwardParams& params_;
  const Maps& maps_;
  typename Config::SharedStorage& shared_;

  __device__ __forceinline__ static int lane() { return threadIdx.x % 32; }

  // Causal sequences are aligned at the last key: query i of n sees the keys up to i + keys - n. `first_visible` is how many
  // keys the tile's first query sees, and each one more; or the first query that sees the tile's first key.
  __device__ __forceinline__ Item describe(const MhaSide& own, const mha::Tile& tile, const MhaRange& range) const {
    const int first = tile.block * Config::kTileTokens, shift = range.other_length - range.length;
    Item item = {};
    item.first_row = int64_t(tile.pack) * own.tokens + range.first + (tile.is_gap ? range.length : 0) + first;
    item.rows = min(Config::kTileTokens, (tile.is_gap ? range.gap : range.length) - first);
    item.head = tile.head;
    item.pack = tile.is_gap && !own.ranges[tile.pack * (own.sequences + 1)].sound ? tile.pack : -1;
    if (tile.is_gap) return item;
    item.heads = kTilesOfQueries ? 1 : params_.h_q / params_.h_kv;
    item.other_length = range.other_length;
    int seen_from = 0, seen_to = range.other_length;
    if (!params_.causal) {
      item.first_visible = kTilesOfQueries ? range.other_length : 0;
    } else if (kTilesOfQueries) {
      item.first_visible = first + 1 + shift;
      seen_to = min(item.first_visible + item.rows - 1, seen_to);
    } else {
      item.first_visible = first + shift;
      seen_from = max(item.first_visible, 0);
    }
    item.last_block = (max(seen_to, 0) + Config::kBlockTokens - 1) / Config::kBlockTokens;
    item.first_block = min(seen_from / Config::kBlockTokens, item.last_block);
    return item;
  }

  // Once the item before needs its operands no more.
  __device__ __forceinline__ void announce(const Item& item, uint32_t count) {
    device::wait(shared_.own_empty, (count + 1) % 2);
    constexpr int kPanels = Config::kKeyPanels + Config::kValuePanels;
    const bool has_work = item.first_block < item.last_block;
    if (lane() == 0) {
      shared_.items[count % 2] = item;
      device::arrive_and_expect(shared_.own_full, has_work ? kPanels * Config::kTilePanelBytes : 0);
    }
    __syncwarp();
    if (!has_work) return;
    copy_panels(shared_.own_keys, shared_.own_values, maps_.own_keys, maps_.own_values, shared_.own_full, item.head,
                int(item.first_row));
  }

  __device__ __forceinline__ void load_block(uint32_t round, int head, int first_row, int block, int length) {
    const int stage = round % Config::kStages, first = block * Config::kBlockTokens;
    float lse[2], delta[2];
    if constexpr (!kTilesOfQueries) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int token = first + i * 32 + lane();
        const int64_t place = (int64_t(first_row) + token) * params_.h_q + head;
        lse[i] = token < length ? params_.lse[place] : 0.0f;
        delta[i] = token < length ? params_.delta[place] : 0.0f;
      }
    }
    device::wait(shared_.empty[stage], (round / Config::kStages + 1) % 2);
    if constexpr (!kTilesOfQueries) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        shared_.lse[stage][i * 32 + lane()] = lse[i] == -device::kInfinity ? 0.0f : lse[i] * device::kLog2E;
        shared_.delta[stage][i * 32 + lane()] = delta[i];
      }
      if (lane() != 0) device::arrive(shared_.full[stage]);
    }
    constexpr int kPanels = Config::kKeyPanels + Config::kValuePanels;
    if (lane() == 0) device::arrive_and_expect(shared_.full[stage], kPanels * Config::kBlockPanelBytes);
    __syncwarp();
    copy_panels(shared_.other_keys[stage], shared_.other_values[stage], maps_.other_keys, maps_.other_values,
                shared_.full[stage], head, first_row + first);
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
