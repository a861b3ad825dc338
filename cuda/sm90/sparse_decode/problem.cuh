// A launch of sparse decode as its roles see it: query tokens and their keys, tiles of heads, where results lie.
//
// The schedule's requests are query tokens. The blocks of a query token are those of its first list of keys, then those of
// the second; none has keys of both.
#pragma once

#include <cstdint>

#include "cuda/device/math.cuh"
#include "cuda/sm90/sparse_decode/config.h"

namespace jax_flash_mla::sparse_decode_sm90 {

template <typename Config>
class Problem {
 public:
  using Element = typename Config::Element;
  static constexpr int kItemCost = Config::kItemCost, kSplitCost = Config::kSplitCost;
  static constexpr int kLeastPiece = Config::kLeastPiece;

  __device__ __forceinline__ Problem(const SparseDecodeParams& params, const Grid& grid) : params(params), grid(grid) {}

  const SparseDecodeParams& params;
  const Grid& grid;

  __device__ __forceinline__ const split_sm90::Layout& layout() const { return grid.layout; }

  // How many of a list's indices count, whether or not that makes sense.
  __device__ __forceinline__ int length(int token, int list) const {
    const SparseDecodeList& of = params.lists[list];
    return of.lengths ? of.lengths[token] : of.topk;
  }

  __device__ __forceinline__ bool is_sound(int token, int list) const {
    const int length = this->length(token, list);
    return length >= 0 && length <= params.lists[list].topk;
  }

  __device__ __forceinline__ bool is_sound(int token) const { return is_sound(token, 0) && is_sound(token, 1); }

  __device__ __forceinline__ int blocks(int token, int list) const {
    return (length(token, list) + Config::kBlockN - 1) / Config::kBlockN;
  }

  __device__ __forceinline__ int blocks(int token) const {
    return is_sound(token) ? blocks(token, 0) + blocks(token, 1) : 0;
  }

  // Where a row of a tile lies in [b, s_q, h_q].
  __device__ __forceinline__ int64_t place(int token, int tile, int row) const {
    return int64_t(token) * params.h_q + tile * Config::kBlockM + row;
  }

  // --- Results, and what combine.cuh wants.

  __device__ __forceinline__ const float* partial_out() const { return params.partial_out; }
  __device__ __forceinline__ const float* partial_lse() const { return params.partial_lse; }

  __device__ __forceinline__ int rows(int tile) const {
    return min(Config::kBlockM, params.h_q - tile * Config::kBlockM);
  }

  __device__ __forceinline__ Element* out(int token, int tile, int row) const {
    return static_cast<Element*>(params.out) + place(token, tile, row) * Config::kDimV;
  }

  __device__ __forceinline__ void put(int token, int tile, int row, float lse) const {
    const int request = token / params.s_q, head = tile * Config::kBlockM + row;
    params.lse[(int64_t(request) * params.h_q + head) * params.s_q + token % params.s_q] = lse;
  }

  // The part e^lse / (e^lse + e^sink) of the probability that is the keys'; lse is not -inf.
  __device__ __forceinline__ float keys_share(int token, int tile, int row, float lse) const {
    if (!params.attn_sink) return 1.0f;
    const int64_t sink_row = token / params.s_q / (params.b / params.sink_rows);
    return __fdividef(1.0f,
                      1.0f + __expf(params.attn_sink[sink_row * params.h_q + tile * Config::kBlockM + row] - lse));
  }
};

}  // namespace jax_flash_mla::sparse_decode_sm90
