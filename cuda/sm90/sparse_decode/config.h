// Formats, schedule and shared memory of SM90 sparse decode: data only.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "cuda/sm90/mla/shape.h"
#include "cuda/sm90/sparse_decode/params.h"
#include "cuda/sm90/split/work.h"

namespace jax_flash_mla::sparse_decode_sm90 {

static_assert(kSparseDecodeMaxCtas == split_sm90::kMaxCtas);
static_assert(kSparseDecodePartialTiles == split_sm90::kPartialTiles);

// Where the parts of a token lie: e4m3 codes from its record's beginning on, rotary dimensions in bfloat16, scales, each for
// a group of codes.
struct V32 {
  static constexpr int kDimQK = 576, kCodes = 512, kScaleGroup = 128;
  static constexpr int kTokenBytes = 656;
  static constexpr int kRotaryBytes = 128, kRotaryOffset = 528,
                       kScalesOffset = 512;  // of the record, which is all of the token
  using Scale = float;
  using Factors = uint2;  // as SmallScaleFactors, or a scale that is not small
};

// A page has the records of all its tokens, then the scales of all.
struct Model1 {
  static constexpr int kDimQK = 512, kCodes = 448, kScaleGroup = 64;
  static constexpr int kTokenBytes = 584, kRecordBytes = 576, kScaleBytes = 8;
  static constexpr int kRotaryBytes = 128, kRotaryOffset = 448;
  using Scale = uint8_t;     // e8m0
  using Factors = uint32_t;  // as SmallPowerFactors, or a scale that is not small
};

// A thread block's share of a query token's heads and keys, and what all its warps have to know of it.
struct Item {
  split_sm90::Piece piece;  // its request is the query token; -1: there is no more work
  bool sound;               // the token's lengths make sense
};

// Where a loading warp is in the schedule: in shared memory, since its registers are full of codes.
struct Walk {
  split_sm90::Work work;    // left to do
  split_sm90::Piece piece;  // at hand, if there is one
  uint32_t pieces;          // before it
  bool goes_on;
};

// What a loading warp notes of the next block's keys that it converts: where the codes of its half are, their scales, and what
// they are to be multiplied by for that.
template <typename Format, int Keys, int Groups>
struct ConvertedKeys {
  const uint8_t* codes[Keys];
  alignas(8) typename Format::Scale scales[Keys][Groups];
  typename Format::Factors factors[Keys][Groups];
};

// And of keys that it tells of: where their rotary dimensions are, and which of them there are.
template <int Keys>
struct ToldKeys {
  const uint8_t* rotary[Keys];
  uint32_t valid;  // bits
};

// With `Pairs` two thread blocks, which have different heads of the same query tokens, make a cluster. Each converts half of
// a block's keys, and copies them to the other one.
template <typename Format_, bool Pairs>
struct Config : mla_sm90::Shape<__nv_bfloat16, Format_::kDimQK, 8> {
  static constexpr bool kPairs = Pairs;
  static constexpr int kClusterSize = Pairs ? 2 : 1;
  using Format = Format_;
  using Shape = mla_sm90::Shape<__nv_bfloat16, Format::kDimQK, 8>;
  static_assert(Shape::kDimV == kSparseDecodeDimV && Shape::kBlockM == kSparseDecodeTileRows);

  // Only sums over keys are wanted.
  static constexpr bool kFindsLargest = false, kInOrder = true, kWritesLate = false;

  // The schedule's costs, in blocks: of starting and finishing a tile; of leaving partial results and combining them. And
  // the least piece of a tile that is worth the latter.
  static constexpr int kItemCost = 2;
  static constexpr int kSplitCost = 8;
  static constexpr int kLeastPiece = 1;

  // Four warps of each thread block convert a half of the values of each block: 16 keys each, or 8 of a pair's.
  static constexpr int kHalfWarps = Shape::kLoaderWarps / 2, kHalfThreads = 32 * kHalfWarps;
  static constexpr int kWarpRows = Shape::kBlockN / kHalfWarps / kClusterSize;
  static constexpr int kWarpRowBytes = kWarpRows * Shape::kTileRowBytes;  // of a tile, one after another
  static_assert(kHalfThreads == 128 && (kWarpRows == 16 || kWarpRows == 8));
  // Keys whose indices a warp looks at, to tell which are there.
  static constexpr int kWarpBits = Shape::kBlockN / kHalfWarps;

  // A pair's other thread block gives values back too: an arrival for each of its warps.
  static constexpr int kEmptyArrivals = Shape::kEmptyArrivals + (Pairs ? Shape::kEmptyArrivals / 32 : 0);

  // A vector of codes is 16 in each lane, of two keys: all of the half's.
  static constexpr int kVectors = kWarpRows / 2;
  static constexpr int kHalfCodes = Shape::kDimV / 2, kHalfGroups = kHalfCodes / Format::kScaleGroup;
  static constexpr int kGroups = Format::kCodes / Format::kScaleGroup;  // the second half may have less
  static_assert(kHalfCodes == 16 * 16);
  static constexpr int kRotaryTile = Format::kCodes / Shape::kTileColumns;
  static constexpr bool kRotaryIsValue = kRotaryTile < Shape::kValueTiles;
  // Threads that store converted keys fence them.
  static constexpr int waited_for(int i) { return i; }
  static constexpr bool fences_tile(int tile) { return tile == kRotaryTile; }

  struct SharedStorage : Shape::Shared {
    Item items[2];                      // in turn
    uint32_t valid[Shape::kStages][2];  // which keys of the block an index names: bits
    split_sm90::Search search[2];       // of each loading warpgroup
    Walk walks[Shape::kLoaderWarps];
    // Of each warp; it tells of the blocks of one stage, or of both.
    ConvertedKeys<Format, kWarpRows, kHalfGroups> converted[2][kHalfWarps];
    ToldKeys<kWarpBits> told[2][kHalfWarps][kRotaryIsValue ? 2 : 1];

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
  int32_t last_slots[2];   // the largest index of each list's pool that names a slot; -1: none does
  bool pages_are_aligned;  // all records are at multiples of 16 bytes
  split_sm90::Layout layout;
};

}  // namespace jax_flash_mla::sparse_decode_sm90
