// The warpgroups that multiply: 64 keys of a tile each, by blocks of 64 queries.
//
// Rows of scores are keys here, so that weights and gradients, as they come, are left operands of the sums of d_v and d_k. For
// d_q the gradients of both warpgroups' keys go through shared memory, and each multiplies them by half of the columns of
// keys; adder.cuh takes it from there.
#pragma once

#include "cuda/device/accumulators.cuh"
#include "cuda/device/barrier.cuh"
#include "cuda/device/math.cuh"
#include "cuda/device/matrix_stores.cuh"
#include "cuda/device/wgmma.cuh"
#include "cuda/mha/tiles.cuh"
#include "cuda/sm90/mha_backward/config.h"

namespace jax_flash_mla::mha_backward_sm90 {

template <typename Config>
class Gradients {
 public:
  __device__ __forceinline__ Gradients(const MhaBackwardParams& params, typename Config::SharedStorage& shared,
                                       int self)
      : params_(params),
        shared_(shared),
        self_(self),
        lane_(threadIdx.x % 32),
        scale_log2_(device::scale_log2(params.scale)) {}

  __device__ __forceinline__ void run() {
    for (;; ++items_) {
      device::wait(shared_.own_full, items_ % 2);
      if (item().rows == 0) break;
      for (float& x : d_k_) x = 0.0f;
      for (float& x : d_v_) x = 0.0f;
      if (item().first_block < item().last_block) add_blocks();
      device::arrive(shared_.own_empty);
      write();
    }
  }

 private:
  using Element = typename Config::Element;
  using Mma = typename Config::Mma;
  static constexpr int kScores = Config::kScores, kPairs = Config::kPairs;

  const MhaBackwardParams& params_;
  typename Config::SharedStorage& shared_;
  const int self_, lane_;
  const float scale_log2_;
  uint32_t items_ = 0, round_ = 0;  // items, and blocks, before

  float d_k_[Config::kDimQK / 2], d_v_[Config::kDimV / 2];
  uint32_t gradients_[kPairs];  // of a block's scores

  __device__ __forceinline__ const Item& item() const { return shared_.items[items_ % 2]; }
  __device__ __forceinline__ static int stage(uint32_t round) { return round % Config::kStages; }
  // The first of this thread's rows of a warpgroup's 64; the other one is 8 below.
  __device__ __forceinline__ int warp_row() const { return threadIdx.x / 32 % 4 * 16; }
  __device__ __forceinline__ int row() const { return self_ * 64 + warp_row() + lane_ / 4; }

  // All blocks of an item, which has some, of one head after another.
  __device__ __forceinline__ void add_blocks() {
    clear_keys();
    const uint32_t first_round = round_;
    int block = item().first_block;
    int rest = (item().last_block - block) * (params_.h_q / params_.h_kv);
#pragma unroll 1
    do {
      add_block(block, round_ == first_round);
      ++round_;
      if (++block == item().last_block) block = item().first_block;
    } while (--rest > 0);
    device::wgmma_wait<0>();
    device::arrive(shared_.empty[stage(round_ - 1)]);
  }

  // Keys past the sequence's last one are another's: zeros, since zero times NaN is NaN. By both warpgroups.
  __device__ __forceinline__ void clear_keys() {
    if (item().rows == Config::kTileTokens) return;
    clear(shared_.keys, item().rows, Config::kTileTokens);
    device::fence_async_proxy();
    device::named_sync(kMathBarrier, Config::kMathThreads);
  }

  // Until a block is there; likewise.
  __device__ __forceinline__ void receive(int block) {
    device::wait(shared_.full[stage(round_)], round_ / Config::kStages % 2);
    const int rest = item().queries - block * Config::kBlockTokens;
    if (rest >= Config::kBlockTokens) return;
    clear(shared_.queries[stage(round_)], rest, Config::kBlockTokens);
    clear(shared_.d_out[stage(round_)], rest, Config::kBlockTokens);
    device::fence_async_proxy();
    device::named_sync(kMathBarrier, Config::kMathThreads);
  }

