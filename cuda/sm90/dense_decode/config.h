// Tiles, stages and shared memory of SM90 dense decode: data only.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cute/arch/mma_sm90_gmma.hpp>

#include "cuda/sm90/dense_decode/params.h"

namespace jax_flash_mla::dense_decode_sm90 {

namespace gmma = cute::SM90::GMMA;

// The matrix instructions of an element type: scores = q · kᵀ, and outputs = weights · v with the weights in registers
// or in shared memory.
template <typename Element>
struct Instructions;

template <>
struct Instructions<__nv_bfloat16> {
  using Scores = gmma::MMA_64x64x16_F32BF16BF16_SS<gmma::Major::K, gmma::Major::K>;
  using OutputsFromRegisters = gmma::MMA_64x256x16_F32BF16BF16_RS<gmma::Major::K, gmma::Major::MN>;
  using OutputsFromShared = gmma::MMA_64x256x16_F32BF16BF16_SS<gmma::Major::K, gmma::Major::MN>;
};

template <>
struct Instructions<__half> {
  using Scores = gmma::MMA_64x64x16_F32F16F16_SS<gmma::Major::K, gmma::Major::K>;
  using OutputsFromRegisters = gmma::MMA_64x256x16_F32F16F16_RS<gmma::Major::K, gmma::Major::MN>;
  using OutputsFromShared = gmma::MMA_64x256x16_F32F16F16_SS<gmma::Major::K, gmma::Major::MN>;
};

template <typename Element_>
struct Config {
  using Element = Element_;
  using Mma = Instructions<Element>;

  static constexpr int kBlockM = kDenseDecodeTileRows;  // query rows of a tile
  static constexpr int kBlockN = 64;                    // keys of a block
  static constexpr int kDimQK = kDenseDecodeDimQK;
  static constexpr int kDimV = kDenseDecodeDimV;
  static constexpr int kStages = 2;  // blocks of keys in shared memory

  // Warpgroup w multiplies the scores of the blocks in stage w, and columns w · 256 … of every output.
  static constexpr int kWarpgroups = 2;
  static constexpr int kOutputColumns = kDimV / kWarpgroups;
  static constexpr int kMathThreads = 128 * kWarpgroups;
  // The producer is one warp; registers move between warpgroups only, so it brings three idle ones.
  static constexpr int kThreads = kMathThreads + 128;
  static constexpr int kMathRegisters = 232;
  static constexpr int kProducerRegisters = 40;
  static_assert(kMathRegisters * kMathThreads + kProducerRegisters * 128 <= 64 * 1024);

  // Operands lie in swizzled tiles of 64 columns. The last one holds dimensions that only scores need.
  static constexpr int kTileColumns = 64;
  static constexpr int kTiles = kDimQK / kTileColumns;
  static constexpr int kValueTiles = kDimV / kTileColumns;
  static constexpr int kHalfTiles = kValueTiles / kWarpgroups;
  static constexpr int kTileElements = kBlockN * kTileColumns;
  static constexpr int kTileBytes = kTileElements * int(sizeof(Element));
  static_assert(kTiles == kValueTiles + 1 && kStages == kWarpgroups && kBlockM == kBlockN);

  // Keys of a chunk of one product, and the bytes that step over them in a key-major tile.
  static constexpr int kChunk = 16;
  static constexpr int kChunkRowBytes = kChunk * int(sizeof(Element));
  static constexpr int kChunkColumnBytes = kChunk * kTileColumns * int(sizeof(Element));

  // Cost of starting and finishing a tile, in blocks.
  static constexpr int kItemCost = 2;
  // Scores are exponentiated relative to a maximum that may lag this far behind (powers of two).
  static constexpr float kMaxLag = 8.0f;

  struct SharedStorage {
    alignas(1024) Element q[kTiles][kTileElements];
    // When the scores of a block are done, its weights replace the tile that outputs do not need.
    alignas(1024) Element k[kStages][kTiles][kTileElements];
    uint64_t full[kStages][kWarpgroups + 1];  // each half of the values, and the last tile
    uint64_t empty[kStages][kWarpgroups];
    uint64_t ready[kStages];  // the block's weights have replaced its last tile
    uint64_t summed;          // both halves of row_sum are there
    float row_max[kStages][kBlockM];
    float row_sum[kWarpgroups][kBlockM];
    int32_t unsound[kStages];  // whether a page of the block is outside the pool
    int64_t scan[kMathThreads / 32];
    int64_t first_item_begin;
    int32_t first_request, first_strip;
  };
  static_assert(sizeof(SharedStorage) <= 227 * 1024);
};

// Numbers of named barriers.
enum NamedBarrier : int {
  kMathBarrier = 1,      // both warpgroups: the queries are in shared memory
  kWarpgroupBarrier = 2  // + warpgroup: among its own threads
};

// How the work is spread, fixed before the launch.
struct Grid {
  int32_t group;           // query heads of a key head
  int32_t rows;            // query rows of a key head in a request
  int32_t tiles_per_head;  // tiles of those rows
  int32_t tiles;           // tiles of a request
  int32_t lanes;           // tiles side by side: thread blocks that share what they read
  int32_t strips;          // groups of that many tiles
  int32_t parts;           // lanes · parts thread blocks
  int32_t box_slots;       // keys of one copy: as many as lie in a page and in a block both
  int32_t box_tiles;       // tiles of one copy of values: more than one where it brings whole blocks
};

// The cache as the copy engine sees it, in two sizes of boxes.
struct KeyMaps {
  CUtensorMap values;
  CUtensorMap last_tile;
};

}  // namespace jax_flash_mla::dense_decode_sm90
