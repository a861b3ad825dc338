// The two warpgroups that multiply: tiles of 64 query rows over blocks of 64 latent keys, which come from loading warps.
//
// Blocks go to two stages in turn. Warpgroup w computes the scores and weights of the blocks in stage w. Both add every
// block to the output, each to its own 256 columns, since 64 x 512 accumulators fill the registers of two warpgroups.
//
//   warpgroup 0 | scores 0 | softmax 0 | out 0            | out 1 | scores 2 | softmax 2 | ...
//   warpgroup 1 |          | scores 1  | out 0, softmax 1 | out 1 |          | scores 3  | ...
//
// A block is given back as soon as its weights are multiplied, by both at once, and the next one in its stage has the time of
// the other stage's block to come. The second warpgroup waits for its turn, until the first one's scores are under way: at
// the same time both would take twice as long, and then leave the tensor cores idle, both at their softmax. Its own softmax
// is under the products of the other's block.
//
// Where registers do not suffice for that, in sparse decode, both multiply one block after the other (kInOrder).
//
// Weights. A warp hands its weights to the same warp of the other warpgroup, lane by lane, behind the block's values.
//
// Maxima. Weights are relative to a maximum that lags behind: it moves only when a row exceeds it by 2^8, because moving
// it means rescaling the output. Blocks come to it one after the other, so that who receives weights takes their maximum
// for its own, which is never above it.
#pragma once

#include "cuda/device/accumulators.cuh"
#include "cuda/device/barrier.cuh"
#include "cuda/device/math.cuh"
#include "cuda/device/wgmma.cuh"
#include "cuda/sm90/mla/shape.h"

namespace jax_flash_mla::mla_sm90 {

// An operation's `Role` derives from this, and has
//   bool is_end()                  whether there is no more work: the rest is about the item otherwise
//   int begin()                    makes ready for the item; the number of its blocks
//   bool is_sound()                whether its sizes make sense: results are NaN otherwise
//   bool is_sound(stage)           the same of the block that is there
//   void prepare(scores, block)    masks scores, and clears values that no row may see
//   void write(item)               writes the results of an item, by its number
//   void give_back(stage, part)    where more than this thread block's loaders wait for half of a stage's values
// and `Config` derives from Shape, and has SharedStorage, which derives from Shared, and
//   int waited_for(i)              which tile of keys in their order is waited for before the i-th is multiplied: that one, or one
//                                  that comes with it and some more; -1: the i-th came so
//   bool fences_tile(tile)         whether ordinary copies bring it, which products then have to be fenced from
//   bool kFindsLargest             whether the largest scores themselves are wanted
//   bool kInOrder                  see above
//   bool kWritesLate               the first warpgroup writes results under the next item's first scores: where queries come in time
template <typename Config, typename Role>
class Warpgroup {
 public:
  // `scale_log2` is that of scores, base 2; neither zero nor infinite, so that a masked score stays one.
  __device__ __forceinline__ Warpgroup(typename Config::SharedStorage& shared, int self, float scale_log2)
      : shared_(shared), self_(self), lane_(threadIdx.x % 32), scale_log2_(scale_log2) {}

  __device__ __forceinline__ void run() {
    for (;; ++items_) {
      device::wait(shared_.q_full, items_ % 2);
      device::fence_async_proxy();
      if (role().is_end()) break;
      attend(role().begin());
      exchange_sums();
      if (!Config::kWritesLate || self_ == 1) role().write(items_);
    }
    if (Config::kWritesLate && self_ == 0 && items_ > 0) role().write(items_ - 1);
  }

 protected:
  using Element = typename Config::Element;

  typename Config::SharedStorage& shared_;
  const int self_, lane_;
  const float scale_log2_;
  uint32_t own_blocks_ = 0, others_blocks_ = 0;  // that were multiplied
  uint32_t items_ = 0;

  // Of both rows that this thread has of the accumulators. Maxima are base 2.
  float out_[Config::kOutputs];
  float row_max_[2];     // what out_ and row_sum_ are relative to
  float row_sum_[2];     // of own blocks' weights, over this thread's columns; of all, in the end
  float out_factor_[2];  // what out_ still has to be multiplied by, in the end
  float largest_[2];     // score, if that is wanted; likewise