  template <typename Panel, int N>
  __device__ __forceinline__ static void clear(Panel (&panels)[N], int first_row, int rows) {
    constexpr int kRowVectors = Config::kRowBytes / 16;
#pragma unroll 1
    for (int i = first_row * kRowVectors + threadIdx.x; i < rows * kRowVectors; i += Config::kMathThreads) {
#pragma unroll
      for (Panel& panel : panels) reinterpret_cast<uint4*>(panel.elements)[i] = make_uint4(0, 0, 0, 0);
    }
  }

  // The product for d_k is under way afterwards, until the next block's scores are.
  __device__ __forceinline__ void add_block(int block, bool is_first) {
    const bool masks = needs_mask(block);
    float scores[kScores], d_weights[kScores];
    uint32_t weights[kPairs];
    round_ = device::uniform(round_);
    receive(block);
    multiply<Config::kKeyPanels>(shared_.keys, shared_.queries[stage(round_)], scores);
    device::wgmma_wait<1>();
    device::pin_registers(d_k_);
    device::pin_registers(gradients_);
    if (!is_first) device::arrive(shared_.empty[stage(round_ - 1)]);
    if constexpr (Config::kOverlaps) {
      multiply<Config::kValuePanels>(shared_.values, shared_.d_out[stage(round_)], d_weights);
      device::wgmma_wait<1>();
    } else {
      device::wgmma_wait<0>();
    }
    device::pin_registers(scores);
    if (masks) {
      weigh<true>(scores, weights, block);
    } else {
      weigh<false>(scores, weights, block);
    }
    if constexpr (!Config::kOverlaps) {
      multiply<Config::kValuePanels>(shared_.values, shared_.d_out[stage(round_)], d_weights);
    }
    add<Config::kDimV>(weights, shared_.d_out[stage(round_)], d_v_);
    device::wgmma_wait<Config::kOverlaps ? 1 : 0>();
    device::pin_registers(d_weights);
    if (masks) {
      differentiate<true>(d_weights, weights);
    } else {
      differentiate<false>(d_weights, weights);
    }
    hand_over_gradients();
    float d_q[kScores];
    multiply_by_keys<typename Mma::OverKeys64>(shared_.keys[self_].elements, 0, d_q);
    add<Config::kDimQK>(gradients_, shared_.queries[stage(round_)], d_k_);
    device::wgmma_wait<1>();
    device::pin_registers(d_q);
    device::pin_registers(d_v_);
    device::pin_registers(weights);
    if constexpr (!Config::kHasSharedPanel) release(shared_.gradients_empty);
    device::wait(shared_.d_q_empty[self_], (round_ + 1) % 2);
    leave<0>(d_q);
    if constexpr (Config::kHasSharedPanel) {
      float rest[kScores / 2];
      multiply_by_keys<typename Mma::OverKeys32>(shared_.keys[Config::kKeyPanels - 1].elements,
                                                 self_ * Config::kRowBytes / 2, rest);
      device::wgmma_wait<0>();
      device::pin_registers(rest);
      release(shared_.gradients_empty);
      leave<2>(rest);
    }
    hand_over_d_q();
  }

  // --- Products, started but not waited for

  // scores = own rows of the tile · those of the blockᵀ.
  template <int kPanels, typename Tile, typename Block>
  __device__ __forceinline__ void multiply(const Tile& tile, const Block& block, float (&scores)[kScores]) {
    const auto rows = device::row_major_operand<true>(tile[0].elements + self_ * 64 * Config::kPanelColumns);
    const auto others = device::row_major_operand<true>(block);
    device::pin_registers(scores);
    device::wgmma_fence();
#pragma unroll
    for (int t = 0; t < kPanels; ++t) {
#pragma unroll
      for (int c = 0; c < Config::kRowBytes; c += Config::kChunkRowBytes) {
        device::multiply<typename Mma::Scores>(rows.at(t * Config::kTilePanelBytes + c),
                                               others.at(t * Config::kBlockPanelBytes + c), scores, t > 0 || c > 0);
      }
    }
    device::wgmma_commit();
  }

