// Tiles, stages and shared memory of SM90 multi-head attention, backward: data only.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cute/arch/mma_sm90_gmma.hpp>
#include <type_traits>

#include "cuda/sm90/mha_backward/params.h"

namespace jax_flash_mla::mha_backward_sm90 {

namespace gmma = cute::SM90::GMMA;

// The matrix instructions of an element type: products over a head's dimensions, 64 by 64; sums over a block's queries, of 128
// or 192 dimensions, with their left operand in registers; and sums over a tile's keys, of 64 or 32 dimensions.
template <typename Element>
struct Instructions;

template <>
struct Instructions<__nv_bfloat16> {
  using Scores = gmma::MMA_64x64x16_F32BF16BF16_SS<gmma::Major::K, gmma::Major::K>;
  using Sum128 = gmma::MMA_64x128x16_F32BF16BF16_RS<gmma::Major::K, gmma::Major::MN>;
  using Sum192 = gmma::MMA_64x192x16_F32BF16BF16_RS<gmma::Major::K, gmma::Major::MN>;
  using OverKeys64 = gmma::MMA_64x64x16_F32BF16BF16_SS<gmma::Major::MN, gmma::Major::MN>;
  using OverKeys32 = gmma::MMA_64x32x16_F32BF16BF16_SS<gmma::Major::MN, gmma::Major::MN>;
};

template <>
struct Instructions<__half> {
  using Scores = gmma::MMA_64x64x16_F32F16F16_SS<gmma::Major::K, gmma::Major::K>;
  using Sum128 = gmma::MMA_64x128x16_F32F16F16_RS<gmma::Major::K, gmma::Major::MN>;
  using Sum192 = gmma::MMA_64x192x16_F32F16F16_RS<gmma::Major::K, gmma::Major::MN>;
  using OverKeys64 = gmma::MMA_64x64x16_F32F16F16_SS<gmma::Major::MN, gmma::Major::MN>;
  using OverKeys32 = gmma::MMA_64x32x16_F32F16F16_SS<gmma::Major::MN, gmma::Major::MN>;
};

// What the other warps have to know of a tile of keys of one head: over queries of all heads that share it, head by head.
struct Item {
  int32_t first_row;      // of [packs · tokens_kv]
  int32_t rows;           // real ones; 0: there is no more work
  int32_t first_query;    // the sequence's, of [packs · tokens_q]
  int32_t first_counter;  // of the sequence's blocks of queries
  int32_t head;
  int32_t first_block, last_block;  // of queries that see the tile, of each head; the latter exclusive
  int32_t queries;                  // of the sequence
  int32_t first_visible;            // the first query that sees the tile's first key, under a causal mask
  int32_t turn;                     // among the tiles of the head that see the same queries, where no mask decides
  int32_t pack;                     // whose unsound sequences may claim these tokens; -1: none does
};

template <typename Element_, int DimQK>
struct Config {
  using Element = Element_;
  using Mma = Instructions<Element>;
  static constexpr int kDimQK = DimQK, kDimV = kMhaDimV;
  template <int Dims>
  using Sum = std::conditional_t<Dims == 192, typename Mma::Sum192, typename Mma::Sum128>;

  static constexpr int kTileTokens = 128;                       // keys of a tile
  static constexpr int kBlockTokens = kMhaBackwardBlockTokens;  // queries of a block
  static constexpr int kStages = DimQK == 128 ? 3 : 2;          // such blocks in shared memory
  // Whether there are registers for another product under exponentials and gradients.
  static constexpr bool kOverlaps = DimQK == 128;

  // Each warpgroup that multiplies has 64 keys of the tile, and adds up half of the columns of a block's d_q.
  static constexpr int kWarpgroups = kTileTokens / 64;
  static_assert(kWarpgroups == kMhaBackwardHalves);
  static constexpr int kMathThreads = 128 * kWarpgroups, kMathWarps = kMathThreads / 32;
  static constexpr int kThreads = kMathThreads + 128;
  static constexpr int kMathRegisters = 240, kLoaderRegisters = 24;
  // Those that a launch of that many threads gets, in steps of eight.
  static_assert(kMathRegisters * kMathThreads + kLoaderRegisters * 128 <= 64 * 1024 / kThreads / 8 * 8 * kThreads);

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

  // d_q goes to memory in strips of 32 columns: two of a panel, and half of the one that both warpgroups share.
  static constexpr int kStripColumns = kMhaBackwardStripColumns;
  static constexpr bool kHasSharedPanel = kKeyPanels % kWarpgroups != 0;
  static constexpr int kStrips = kDimQK / kStripColumns, kOwnStrips = kStrips / kWarpgroups;

  struct TilePanel {
    alignas(1024) Element elements[kTileTokens * kPanelColumns];
  };
  struct BlockPanel {
    alignas(1024) Element elements[kBlockTokens * kPanelColumns];
  };
  // 32-byte units of a row are where those of their number XOR the row's are; the latter is that of all packs.
  struct Strip {
    alignas(128) float elements[kBlockTokens * kStripColumns];
  };

  struct SharedStorage {
    TilePanel keys[kKeyPanels], values[kValuePanels];
    BlockPanel queries[kStages][kKeyPanels], d_out[kStages][kValuePanels];
    TilePanel gradients;  // of a block's scores: keys by queries
    Strip d_q[kWarpgroups][kOwnStrips];
    // Of a block of queries: log-sum-exps, base 2, and deltas.
    float lse[kStages][kBlockTokens], delta[kStages][kBlockTokens];
    Item items[2];  // in turn
    uint64_t full[kStages], empty[kStages];
    uint64_t own_full, own_empty;  // an item's keys and values, and the item itself
    uint64_t gradients_empty;
    uint64_t d_q_full[kWarpgroups], d_q_empty[kWarpgroups];
  };
  static_assert(kBlockTokens * int(sizeof(Element)) == kRowBytes);
  static_assert(sizeof(SharedStorage) <= 227 * 1024);
};

// How the copy engine sees operands: rows of all heads' columns, in boxes of 64 columns by a tile's or a block's rows.
struct Maps {
  CUtensorMap keys, values, queries, d_out;
};

// Numbers of named barriers.
enum NamedBarrier : int {
  kMathBarrier = 1,  // among the multiplying threads
};

}  // namespace jax_flash_mla::mha_backward_sm90
