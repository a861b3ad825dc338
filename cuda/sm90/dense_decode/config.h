// Schedule and shared memory of SM90 dense decode: data only.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cuda/sm90/dense_decode/params.h"
#include "cuda/sm90/dense_decode/work.h"
#include "cuda/sm90/mla/shape.h"

namespace jax_flash_mla::dense_decode_sm90 {

template <typename Element>
struct Config : mla_sm90::Shape<Element, kDenseDecodeDimQK> {
  using Shape = mla_sm90::Shape<Element, kDenseDecodeDimQK>;
  static_assert(Shape::kDimV == kDenseDecodeDimV && Shape::kBlockM == kDenseDecodeTileRows);

  // The copy engine brings keys; only sums over them are wanted.
  static constexpr bool kFencesKeys = false, kFindsLargest = false;

  // The combination of partial results: eight rows by 32 columns at a time, in vectors of four floats, of which a thread
  // loads some at once.
  static constexpr int kUnitRows = 8, kUnitColumns = 32, kUnitVectors = kUnitRows * kUnitColumns / 4 / 32;
  static constexpr int kPartialsAtOnce = 4;
  static_assert(kUnitVectors == 2);

  // The schedule's costs, in blocks: of starting and finishing a tile; of leaving partial results and combining them. And
  // the least piece of a tile that is worth the latter.
  static constexpr int kItemCost = 2;
  static constexpr int kSplitCost = 8;
  static constexpr int kLeastPiece = 4;

  struct SharedStorage : Shape::Shared {
    Item items[2];                    // in turn
    int32_t unsound[Shape::kStages];  // whether a page of the block is outside the pool
    struct {
      int64_t length;
      int32_t longest;
    } scan[Shape::kLoaderWarps];
    Work work;

    // After all products: in the place of queries, and of keys.
    __device__ Splits& splits() { return *reinterpret_cast<Splits*>(this->q); }
    using SumsOfWarp = float[4 * kUnitVectors + 1][32];
    __device__ SumsOfWarp* sums_of_warps() { return reinterpret_cast<SumsOfWarp*>(this->k); }
  };
  static_assert(sizeof(Splits) <= sizeof(Shape::Shared::q));
  static_assert(sizeof(typename SharedStorage::SumsOfWarp) * Shape::kMathWarps <= sizeof(Shape::Shared::k));
  static_assert(sizeof(SharedStorage) <= 227 * 1024);
};

// How the work is spread, fixed before the launch.
struct Grid {
  float scale_log2;        // of scores, base 2; neither zero nor infinite, so that a masked score stays one
  int32_t group;           // query heads of a key head
  int32_t rows;            // query rows of a key head in a request
  int32_t tiles_per_head;  // tiles of those rows
  int32_t tiles;           // tiles of a request
  int32_t lanes;           // tiles side by side: thread blocks that share what they read
  int32_t strips;          // groups of that many tiles
  int32_t parts;           // lanes · parts thread blocks
  int32_t box_slots;       // keys of one copy: as many as lie in a page and in a block both
};

}  // namespace jax_flash_mla::dense_decode_sm90
