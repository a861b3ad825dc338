// The warpgroups of SM100 multi-head attention, forward, that make weights of scores: one for each tile, a row for each
// thread.
#pragma once

#include "cuda/device/math.cuh"
#include "cuda/sm100/mha_forward/roles.cuh"

namespace jax_flash_mla::mha_forward_sm100 {

template <typename Config>
class Softmax {
 public:
  __device__ __forceinline__ Softmax(const MhaForwardParams& params, const Grid& grid,
                                     typename Config::SharedStorage& shared, int tile)
      : shared_(shared),
        tile_(tile),
        row_(threadIdx.x % Config::kTileRows),
        scores_(own_lanes(shared) + Config::kScoresColumn + tile * Config::kBlock),
        is_causal_(params.causal),
        scale_log2_(grid.scale_log2) {}

  __device__ __forceinline__ void run() {
    for (uint32_t items = 0;; ++items) {
      const Item& item = wait_for_item(shared_, items);
      if (item.rows == 0) break;
      if (item.blocks[tile_] > 0) attend(item);
      device::arrive(shared_.item_empty[items % 2]);
    }
  }

 private:
  static constexpr int kChunks = Config::kBlock / Config::kChunk;
  static_assert(Config::kValueTokens == 2 * Config::kChunk);
  using Scores = float[kChunks][Config::kChunk];

  typename Config::SharedStorage& shared_;
  const int tile_, row_;
  const uint32_t scores_;  // where this warp's are in tensor memory
  const bool is_causal_;
  const float scale_log2_;
  uint32_t blocks_ = 0;  // before

  float row_max_;  // base 2; what outputs and row_sum_ are relative to
  float row_sum_;

  __device__ __forceinline__ void attend(const Item& item) {
    Scores scores;
    const int blocks = item.blocks[tile_];
    row_max_ = -device::kInfinity;
    row_sum_ = 0.0f;
#pragma unroll 1
    for (int block = blocks - 1; block >= 0; --block, ++blocks_) {
      load(scores);
      mask(scores, item, block);
      const float factor = move_maximum(scores);
      if (block < blocks - 1) publish(make_float2(factor, 0.0f));
      exponentiate(scores);
    }
    // What was published last has been read: outputs of the last block are rescaled, or those of the item before are
    // read.
    device::wait(shared_.out_ready[tile_], blocks_ % 2);
    publish(make_float2(row_sum_, row_max_));
  }

  __device__ __forceinline__ void load(Scores& scores) const {
    device::wait(shared_.scores_full[tile_], blocks_ % 2);
    device::tensor_fence_after_sync();
#pragma unroll
    for (int c = 0; c < kChunks; ++c) device::start_loading(scores[c], scores_ + c * Config::kChunk);
    device::wait_for_loads();
#pragma unroll
    for (int c = 0; c < kChunks; ++c) device::pin_registers(scores[c]);
  }

  // Scores of either sign of the scale, -inf where the row may not attend.
  __device__ __forceinline__ void mask(Scores& scores, const Item& item, int block) const {
    if (scale_log2_ < 0.0f) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
#pragma unroll
        for (float& x : scores[c]) x = -x;
      }
    }
    const int first_row = is_causal_ ? tile_ * Config::kTileRows : 0, row = is_causal_ ? first_row + row_ : 0;
    const int first_key = block * Config::kBlock, keys = item.keys, first_visible = item.first_visible;
    if (first_key + Config::kBlock <= min(first_visible + first_row, keys)) return;
    const int columns = min(first_visible + row, keys) - first_key;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int i = 0; i < Config::kChunk; ++i) {
        if (c * Config::kChunk + i >= columns) scores[c][i] = -device::kInfinity;
      }
    }
  }

  // Moves the maximum where the block's exceeds it by more than the lag. Returns what outputs are to be multiplied by.
  __device__ __forceinline__ float move_maximum(const Scores& scores) {
    float chunk_max[kChunks];
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      chunk_max[c] = scores[c][0];
#pragma unroll
      for (int i = 1; i < Config::kChunk; ++i) chunk_max[c] = fmaxf(chunk_max[c], scores[c][i]);
    }
    static_assert(kChunks == 4);
    const float block_max =
        fmaxf(fmaxf(chunk_max[0], chunk_max[1]), fmaxf(chunk_max[2], chunk_max[3])) * fabsf(scale_log2_);
    if (!(block_max > row_max_ + Config::kMaxLag)) return 1.0f;
    const float factor = device::exp2_fast(row_max_ - block_max);
    row_max_ = block_max;
    row_sum_ *= factor;
    return factor;
  }

  // To the correction warps. Scores that this thread has seen come after the product of the block before.
  __device__ __forceinline__ void publish(float2 statistics) {
    shared_.statistics[tile_][row_] = statistics;
    device::tensor_fence_before_sync();
    device::arrive(shared_.statistics_full[tile_]);
  }

  // Scores become weights, which go to where the former were, as pairs; those of the first keys are multiplied
  // meanwhile.
  __device__ __forceinline__ void exponentiate(Scores& scores) {
    float scale = fabsf(scale_log2_), origin = row_max_ == -device::kInfinity ? 0.0f : row_max_;
    // A product that is not rounded may exceed the maximum, which was rounded: by a lot where they are large.
    if (__any_sync(~0u, fabsf(origin) > Config::kLargeMax)) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
#pragma unroll
        for (float& x : scores[c]) x = __fsub_rn(__fmul_rn(x, scale), origin);
      }
      scale = 1.0f;
      origin = 0.0f;
    }
    const float2 scales = make_float2(scale, scale), shift = make_float2(-origin, -origin);
    float2 sums[kChunks] = {};
#pragma unroll
    for (int c = 0; c < kChunks; c += 2) {
      uint32_t weights[Config::kChunk];
#pragma unroll
      for (int i = 0; i < 2 * Config::kChunk; i += 2) {
        float* pair = &scores[c + i / Config::kChunk][i % Config::kChunk];
        float2 x = device::fma_two(make_float2(pair[0], pair[1]), scales, shift);
        x = make_float2(device::exp2_fast(x.x), device::exp2_fast(x.y));
        sums[i / 2 % kChunks] = device::add_two(sums[i / 2 % kChunks], x);
        weights[i / 2] = device::pack<typename Config::Element>(x.x, x.y);
      }
      device::start_storing(scores_ + c * Config::kChunk / 2, weights);
      device::wait_for_stores();
      device::tensor_fence_before_sync();
      device::arrive(shared_.weights_full[tile_][c / 2]);
    }
    const float2 sum = device::add_two(device::add_two(sums[0], sums[1]), device::add_two(sums[2], sums[3]));
    row_sum_ += sum.x + sum.y;
  }
};

}  // namespace jax_flash_mla::mha_forward_sm100
