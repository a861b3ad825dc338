// Attention of tiles of 64 query rows over blocks of 64 latent keys, whose first 512 dimensions are the values: shapes and
// shared memory, for every operation that multiplies these. Data only.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cute/arch/mma_sm90_gmma.hpp>

#include "cuda/device/math.cuh"

namespace jax_flash_mla::mla_sm90 {

namespace gmma = cute::SM90::GMMA;

// The matrix instructions of an element type: scores = q · kᵀ, and some columns of outputs = weights · v, with the weights in
// registers.
template <typename Element, int OutputColumns>
struct Instructions;

template <>
struct Instructions<__nv_bfloat16, 256> {
  using Scores = gmma::MMA_64x64x16_F32BF16BF16_SS<gmma::Major::K, gmma::Major::K>;
  using Outputs = gmma::MMA_64x256x16_F32BF16BF16_RS<gmma::Major::K, gmma::Major::MN>;
};

template <>
struct Instructions<__nv_bfloat16, 128> {
  using Scores = Instructions<__nv_bfloat16, 256>::Scores;
  using Outputs = gmma::MMA_64x128x16_F32BF16BF16_RS<gmma::Major::K, gmma::Major::MN>;
};

template <>
struct Instructions<__half, 256> {
  using Scores = gmma::MMA_64x64x16_F32F16F16_SS<gmma::Major::K, gmma::Major::K>;
  using Outputs = gmma::MMA_64x256x16_F32F16F16_RS<gmma::Major::K, gmma::Major::MN>;
};

// Loading warps: whole warpgroups, since registers are dealt by these.
// A block's keys are given back in parts: all rows, or half of them at a time.
template <typename Element_, int DimQK, int LoaderWarps = 4, int Parts = 1>
struct Shape {
  using Element = Element_;

  static constexpr int kBlockM = 64;  // query rows of a tile
  static constexpr int kBlockN = 64;  // keys of a block
  static constexpr int kStages = 2;   // blocks of keys in shared memory
  static constexpr int kParts = Parts;
  static_assert(kParts == 1 || kParts == 2);
  static constexpr int kDimQK = DimQK, kDimV = 512;

  // Warpgroup w multiplies the scores of the blocks in stage w, and the output's w-th half of columns.
  static constexpr int kWarpgroups = 2;
  static_assert(kWarpgroups == kStages);
  static constexpr int kMathThreads = 128 * kWarpgroups, kMathWarps = kMathThreads / 32;
  static constexpr int kLoaderWarps = LoaderWarps, kLoaderThreads = 32 * kLoaderWarps;
  static constexpr int kThreads = kMathThreads + kLoaderThreads;
  static constexpr int kMathRegisters = kLoaderWarps == 4 ? 224 : 192, kLoaderRegisters = kLoaderWarps == 4 ? 56 : 64;
  static_assert(kLoaderThreads % 128 == 0);
  static constexpr int kEmptyArrivals = kMathThreads / kWarpgroups;  // that give half of a stage's values back
  // What a thread has at the launch; more than all of that nobody can claim, and would wait for it for ever.
  static constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
  static_assert(kMathRegisters * kMathThreads + kLoaderRegisters * kLoaderThreads <= kLaunchRegisters * kThreads);

  // Operands lie in swizzled tiles of 64 columns.
  static constexpr int kTileColumns = 64;
  static constexpr int kTiles = kDimQK / kTileColumns, kValueTiles = kDimV / kTileColumns;
  static constexpr int kHalfTiles = kValueTiles / kWarpgroups;
  static constexpr int kTileRowBytes = kTileColumns * int(sizeof(Element));
  static constexpr int kTileBytes = kBlockN * kTileRowBytes;
  static_assert(kBlockM == kBlockN && kTileRowBytes == 128);

  // Behind the values of a block: the tile that only scores need, if there is one, then weights.
  static constexpr int kLastTile = kValueTiles, kStageTiles = kValueTiles + 1;
  static_assert(kTiles == kValueTiles || kTiles == kStageTiles);

  // What one matrix instruction sums over, and the bytes that step over it along rows and down them.
  static constexpr int kChunk = 16;
  static constexpr int kChunkRowBytes = kChunk * int(sizeof(Element));
  static constexpr int kChunkColumnBytes = kChunk * kTileRowBytes;

  // Columns of outputs of one instruction. The compiler wants its operands to fit the registers that a thread would have
  // without setmaxnreg: 168, or 128.
  static constexpr int kOutputColumns = kLoaderWarps == 4 ? 256 : 128;
  static constexpr int kOutputTiles = kOutputColumns / kTileColumns;
  using Mma = Instructions<Element, kOutputColumns>;

  // What a thread has of a tile's accumulators: of scores; of weights, as pairs; of one tile of outputs.
  static constexpr int kScores = kBlockN / 2, kWeights = kScores / 2, kTileOutputs = kTileColumns / 2;
  static constexpr int kOutputs = kHalfTiles * kTileOutputs;

  // Scores are exponentiated relative to a maximum that may lag this far behind (powers of two).
  static constexpr float kMaxLag = 8.0f;
  // From which maximum on the rounding of products counts: it is up to 2^-24 of them.
  static constexpr float kLargeMax = 1 << 20;

  // Weights are those of lane l of warp w, in vectors of 16 bytes.
  union Tile {
    alignas(1024) Element elements[kBlockN * kTileColumns];
    uint4 weights[4][kWeights / 4][32];
  };
  static_assert(sizeof(Tile) == kTileBytes);

  // What the loading and the multiplying warps hand to each other.
  struct Shared {
    Tile q[kTiles];
    Tile k[kStages][kStageTiles];
    float2 row_max[kWarpgroups][128];  // what the weights that a warpgroup hands over are relative to
    float4 sums[2][kWarpgroups][32];   // and their maxima, of an item, by pairs of rows; items take turns
    uint64_t full[kStages][kTiles];
    // Each warpgroup's half of the values, in parts; the last tile goes with the other's.
    uint64_t empty[kStages][kWarpgroups][kParts];
    uint64_t weights_full[kWarpgroups][4];  // of each warp
    uint64_t sums_full;
    uint64_t q_full, q_empty;  // an item's queries, and the item itself
  };
};

// Numbers of named barriers.
enum NamedBarrier : int {
  kLoaderBarrier = 1,     // among the loading threads
  kWarpgroupBarrier = 2,  // and 3: among the threads of a multiplying warpgroup
  kMathBarrier = 4,       // among those of both
  kSecondLoaderBarrier,   // among the threads of a second loading warpgroup
  kTurnBarrier,           // from the first multiplying warpgroup to the second: its scores are under way
};

}  // namespace jax_flash_mla::mla_sm90
