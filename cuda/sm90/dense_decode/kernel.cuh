// SM90 dense decode: attention of tiles of 64 query rows over paged keys.
//
// Roles. Two warpgroups multiply, a third loads. Blocks of 64 keys go to two stages in turn. Warpgroup w computes the
// scores and weights of the blocks in stage w. Both add every block to the output, each to its own 256 columns, since
// 64 x 512 accumulators fill the registers of two warpgroups.
//
//   warpgroup 0 | scores 0 | softmax 0 | out 0 | out 1 | scores 2 | softmax 2 | out 2 | out 3 | ...
//   warpgroup 1 |    scores 1 | softmax 1 | out 1 | out 0 | scores 3 | softmax 3 | out 3 | out 2 | ...
//
// While one warpgroup is at its softmax, the other one has the tensor cores. A warpgroup is done with its half of the own
// block first, so that the next one is on its way while the other block's values are multiplied. Tiles of 64 columns are
// waited for one by one: scores begin with the first that comes.
//
// Weights. A warp hands its weights to the same warp of the other warpgroup, lane by lane, in the block's last tile, which
// only scores need.
//
// Maxima. Weights are relative to a maximum that lags behind: it moves only when a row exceeds it by 2^8, because moving
// it means rescaling the output. Each warpgroup moves its own, from the first block's by powers of two, so that weights
// relative to the other's maximum become relative to the own one without rounding.
#pragma once

#include <cooperative_groups.h>

#include "cuda/device/barrier.cuh"
#include "cuda/device/math.cuh"
#include "cuda/device/wgmma.cuh"
#include "cuda/sm90/dense_decode/combine.cuh"
#include "cuda/sm90/dense_decode/config.h"
#include "cuda/sm90/dense_decode/loader.cuh"
#include "cuda/sm90/dense_decode/schedule.cuh"
#include "cuda/sm90/dense_decode/tile.cuh"

namespace jax_flash_mla::dense_decode_sm90 {

// ---------------------------------------------------------------------------------------------------------------------
// Multiplying warps

template <typename Config>
class Warpgroup {
 public:
  __device__ __forceinline__ Warpgroup(const DenseDecodeParams& params, const Grid& grid,
                                       typename Config::SharedStorage& shared, int self)
      : params_(params), grid_(grid), shared_(shared), self_(self), lane_(threadIdx.x % 32) {}

  // Whether results are to be combined.
  __device__ __forceinline__ bool run() {
    for (;; ++items_) {
      device::wait(shared_.q_full, items_ % 2);
      device::fence_async_proxy();
      if (item().request < 0) break;
      start();
      attend();
      write();
    }
    return !item().whole;
  }

 private:
  using Element = typename Config::Element;

  const DenseDecodeParams& params_;
  const Grid& grid_;
  typename Config::SharedStorage& shared_;
  const int self_, lane_;
  uint32_t own_blocks_ = 0, others_blocks_ = 0;  // that were multiplied
  uint32_t items_ = 0;

  // Of both rows that this thread has of the accumulators. Maxima are base 2.
  float out_[Config::kOutputs];
  float row_max_[2];  // what out_ and row_sum_ are relative to
  float row_sum_[2];  // of own blocks' weights, over this thread's columns

  // Read anew from shared memory wherever it is wanted, since registers are few.
  __device__ __forceinline__ const Item& item() const { return shared_.items[items_ % 2]; }
  __device__ __forceinline__ int warp() const { return threadIdx.x / 32 % 4; }
  // The first of this thread's rows; the other one is 8 below.
  __device__ __forceinline__ int row() const { return warp() * 16 + lane_ / 4; }

