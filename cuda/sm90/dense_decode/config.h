// Schedule and shared memory of SM90 dense decode: data only.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cuda/sm90/dense_decode/params.h"
#include "cuda/sm90/mla/shape.h"
#include "cuda/sm90/split/work.h"

namespace jax_flash_mla::dense_decode_sm90 {

static_assert(kDenseDecodeMaxCtas == split_sm90::kMaxCtas);
static_assert(kDenseDecodePartialTiles == split_sm90::kPartialTiles);

// A thread block's share of an item, and what all its warps have to know of it.
struct Item {
  split_sm90::Piece piece;  // request -1: there is no more work
  int32_t keys;             // of the request; 0 where its length makes no sense
  int32_t visible_to_all;   // keys that every row of the tile may attend to
  bool sound;               // the length makes sense
};

template <typename Element>
struct Config : mla_sm90::Shape<Element, kDenseDecodeDimQK> {
  using Shape = mla_sm90::Shape<Element, kDenseDecodeDimQK>;
  static_assert(Shape::kDimV == kDenseDecodeDimV && Shape::kBlockM == kDenseDecodeTileRows);

  // The copy engine brings keys; only sums over them are wanted.
  static constexpr bool kFindsLargest = false, kInOrder = false, kWritesLate = false;
  static constexpr int waited_for(int i) { return i; }
  static constexpr bool fences_tile(int) { return false; }

  // The schedule's costs, in blocks: of starting and finishing a tile; of leaving partial results and combining them. And
  // the least piece of a tile that is worth the latter.
  static constexpr int kItemCost = 2;
  static constexpr int kSplitCost = 8;
  static constexpr int kLeastPiece = 4;

  struct SharedStorage : Shape::Shared {
    Item items[2];                    // in turn
    int32_t unsound[Shape::kStages];  // whether a page of the block is outside the pool
    split_sm90::Search search;

    // After all products: in the place of queries, and of keys.
    __device__ split_sm90::Splits& splits() { return *reinterpret_cast<split_sm90::Splits*>(this->q); }
    __device__ split_sm90::SumsOfWarp* sums_of_warps() { return reinterpret_cast<split_sm90::SumsOfWarp*>(this->k); }
  };
  static_assert(sizeof(split_sm90::Splits) <= sizeof(Shape::Shared::q));
  static_assert(sizeof(split_sm90::SumsOfWarp) * Shape::kMathWarps <= sizeof(Shape::Shared::k));
  static_assert(sizeof(SharedStorage) <= 227 * 1024);
};

// How the work is spread, fixed before the launch.
struct Grid {
  float scale_log2;        // of scores, base 2; neither zero nor infinite, so that a masked score stays one
  int32_t group;           // query heads of a key head
  int32_t rows;            // query rows of a key head in a request
  int32_t tiles_per_head;  // tiles of those rows
  int32_t box_slots;       // keys of one copy: as many as lie in a page and in a block both
  split_sm90::Layout layout;
};

}  // namespace jax_flash_mla::dense_decode_sm90
