// What the multiplying warpgroups of both kernels have in common: they take items, and multiply a tile's rows by blocks.
#pragma once

#include "cuda/device/accumulators.cuh"
#include "cuda/device/barrier.cuh"
#include "cuda/device/math.cuh"
#include "cuda/device/wgmma.cuh"
#include "cuda/mha/tiles.cuh"
#include "cuda/sm90/mha_backward/config.h"

namespace jax_flash_mla::mha_backward_sm90 {

// A kernel's `Role` derives from this, and has
//   void start()             clears its sums
//   void add_block(i, block) a block, of the i-th head opposite: its products may be under way afterwards, but not longer than
//                            until the next one's scores are there, when it calls `finish_block`
//   void write()             the sums, as results
template <typename Config, typename Role>
class Warpgroup {
 public:
  __device__ __forceinline__ Warpgroup(const MhaBackwardParams& params, typename Config::SharedStorage& shared,
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
      role().start();
      const int first = item().first_block, last = item().last_block;
      for (int i = 0; first < last && i < item().heads; ++i) {
#pragma unroll 1
        for (int block = first; block < last; ++block, ++round_) role().add_block(i, block);
      }
      device::wgmma_wait<0>();
      if (first < last) device::arrive(shared_.empty[(round_ - 1) % Config::kStages]);
      device::arrive(shared_.own_empty);
      role().write();
    }
  }

 protected:
  using Element = typename Config::Element;

  const MhaBackwardParams& params_;
  typename Config::SharedStorage& shared_;
  const int self_, lane_;
  const float scale_log2_;
  uint32_t items_ = 0, round_ = 0;  // items, and blocks, before

  __device__ __forceinline__ const Item& item() const { return shared_.items[items_ % 2]; }
  __device__ __forceinline__ int stage() const { return round_ % Config::kStages; }
  // The first of this thread's rows of the tile; the other one is 8 below.
  __device__ __forceinline__ int row() const { return self_ * 64 + threadIdx.x / 32 % 4 * 16 + lane_ / 4; }

  // Until the block is there. What is past the sequence's last token is another's: zeros, where sums over the block would
  // otherwise meet it, since zero times NaN is NaN. By both warpgroups, before their products.
  template <bool kClearsValues>
  __device__ __forceinline__ void wait_for_block(int block) {
    device::wait(shared_.full[stage()], round_ / Config::kStages % 2);
    const int rest = item().other_length - block * Config::kBlockTokens;
    if (rest >= Config::kBlockTokens) return;
    constexpr int kRowVectors = Config::kRowBytes / 16;
    const auto clear = [&](auto& panel) {
      for (int i = rest * kRowVectors + threadIdx.x; i < Config::kBlockTokens * kRowVectors;
           i += Config::kMathThreads) {
        reinterpret_cast<uint4*>(panel.elements)[i] = make_uint4(0, 0, 0, 0);
      }
    };
    for (auto& panel : shared_.other_keys[stage()]) clear(panel);
    if constexpr (kClearsValues) {
      for (auto& panel : shared_.other_values[stage()]) clear(panel);
    }
    device::fence_async_proxy();
    device::named_sync(kMathBarrier, Config::kMathThreads);
  }

  // scores = rows of the tile · those of the blockᵀ, started but not waited for.
  template <int kPanels, typename Tile, typename Block>
  __device__ __forceinline__ void multiply(const Tile& tile, const Block& block, float (&scores)[Config::kScores]) {
    const auto rows = device::row_major_operand(tile[0].elements + self_ * 64 * Config::kPanelColumns);
    const auto others = device::row_major_operand(block);
    device::pin_registers(scores);
    device::wgmma_fence();
#pragma unroll
    for (int t = 0; t < kPanels; ++t) {
#pragma unroll
      for (int c = 0; c < Config::kRowBytes; c += Config::kChunkRowBytes) {
        device::multiply<typename Config::Mma::Scores>(rows.at(t * Config::kTilePanelBytes + c),
                                                       others.at(t * Config::kBlockPanelBytes + c), scores,
                                                       t > 0 || c > 0);
      }
    }
    device::wgmma_commit();
  }

  // sums += pairs · rows of the block, started but not waited for.
  template <int kDims, typename Block>
  __device__ __forceinline__ void add(uint32_t (&pairs)[Config::kPairs], const Block& block, float (&sums)[kDims / 2]) {
    const auto others = device::column_major_operand(block, Config::kBlockPanelBytes);
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

  __device__ __forceinline__ static void pack(const float (&x)[Config::kScores], uint32_t (&pairs)[Config::kPairs]) {
#pragma unroll
    for (int i = 0; i < Config::kPairs; ++i) pairs[i] = device::pack<Element>(x[2 * i], x[2 * i + 1]);
  }

  // Writes one of the thread's rows of sums, times a factor; NaN where an unsound sequence claims the token.
  template <int kDims>
  __device__ __forceinline__ void store(const float (&sums)[kDims / 2], int r, void* result, int heads,
                                        const MhaSide& side, float factor) {
    const int row = this->row() + 8 * r;
    const bool exists = row < item().rows;
    const int64_t token = item().first_row + (exists ? row : 0);
    if (const int pack = item().pack; pack >= 0 && exists) {
      if (mha::is_claimed(side, pack, int(token - int64_t(pack) * side.tokens))) factor = device::kNaN;
    }
    device::store_row(sums, r, exists, static_cast<Element*>(result) + (token * heads + item().head) * kDims, false,
                      factor);
  }

 private:
  __device__ __forceinline__ Role& role() { return static_cast<Role&>(*this); }
};

// Makes the barriers ready; by one thread. A block is full after `block_arrivals`.
template <typename Config>
__device__ __forceinline__ void init_barriers(typename Config::SharedStorage& shared, int block_arrivals) {
  for (int stage = 0; stage < Config::kStages; ++stage) {
    device::init_barrier(shared.full[stage], block_arrivals);
    device::init_barrier(shared.empty[stage], Config::kMathThreads);
  }
  device::init_barrier(shared.own_full, 1);
  device::init_barrier(shared.own_empty, Config::kMathThreads);
  device::fence_barrier_init();
}

}  // namespace jax_flash_mla::mha_backward_sm90