  // Clears the state.
  __device__ __forceinline__ void start() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      row_max_[r] = -device::kInfinity;
      row_sum_[r] = 0.0f;
    }
    for (float& x : out_) x = 0.0f;
  }

  __device__ __forceinline__ void attend() {
    const int first = item().first_block, blocks = item().last_block - first;
    // Counted from `first`, as far as blocks go: the first that not every row may attend to as a whole, and the first that
    // not all keys are there of.
    const int unmasked = min(max(item().visible_to_all / Config::kBlockN - first, 0), blocks);
    const int full = min(item().keys / Config::kBlockN - first, blocks);
    if (self_ >= blocks) release(shared_.q_empty);
#pragma unroll 1
    for (int block = 0; block < blocks; block += Config::kStages) {
      const int own = block + self_, other = block + 1 - self_;
      if (own < blocks) {
        add_own(first + own, own >= unmasked, own >= full, own < Config::kStages, own + Config::kStages >= blocks);
      }
      if (other < blocks) add_others();
    }
  }

  // A block of the own stage.
  __device__ __forceinline__ void add_own(int block, bool is_masked, bool is_partial, bool is_first, bool is_last) {
    float scores[Config::kScores];
    multiply_scores(scores);
    if (shared_.unsound[self_]) row_sum_[0] = row_sum_[1] = device::kNaN;
    device::wgmma_wait<0>();
    device::pin_registers(scores);
    if (is_last) release(shared_.q_empty);
    // All four warps have read the tile that the weights are to replace.
    device::named_sync(kWarpgroupBarrier + self_, 128);
    const int first_key = block * Config::kBlockN;
    if (is_partial) clear_values(item().keys - first_key);
    if (grid_.scale_log2 < 0.0f) {
#pragma unroll
      for (float& x : scores) x = -x;
    }
    if (is_masked) mask(scores, first_key);
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
      device::wgmma_fence();
#pragma unroll
      for (int c = 0; c < Config::kTileRowBytes; c += Config::kChunkRowBytes) {
        device::multiply<typename Config::Mma::Scores>(q.at(offset + c), k.at(offset + c), scores, i > 0 || c > 0);
      }
    }
    device::wgmma_commit();
  }

  // Zeros for the values past the length: a slot there may hold anything, and zero weight times NaN is NaN.
  __device__ __forceinline__ void clear_values(int first_row) {
    constexpr int kRowVectors = Config::kTileRowBytes / 16;
    for (int i = threadIdx.x % 128; i < (Config::kBlockN - first_row) * kRowVectors; i += 128) {
#pragma unroll 1
      for (int t = 0; t < Config::kValueTiles; ++t) {
        reinterpret_cast<uint4*>(shared_.k[self_][t].elements)[first_row * kRowVectors + i] = make_uint4(0, 0, 0, 0);
      }
    }
    device::fence_async_proxy();
    device::named_sync(kWarpgroupBarrier + self_, 128);
  }

  // Softmax of an own block.
  __device__ __forceinline__ void weigh(float (&scores)[Config::kScores], uint32_t (&weights)[Config::kWeights]) {
    float scale = fabsf(grid_.scale_log2);
    float block_max[2] = {-device::kInfinity, -device::kInfinity};
#pragma unroll
    for (int i = 0; i < Config::kScores; ++i) block_max[i / 2 % 2] = fmaxf(block_max[i / 2 % 2], scores[i]);
    block_max[0] *= scale;
    block_max[1] *= scale;
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

  // -inf where a row may not attend.
  __device__ __forceinline__ void mask(float (&scores)[Config::kScores], int first_key) const {
    const Tile tile(grid_, item().tile);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int tile_row = min(row() + 8 * r, tile.rows - 1);
      const int columns = visible_keys(params_, grid_, tile, item().keys, tile_row) - first_key - lane_ % 4 * 2;
#pragma unroll
      for (int i = 2 * r; i < Config::kScores; i += 4) {
        if (i / 4 * 8 >= columns) scores[i] = -device::kInfinity;
        if (i / 4 * 8 + 1 >= columns) scores[i + 1] = -device::kInfinity;
      }
    }
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
    auto& place = shared_.k[self_][Config::kValueTiles].weights[warp()];
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
    const auto& place = shared_.k[other][Config::kValueTiles].weights[warp()];
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
      device::multiply<typename Config::Mma::Outputs>(chunk, values.at(c * Config::kChunkColumnBytes), out_, true);
    }
    device::wgmma_commit();
    device::wgmma_wait<0>();
    device::pin_registers(out_);
    release(shared_.empty[stage][self_]);
  }

  // This warp no longer reads what the barrier stands for.
  __device__ __forceinline__ void release(device::Barrier& barrier) {
    __syncwarp();
    if (lane_ == 0) device::arrive(barrier);
  }

  // Sums over the blocks of both warpgroups; relative to maxima that then both have.
  __device__ __forceinline__ void exchange_sums() {
    if (!item().sound) row_sum_[0] = row_sum_[1] = device::kNaN;
#pragma unroll
    for (float& sum : row_sum_) sum = device::sum_over_quad(sum);
    // In turn, so that the next ones are not written while these are read.
    auto& sums = shared_.sums[items_ % 2];
    sums[self_][threadIdx.x % 128] = make_float4(row_max_[0], row_max_[1], row_sum_[0], row_sum_[1]);
    device::arrive(shared_.sums_full);
    device::wait(shared_.sums_full, items_ % 2);
    const float4 others = sums[1 - self_][threadIdx.x % 128];
    const float row_max[2] = {fmaxf(row_max_[0], others.x), fmaxf(row_max_[1], others.y)};
    rescale(row_max);
    row_sum_[0] += others.z * factor_of(others.x, row_max[0]);
    row_sum_[1] += others.w * factor_of(others.y, row_max[1]);
  }

  // Normalises the tile's columns and writes them: as a result, or as a partial one.
  __device__ __forceinline__ void write() {
    exchange_sums();
    const Item item = this->item();
    const Tile tile(grid_, item.tile);
    const bool writes_lse = self_ == 0 && lane_ % 4 == 0;
    const int first_column = self_ * Config::kHalfTiles * Config::kTileColumns;
    const int slot = partial_tile(blockIdx.x, item.first_block == 0);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int tile_row = row() + 8 * r;
      const bool exists = tile_row < tile.rows;
      const bool attends = row_sum_[r] != 0.0f;
      const float lse_log2 = attends ? row_max_[r] + log2f(row_sum_[r]) : -device::kInfinity;
      if (item.whole) {
        const Row row(grid_, tile, exists ? tile_row : 0);
        const float lse = lse_log2 * device::kLn2;
        const float factor = attends ? keys_share(params_, item.request, row.head, lse) / row_sum_[r] : 0.0f;
        if (exists && writes_lse) params_.lse[row.lse_index(params_, item.request)] = lse;
        auto* target = static_cast<Element*>(params_.out) + row.index(params_, item.request) * Config::kDimV +
                       first_column + (lane_ % 4) * 8;
#pragma unroll
        for (int t = 0; t < Config::kHalfTiles; ++t) {
#pragma unroll
          for (int i = 0; i < Config::kTileOutputs; i += 16) {
            uint32_t pairs[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
              const float* x = out_ + t * Config::kTileOutputs + i + 4 * j + 2 * r;
              pairs[j] = device::pack<Element>(attends ? x[0] * factor : 0.0f, attends ? x[1] * factor : 0.0f);
            }
            device::transpose_quad(pairs);
            if (exists) {
              *reinterpret_cast<uint4*>(target + t * Config::kTileColumns + i * 2) =
                  make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
            }
          }
        }
      } else if (exists) {
        const float factor = 1.0f / row_sum_[r];
        if (writes_lse) params_.partial_lse[slot * Config::kBlockM + tile_row] = lse_log2;
        auto* target = reinterpret_cast<float4*>(params_.partial_out) + partial_vector(slot, self_, warp(), r, 0);
#pragma unroll
        for (int i = 0; i < Config::kOutputs; i += 8) {
          const float* x = out_ + i + 2 * r;
          target[i / 8 * 32] = attends ? make_float4(x[0] * factor, x[1] * factor, x[4] * factor, x[5] * factor)
                                       : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
      }
    }
  }
};

