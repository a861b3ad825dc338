// Work, tiles and shared memory of SM90 sparse attention, backward: data only.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <cute/arch/mma_sm90_gmma.hpp>

#include "cuda/sm90/sparse_backward/params.h"

namespace jax_flash_mla::sparse_backward_sm90 {

namespace gmma = cute::SM90::GMMA;

// The matrix instructions of an element type, all operands in shared memory: heads by keys, summed over dimensions; heads by
// dimensions, summed over keys; keys by dimensions, summed over heads.
template <typename Element>
struct Instructions;

template <>
struct Instructions<__nv_bfloat16> {
  using HeadsByKeys = gmma::MMA_64x64x16_F32BF16BF16_SS<gmma::Major::K, gmma::Major::K>;
  using HeadsByHalf = gmma::MMA_64x256x16_F32BF16BF16_SS<gmma::Major::K, gmma::Major::MN>;
  using HeadsByTile = gmma::MMA_64x64x16_F32BF16BF16_SS<gmma::Major::K, gmma::Major::MN>;
  using KeysByTile = gmma::MMA_64x64x16_F32BF16BF16_SS<gmma::Major::MN, gmma::Major::MN>;
};

// Ordered: what is added to gradients of keys goes to rows of its own, for order.cuh to sum.
template <typename Element_, int DimQK, bool Ordered>
struct Config {
  using Element = Element_;
  using Mma = Instructions<Element>;
  static constexpr bool kOrdered = Ordered;
  static constexpr int kDimQK = DimQK, kDimV = kSparseBackwardDimV;

  static constexpr int kRows = kSparseBackwardTileRows;  // heads of a tile
  static constexpr int kKeys = 64;                       // of a block

  // Two warpgroups multiply, each for half of the columns; the second one also has those that values lack.
  static constexpr int kWarpgroups = 2;
  static constexpr int kMathThreads = 128 * kWarpgroups, kLoaderThreads = 128, kLoaderWarps = kLoaderThreads / 32;
  static constexpr int kThreads = kMathThreads + kLoaderThreads;
  static constexpr int kMathRegisters = 232, kLoaderRegisters = 40;
  static_assert(kMathRegisters * kMathThreads + kLoaderRegisters * kLoaderThreads <= 64 * 1024);

  // Operands lie in swizzled tiles of 64 columns.
  static constexpr int kTileColumns = 64, kTileRowBytes = kTileColumns * int(sizeof(Element));
  static constexpr int kTiles = kDimQK / kTileColumns, kValueTiles = kDimV / kTileColumns;
  static constexpr int kHalfTiles = kValueTiles / kWarpgroups;
  static constexpr int kTileBytes = kKeys * kTileRowBytes;
  static_assert(kRows == kKeys && kTileRowBytes == 128);
  // The tile that values lack, if there is one.
  static constexpr int kLastTile = kValueTiles;
  static constexpr bool kHasLastTile = kTiles > kValueTiles;
  static_assert(kTiles == kValueTiles + (kHasLastTile ? 1 : 0));

  // What one matrix instruction sums over, and the bytes that step over it along rows and down them.
  static constexpr int kChunk = 16;
  static constexpr int kChunkRowBytes = kChunk * int(sizeof(Element)), kChunkColumnBytes = kChunk * kTileRowBytes;

  // What a thread has of accumulators of 64 × 64.
  static constexpr int kTileSums = kTileColumns / 2;
  // Of heads by keys a warpgroup differentiates those of half of the keys.
  static constexpr int kHalfKeys = kKeys / kWarpgroups, kHalfSums = kTileSums / kWarpgroups;

  struct Tile {
    alignas(1024) Element elements[kKeys * kTileColumns];
  };
  // Heads by keys; before that, what one warpgroup leaves for the other: each thread's half, in vectors.
  union Exchange {
    alignas(1024) Element elements[kRows * kKeys];
    float4 halves[kHalfSums / 4][128];
  };
  static_assert(sizeof(Exchange) == kTileBytes);

  struct SharedStorage {
    Tile q[kTiles], d_out[kValueTiles], k[kTiles];
    Exchange weights, gradients;
    int tokens[2][kKeys];  // that the keys of a block are; -1: none. Blocks take turns
    uint64_t k_full[kTiles], k_empty;
    uint64_t q_full, q_empty;  // an item's queries and cotangents
  };
  static_assert(sizeof(SharedStorage) <= 227 * 1024);
};

// How the work is spread, fixed before the launch.
struct Grid {
  float scale_log2;  // of scores, base 2
  int32_t tiles;     // of the heads of a query token
  // Tiles of this launch's query tokens, and the first of these. Rows of scratch are counted from there.
  int64_t first_item, items;
  int32_t first_query;
};

// A tile of heads of one query token.
struct Item {
  int32_t query, first_head;
  int32_t keys;  // leading indices that count
  bool sound;    // its length makes sense
};

__device__ __forceinline__ Item item_at(const SparseBackwardParams& params, const Grid& grid, int64_t i) {
  const int query = int(i / grid.tiles);
  const int length = params.topk_length ? params.topk_length[query] : params.topk;
  const bool sound = length >= 0 && length <= params.topk;
  return {query, int(i % grid.tiles) * kSparseBackwardTileRows, sound ? length : 0, sound};
}

// Numbers of named barriers.
enum NamedBarrier : int {
  kMathBarrier = 1,  // among the multiplying threads
};

}  // namespace jax_flash_mla::sparse_backward_sm90