  // sums += pairs · rows of the block.
  template <int kDims, typename Block>
  __device__ __forceinline__ void add(uint32_t (&pairs)[kPairs], const Block& block, float (&sums)[kDims / 2]) {
    const auto others = device::column_major_operand<true>(block, Config::kBlockPanelBytes);
    device::pin_registers(pairs);
    device::pin_registers(sums);
    device::wgmma_fence();
#pragma unroll
    for (int c = 0; c < Config::kBlockTokens / Config::kChunk; ++c) {
      const uint32_t chunk[4] = {pairs[4 * c], pairs[4 * c + 1], pairs[4 * c + 2], pairs[4 * c + 3]};
      device::multiply<typename Config::template Sum<kDims>>(chunk, others.at(c * Config::kChunkColumnBytes), sums,
                                                             true);
    }
    device::wgmma_commit();
  }

  // products = gradients of scoresᵀ · a panel of keys, from a byte of its rows on.
  template <typename Atom, int N>
  __device__ __forceinline__ void multiply_by_keys(const Element* panel, int first_byte, float (&products)[N]) {
    const auto gradients = device::column_major_operand<true>(shared_.gradients.elements, Config::kTilePanelBytes);
    const auto keys = device::column_major_operand<true>(panel, Config::kTilePanelBytes);
    device::pin_registers(products);
    device::wgmma_fence();
#pragma unroll
    for (int c = 0; c < Config::kTilePanelBytes; c += Config::kChunkColumnBytes) {
      device::multiply<Atom>(gradients.at(c), keys.at(c + first_byte), products, c > 0);
    }
    device::wgmma_commit();
  }

  // --- Weights, and their gradients

  // Whether there are keys of this warpgroup that some query of a block does not see, or that are none.
  __device__ __forceinline__ bool needs_mask(int block) const {
    const int last = self_ * 64 + 63;
    return last >= item().rows || (params_.causal && item().first_visible + last > block * Config::kBlockTokens);
  }