  __device__ __forceinline__ int warp() const { return threadIdx.x / 32 % 4; }
  // The first of this thread's rows; the other one is 8 below.
  __device__ __forceinline__ int row() const { return warp() * 16 + lane_ / 4; }

  // Writes this warpgroup's columns of one of the thread's rows, if it exists, times a factor; zeros where no key is attended
  // to. `target` is where all columns of the row are. Called by all lanes.
  __device__ __forceinline__ void store_row(int r, bool exists, Element* target, float factor) const {
    device::store_row(out_, r, exists, target + self_ * Config::kHalfTiles * Config::kTileColumns, row_sum_[r] == 0.0f,
                      factor);
  }

  // This thread has done with a part of the own half of a stage's values.
  __device__ __forceinline__ void give_back(int stage, int part) const {
    device::arrive(shared_.empty[stage][self_][part]);
  }

 private:
  __device__ __forceinline__ Role& role() { return static_cast<Role&>(*this); }

  // Clears the state; outputs are overwritten by the first block's.
  __device__ __forceinline__ void start() {
    if (Config::kWritesLate && self_ == 0 && items_ > 0) role().write(items_ - 1);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      row_max_[r] = -device::kInfinity;
      row_sum_[r] = 0.0f;
      if constexpr (Config::kFindsLargest) largest_[r] = -device::kInfinity;
    }
    device::pin_registers(out_);
  }

  __device__ __forceinline__ void attend(int blocks) {
    if (!Config::kWritesLate || self_ == 1 || blocks == 0) start();
    if (self_ >= blocks) device::arrive(shared_.q_empty);
    if constexpr (Config::kInOrder) {
#pragma unroll 1
      for (int block = 0; block < blocks; ++block) {
        if (block % Config::kStages == self_) {
          add_own(block, block + Config::kStages >= blocks, false);
        } else {
          add_others(block);
        }
      }
    } else if (self_ == 0) {
#pragma unroll 1
      for (int block = 0; block < blocks; ++block) {
        add_own(block, block + Config::kStages >= blocks, block + 1 < blocks);
        if (++block < blocks) add_others(block);
      }
    } else {
      int block = 1;
#pragma unroll 1
      for (; block < blocks; block += Config::kStages) add_others_and_own(block, block + Config::kStages >= blocks);
      if (block == blocks) add_others(block - 1);
    }
  }

  // A block of the own stage.
  __device__ __forceinline__ void add_own(int block, bool is_last, bool gives_turn) {
    float scores[Config::kScores], odd_scores[Config::kScores];
    multiply_scores(scores, odd_scores);
    if (gives_turn) device::named_arrive(kTurnBarrier, Config::kMathThreads);
    if (Config::kWritesLate && block == 0) start();
    finish_scores(scores, odd_scores);
    uint32_t weights[Config::kWeights];
    float factors[2];
    weigh_scores(scores, block, is_last, weights, factors);
    rescale_outputs(factors);
    multiply_values(weights, self_, block == 0);
    finish_values(self_);
    ++own_blocks_;
  }

  // A block of the other stage.
  __device__ __forceinline__ void add_others(int block) {
    uint32_t weights[Config::kWeights];
    float factors[2];
    receive(weights, factors);
    rescale_outputs(factors);
    multiply_values(weights, 1 - self_, block == 0);
    finish_values(1 - self_);
    ++others_blocks_;
  }

  // A block of the other stage, and the own one after it, whose scores come first.
  __device__ __forceinline__ void add_others_and_own(int block, bool is_last) {
    float scores[Config::kScores], odd_scores[Config::kScores];
    uint32_t others[Config::kWeights], weights[Config::kWeights];
    float factors[2];
    device::named_sync(kTurnBarrier, Config::kMathThreads);
    multiply_scores(scores, odd_scores);
    finish_scores(scores, odd_scores);
    receive(others, factors);
    rescale_outputs(factors);
    multiply_values(others, 1 - self_, block == 1);
    weigh_scores(scores, block, is_last, weights, factors);
    finish_values(1 - self_);
    ++others_blocks_;
    rescale_outputs(factors);
    multiply_values(weights, self_, false);
    finish_values(self_);
    ++own_blocks_;
  }

