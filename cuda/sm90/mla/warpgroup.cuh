// The two warpgroups that multiply: tiles of 64 query rows over blocks of 64 latent keys, which come from loading warps.
//
// Blocks go to two stages in turn. Warpgroup w computes the scores and weights of the blocks in stage w. Both add every
// block to the output, each to its own 256 columns, since 64 x 512 accumulators fill the registers of two warpgroups.
//
//   warpgroup 0 | scores 0 | softmax 0 | out 0 | out 1 | scores 2 | softmax 2 | out 2 | out 3 | ...
//   warpgroup 1 |    scores 1 | softmax 1 | out 1 | out 0 | scores 3 | softmax 3 | out 3 | out 2 | ...
//
// While one warpgroup is at its softmax, the other one has the tensor cores. A warpgroup is done with its half of the own
// block first, so that the next one is on its way while the other block's values are multiplied. Where blocks come more
// slowly than they are multiplied, both take them in their order (kInOrder): a block is then given back as soon as it may
// be. Tiles of 64 columns are waited for one by one: scores begin with the first that comes.
//
// Weights. A warp hands its weights to the same warp of the other warpgroup, lane by lane, behind the block's values.
//
// Maxima. Weights are relative to a maximum that lags behind: it moves only when a row exceeds it by 2^8, because moving
// it means rescaling the output. Each warpgroup moves its own, from the first block's by powers of two, so that weights
// relative to the other's maximum become relative to the own one without rounding.
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
//   void write()                   writes the results
//   void give_back(stage)          where more than this thread block's loaders wait for half of a stage's values
// and `Config` derives from Shape, and has SharedStorage, which derives from Shared, and
//   bool fences_tile(tile)         whether ordinary copies bring a tile of keys, which products then have to be fenced from
//   bool kFindsLargest             whether the largest scores themselves are wanted
//   bool kInOrder                  whether both warpgroups come to blocks in their order, not each to its own one first
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
      start();
      attend(role().begin());
      exchange_sums();
      role().write();
    }
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
  float row_max_[2];  // what out_ and row_sum_ are relative to
  float row_sum_[2];  // of own blocks' weights, over this thread's columns; of all, in the end
  float largest_[2];  // score, if that is wanted; likewise

  __device__ __forceinline__ int warp() const { return threadIdx.x / 32 % 4; }
  // The first of this thread's rows; the other one is 8 below.
  __device__ __forceinline__ int row() const { return warp() * 16 + lane_ / 4; }

  // Writes this warpgroup's columns of one of the thread's rows, if it exists, times a factor; zeros where no key is attended
  // to. `target` is where all columns of the row are. Called by all lanes.
  __device__ __forceinline__ void store_row(int r, bool exists, Element* target, float factor) const {
    device::store_row(out_, r, exists, target + self_ * Config::kHalfTiles * Config::kTileColumns, row_sum_[r] == 0.0f,
                      factor);
  }

  // This thread has done with the own half of a stage's values.
  __device__ __forceinline__ void give_back(int stage) const { device::arrive(shared_.empty[stage][self_]); }

 private:
  __device__ __forceinline__ Role& role() { return static_cast<Role&>(*this); }

  // Clears the state.
  __device__ __forceinline__ void start() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      row_max_[r] = -device::kInfinity;
      row_sum_[r] = 0.0f;
      if constexpr (Config::kFindsLargest) largest_[r] = -device::kInfinity;
    }
    for (float& x : out_) x = 0.0f;
  }

  __device__ __forceinline__ void attend(int blocks) {
    if (self_ >= blocks) device::arrive(shared_.q_empty);
    if constexpr (Config::kInOrder) {
#pragma unroll 1
      for (int block = 0; block < blocks; ++block) {
        if (block % Config::kStages == self_) {
          add_own(block, false, block + Config::kStages >= blocks);
        } else {
          add_others();
        }
      }
    } else {
#pragma unroll 1
      for (int block = 0; block < blocks; block += Config::kStages) {
        const int own = block + self_, other = block + 1 - self_;
        if (own < blocks) add_own(own, own < Config::kStages, own + Config::kStages >= blocks);
        if (other < blocks) add_others();
      }
    }
  }

  // A block of the own stage.
  __device__ __forceinline__ void add_own(int block, bool is_first, bool is_last) {
    float scores[Config::kScores];
    multiply_scores(scores);
    if (!role().is_sound(self_)) row_sum_[0] = row_sum_[1] = device::kNaN;
    device::wgmma_wait<0>();
    device::pin_registers(scores);
    if (is_last) device::arrive(shared_.q_empty);
    // All four warps have read the tile that the weights are to replace.
    device::named_sync(kWarpgroupBarrier + self_, 128);
    if (scale_log2_ < 0.0f) {
#pragma unroll
      for (float& x : scores) x = -x;
    }
    role().prepare(scores, block);
    if (self_ == 1 && is_first) adopt_maxima();
    uint32_t weights[Config::kWeights];
    weigh(scores, weights);
    hand_over(weights);
    add_outputs(weights, self_);
    ++own_blocks_;
  }

  // A block of the other stage.
  __device__ __forceinline__ void add_others() {
    uint32_t weights[Config::kWeights];
    receive(weights);
    add_outputs(weights, 1 - self_);
    ++others_blocks_;
  }

  // scores = q · kᵀ, started but not waited for; tile by tile as they come.
  __device__ __forceinline__ void multiply_scores(float (&scores)[Config::kScores]) {
    const auto q = device::row_major_operand(shared_.q);
    const auto k = device::row_major_operand(shared_.k[self_]);
    const int own_half = self_ * Config::kHalfTiles * Config::kTileBytes;
    device::pin_registers(scores);
#pragma unroll
    for (int i = 0; i < Config::kTiles; ++i) {
      // In the order in which they are loaded: the own half, the other one, the last tile.
      const int offset = i == Config::kValueTiles ? i * Config::kTileBytes
                         : i < Config::kHalfTiles ? i * Config::kTileBytes + own_half
                                                  : i * Config::kTileBytes - own_half;
      device::wait(shared_.full[self_][offset / Config::kTileBytes], own_blocks_ % 2);
      if (Config::fences_tile(offset / Config::kTileBytes)) device::fence_async_proxy();
      device::wgmma_fence();
#pragma unroll
      for (int c = 0; c < Config::kTileRowBytes; c += Config::kChunkRowBytes) {
        device::multiply<typename Config::Mma::Scores>(q.at(offset + c), k.at(offset + c), scores, i > 0 || c > 0);
      }
    }
    device::wgmma_commit();
  }

  // Softmax of an own block.
  __device__ __forceinline__ void weigh(float (&scores)[Config::kScores], uint32_t (&weights)[Config::kWeights]) {
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
      move_maxima(block_max);
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

  // Of rows that exceed their maximum by more than the lag: by whole numbers, but for the first.
  __device__ __forceinline__ void move_maxima(float (&block_max)[2]) {
    float new_max[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      block_max[r] = device::max_over_quad(block_max[r]);
      const float moved =
          row_max_[r] == -device::kInfinity ? block_max[r] : row_max_[r] + ceilf(block_max[r] - row_max_[r]);
      new_max[r] = block_max[r] > row_max_[r] + Config::kMaxLag ? moved : row_max_[r];
    }
    rescale(new_max);
  }

  __device__ __forceinline__ static float factor_of(float old_max, float new_max) {
    return old_max == new_max ? 1.0f : device::exp2_fast(old_max - new_max);
  }

  // Makes what was summed up relative to other maxima.
  __device__ __forceinline__ void rescale(const float (&row_max)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float factor = factor_of(row_max_[r], row_max[r]);
#pragma unroll
      for (int i = 2 * r; i < Config::kOutputs; i += 4) {
        out_[i] *= factor;
        out_[i + 1] *= factor;
      }
      row_sum_[r] *= factor;
      row_max_[r] = row_max[r];
    }
  }

  // Those of the other warpgroup's first block, so that both differ by whole numbers. Nothing was summed up yet.
  __device__ __forceinline__ void adopt_maxima() {
    device::wait(shared_.weights_full[0][warp()], others_blocks_ % 2);
    const float2 others = shared_.row_max[0][threadIdx.x % 128];
    row_max_[0] = others.x;
    row_max_[1] = others.y;
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

  // The weights of a block of the other stage, made relative to the own maxima.
  __device__ __forceinline__ void receive(uint32_t (&weights)[Config::kWeights]) {
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
    if (!__any_sync(~0u, others.x != row_max_[0] || others.y != row_max_[1])) return;
    const float others_max[2] = {others.x, others.y};
    const float row_max[2] = {fmaxf(row_max_[0], others.x), fmaxf(row_max_[1], others.y)};
    if (__any_sync(~0u, row_max[0] != row_max_[0] || row_max[1] != row_max_[1])) rescale(row_max);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float factor = factor_of(others_max[r], row_max[r]);
#pragma unroll
      for (int i = r; i < Config::kWeights; i += 2) weights[i] = device::scale_pair<Element>(weights[i], factor);
    }
  }

  // out += weights · v. Then this warpgroup is done with its half of the stage's values; and with the weights, which were
  // the last to be there.
  __device__ __forceinline__ void add_outputs(uint32_t (&weights)[Config::kWeights], int stage) {
    const auto values = device::column_major_operand(shared_.k[stage] + self_ * Config::kHalfTiles, Config::kTileBytes);
    device::pin_registers(weights);
    device::pin_registers(out_);
    device::wgmma_fence();
#pragma unroll
    for (int c = 0; c < Config::kBlockN / Config::kChunk; ++c) {
      const uint32_t chunk[4] = {weights[4 * c], weights[4 * c + 1], weights[4 * c + 2], weights[4 * c + 3]};
#pragma unroll
      for (int t = 0; t < Config::kHalfTiles; t += Config::kOutputTiles) {
        auto& out =
            reinterpret_cast<float(&)[Config::kOutputTiles * Config::kTileOutputs]>(out_[t * Config::kTileOutputs]);
        const uint64_t operand = values.at(c * Config::kChunkColumnBytes + t * Config::kTileBytes);
        device::multiply<typename Config::Mma::Outputs>(chunk, operand, out, true);
      }
    }
    device::wgmma_commit();
    device::wgmma_wait<0>();
    device::pin_registers(out_);
    role().give_back(stage);
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
    rescale(row_max);
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
    for (auto& empty : shared.empty[stage]) device::init_barrier(empty, Config::kEmptyArrivals);
    for (auto& full : shared.weights_full[stage]) device::init_barrier(full, 32);
  }
  device::init_barrier(shared.sums_full, Config::kMathThreads);
  device::init_barrier(shared.q_full, query_arrivals);
  device::init_barrier(shared.q_empty, Config::kMathThreads);
  device::fence_barrier_init();
}

}  // namespace jax_flash_mla::mla_sm90
