// SM90 multi-head attention, forward: tiles of 128 query tokens of a head over blocks of 128 keys.
//
// Two warpgroups multiply, 64 queries each, and a warp loads by the copy engine: queries of a tile, then keys and values in
// turn, from the last block to the first, two of each in shared memory. While the scores of one block are exponentiated, the
// tensor cores have the values of the one before, and the other warpgroup's products.
//
//   warpgroup w   scores 0 | softmax 0 | scores 1 | values 0   | scores 2 | values 1   | ...
//                                      |          | softmax 1  |          | softmax 2  |
//
// Maxima lag behind: they move only when a row exceeds its own by 2^8, because moving them means rescaling outputs.
#pragma once

#include "cuda/device/accumulators.cuh"
#include "cuda/device/barrier.cuh"
#include "cuda/device/copy.cuh"
#include "cuda/device/math.cuh"
#include "cuda/device/wgmma.cuh"
#include "cuda/mha/tiles.cuh"
#include "cuda/sm90/mha_forward/config.h"

namespace jax_flash_mla::mha_forward_sm90 {

// How the copy engine sees operands: rows of all heads' columns, in boxes of 64 columns by 128 rows.
struct Maps {
  CUtensorMap q, k, v;
};

// ---------------------------------------------------------------------------------------------------------------------
// The warp that loads.

template <typename Config>
class Loader {
 public:
  __device__ __forceinline__ Loader(const MhaForwardParams& params, const Maps& maps,
                                    typename Config::SharedStorage& shared)
      : params_(params), maps_(maps), shared_(shared) {}

  __device__ __forceinline__ void run() {
    mha::Tiles<Config::kBlockM> tiles(params_.queries, params_.h_q);
    uint32_t count = 0, round = 0;
    for (; tiles.next(); ++count) {
      const mha::Tile& tile = tiles.current;
      const MhaRange& range = params_.queries.ranges[tile.range];
      const Item item = describe(tile, range);
      announce(item, count);
      const int first_key = tile.pack * params_.tokens_kv + range.other_first;
      const int key_head = item.head / (params_.h_q / params_.h_kv);
#pragma unroll 1
      for (int block = item.blocks - 1; block >= 0; --block, ++round) {
        const int stage = round % Config::kStages, row = first_key + block * Config::kBlockN;
        const uint32_t parity = (round / Config::kStages + 1) % 2;
        device::wait(shared_.k_empty[stage], parity);
        load(shared_.k[stage], maps_.k, shared_.k_full[stage], key_head * Config::kDimQK, row);
        device::wait(shared_.v_empty[stage], parity);
        load(shared_.v[stage], maps_.v, shared_.v_full[stage], key_head * Config::kDimV, row);
      }
    }
    announce({}, count);
  }

 private:
  const MhaForwardParams& params_;
  const Maps& maps_;
  typename Config::SharedStorage& shared_;

  // Backwards along the queries: of a causal sequence the longest tiles come first.
  __device__ __forceinline__ Item describe(const mha::Tile& tile, const MhaRange& range) const {
    const MhaSide& queries = params_.queries;
    const int first = (tile.is_gap ? tile.block : tile.blocks - 1 - tile.block) * Config::kBlockM;
    const int before = tile.is_gap ? range.first + range.length : range.first;
    Item item;
    item.first_row = int64_t(tile.pack) * queries.tokens + before + first;
    item.rows = min(Config::kBlockM, (tile.is_gap ? range.gap : range.length) - first);
    item.head = tile.head;
    item.keys = tile.is_gap ? 0 : range.other_length;
    // Aligned at the last key: query i of n sees the keys up to i + keys - n.
    item.first_visible = params_.causal && !tile.is_gap ? first + 1 + item.keys - range.length : item.keys;
    const int seen = params_.causal ? min(item.first_visible + item.rows - 1, item.keys) : item.keys;
    item.blocks = (max(seen, 0) + Config::kBlockN - 1) / Config::kBlockN;
    item.pack = tile.is_gap && !queries.ranges[tile.pack * (queries.sequences + 1)].sound ? tile.pack : -1;
    return item;
  }

