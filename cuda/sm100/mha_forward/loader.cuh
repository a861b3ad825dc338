// The warps of SM100 multi-head attention, forward, that bring operands: the one that loads them, and the one that
// clears what nobody may see.
#pragma once

#include "cuda/device/copy.cuh"
#include "cuda/mha/tiles.cuh"
#include "cuda/sm100/mha_forward/roles.cuh"

namespace jax_flash_mla::mha_forward_sm100 {

// How the copy engine sees operands: rows of all heads' columns, in boxes of 64 columns; of values, by 64 rows.
struct Maps {
  CUtensorMap q, k, v;
};

template <typename Config>
class Loader {
 public:
  __device__ __forceinline__ Loader(const MhaForwardParams& params, const Maps& maps,
                                    typename Config::SharedStorage& shared)
      : params_(params), maps_(maps), shared_(shared) {}

  __device__ __forceinline__ void run() {
    const bool loads = threadIdx.x % 32 == 0;
    mha::Tiles<Config::kTiles * Config::kTileRows> tiles(params_.queries, params_.h_q);
    uint32_t count = 0;
    for (; tiles.next(); ++count) {
      const mha::Tile& tile = tiles.current;
      const MhaRange& range = params_.queries.ranges[tile.range];
      const Item item = describe(tile, range);
      if (loads) {
        announce(item, count);
        load(item, tile.pack * params_.tokens_kv + range.other_first, shared_.values_started[count % 2]);
      }
    }
    if (loads) {
      announce({}, count);
      wait_for_the_last();
    }
  }

 private:
  const MhaForwardParams& params_;
  const Maps& maps_;
  typename Config::SharedStorage& shared_;
  Ring<Config> ring_;
  uint32_t queries_[Config::kTiles] = {};  // loads before, for each tile

  // Backwards along the queries: of a causal sequence the longest items come first.
  __device__ __forceinline__ Item describe(const mha::Tile& tile, const MhaRange& range) const {
    constexpr int kRows = Config::kTiles * Config::kTileRows;
    const MhaSide& queries = params_.queries;
    const int first = (tile.is_gap ? tile.block : tile.blocks - 1 - tile.block) * kRows;
    const int before = tile.is_gap ? range.first + range.length : range.first;
    Item item;
    item.first_row = int64_t(tile.pack) * queries.tokens + before + first;
    item.rows = min(kRows, (tile.is_gap ? range.gap : range.length) - first);
    item.head = tile.head;
    item.keys = tile.is_gap ? 0 : range.other_length;
    // Aligned at the last key: query i of n sees the keys up to i + keys - n.
    item.first_visible = params_.causal && !tile.is_gap ? first + 1 + item.keys - range.length : item.keys;
#pragma unroll
    for (int t = 0; t < Config::kTiles; ++t) {
      const int end = min(item.rows, (t + 1) * Config::kTileRows);  // of the tile's rows
      const int seen = params_.causal ? min(item.first_visible + end - 1, item.keys) : item.keys;
      const bool has_rows = end > t * Config::kTileRows;
      item.blocks[t] = has_rows ? (max(seen, 0) + Config::kBlock - 1) / Config::kBlock : 0;
    }
    item.pack = tile.is_gap && !queries.ranges[tile.pack * (queries.sequences + 1)].sound ? tile.pack : -1;
    return item;
  }

  // Once all have done with the last item but one.
  __device__ __forceinline__ void announce(const Item& item, uint32_t count) {
    device::wait(shared_.item_empty[count % 2], (count / 2 + 1) % 2);
    shared_.items[count % 2] = item;
    device::arrive(shared_.item_full[count % 2]);
  }

  // Keys of the last block, queries, values of that block; then keys and values in turn. The queries' places are free
  // later than slots are.
  __device__ __forceinline__ void load(const Item& item, int first_key, device::Barrier& values_started) {
    const int key_head = item.head / (params_.h_q / params_.h_kv), last = item.most_blocks() - 1;
    if (last < 0) device::arrive(values_started);
#pragma unroll 1
    for (int block = last; block >= 0; --block) {
      const int row = first_key + block * Config::kBlock;
#pragma unroll
      for (int panel = 0; panel < Config::kKeyPanels; ++panel) {
        device::Barrier& full = next_slot();
        const int column = key_head * Config::kDimQK + panel * Config::kPanelColumns;
        device::copy_box(shared_.slots[ring_.slot].elements, maps_.k, full, column, row);
        ring_.advance(1);
      }
      if (block == last) load_queries(item);
#pragma unroll
      for (int panel = 0; panel < Config::kValuePanels; ++panel) {
        device::Barrier& full = next_slot();
#pragma unroll
        for (int box = 0; box < Config::kValueBoxes; ++box) {
          device::copy_box(shared_.slots[ring_.slot].elements + box * Config::kValueTokens * Config::kPanelColumns,
                           maps_.v, full, key_head * Config::kDimV + box * Config::kPanelColumns,
                           row + panel * Config::kValueTokens);
        }
        ring_.advance(1);
      }
      if (block == last) device::arrive(values_started);
    }
  }

