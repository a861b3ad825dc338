// Tiles, roles, shared and tensor memory of SM100 multi-head attention, forward: data only.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "cuda/device/tensor_memory.cuh"
#include "cuda/sm100/mha_forward/params.h"

namespace jax_flash_mla::mha_forward_sm100 {

// What everybody has to know of an item: up to two tiles of query tokens of one head, and the keys they attend to.
struct Item {
  int64_t first_row;  // of [packs · tokens_q]
  int32_t rows;       // real ones; 0: there is no more work
  int32_t head;
  int32_t blocks[2];      // of keys, for each tile; 0 where it has no rows, or nothing to attend to
  int32_t keys;           // of the sequence
  int32_t first_visible;  // keys that the first row may attend to; each row of a causal item sees one more
  int32_t pack;           // whose unsound sequences may claim these tokens; -1: none does

  // Both tiles have the first blocks in common, and blocks come from the last to the first.
  __device__ __forceinline__ int most_blocks() const { return blocks[0] > blocks[1] ? blocks[0] : blocks[1]; }
};

// What warps do. A softmax warpgroup has the tile of its number.
enum Role : int { kSoftmaxWarps = 0, kCorrectionWarps = 8, kLoaderWarp = 12, kIssuerWarp = 13, kCleanerWarp = 14 };

template <int DimQK>
struct Config {
  using Element = __nv_bfloat16;

  static constexpr int kTiles = 2;       // of an item
  static constexpr int kTileRows = 128;  // query tokens of a tile
  static constexpr int kBlock = 128;     // keys
  static constexpr int kDimQK = DimQK, kDimV = kMhaDimV;

  static constexpr int kThreads = 512;
  static constexpr int kSoftmaxRegisters = 192, kCorrectionRegisters = 80, kOtherRegisters = 48;
  static_assert((kTiles * kSoftmaxRegisters + kCorrectionRegisters + kOtherRegisters) * 128 <= 64 * 1024);

  // Operands come in panels of 16 KB, in the 128-byte swizzle: 128 tokens of 64 columns of queries and keys, or 64
  // tokens of all columns of values, which are two boxes side by side.
  static constexpr int kPanelColumns = 64, kPanelRowBytes = kPanelColumns * int(sizeof(Element));
  static constexpr int kPanelBytes = kBlock * kPanelRowBytes;
  static constexpr int kKeyPanels = kDimQK / kPanelColumns;
  static constexpr int kValueTokens = 64, kValuePanels = kBlock / kValueTokens;
  static constexpr int kValueBoxes = kDimV / kPanelColumns, kValueBoxBytes = kValueTokens * kPanelRowBytes;
  static constexpr int kPanelsOfBlock = kKeyPanels + kValuePanels;
  static_assert(kTileRows == kBlock && kPanelRowBytes == 128 && kValueBoxes * kValueBoxBytes == kPanelBytes);

  // As many panels of keys and values as there is room for: two blocks and a half, or one and a half of 192 dimensions.
  static constexpr int kSlots = kDimQK == 192 ? 8 : 10;

  // Columns of tensor memory. Weights take the place of the scores that they come from.
  static constexpr int kScoresColumn = 0, kOutputsColumn = kTiles * kBlock;
  static_assert(kOutputsColumn + kTiles * kDimV <= device::kTensorColumns);
  static constexpr int kChunk = 32;  // columns that a thread loads or stores at once

  // Scores are exponentiated relative to a maximum that may lag this far behind (powers of two).
  static constexpr float kMaxLag = 8.0f;
  // From which maximum on the rounding of products counts: it is up to 2^-24 of them.
  static constexpr float kLargeMax = 1 << 20;

  struct Panel {
    alignas(1024) Element elements[kBlock * kPanelColumns];
  };

  struct SharedStorage {
    Panel q[kTiles][kKeyPanels];
    Panel slots[kSlots];
    // Of each row: by how much its outputs are to be multiplied, and in the end its sum and its maximum.
    float2 statistics[kTiles][kTileRows];
    Item items[2];  // in turn
    uint64_t item_full[2], item_empty[2];
    uint64_t values_started[2];  // slots are those of the item's first block of values, which are under way
    uint64_t cleared[2];         // values past the last key of the item are zeros
    uint64_t slot_full[kSlots], slot_empty[kSlots];
    uint64_t q_full[kTiles], q_empty[kTiles];
    uint64_t scores_full[kTiles];
    uint64_t weights_full[kTiles][kValuePanels];  // those of the keys of a panel of values
    uint64_t statistics_full[kTiles];
    uint64_t out_ready[kTiles];  // for the next block's product
    uint64_t out_full[kTiles];   // with the item's last
    uint32_t tensor_memory;
  };
  static_assert(sizeof(SharedStorage) <= 227 * 1024);
};

// Fixed before the launch.
struct Grid {
  float scale_log2;  // of scores, base 2; neither zero nor infinite, so that a masked score stays one
};

}  // namespace jax_flash_mla::mha_forward_sm100