  // Once the item before needs its queries no more.
  __device__ __forceinline__ void announce(const Item& item, uint32_t count) {
    device::wait(shared_.q_empty, (count + 1) % 2);
    if (threadIdx.x % 32 == 0) shared_.items[count % 2] = item;
    if (item.blocks > 0) {
      load(shared_.q, maps_.q, shared_.q_full, item.head * Config::kDimQK, int(item.first_row));
    } else if (threadIdx.x % 32 == 0) {
      device::arrive(shared_.q_full);
    }
  }

  // Tiles side by side, one by each lane.
  template <int Tiles>
  __device__ __forceinline__ void load(typename Config::Tile (&tiles)[Tiles], const CUtensorMap& map,
                                       device::Barrier& full, int first_column, int row) {
    const int lane = threadIdx.x % 32;
    if (lane == 0) device::arrive_and_expect(full, Tiles * Config::kTileBytes);
    __syncwarp();
    if (lane < Tiles) {
      device::copy_box(tiles[lane].elements, map, full, first_column + lane * Config::kTileColumns, row);
    }
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// The warpgroups that multiply.

template <typename Config>
class Attention {
 public:
  __device__ __forceinline__ Attention(const MhaForwardParams& params, const Grid& grid,
                                       typename Config::SharedStorage& shared, int self)
      : params_(params), shared_(shared), self_(self), lane_(threadIdx.x % 32), scale_log2_(grid.scale_log2) {}

  __device__ __forceinline__ void run() {
    for (;; ++items_) {
      device::wait(shared_.q_full, items_ % 2);
      if (item().rows == 0) break;
      start();
      if (item().blocks > 0) {
        attend();
      } else {
        device::arrive(shared_.q_empty);
      }
      write();
    }
  }

 private:
  using Element = typename Config::Element;

  const MhaForwardParams& params_;
  typename Config::SharedStorage& shared_;
  const int self_, lane_;
  const float scale_log2_;
  uint32_t items_ = 0, round_ = 0;  // items, and blocks, before

  // Of both rows that this thread has of the accumulators. Maxima are base 2.
  float out_[Config::kOutputs];
  float row_max_[2];  // what out_ and row_sum_ are relative to
  float row_sum_[2];  // over this thread's columns; of all, in the end

  __device__ __forceinline__ const Item& item() const { return shared_.items[items_ % 2]; }
  // The first of this thread's rows of the tile; the other one is 8 below.
  __device__ __forceinline__ int row() const { return self_ * 64 + threadIdx.x / 32 % 4 * 16 + lane_ / 4; }

  // This warp's products no longer read what the barrier stands for: they have been waited for by all lanes at once.
  __device__ __forceinline__ void release(device::Barrier& barrier) {
    if (lane_ == 0) device::arrive(barrier);
  }

  __device__ __forceinline__ void start() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      row_max_[r] = -device::kInfinity;
      row_sum_[r] = 0.0f;
    }
    for (float& x : out_) x = 0.0f;
  }

  __device__ __forceinline__ void attend() {
    float scores[Config::kScores];
    uint32_t weights[Config::kWeights];
    float factors[2];
    int block = item().blocks - 1;
    multiply_scores(scores, round_);
    device::wgmma_wait<0>();
    device::pin_registers(scores);
    release(shared_.k_empty[stage(round_)]);
    if (block == 0) device::arrive(shared_.q_empty);
    if ((block + 1) * Config::kBlockN > item().keys) clear_values(item().keys - block * Config::kBlockN);
    mask(scores, block);
    exponentiate(scores, factors);
    pack(scores, weights);
#pragma unroll 1
    for (; block > 0; ++round_) {
      multiply_scores(scores, round_ + 1);
      multiply_values(weights, round_);
      device::wgmma_wait<1>();
      device::pin_registers(scores);
      release(shared_.k_empty[stage(round_ + 1)]);
      if (--block == 0) device::arrive(shared_.q_empty);
      mask(scores, block);
      const bool moves = exponentiate(scores, factors);
      device::wgmma_wait<0>();
      device::pin_registers(out_);
      device::pin_registers(weights);
      release(shared_.v_empty[stage(round_)]);
      if (moves) rescale(factors);
      pack(scores, weights);
    }
    multiply_values(weights, round_);
    device::wgmma_wait<0>();
    device::pin_registers(out_);
    release(shared_.v_empty[stage(round_)]);
    ++round_;
  }

