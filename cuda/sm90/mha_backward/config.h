// Tiles, stages and shared memory of SM90 multi-head attention, backward: data only.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cute/arch/mma_sm90_gmma.hpp>

#include "cuda/sm90/mha_backward/params.h"

namespace jax_flash_mla::mha_backward_sm90 {

namespace gmma = cute::SM90::GMMA;

// The matrix instructions of an element type: products over a head's dimensions, 64 by 64; and sums over what is opposite, of
// 128 or 192 dimensions, with their left operand in registers.
template <typename Element>
struct Instructions;

template <>
struct Instructions<__nv_bfloat16> {
  using Scores = gmma::MMA_64x64x16_F32BF16BF16_SS<gmma::Major::K, gmma::Major::K>;
  using Sum128 = gmma::MMA_64x128x16_F32BF16BF16_RS<gmma::Major::K, gmma::Major::MN>;
  using Sum192 = gmma::MMA_64x192x16_F32BF16BF16_RS<gmma::Major::K, gmma::Major::MN>;
};

template <>
struct Instructions<__half> {
  using Scores = gmma::MMA_64x64x16_F32F16F16_SS<gmma::Major::K, gmma::Major::K>;
  using Sum128 = gmma::MMA_64x128x16_F32F16F16_RS<gmma::Major::K, gmma::Major::MN>;
  using Sum192 = gmma::MMA_64x192x16_F32F16F16_RS<gmma::Major::K, gmma::Major::MN>;
};

// What the multiplying warpgroups have to know of a tile: tokens of one head, and what is opposite.
struct Item {
  int64_t first_row;  // of [packs · tokens]
  int32_t rows;       // real ones; 0: there is no more work
  int32_t head;
  int32_t first_block;    // opposite, of each head
  int32_t last_block;     // exclusive
  int32_t heads;          // opposite
  int32_t other_length;   // of the sequence
  int32_t first_visible;  // see the kernels
  int32_t pack;           // whose unsound sequences may claim these tokens; -1: none does
};

template <typename Element_, int DimQK>
struct Config {
  using Element = Element_;
  using Mma = Instructions<Element>;
  static constexpr int kDimQK = DimQK, kDimV = kMhaDimV;
  template <int Dims>
  using Sum = std::conditional_t<Dims == 192, typename Mma::Sum192, typename Mma::Sum128>;

  static constexpr int kTileTokens = 128;  // of a tile
  static constexpr int kBlockTokens = 64;  // of a block opposite
  static constexpr int kStages = 2;        // such blocks in shared memory

  // Each warpgroup that multiplies has 64 rows of the tile.
  static constexpr int kWarpgroups = kTileTokens / 64;
  static constexpr int kMathThreads = 128 * kWarpgroups;
  static constexpr int kThreads = kMathThreads + 128;
  static constexpr int kMathRegisters = 240, kLoaderRegisters = 24;
  static_assert(kMathRegisters * kMathThreads + kLoaderRegisters * 128 <= 64 * 1024);

  // Operands lie in swizzled panels of 64 columns.
  static constexpr int kPanelColumns = 64, kRowBytes = kPanelColumns * int(sizeof(Element));
  static constexpr int kKeyPanels = kDimQK / kPanelColumns, kValuePanels = kDimV / kPanelColumns;
  static_assert(kRowBytes == 128);
  static constexpr int kTilePanelBytes = kTileTokens * kRowBytes, kBlockPanelBytes = kBlockTokens * kRowBytes;

  // What one matrix instruction sums over, and the bytes that step over it along rows and down them.
  static constexpr int kChunk = 16;
  static constexpr int kChunkRowBytes = kChunk * int(sizeof(Element)), kChunkColumnBytes = kChunk * kRowBytes;

  // What a thread has of accumulators of 64 × 64, and as pairs.
  static constexpr int kScores = kBlockTokens / 2, kPairs = kScores / 2;

  struct TilePanel {
    alignas(1024) Element elements[kTileTokens * kPanelColumns];
  };
  struct BlockPanel {
    alignas(1024) Element elements[kBlockTokens * kPanelColumns];
  };

  // A tile's keys and values, or queries and cotangents; and blocks of the others.
  struct SharedStorage {
    TilePanel own_keys[kKeyPanels], own_values[kValuePanels];
    BlockPanel other_keys[kStages][kKeyPanels], other_values[kStages][kValuePanels];
    // Of a block of queries: log-sum-exps, base 2, and deltas.
    float lse[kStages][kBlockTokens], delta[kStages][kBlockTokens];
    Item items[2];  // in turn
    uint64_t full[kStages], empty[kStages];
    uint64_t own_full, own_empty;  // an item's operands, and the item itself
  };
  static_assert(sizeof(SharedStorage) <= 227 * 1024);
};

// How the copy engine sees operands: rows of all heads' columns, in boxes of 64 columns by a tile's or a block's rows. Of the
// dimensions of keys, and of those of values.
struct Maps {
  CUtensorMap own_keys, own_values, other_keys, other_values;
};

// Numbers of named barriers.
enum NamedBarrier : int {
  kMathBarrier = 1,  // among the multiplying threads
};

}  // namespace jax_flash_mla::mha_backward_sm90