  // The barrier of the next slot, which is free, and awaits a panel.
  __device__ __forceinline__ device::Barrier& next_slot() {
    device::Barrier& full = shared_.slot_full[ring_.slot];
    device::wait(shared_.slot_empty[ring_.slot], ring_.parity ^ 1);
    device::arrive_and_expect(full, Config::kPanelBytes);
    return full;
  }

  __device__ __forceinline__ void load_queries(const Item& item) {
#pragma unroll
    for (int t = 0; t < Config::kTiles; ++t) {
      if (item.blocks[t] == 0) continue;
      device::wait(shared_.q_empty[t], (queries_[t]++ + 1) % 2);
      device::arrive_and_expect(shared_.q_full[t], Config::kKeyPanels * Config::kPanelBytes);
#pragma unroll
      for (int panel = 0; panel < Config::kKeyPanels; ++panel) {
        device::copy_box(shared_.q[t][panel].elements, maps_.q, shared_.q_full[t],
                         item.head * Config::kDimQK + panel * Config::kPanelColumns,
                         int(item.first_row) + t * Config::kTileRows);
      }
    }
  }

  // Until all arrivals have come: products might arrive at barriers of a thread block that is no more.
  __device__ __forceinline__ void wait_for_the_last() {
    for (int i = 0; i < Config::kSlots; ++i) {
      device::wait(shared_.slot_empty[ring_.slot], ring_.parity ^ 1);
      ring_.advance(1);
    }
    for (int t = 0; t < Config::kTiles; ++t) device::wait(shared_.q_empty[t], (queries_[t] + 1) % 2);
  }
};

// Writes zeros for the values past the sequence's last key: they are another's, and zero weight times NaN is NaN. They
// are in an item's first block, if anywhere.
template <typename Config>
class Cleaner {
 public:
  __device__ __forceinline__ explicit Cleaner(typename Config::SharedStorage& shared) : shared_(shared) {}

  __device__ __forceinline__ void run() {
    Ring<Config> ring;
    for (uint32_t items = 0;; ++items) {
      const Item& item = wait_for_item(shared_, items);
      if (item.rows == 0) break;
      const int blocks = item.most_blocks();
      const int real = item.keys - (blocks - 1) * Config::kBlock;
      if (blocks > 0 && real < Config::kBlock) {
        Ring<Config> values = ring;
        values.advance(Config::kKeyPanels);
        // Who has not seen each phase of a slot must know that it is in the one before: only the last bit can be asked
        // for.
        device::wait(shared_.values_started[items % 2], items / 2 % 2);
        clear(values, real);
      }
      ring.advance(blocks * Config::kPanelsOfBlock);
      device::arrive(shared_.cleared[items % 2]);
      __syncwarp();
      if (threadIdx.x % 32 == 0) device::arrive(shared_.item_empty[items % 2]);
    }
  }

 private:
  typename Config::SharedStorage& shared_;

  __device__ __forceinline__ void clear(Ring<Config> ring, int real) {
    constexpr int kRowVectors = Config::kPanelRowBytes / 16, kBoxVectors = Config::kValueBoxBytes / 16;
    for (int panel = 0; panel < Config::kValuePanels; ++panel, ring.advance(1)) {
      const int first = max(real - panel * Config::kValueTokens, 0) * kRowVectors;
      if (first >= kBoxVectors) continue;
      device::wait(shared_.slot_full[ring.slot], ring.parity);
      uint4* box = reinterpret_cast<uint4*>(shared_.slots[ring.slot].elements);
      for (int i = first + threadIdx.x % 32; i < kBoxVectors; i += 32) {
#pragma unroll
        for (int b = 0; b < Config::kValueBoxes; ++b) box[b * kBoxVectors + i] = make_uint4(0, 0, 0, 0);
      }
    }
    device::fence_async_proxy();
  }
};

}  // namespace jax_flash_mla::mha_forward_sm100
