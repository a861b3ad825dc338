// Work and shared memory of SM90 sparse prefill: data only.
#pragma once

#include <cstdint>

#include "cuda/sm90/mla/shape.h"
#include "cuda/sm90/sparse_prefill/params.h"

namespace jax_flash_mla::sparse_prefill_sm90 {

// A tile of heads of one query token.
struct Item {
  int32_t query;   // -1: there is no more work
  int32_t tile;    // of its heads
  int32_t blocks;  // of keys
  bool sound;      // its length makes sense
};

// Four loading warps; keys are given back half of the rows at a time.
template <typename Element, int DimQK>
struct Config : mla_sm90::Shape<Element, DimQK, 4, 2> {
  using Shape = mla_sm90::Shape<Element, DimQK, 4, 2>;
  static_assert(Shape::kDimV == kSparsePrefillDimV && Shape::kBlockM == kSparsePrefillTileRows);

  // Threads copy keys, and the largest logits are results.
  static constexpr bool kFindsLargest = true, kInOrder = false, kWritesLate = true;
  // Each half is waited for as a whole: a fence costs 180 clocks of products.
  static constexpr bool fences_tile(int) { return true; }
  static constexpr int waited_for(int i) {
    return i == 0 ? Shape::kHalfTiles - 1 : i == Shape::kHalfTiles ? Shape::kTiles - 1 : -1;
  }

  // Each warp copies as many rows of a block, and has a lane for each of a pair of blocks.
  static constexpr int kWarpRows = Shape::kBlockN / Shape::kLoaderWarps;
  static_assert(kWarpRows * Shape::kStages == 32);

  struct SharedStorage : Shape::Shared {
    float2 largest[2][Shape::kWarpgroups][32];                       // logits of an item; items take turns
    alignas(8) uint16_t valid[Shape::kStages][Shape::kLoaderWarps];  // which keys of the block an index names: bits
    Item items[2];                                                   // in turn
  };
  static_assert(sizeof(SharedStorage) <= 227 * 1024);
};

// How the work is spread, fixed before the launch.
struct Grid {
  float scale_log2;  // of scores, base 2; neither zero nor infinite, so that a masked score stays one
  int32_t tiles;     // of the heads of a query token
  int64_t items;     // tiles of all query tokens
};

}  // namespace jax_flash_mla::sparse_prefill_sm90