  // From an own block's scores, which are there, to its weights, which are handed over. What outputs have to be multiplied by
  // before these are added to them.
  __device__ __forceinline__ void weigh_scores(float (&scores)[Config::kScores], int block, bool is_last,
                                               uint32_t (&weights)[Config::kWeights], float (&factors)[2]) {
    if (!role().is_sound(self_)) row_sum_[0] = row_sum_[1] = device::kNaN;
    if (is_last) device::arrive(shared_.q_empty);
    // All four warps have read the tile that the weights are to replace.
    device::named_sync(kWarpgroupBarrier + self_, 128);
    if (scale_log2_ < 0.0f) {
#pragma unroll
      for (float& x : scores) x = -x;
    }
    role().prepare(scores, block);
    weigh(scores, weights, factors);
    hand_over(weights);
  }

  // scores = q · kᵀ, started but not waited for; tile by tile as they come. In two sums, of even and odd chunks: the products
  // of one warpgroup alone keep the tensor cores busy only where none waits for the one before.
  __device__ __forceinline__ void multiply_scores(float (&scores)[Config::kScores],
                                                  float (&odd_scores)[Config::kScores]) {
    const auto q = device::row_major_operand(shared_.q);
    const auto k = device::row_major_operand(shared_.k[self_]);
    // In the order in which they are loaded: the own half, the other one, the last tile.
    const int own_half = self_ * Config::kHalfTiles * Config::kTileBytes;
    const auto tile_offset = [&](int i) {
      const int moved = i == Config::kValueTiles ? 0 : i < Config::kHalfTiles ? own_half : -own_half;
      return i * Config::kTileBytes + moved;
    };
    device::pin_registers(scores);
    if constexpr (!Config::kInOrder) device::pin_registers(odd_scores);
#pragma unroll
    for (int i = 0; i < Config::kTiles; ++i) {
      const int offset = tile_offset(i);
      if (const int until = Config::waited_for(i); until >= 0) {
        device::wait(shared_.full[self_][tile_offset(until) / Config::kTileBytes], own_blocks_ % 2);
        if (Config::fences_tile(offset / Config::kTileBytes)) device::fence_async_proxy();
        device::wgmma_fence();
      }
#pragma unroll
      for (int c = 0; c < Config::kTileRowBytes; c += Config::kChunkRowBytes) {
        const bool is_odd = !Config::kInOrder && c / Config::kChunkRowBytes % 2;
        device::multiply<typename Config::Mma::Scores>(q.at(offset + c), k.at(offset + c), is_odd ? odd_scores : scores,
                                                       i > 0 || c / Config::kChunkRowBytes > is_odd);
      }
    }
    device::wgmma_commit();
  }

  __device__ __forceinline__ void finish_scores(float (&scores)[Config::kScores],
                                                float (&odd_scores)[Config::kScores]) {
    device::wgmma_wait<0>();
    device::pin_registers(scores);
    if constexpr (!Config::kInOrder) {
      device::pin_registers(odd_scores);
#pragma unroll
      for (int i = 0; i < Config::kScores; ++i) scores[i] += odd_scores[i];
    }
  }

  // Softmax of an own block.
  __device__ __forceinline__ void weigh(float (&scores)[Config::kScores], uint32_t (&weights)[Config::kWeights],
                                        float (&factors)[2]) {
    factors[0] = factors[1] = 1.0f;
    float scale = fabsf(scale_log2_);
    float block_max[2] = {-device::kInfinity, -device::kInfinity};
#pragma unroll
    for (int i = 0; i < Config::kScores; ++i) block_max[i / 2 % 2] = fmaxf(block_max[i / 2 % 2], scores[i]);
    block_max[0] *= scale;
    block_max[1] *= scale;
    if constexpr (Config::kFindsLargest) {
      largest_[0] = fmaxf(largest_[0], block_max[0]);
      largest_[1] = fmaxf(largest_[1], block_max[1]);
    }
    if (__any_sync(~0u, block_max[0] > row_max_[0] + Config::kMaxLag || block_max[1] > row_max_[1] + Config::kMaxLag)) {
      exceed(block_max, factors);
    }
    float origin[2] = {row_max_[0] == -device::kInfinity ? 0.0f : row_max_[0],
                       row_max_[1] == -device::kInfinity ? 0.0f : row_max_[1]};
    // A product that is not rounded may exceed the maximum, which was rounded: by a lot where they are large.
    if (__any_sync(~0u, fmaxf(fabsf(origin[0]), fabsf(origin[1])) > Config::kLargeMax)) {
#pragma unroll
      for (int i = 0; i < Config::kScores; ++i) scores[i] = __fsub_rn(__fmul_rn(scores[i], scale), origin[i / 2 % 2]);
      scale = 1.0f;
      origin[0] = origin[1] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < Config::kScores; i += 2) {
      const int r = i / 2 % 2;
      const float low = device::exp2_fast(fmaf(scores[i], scale, -origin[r]));
      const float high = device::exp2_fast(fmaf(scores[i + 1], scale, -origin[r]));
      row_sum_[r] += low + high;
      weights[i / 2] = device::pack<Element>(low, high);
    }
  }