// ---------------------------------------------------------------------------------------------------------------------

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    dense_decode_kernel(const __grid_constant__ DenseDecodeParams params, const __grid_constant__ Grid grid,
                        const __grid_constant__ CUtensorMap keys) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<typename Config::SharedStorage*>(memory);
  if (threadIdx.x == 0) {
    device::prefetch_tensor_map(keys);
    for (int stage = 0; stage < Config::kStages; ++stage) {
      for (auto& full : shared.full[stage]) device::init_barrier(full, 1);
      for (auto& empty : shared.empty[stage]) device::init_barrier(empty, Config::kMathWarps / Config::kWarpgroups);
      for (auto& full : shared.weights_full[stage]) device::init_barrier(full, 32);
    }
    device::init_barrier(shared.sums_full, Config::kMathThreads);
    device::init_barrier(shared.q_full, Loader<Config>::kQueryArrivals);
    device::init_barrier(shared.q_empty, Config::kMathWarps);
    device::fence_barrier_init();
  }
  __syncthreads();

  const int warpgroup = device::uniform(threadIdx.x / 128);
  const auto all_blocks = cooperative_groups::this_grid();
  if (warpgroup == Config::kWarpgroups) {
    Loader<Config> loader(params, grid, keys, shared);
    device::release_registers<Config::kLoaderRegisters>();
    if (loader.run()) all_blocks.sync();
  } else {
    device::claim_registers<Config::kMathRegisters>();
    if (!Warpgroup<Config>(params, grid, shared, warpgroup).run()) return;
    all_blocks.sync();
    combine<Config>(params, grid, shared);
  }
}

}  // namespace jax_flash_mla::dense_decode_sm90
