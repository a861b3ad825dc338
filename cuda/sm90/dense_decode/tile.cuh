// Query rows of a work item, and where their operands and results lie.
#pragma once

#include <cstdint>

#include "cuda/sm90/dense_decode/config.h"

namespace jax_flash_mla::dense_decode_sm90 {

// The tile of query rows that a thread block works on within an item.
struct Tile {
  int key_head;
  int first_row;  // of the key head's rows
  int rows;       // at most kDenseDecodeTileRows

  __device__ __forceinline__ Tile(const Grid& grid, int tile) {
    key_head = tile / grid.tiles_per_head;
    first_row = (tile % grid.tiles_per_head) * kDenseDecodeTileRows;
    rows = min(kDenseDecodeTileRows, grid.rows - first_row);
  }
};

// One query row: which token, which head.
struct Row {
  int token, head;

  __device__ __forceinline__ Row(const Grid& grid, const Tile& tile, int row) {
    token = (tile.first_row + row) / grid.group;
    head = tile.key_head * grid.group + (tile.first_row + row) % grid.group;
  }

  // Where the row lies in [b, s_q, h_q].
  __device__ __forceinline__ int64_t index(const DenseDecodeParams& params, int request) const {
    return (int64_t(request) * params.s_q + token) * params.h_q + head;
  }

  // Where its log-sum-exp lies in [b, h_q, s_q].
  __device__ __forceinline__ int64_t lse_index(const DenseDecodeParams& params, int request) const {
    return (int64_t(request) * params.h_q + head) * params.s_q + token;
  }
};

// How many of a request's keys a row of the tile may attend to.
__device__ __forceinline__ int visible_keys(const DenseDecodeParams& params, const Grid& grid, const Tile& tile,
                                            int keys, int row) {
  if (!params.causal) return keys;
  // Aligned at the last key: query token i of s_q sees the keys up to i + keys - s_q.
  const int64_t seen = int64_t(keys) + Row(grid, tile, row).token + 1 - params.s_q;
  return int(max(min(seen, int64_t(keys)), int64_t(0)));
}

// The part e^lse / (e^lse + e^sink) of the probability that is the keys'; lse is not -inf.
__device__ __forceinline__ float keys_share(const DenseDecodeParams& params, int request, int head, float lse) {
  if (!params.attn_sink) return 1.0f;
  const int64_t sink_row = int64_t(request) * params.sink_rows / params.b;
  return 1.0f / (1.0f + __expf(params.attn_sink[sink_row * params.h_q + head] - lse));
}

}  // namespace jax_flash_mla::dense_decode_sm90