  __device__ __forceinline__ static int stage(uint32_t round) { return round % Config::kStages; }
  __device__ __forceinline__ static uint32_t parity(uint32_t round) { return round / Config::kStages % 2; }

  // scores = q · kᵀ of a block, started but not waited for.
  __device__ __forceinline__ void multiply_scores(float (&scores)[Config::kScores], uint32_t round) {
    const auto q = device::row_major_operand(shared_.q[0].elements + self_ * 64 * Config::kTileColumns);
    const auto k = device::row_major_operand(shared_.k[stage(round)]);
    device::wait(shared_.k_full[stage(round)], parity(round));
    device::pin_registers(scores);
    device::wgmma_fence();
#pragma unroll
    for (int t = 0; t < Config::kKeyTiles; ++t) {
#pragma unroll
      for (int c = 0; c < Config::kTileRowBytes; c += Config::kChunkRowBytes) {
        const int offset = t * Config::kTileBytes + c;
        device::multiply<typename Config::Mma::Scores>(q.at(offset), k.at(offset), scores, t > 0 || c > 0);
      }
    }
    device::wgmma_commit();
  }

  // out += weights · v of a block, started but not waited for.
  __device__ __forceinline__ void multiply_values(uint32_t (&weights)[Config::kWeights], uint32_t round) {
    const auto v = device::column_major_operand(shared_.v[stage(round)], Config::kTileBytes);
    device::wait(shared_.v_full[stage(round)], parity(round));
    device::pin_registers(weights);
    device::pin_registers(out_);
    device::wgmma_fence();
#pragma unroll
    for (int c = 0; c < Config::kBlockN / Config::kChunk; ++c) {
      const uint32_t chunk[4] = {weights[4 * c], weights[4 * c + 1], weights[4 * c + 2], weights[4 * c + 3]};
      device::multiply<typename Config::Mma::Outputs>(chunk, v.at(c * Config::kChunkColumnBytes), out_, true);
    }
    device::wgmma_commit();
  }

  // Zeros for the values past the sequence's last key: they are another's, and zero weight times NaN is NaN. By both warpgroups,
  // once for an item.
  __device__ __forceinline__ void clear_values(int first_row) {
    constexpr int kRowVectors = Config::kTileRowBytes / 16;
    device::wait(shared_.v_full[stage(round_)], parity(round_));
    for (int i = threadIdx.x; i < (Config::kBlockN - first_row) * kRowVectors; i += Config::kMathThreads) {
#pragma unroll
      for (int t = 0; t < Config::kValueTiles; ++t) {
        reinterpret_cast<uint4*>(shared_.v[stage(round_)][t].elements)[first_row * kRowVectors + i] =
            make_uint4(0, 0, 0, 0);
      }
    }
    device::fence_async_proxy();
    device::named_sync(kMathBarrier, Config::kMathThreads);
  }

  // Scores of either sign of the scale, -inf where a row may not attend.
  __device__ __forceinline__ void mask(float (&scores)[Config::kScores], int block) const {
    if (scale_log2_ < 0.0f) {
#pragma unroll
      for (float& x : scores) x = -x;
    }
    const int first_key = block * Config::kBlockN, keys = item().keys, first_visible = item().first_visible;
    const int of_warpgroup = params_.causal ? first_visible + self_ * 64 : first_visible;
    if (first_key + Config::kBlockN <= min(of_warpgroup, keys)) return;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int visible = params_.causal ? first_visible + row() + 8 * r : first_visible;
      const int columns = min(visible, keys) - first_key - lane_ % 4 * 2;
#pragma unroll
      for (int i = 2 * r; i < Config::kScores; i += 4) {
        if (i / 4 * 8 >= columns) scores[i] = -device::kInfinity;
        if (i / 4 * 8 + 1 >= columns) scores[i + 1] = -device::kInfinity;
      }
    }
  }

