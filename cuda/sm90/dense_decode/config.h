// Tiles, stages and shared memory of SM90 dense decode: data only.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cute/arch/mma_sm90_gmma.hpp>

#include "cuda/sm90/dense_decode/params.h"
#include "cuda/sm90/dense_decode/work.h"

namespace jax_flash_mla::dense_decode_sm90 {

namespace gmma = cute::SM90::GMMA;

// The matrix instructions of an element type: scores = q · kᵀ, and outputs = weights · v with the weights in registers.
template <typename Element>
struct Instructions;

template <>
struct Instructions<__nv_bfloat16> {
  using Scores = gmma::MMA_64x64x16_F32BF16BF16_SS<gmma::Major::K, gmma::Major::K>;
  using Outputs = gmma::MMA_64x256x16_F32BF16BF16_RS<gmma::Major::K, gmma::Major::MN>;
};

template <>
struct Instructions<__half> {
  using Scores = gmma::MMA_64x64x16_F32F16F16_SS<gmma::Major::K, gmma::Major::K>;
  using Outputs = gmma::MMA_64x256x16_F32F16F16_RS<gmma::Major::K, gmma::Major::MN>;
};

template <typename Element_>
struct Config {
  using Element = Element_;
  using Mma = Instructions<Element>;

  static constexpr int kBlockM = kDenseDecodeTileRows;  // query rows of a tile
  static constexpr int kBlockN = 64;                    // keys of a block
  static constexpr int kStages = 2;                     // blocks of keys in shared memory
  static constexpr int kDimQK = kDenseDecodeDimQK, kDimV = kDenseDecodeDimV;

  // Warpgroup w multiplies the scores of the blocks in stage w, and the output's w-th half of columns.
  static constexpr int kWarpgroups = 2;
  static_assert(kWarpgroups == kStages);
  static constexpr int kMathThreads = 128 * kWarpgroups, kMathWarps = kMathThreads / 32;
  static constexpr int kLoaderThreads = 128;
  static constexpr int kThreads = kMathThreads + kLoaderThreads;
  static constexpr int kMathRegisters = 224, kLoaderRegisters = 56;
  static_assert(kMathRegisters * kMathThreads + kLoaderRegisters * kLoaderThreads <= 64 * 1024);

  // Operands lie in swizzled tiles of 64 columns. The last one only scores need.
  static constexpr int kTileColumns = 64;
  static constexpr int kTiles = kDimQK / kTileColumns, kValueTiles = kDimV / kTileColumns;
  static constexpr int kHalfTiles = kValueTiles / kWarpgroups;
  static constexpr int kTileRowBytes = kTileColumns * int(sizeof(Element));
  static constexpr int kTileBytes = kBlockN * kTileRowBytes;
  static_assert(kBlockM == kBlockN && kTileRowBytes == 128);

  // What one matrix instruction sums over, and the bytes that step over it along rows and down them.
  static constexpr int kChunk = 16;
  static constexpr int kChunkRowBytes = kChunk * int(sizeof(Element));
  static constexpr int kChunkColumnBytes = kChunk * kTileRowBytes;

  // What a thread has of a tile's accumulators: of scores; of weights, as pairs; of one tile of outputs.
  static constexpr int kScores = kBlockN / 2, kWeights = kScores / 2, kTileOutputs = kTileColumns / 2;
  static constexpr int kOutputs = kHalfTiles * kTileOutputs;

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
  // Scores are exponentiated relative to a maximum that may lag this far behind (powers of two).
  static constexpr float kMaxLag = 8.0f;
  // From which maximum on the rounding of products counts: it is up to 2^-24 of them.
  static constexpr float kLargeMax = 1 << 20;

  // A tile that is done with may hold weights instead: those of lane l of warp w, in vectors of 16 bytes.
  union Tile {
    alignas(1024) Element elements[kBlockN * kTileColumns];
    uint4 weights[4][kWeights / 4][32];
  };
  static_assert(sizeof(Tile) == kTileBytes);

  struct SharedStorage {
    union {
      Tile q[kTiles];
      Splits splits;  // afterwards
    };
    union {
      Tile k[kStages][kTiles];
      float sums_of_warps[kMathWarps][4 * kUnitVectors + 1][32];  // afterwards
    };
    float2 row_max[kWarpgroups][128];  // what the weights that a warpgroup hands over are relative to
    float4 sums[2][kWarpgroups][128];  // and their maxima, of an item; items take turns
    uint64_t full[kStages][kTiles];
    uint64_t empty[kStages]
                  [kWarpgroups];  // each warpgroup's half of the values; the last tile goes with the other's half
    uint64_t weights_full[kWarpgroups][4];  // of each warp
    uint64_t sums_full;
    uint64_t q_full, q_empty;  // an item's queries, and the item itself
    Item items[2];             // in turn
    int32_t unsound[kStages];  // whether a page of the block is outside the pool
    struct {
      int64_t length;
      int32_t longest;
    } scan[kLoaderThreads / 32];
    Work work;
  };
  static_assert(sizeof(SharedStorage) <= 227 * 1024);
};

// Numbers of named barriers.
enum NamedBarrier : int {
  kLoaderBarrier = 1,     // among the loading threads
  kWarpgroupBarrier = 2,  // and 3: among the threads of a multiplying warpgroup
  kMathBarrier = 4,       // among those of both
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