  // Moves the maxima of rows that exceed them by more than the lag.
  __device__ __forceinline__ void exceed(float (&block_max)[2], float (&factors)[2]) {
    float row_max[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      block_max[r] = device::max_over_quad(block_max[r]);
      row_max[r] = block_max[r] > row_max_[r] + Config::kMaxLag ? block_max[r] : row_max_[r];
    }
    move_maxima(row_max, factors);
  }

  __device__ __forceinline__ static float factor_of(float old_max, float new_max) {
    return old_max == new_max ? 1.0f : device::exp2_fast(old_max - new_max);
  }

  __device__ __forceinline__ void rescale_outputs(const float (&factors)[2]) {
    if (__any_sync(~0u, factors[0] != 1.0f || factors[1] != 1.0f)) scale_outputs(factors);
  }

  __device__ __forceinline__ void scale_outputs(const float (&factors)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int i = 2 * r; i < Config::kOutputs; i += 4) {
        out_[i] *= factors[r];
        out_[i + 1] *= factors[r];
      }
    }
  }

  // Makes sums of weights relative to other maxima; outputs still have to be multiplied by the factors.
  __device__ __forceinline__ void move_maxima(const float (&row_max)[2], float (&factors)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      factors[r] = factor_of(row_max_[r], row_max[r]);
      row_sum_[r] *= factors[r];
      row_max_[r] = row_max[r];
    }
  }

  // Leaves an own block's weights for the same warp of the other warpgroup.
  __device__ __forceinline__ void hand_over(const uint32_t (&weights)[Config::kWeights]) {
    auto& place = shared_.k[self_][Config::kLastTile].weights[warp()];
#pragma unroll
    for (int i = 0; i < Config::kWeights / 4; ++i) {
      place[i][lane_] = make_uint4(weights[4 * i], weights[4 * i + 1], weights[4 * i + 2], weights[4 * i + 3]);
    }
    shared_.row_max[self_][threadIdx.x % 128] = make_float2(row_max_[0], row_max_[1]);
    device::arrive(shared_.weights_full[self_][warp()]);
  }

  // The weights of a block of the other stage, and what outputs have to be multiplied by before these are added to them.
  __device__ __forceinline__ void receive(uint32_t (&weights)[Config::kWeights], float (&factors)[2]) {
    const int other = 1 - self_;
    device::wait(shared_.weights_full[other][warp()], others_blocks_ % 2);
    const auto& place = shared_.k[other][Config::kLastTile].weights[warp()];
#pragma unroll
    for (int i = 0; i < Config::kWeights / 4; ++i) {
      const uint4 vector = place[i][lane_];
      weights[4 * i] = vector.x;
      weights[4 * i + 1] = vector.y;
      weights[4 * i + 2] = vector.z;
      weights[4 * i + 3] = vector.w;
    }
    const float2 others = shared_.row_max[other][threadIdx.x % 128];
    move_maxima({others.x, others.y}, factors);
  }

  // out += weights · v, started but not waited for.
  __device__ __forceinline__ void multiply_values(uint32_t (&weights)[Config::kWeights], int stage, bool is_first) {
    constexpr int kChunks = Config::kBlockN / Config::kChunk;
    const auto values = device::column_major_operand(shared_.k[stage] + self_ * Config::kHalfTiles, Config::kTileBytes);
    device::pin_registers(weights);
    device::pin_registers(out_);
    device::wgmma_fence();
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const uint32_t chunk[4] = {weights[4 * c], weights[4 * c + 1], weights[4 * c + 2], weights[4 * c + 3]};
#pragma unroll
      for (int t = 0; t < Config::kHalfTiles; t += Config::kOutputTiles) {
        auto& out =
            reinterpret_cast<float(&)[Config::kOutputTiles * Config::kTileOutputs]>(out_[t * Config::kTileOutputs]);
        const uint64_t operand = values.at(c * Config::kChunkColumnBytes + t * Config::kTileBytes);
        device::multiply<typename Config::Mma::Outputs>(chunk, operand, out, c > 0 || !is_first);
      }
      if ((c + 1) % (kChunks / Config::kParts) == 0) device::wgmma_commit();
    }
  }

  // Then this warpgroup is done with its half of the stage's values; and with the weights, which were the last to be there.
  __device__ __forceinline__ void finish_values(int stage) {
    if constexpr (Config::kParts == 2) {
      device::wgmma_wait<1>();
      role().give_back(stage, 0);
    }
    device::wgmma_wait<0>();
    device::pin_registers(out_);
    role().give_back(stage, Config::kParts - 1);
  }

  // Sums over the blocks of both warpgroups; relative to maxima that then both have.
  __device__ __forceinline__ void exchange_sums() {
    if (!role().is_sound()) row_sum_[0] = row_sum_[1] = device::kNaN;
#pragma unroll
    for (float& sum : row_sum_) sum = device::sum_over_quad(sum);
    // In turn, so that the next ones are not written while these are read.
    auto& sums = shared_.sums[items_ % 2];
    const int pair = threadIdx.x % 128 / 4;
    if (lane_ % 4 == 0) sums[self_][pair] = make_float4(row_max_[0], row_max_[1], row_sum_[0], row_sum_[1]);
    if constexpr (Config::kFindsLargest) {
#pragma unroll
      for (float& x : largest_) x = device::max_over_quad(x);
      if (lane_ % 4 == 0) shared_.largest[items_ % 2][self_][pair] = make_float2(largest_[0], largest_[1]);
    }
    device::arrive(shared_.sums_full);
    device::wait(shared_.sums_full, items_ % 2);
    const float4 others = sums[1 - self_][pair];
    const float row_max[2] = {fmaxf(row_max_[0], others.x), fmaxf(row_max_[1], others.y)};
    move_maxima(row_max, out_factor_);
    row_sum_[0] += others.z * factor_of(others.x, row_max[0]);
    row_sum_[1] += others.w * factor_of(others.y, row_max[1]);
    if constexpr (Config::kFindsLargest) {
      const float2 other = shared_.largest[items_ % 2][1 - self_][pair];
      largest_[0] = fmaxf(largest_[0], other.x);
      largest_[1] = fmaxf(largest_[1], other.y);
    }
  }
};

// Makes the barriers between loading and multiplying warps ready; by one thread. Each tile of keys is full after
// `key_arrivals` (stage, tile), and queries after `query_arrivals`. What was read is given back by each thread for itself:
// compute-sanitizer's racecheck does not follow one that arrives for its warp.
template <typename Config, typename KeyArrivals>
__device__ __forceinline__ void init_barriers(typename Config::SharedStorage& shared, int query_arrivals,
                                              const KeyArrivals& key_arrivals) {
  for (int stage = 0; stage < Config::kStages; ++stage) {
    for (int tile = 0; tile < Config::kTiles; ++tile) {
      device::init_barrier(shared.full[stage][tile], key_arrivals(stage, tile));
    }
    for (auto& parts : shared.empty[stage]) {
      for (auto& empty : parts) device::init_barrier(empty, Config::kEmptyArrivals);
    }
    for (auto& full : shared.weights_full[stage]) device::init_barrier(full, 32);
  }
  device::init_barrier(shared.sums_full, Config::kMathThreads);
  device::init_barrier(shared.q_full, query_arrivals);
  device::init_barrier(shared.q_empty, Config::kMathThreads);
  device::fence_barrier_init();
}

}  // namespace jax_flash_mla::mla_sm90