  // Scores become weights, in float32. Returns whether maxima have moved for this warp, outputs then to be multiplied by
  // `factors`.
  __device__ __forceinline__ bool exponentiate(float (&scores)[Config::kScores], float (&factors)[2]) {
    float scale = fabsf(scale_log2_);
    float block_max[2] = {-device::kInfinity, -device::kInfinity};
#pragma unroll
    for (int i = 0; i < Config::kScores; ++i) block_max[i / 2 % 2] = fmaxf(block_max[i / 2 % 2], scores[i]);
    block_max[0] *= scale;
    block_max[1] *= scale;
    const bool moves =
        __any_sync(~0u, block_max[0] > row_max_[0] + Config::kMaxLag || block_max[1] > row_max_[1] + Config::kMaxLag);
    if (moves) move_maxima(block_max, factors);
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
    for (int i = 0; i < Config::kScores; ++i) {
      scores[i] = device::exp2_fast(fmaf(scores[i], scale, -origin[i / 2 % 2]));
      row_sum_[i / 2 % 2] += scores[i];
    }
    return moves;
  }

  // Of rows that exceed their maximum by more than the lag.
  __device__ __forceinline__ void move_maxima(float (&block_max)[2], float (&factors)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      block_max[r] = device::max_over_quad(block_max[r]);
      const float moved = block_max[r] > row_max_[r] + Config::kMaxLag ? block_max[r] : row_max_[r];
      factors[r] = moved == row_max_[r] ? 1.0f : device::exp2_fast(row_max_[r] - moved);
      row_sum_[r] *= factors[r];
      row_max_[r] = moved;
    }
  }

  __device__ __forceinline__ void rescale(const float (&factors)[2]) {
#pragma unroll
    for (int i = 0; i < Config::kOutputs; ++i) out_[i] *= factors[i / 2 % 2];
  }

  __device__ __forceinline__ static void pack(const float (&scores)[Config::kScores],
                                              uint32_t (&weights)[Config::kWeights]) {
#pragma unroll
    for (int i = 0; i < Config::kWeights; ++i) weights[i] = device::pack<Element>(scores[2 * i], scores[2 * i + 1]);
  }

  // Normalises outputs and writes them.
  __device__ __forceinline__ void write() {
    const Item item = this->item();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      row_sum_[r] = device::sum_over_quad(row_sum_[r]);
      const int row = this->row() + 8 * r;
      const bool exists = row < item.rows;
      const int64_t place = (item.first_row + (exists ? row : 0)) * params_.h_q + item.head;
      if (item.pack >= 0 && exists) {
        const int token = int(item.first_row + row - int64_t(item.pack) * params_.queries.tokens);
        if (mha::is_claimed(params_.queries, item.pack, token)) row_sum_[r] = device::kNaN;
      }
      const bool attends = row_sum_[r] != 0.0f;
      if (exists && lane_ % 4 == 0) {
        params_.lse[place] = attends ? (row_max_[r] + log2f(row_sum_[r])) * device::kLn2 : -device::kInfinity;
      }
      device::store_row(out_, r, exists, static_cast<Element*>(params_.out) + place * Config::kDimV, !attends,
                        1.0f / row_sum_[r]);
    }
  }
};

// ---------------------------------------------------------------------------------------------------------------------

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    mha_forward_kernel(const __grid_constant__ MhaForwardParams params, const __grid_constant__ Grid grid,
                       const __grid_constant__ Maps maps) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<typename Config::SharedStorage*>(memory);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Config::kStages; ++stage) {
      device::init_barrier(shared.k_full[stage], 1);
      device::init_barrier(shared.k_empty[stage], Config::kMathWarps);
      device::init_barrier(shared.v_full[stage], 1);
      device::init_barrier(shared.v_empty[stage], Config::kMathWarps);
    }
    device::init_barrier(shared.q_full, 1);
    device::init_barrier(shared.q_empty, Config::kMathThreads);
    device::fence_barrier_init();
  }
  __syncthreads();

  const int warpgroup = device::uniform(threadIdx.x / 128);
  if (warpgroup == Config::kWarpgroups) {
    device::release_registers<Config::kLoaderRegisters>();
    if (threadIdx.x / 32 % 4 == 0) Loader<Config>(params, maps, shared).run();
  } else {
    device::claim_registers<Config::kMathRegisters>();
    Attention<Config>(params, grid, shared, warpgroup).run();
  }
}

}  // namespace jax_flash_mla::mha_forward_sm90
