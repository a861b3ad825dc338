// A launch of dense decode as its roles see it: requests and their keys, tiles and their rows, where results lie.
#pragma once

#include <cstdint>

#include "cuda/device/math.cuh"
#include "cuda/sm90/dense_decode/config.h"

namespace jax_flash_mla::dense_decode_sm90 {

// The tile of query rows that a thread block works on within an item.
struct Tile {
  int key_head;
  int first_row;  // of the key head's rows
  int rows;       // at most kDenseDecodeTileRows
};

// One query row: which token, which head.
struct Row {
  int token, head;
};

// How much of a request there is to attend to.
struct Extent {
  int32_t keys;  // 0 where it is unsound
  bool sound;    // its length is not negative and its row of the table covers it
};

template <typename Config>
class Problem {
 public:
  using Element = typename Config::Element;
  static constexpr int kItemCost = Config::kItemCost, kSplitCost = Config::kSplitCost;
  static constexpr int kLeastPiece = Config::kLeastPiece;

  __device__ __forceinline__ Problem(const DenseDecodeParams& params, const Grid& grid) : params(params), grid(grid) {}

  const DenseDecodeParams& params;
  const Grid& grid;

  __device__ __forceinline__ const split_sm90::Layout& layout() const { return grid.layout; }

  __device__ __forceinline__ Extent extent(int request) const {
    const int keys = params.cache_seqlens[request];
    const bool sound = keys >= 0 && keys <= int64_t(params.max_pages) * params.page_size;
    return {sound ? keys : 0, sound};
  }

  __device__ __forceinline__ int blocks(int request) const {
    return int((int64_t(extent(request).keys) + Config::kBlockN - 1) / Config::kBlockN);
  }

  __device__ __forceinline__ Tile tile(int index) const {
    const int first_row = index % grid.tiles_per_head * Config::kBlockM;
    return {index / grid.tiles_per_head, first_row, min(Config::kBlockM, grid.rows - first_row)};
  }

  __device__ __forceinline__ Row row(const Tile& tile, int row) const {
    const int of_head = tile.first_row + row;
    return {of_head / grid.group, tile.key_head * grid.group + of_head % grid.group};
  }

  // Where a row lies in [b, s_q, h_q].
  __device__ __forceinline__ int64_t place(int request, const Row& row) const {
    return (int64_t(request) * params.s_q + row.token) * params.h_q + row.head;
  }

  // How many of a request's keys a row of the tile may attend to.
  __device__ __forceinline__ int visible_keys(const Tile& tile, int keys, int row) const {
    if (!params.causal) return keys;
    // Aligned at the last key: query token i of s_q sees the keys up to i + keys - s_q.
    const int64_t seen = int64_t(keys) + this->row(tile, row).token + 1 - params.s_q;
    return int(max(min(seen, int64_t(keys)), int64_t(0)));
  }

  // --- Results, and what combine.cuh wants.

  __device__ __forceinline__ const float* partial_out() const { return params.partial_out; }
  __device__ __forceinline__ const float* partial_lse() const { return params.partial_lse; }
  __device__ __forceinline__ int rows(int index) const { return tile(index).rows; }

  __device__ __forceinline__ Element* out(int request, int index, int row) const {
    return static_cast<Element*>(params.out) + place(request, this->row(tile(index), row)) * Config::kDimV;
  }

  __device__ __forceinline__ void put(int request, int index, int row, float lse) const {
    const Row of = this->row(tile(index), row);
    params.lse[(int64_t(request) * params.h_q + of.head) * params.s_q + of.token] = lse;
  }

  // The part e^lse / (e^lse + e^sink) of the probability that is the keys'; lse is not -inf.
  __device__ __forceinline__ float keys_share(int request, int index, int row, float lse) const {
    if (!params.attn_sink) return 1.0f;
    const int64_t sink_row = request / (params.b / params.sink_rows);
    const int head = this->row(tile(index), row).head;
    return __fdividef(1.0f, 1.0f + __expf(params.attn_sink[sink_row * params.h_q + head] - lse));
  }
};

}  // namespace jax_flash_mla::dense_decode_sm90