  template <bool kMasks>
  __device__ __forceinline__ void weigh(float (&scores)[kScores], uint32_t (&weights)[kPairs], int block) const {
    const float2* lse = reinterpret_cast<const float2*>(shared_.lse[stage(round_)]) + lane_ % 4;
    int seen_from[2];
    if constexpr (kMasks) {
      const int first_query = block * Config::kBlockTokens + lane_ % 4 * 2;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        seen_from[r] = params_.causal ? item().first_visible + row() + 8 * r - first_query : 0;
        if (row() + 8 * r >= item().rows) seen_from[r] = Config::kBlockTokens;
      }
    }
#pragma unroll
    for (int i = 0; i < kScores; i += 4) {
      const float2 of_columns = lse[i];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float x = device::exp2_fast(fmaf(scores[i + 2 * r], scale_log2_, -of_columns.x));
        float y = device::exp2_fast(fmaf(scores[i + 2 * r + 1], scale_log2_, -of_columns.y));
        if constexpr (kMasks) {
          if (i * 2 < seen_from[r]) x = 0.0f;
          if (i * 2 + 1 < seen_from[r]) y = 0.0f;
        }
        weights[i / 2 + r] = device::pack<Element>(x, y);
      }
    }
  }

  // Gradients of weights become those of scores. What is not seen has none, whatever its value is.
  template <bool kMasks>
  __device__ __forceinline__ void differentiate(const float (&d_weights)[kScores], const uint32_t (&weights)[kPairs]) {
    const float2* delta = reinterpret_cast<const float2*>(shared_.delta[stage(round_)]) + lane_ % 4;
#pragma unroll
    for (int i = 0; i < kScores; i += 4) {
      const float2 of_columns = delta[i];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float2 weight = device::unpack<Element>(weights[i / 2 + r]);
        float x = weight.x * (d_weights[i + 2 * r] - of_columns.x);
        float y = weight.y * (d_weights[i + 2 * r + 1] - of_columns.y);
        if constexpr (kMasks) {
          if (weight.x == 0.0f) x = 0.0f;
          if (weight.y == 0.0f) y = 0.0f;
        }
        gradients_[i / 2 + r] = device::pack<Element>(x, y);
      }
    }
  }

  // --- What others read

  // All lanes of this warp have done with what the barrier stands for, which no other warp accesses but by the async proxy:
  // compute-sanitizer's racecheck does not follow one that arrives for its warp.
  __device__ __forceinline__ void release(device::Barrier& barrier) {
    __syncwarp();
    if (lane_ == 0) device::arrive(barrier);
  }

  // Gradients of both warpgroups' keys are in shared memory afterwards.
  __device__ __forceinline__ void hand_over_gradients() {
    // Four matrices of 8 by 8 at a time: lane l has the address of row l % 8 of matrix l / 8.
    const int row = self_ * 64 + warp_row() + lane_ % 16;
    auto* target = reinterpret_cast<uint8_t*>(shared_.gradients.elements);
    device::wait(shared_.gradients_empty, (round_ + 1) % 2);
#pragma unroll
    for (int i = 0; i < kPairs; i += 4) {
      device::store_matrices(target + device::swizzled_chunk(row, i / 2 + lane_ / 16), gradients_[i], gradients_[i + 1],
                             gradients_[i + 2], gradients_[i + 3]);
    }
    device::fence_async_proxy();
    device::named_sync(kMathBarrier, Config::kMathThreads);
  }

  // Columns of d_q in strips, from a strip on.
  template <int kStrip, int N>
  __device__ __forceinline__ void leave(const float (&d_q)[N]) {
    const int shift = (item().first_query + lane_ / 4) % 4;
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      constexpr int kUnit = 8;  // columns
      auto& strip = shared_.d_q[self_][kStrip + i / 16].elements;
      float* target = strip + (warp_row() + lane_ / 4) * Config::kStripColumns + (i / 4 % 4 ^ shift) * kUnit;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        reinterpret_cast<float2*>(target + 8 * r * Config::kStripColumns)[lane_ % 4] =
            make_float2(d_q[i + 2 * r], d_q[i + 2 * r + 1]);
      }
    }
  }

  __device__ __forceinline__ void hand_over_d_q() {
    device::fence_async_proxy();
    release(shared_.d_q_full[self_]);
  }

  // --- Results

  __device__ __forceinline__ void write() {
    device::pin_registers(d_k_);
    device::pin_registers(d_v_);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      store<Config::kDimQK>(d_k_, r, params_.d_k, params_.scale);
      store<Config::kDimV>(d_v_, r, params_.d_v, 1.0f);
    }
  }

  // One of the thread's rows of sums, times a factor; NaN where an unsound sequence claims the token.
  template <int kDims>
  __device__ __forceinline__ void store(const float (&sums)[kDims / 2], int r, void* result, float factor) {
    const MhaSide& keys = params_.keys;
    const int row = this->row() + 8 * r;
    const bool exists = row < item().rows;
    const int64_t token = int64_t(item().first_row) + (exists ? row : 0);
    if (const int pack = item().pack; pack >= 0 && exists) {
      if (mha::is_claimed(keys, pack, int(token - int64_t(pack) * keys.tokens))) factor = device::kNaN;
    }
    auto* target = static_cast<Element*>(result) + (token * params_.h_kv + item().head) * kDims;
    device::store_row(sums, r, exists, target, false, factor);
  }
};

}  // namespace jax_flash_mla::mha_backward_sm90
