// Tiles, stages and shared memory of SM90 multi-head attention, forward: data only.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cute/arch/mma_sm90_gmma.hpp>

#include "cuda/sm90/mha_forward/params.h"

namespace jax_flash_mla::mha_forward_sm90 {

namespace gmma = cute::SM90::GMMA;

// The matrix instructions of an element type: scores = q · kᵀ, and outputs = weights · v with the weights in registers.
template <typename Element>
struct Instructions;

template <>
struct Instructions<__nv_bfloat16> {
  using Scores = gmma::MMA_64x128x16_F32BF16BF16_SS<gmma::Major::K, gmma::Major::K>;
  using Outputs = gmma::MMA_64x128x16_F32BF16BF16_RS<gmma::Major::K, gmma::Major::MN>;
};

template <>
struct Instructions<__half> {
  using Scores = gmma::MMA_64x128x16_F32F16F16_SS<gmma::Major::K, gmma::Major::K>;
  using Outputs = gmma::MMA_64x128x16_F32F16F16_RS<gmma::Major::K, gmma::Major::MN>;
};

// What the multiplying warpgroups have to know of a tile: query tokens of one head, and the keys they attend to.
struct Item {
  int64_t first_row;  // of [packs · tokens_q]
  int32_t rows;       // real ones; 0: there is no more work
  int32_t head;
  int32_t blocks;         // of keys; 0 where there is nothing to attend to
  int32_t keys;           // of the sequence
  int32_t first_visible;  // keys that the first row may attend to; each row of a causal tile sees one more
  int32_t pack;           // whose unsound sequences may claim these tokens; -1: none does
};

template <typename Element_, int DimQK>
struct Config {
  using Element = Element_;
  using Mma = Instructions<Element>;

  static constexpr int kBlockM = 128;  // query tokens of a tile
  static constexpr int kBlockN = 128;  // keys of a block
  static constexpr int kStages = 2;    // blocks of keys, and of values, in shared memory
  static constexpr int kDimQK = DimQK, kDimV = kMhaDimV;

  // Each warpgroup that multiplies has 64 rows.
  static constexpr int kWarpgroups = kBlockM / 64;
  static constexpr int kMathThreads = 128 * kWarpgroups, kMathWarps = kMathThreads / 32;
  static constexpr int kThreads = kMathThreads + 128;
  static constexpr int kMathRegisters = 240, kLoaderRegisters = 24;
  static_assert(kMathRegisters * kMathThreads + kLoaderRegisters * 128 <= 64 * 1024);

  // Operands lie in swizzled tiles of 64 columns.
  static constexpr int kTileColumns = 64, kTileRowBytes = kTileColumns * int(sizeof(Element));
  static constexpr int kKeyTiles = kDimQK / kTileColumns, kValueTiles = kDimV / kTileColumns;
  static constexpr int kTileBytes = kBlockN * kTileRowBytes;
  static_assert(kBlockM == kBlockN && kTileRowBytes == 128);

  // What one matrix instruction sums over, and the bytes that step over it along rows and down them.
  static constexpr int kChunk = 16;
  static constexpr int kChunkRowBytes = kChunk * int(sizeof(Element));
  static constexpr int kChunkColumnBytes = kChunk * kTileRowBytes;

  // What a thread has of a tile's accumulators: of scores; of weights, as pairs; of outputs.
  static constexpr int kScores = kBlockN / 2, kWeights = kScores / 2, kOutputs = kDimV / 2;

  // Scores are exponentiated relative to a maximum that may lag this far behind (powers of two).
  static constexpr float kMaxLag = 8.0f;
  // From which maximum on the rounding of products counts: it is up to 2^-24 of them.
  static constexpr float kLargeMax = 1 << 20;

  struct Tile {
    alignas(1024) Element elements[kBlockN * kTileColumns];
  };

  struct SharedStorage {
    Tile q[kKeyTiles];
    Tile k[kStages][kKeyTiles];
    Tile v[kStages][kValueTiles];
    Item items[2];  // in turn
    uint64_t k_full[kStages], k_empty[kStages];
    uint64_t v_full[kStages], v_empty[kStages];
    uint64_t q_full, q_empty;  // an item's queries, and the item itself
  };
  static_assert(sizeof(SharedStorage) <= 227 * 1024);
};

// Fixed before the launch.
struct Grid {
  float scale_log2;  // of scores, base 2; neither zero nor infinite, so that a masked score stays one
};

// Numbers of named barriers.
enum NamedBarrier : int {
  kMathBarrier = 1,  // among the multiplying threads
};

}  // namespace jax_flash_mla::mha_forward_sm90
