// SM90 dense decode: attention of tiles of 64 query rows over paged keys.
//
// Roles. One producer warp loads blocks of 64 keys into two stages. Two warpgroups multiply: warpgroup w computes the
// scores and weights of the blocks in stage w, and both add every block to the output, each to its own 256 columns,
// since 64 x 512 accumulators fill the registers of two warpgroups.
//
//   producer      | load 0      | load 1      | load 2 (as its halves are free) | load 3 ...
//   warpgroup 0   | scores 0 | softmax 0 | out 0 |  scores 2 | out 1, softmax 2 | out 2 | scores 4 ...
//   warpgroup 1   |    scores 1 |      out 0, softmax 1 | out 1 |  scores 3 | out 2, softmax 3 | out 3 ...
//
// Softmax of one warpgroup runs under the products of the other, and under its own product of the block before. Blocks
// join the output in order, so the running maximum is a chain from block to block, handed over with the weights.
//
// Handing over. The owner of a block leaves its weights in the block's last tile, which only scores need, and its row
// maxima beside it; then it arrives on the stage's `ready`, on which the other one waits. When a warpgroup is done with
// its half of the values it frees that half for the producer (`empty`); the last tile is free when both are.
//
// The maximum lags: it moves only when a row exceeds it by 2^8, because moving it means rescaling the output.
#pragma once

#include "cuda/device/barrier.cuh"
#include "cuda/device/copy.cuh"
#include "cuda/device/math.cuh"
#include "cuda/device/wgmma.cuh"
#include "cuda/sm90/dense_decode/config.h"
#include "cuda/sm90/dense_decode/schedule.cuh"

namespace jax_flash_mla::dense_decode_sm90 {

// The tile of query rows that a thread block works on within an item.
struct Tile {
  int key_head;
  int first_row;  // of the key head's rows
  int rows;       // at most kBlockM

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

// The part e^lse / (e^lse + e^sink) of the probability that is the keys'; lse is not -inf.
__device__ __forceinline__ float keys_share(const DenseDecodeParams& params, int request, int head, float lse) {
  if (!params.attn_sink) return 1.0f;
  const int64_t sink_row = int64_t(request) * params.sink_rows / params.b;
  return 1.0f / (1.0f + __expf(params.attn_sink[sink_row * params.h_q + head] - lse));
}

// ---------------------------------------------------------------------------------------------------------------------
// Producer

template <typename Config>
__device__ void produce(const DenseDecodeParams& params, const Grid& grid, const Part& part, int grid_lane,
                        const KeyMaps& maps, typename Config::SharedStorage& shared) {
  // Each lane of the warp copies the boxes of some of a block's slots.
  const int lane = threadIdx.x % 32;
  const bool copies = lane * grid.box_slots < Config::kBlockN;
  uint32_t count = 0;

  Items<Config> items(params, grid, part, grid_lane);
  while (items.next()) {
    const Item item = items.current;
    const Tile tile(grid, item.tile);
    const int32_t* table = params.block_table + int64_t(item.request) * params.max_pages;

    for (int block = item.first_block; block < item.last_block; ++block, ++count) {
      const int stage = count % Config::kStages;
      const uint32_t free_parity = (count / Config::kStages + 1) % 2;

      // Where the box comes from. Beyond the length, and where the page is outside the pool, it is page -1: zeros.
      const int key = block * Config::kBlockN + (copies ? lane * grid.box_slots : 0);
      int page = -1;
      bool unsound = false;
      if (copies && key < item.extent.keys) {
        page = table[key / params.page_size];
        unsound = page < 0 || page >= params.num_pages;
        if (unsound) page = -1;
      }
      unsound = __any_sync(~0u, unsound);

      const auto load = [&](int first_tile, int last_tile, int box_tiles, const CUtensorMap& map,
                            device::Barrier& full) {
        if (lane == 0) device::arrive_and_expect(full, (last_tile - first_tile) * Config::kTileBytes);
        __syncwarp();
        if (copies) {
          for (int t = first_tile; t < last_tile; t += box_tiles) {
            device::copy_box(&shared.k[stage][t][lane * grid.box_slots * Config::kTileColumns], map, full, 0,
                             tile.key_head, key % params.page_size, page, t);
          }
        }
      };
      // The owner is done first with the values of the block before: its half comes first.
      for (int i = 0; i < Config::kWarpgroups; ++i) {
        const int half = (stage + i) % Config::kWarpgroups;
        device::wait(shared.empty[stage][half], free_parity);
        if (i == 0 && lane == 0) shared.unsound[stage] = unsound;  // the owner has read the one before
        const int first_tile = half * Config::kHalfTiles;
        load(first_tile, first_tile + Config::kHalfTiles, grid.box_tiles, maps.values, shared.full[stage][half]);
      }
      load(Config::kValueTiles, Config::kTiles, 1, maps.last_tile, shared.full[stage][Config::kWarpgroups]);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Warpgroups

template <typename Config>
class Warpgroup {
 public:
  __device__ __forceinline__ Warpgroup(const DenseDecodeParams& params, const Grid& grid,
                                       typename Config::SharedStorage& shared, int warpgroup)
      : params_(params),
        grid_(grid),
        shared_(shared),
        self_(warpgroup),
        thread_(threadIdx.x % 128),
        lane_(threadIdx.x % 32),
        row_((thread_ / 32) * 16 + lane_ / 4),
        // Clamped, so that a zero score times it is zero.
        scale_log2_(fminf(fmaxf(params.scale * device::kLog2E, -device::kMaxFloat), device::kMaxFloat)) {}

  __device__ void run(const Part& part, int grid_lane) {
    Items<Config> items(params_, grid_, part, grid_lane);
    if (!items.next()) return;
    load_queries(items.current);
    for (bool more = true; more;) {
      const Item item = items.current;
      start(item);
      // Own blocks; the one before each is added under its scores. That leaves the last one, where it is not own.
      const uint32_t blocks = item.last_block - item.first_block;
      const uint32_t skipped = (count_ + self_) % Config::kStages;
      for (uint32_t i = skipped; i < blocks; i += Config::kStages) {
        work_on(item.first_block + i, count_ + i, item.extent.keys, i > 0);
      }
      if ((blocks - skipped) % Config::kStages == 0 && blocks > 0) take_last(count_ + blocks - 1);
      count_ += blocks;
      exchange_sums();
      // Both warpgroups are done with the queries: the next ones come while the results go.
      more = items.next();
      if (more) load_queries(items.current);
      write(item);
    }
  }

 private:
  using Element = typename Config::Element;

  const DenseDecodeParams& params_;
  const Grid& grid_;
  typename Config::SharedStorage& shared_;
  const int self_, thread_, lane_;
  const int row_;  // this thread has rows row_ and row_ + 8 of the tile
  const float scale_log2_;
  uint32_t count_ = 0;  // blocks since the launch
  uint32_t items_ = 0;  // the same of items

  float out_[Config::kOutputColumns / 2];
  float row_max_[2];  // what out_ and row_sum_ are relative to, base 2
  float row_sum_[2];  // of the weights of own blocks, over this thread's columns
  int visible_[2];    // keys that each row may attend to
  int all_visible_;   // keys that every row of the tile may attend to

  // Starts to copy an item's queries to shared memory.
  __device__ __forceinline__ void load_queries(const Item& item) {
    const Tile tile(grid_, item.tile);
    const int row = threadIdx.x / 4;
    const bool exists = row < tile.rows;
    const int64_t index = Row(grid_, tile, exists ? row : 0).index(params_, item.request);
    const auto* source = static_cast<const Element*>(params_.q) + index * Config::kDimQK;
    constexpr int kChunksOfTile = Config::kTileColumns / 8;
    for (int chunk = threadIdx.x % 4; chunk < Config::kDimQK / 8; chunk += 4) {
      auto* target = reinterpret_cast<uint8_t*>(shared_.q[chunk / kChunksOfTile]);
      device::copy_16_bytes(target + device::swizzled_chunk(row, chunk % kChunksOfTile), source + chunk * 8, exists);
    }
  }

  // Clears the state, and waits for the queries.
  __device__ __forceinline__ void start(const Item& item) {
    const Tile tile(grid_, item.tile);
    // Aligned at the last key: query token i of s_q sees the keys up to i + length - s_q.
    const int keys = item.extent.keys;
    const auto visible = [&](int r) {
      const int64_t seen = int64_t(keys) + Row(grid_, tile, r).token + 1 - params_.s_q;
      return params_.causal ? int(max(min(seen, int64_t(keys)), int64_t(0))) : keys;
    };
    all_visible_ = visible(0);
    for (int i = 0; i < 2; ++i) {
      visible_[i] = visible(min(row_ + 8 * i, tile.rows - 1));
      row_max_[i] = -device::kInfinity;
      row_sum_[i] = item.extent.sound ? 0.0f : device::kNaN;
    }
    for (float& x : out_) x = 0.0f;

    device::wait_for_own_copies();
    device::fence_async_proxy();
    device::named_sync(kMathBarrier, Config::kMathThreads);
  }

  // An own block: scores, weights, output; and the output of the block before. `count`: of blocks before it.
  __device__ __forceinline__ void work_on(int block, uint32_t count, int keys, bool has_previous) {
    float scores[Config::kBlockN / 2];
    multiply_scores(scores, count);
    if (has_previous) {
      receive_weights(count - 1);
      add_received(count - 1);
      device::wgmma_wait<1>();
    } else {
      device::wgmma_wait<0>();
    }
    device::pin_registers(scores);
    // All four warps have read the tile that the weights are to replace.
    device::named_sync(kWarpgroupBarrier + self_, 128);

    const int first_key = block * Config::kBlockN;
    scale_scores(scores, first_key);
    float factor[2];
    const bool rescales = update_maximum(scores, factor);
    // The block before is given back ahead of the long part of the softmax: the next load waits for it.
    device::wgmma_wait<0>();
    device::pin_registers(out_);
    if (has_previous) release(1 - self_);
    if (rescales) rescale_output(factor);
    uint32_t weights[Config::kBlockN / 4];
    exponentiate(scores, weights);
    if (shared_.unsound[self_]) row_sum_[0] = row_sum_[1] = device::kNaN;
    if (keys - first_key < Config::kBlockN) clear_values(keys - first_key);
    hand_over(weights);
    add_own(weights);
    device::wgmma_wait<0>();
    device::pin_registers(out_);
    release(self_);
  }

  // The last block of an item, when it is the other warpgroup's.
  __device__ __forceinline__ void take_last(uint32_t count) {
    receive_weights(count);
    add_received(count);
    device::wgmma_wait<0>();
    device::pin_registers(out_);
    release(1 - self_);
  }

  // scores = q · kᵀ, started but not waited for; each part of the block as it comes, the own half first.
  __device__ __forceinline__ void multiply_scores(float (&scores)[Config::kBlockN / 2], uint32_t count) {
    device::pin_registers(scores);
#pragma unroll
    for (int i = 0; i < Config::kTiles; ++i) {
      const bool is_last = i == Config::kValueTiles;
      const int t = is_last ? i : (i + self_ * Config::kHalfTiles) % Config::kValueTiles;
      if (i % Config::kHalfTiles == 0) {
        device::wait(shared_.full[self_][t / Config::kHalfTiles], parity(count));
        device::wgmma_fence();
      }
      const uint64_t q = device::row_major_operand(shared_.q[t]);
      const uint64_t k = device::row_major_operand(shared_.k[self_][t]);
#pragma unroll
      for (int c = 0; c < Config::kTileColumns / Config::kChunk; ++c) {
        device::multiply<typename Config::Mma::Scores>(device::advance(q, c * Config::kChunkRowBytes),
                                                       device::advance(k, c * Config::kChunkRowBytes), scores,
                                                       i > 0 || c > 0);
      }
    }
    device::wgmma_commit();
  }

  // Scores times scale, base 2; -inf where a row may not attend.
  __device__ __forceinline__ void scale_scores(float (&scores)[Config::kBlockN / 2], int first_key) const {
#pragma unroll
    for (float& score : scores) score *= scale_log2_;
    // Not first_key + kBlockN: a request may have 2^31 - 1 keys.
    if (all_visible_ - first_key >= Config::kBlockN) return;
#pragma unroll
    for (int i = 0; i < Config::kBlockN / 2; ++i) {
      const int key = first_key + (i / 4) * 8 + (lane_ % 4) * 2 + i % 2;
      if (key >= visible_[row_of(i)]) scores[i] = -device::kInfinity;
    }
  }

  // Moves the maximum of rows that exceed it by more than the lag. Returns whether one of the warp's did; the output is
  // then to be multiplied by `factor`.
  __device__ __forceinline__ bool update_maximum(const float (&scores)[Config::kBlockN / 2], float (&factor)[2]) {
    float block_max[2] = {-device::kInfinity, -device::kInfinity};
#pragma unroll
    for (int i = 0; i < Config::kBlockN / 2; ++i) block_max[row_of(i)] = fmaxf(block_max[row_of(i)], scores[i]);
    bool moves = false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      block_max[r] = device::max_over_quad(block_max[r]);
      moves |= move_maximum(r, block_max[r] > row_max_[r] + Config::kMaxLag ? block_max[r] : row_max_[r], factor[r]);
    }
    return __any_sync(~0u, moves);
  }

  // Makes what a row has so far relative to another maximum, except for its output.
  __device__ __forceinline__ bool move_maximum(int r, float row_max, float& factor) {
    const bool moves = row_max != row_max_[r];
    factor = moves ? device::exp2_fast(row_max_[r] - row_max) : 1.0f;
    row_sum_[r] *= factor;
    row_max_[r] = row_max;
    return moves;
  }

  __device__ __forceinline__ void rescale_output(const float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < Config::kOutputColumns / 2; ++i) out_[i] *= factor[row_of(i)];
  }

  __device__ __forceinline__ void exponentiate(const float (&scores)[Config::kBlockN / 2],
                                               uint32_t (&weights)[Config::kBlockN / 4]) {
    float origin[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) origin[r] = row_max_[r] == -device::kInfinity ? 0.0f : row_max_[r];
#pragma unroll
    for (int i = 0; i < Config::kBlockN / 2; i += 2) {
      const int r = row_of(i);
      const float low = device::exp2_fast(scores[i] - origin[r]), high = device::exp2_fast(scores[i + 1] - origin[r]);
      row_sum_[r] += low + high;
      weights[i / 2] = device::pack<Element>(low, high);
    }
  }

  // Zeros for the values past the length: a slot there may hold anything, and zero weight times NaN is NaN.
  __device__ __forceinline__ void clear_values(int first_row) {
    constexpr int kRowVectors = device::kSwizzleRowBytes / 16;
    for (int i = thread_; i < (Config::kBlockN - first_row) * kRowVectors; i += 128) {
#pragma unroll
      for (int t = 0; t < Config::kValueTiles; ++t) {
        reinterpret_cast<uint4*>(shared_.k[self_][t])[first_row * kRowVectors + i] = make_uint4(0, 0, 0, 0);
      }
    }
    device::fence_async_proxy();
    device::named_sync(kWarpgroupBarrier + self_, 128);
  }

  // Leaves an own block's weights and maxima for the other warpgroup.
  __device__ __forceinline__ void hand_over(const uint32_t (&weights)[Config::kBlockN / 4]) {
    auto* tile = reinterpret_cast<uint8_t*>(shared_.k[self_][Config::kValueTiles]);
#pragma unroll
    for (int i = 0; i < Config::kBlockN / 4; ++i) {
      *reinterpret_cast<uint32_t*>(tile + device::swizzled_chunk(row_ + 8 * (i % 2), i / 2) + (lane_ % 4) * 4) =
          weights[i];
    }
    if (is_first_of_row()) {
      for (int r = 0; r < 2; ++r) shared_.row_max[self_][row_ + 8 * r] = row_max_[r];
    }
    device::fence_async_proxy();
    __syncwarp();
    if (is_first_of_row()) device::arrive(shared_.ready[self_]);
  }

  // Waits for the weights of the other warpgroup's block and makes the output relative to its maxima.
  __device__ __forceinline__ void receive_weights(uint32_t count) {
    const int stage = 1 - self_;
    device::wait(shared_.ready[stage], parity(count));
    float factor[2];
    bool moves = false;
    for (int r = 0; r < 2; ++r) moves |= move_maximum(r, shared_.row_max[stage][row_ + 8 * r], factor[r]);
    if (__any_sync(~0u, moves)) rescale_output(factor);
  }

  // out += weights · v for the other warpgroup's block; not waited for.
  __device__ __forceinline__ void add_received(uint32_t count) {
    const int stage = 1 - self_;
    device::wait(shared_.full[stage][self_], parity(count));
    const uint64_t weights = device::row_major_operand(shared_.k[stage][Config::kValueTiles]);
    const uint64_t values = own_columns(stage);
    device::pin_registers(out_);
    device::wgmma_fence();
#pragma unroll
    for (int c = 0; c < Config::kBlockN / Config::kChunk; ++c) {
      device::multiply<typename Config::Mma::OutputsFromShared>(device::advance(weights, c * Config::kChunkRowBytes),
                                                                device::advance(values, c * Config::kChunkColumnBytes),
                                                                out_, true);
    }
    device::wgmma_commit();
  }

  // The same for the own block, whose weights are in registers.
  __device__ __forceinline__ void add_own(uint32_t (&weights)[Config::kBlockN / 4]) {
    const uint64_t values = own_columns(self_);
    device::pin_registers(weights);
    device::pin_registers(out_);
    device::wgmma_fence();
#pragma unroll
    for (int c = 0; c < Config::kBlockN / Config::kChunk; ++c) {
      const uint32_t chunk[4] = {weights[4 * c], weights[4 * c + 1], weights[4 * c + 2], weights[4 * c + 3]};
      device::multiply<typename Config::Mma::OutputsFromRegisters>(
          chunk, device::advance(values, c * Config::kChunkColumnBytes), out_, true);
    }
    device::wgmma_commit();
  }

  __device__ __forceinline__ uint64_t own_columns(int stage) const {
    return device::column_major_operand(shared_.k[stage][self_ * Config::kHalfTiles], Config::kTileBytes);
  }

  // This warp no longer reads its half of a block's values, nor the weights and maxima beside them.
  __device__ __forceinline__ void release(int stage) {
    __syncwarp();
    if (lane_ == 0) device::arrive(shared_.empty[stage][self_]);
  }

  // Each row's sum over its threads, for both warpgroups to see.
  __device__ __forceinline__ void exchange_sums() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      row_sum_[r] = device::sum_over_quad(row_sum_[r]);
      if (is_first_of_row()) shared_.row_sum[self_][row_ + 8 * r] = row_sum_[r];
    }
    if (is_first_of_row()) device::arrive(shared_.summed);
    device::wait(shared_.summed, items_ % 2);
    ++items_;
  }

  // Normalises the tile and writes it: as a result, or as a partial one.
  __device__ __forceinline__ void write(const Item& item) {
    const Tile tile(grid_, item.tile);
    const bool whole = item.is_whole();
    const int64_t slot = partial_tile(blockIdx.x, item.first_block == 0);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int tile_row = row_ + 8 * r;
      if (tile_row >= tile.rows) continue;
      const float sum = row_sum_[r] + shared_.row_sum[1 - self_][tile_row];
      const bool attends = sum != 0.0f;
      const float lse_log2 = attends ? row_max_[r] + log2f(sum) : -device::kInfinity;
      const bool writes_lse = self_ == 0 && is_first_of_row();
      const int column = self_ * Config::kOutputColumns + (lane_ % 4) * 2;
      if (whole) {
        const Row row(grid_, tile, tile_row);
        const float lse = lse_log2 * device::kLn2;
        const float factor = attends ? keys_share(params_, item.request, row.head, lse) / sum : 0.0f;
        if (writes_lse) params_.lse[row.lse_index(params_, item.request)] = lse;
        auto* target = static_cast<Element*>(params_.out) + row.index(params_, item.request) * Config::kDimV + column;
#pragma unroll
        for (int i = 2 * r; i < Config::kOutputColumns / 2; i += 4) {
          const float low = attends ? out_[i] * factor : 0.0f, high = attends ? out_[i + 1] * factor : 0.0f;
          *reinterpret_cast<uint32_t*>(target + i * 2 - 4 * r) = device::pack<Element>(low, high);
        }
      } else {
        const float factor = 1.0f / sum;
        if (writes_lse) params_.partial_lse[slot * Config::kBlockM + tile_row] = lse_log2;
        float* target = params_.partial_out + (slot * Config::kBlockM + tile_row) * Config::kDimV + column;
#pragma unroll
        for (int i = 2 * r; i < Config::kOutputColumns / 2; i += 4) {
          const float low = attends ? out_[i] * factor : 0.0f, high = attends ? out_[i + 1] * factor : 0.0f;
          *reinterpret_cast<float2*>(target + i * 2 - 4 * r) = make_float2(low, high);
        }
      }
    }
  }

  // Whether this is the thread that speaks for its rows, of the four that share them.
  __device__ __forceinline__ bool is_first_of_row() const { return lane_ % 4 == 0; }
  // Which of this thread's two rows an accumulator belongs to.
  __device__ __forceinline__ static constexpr int row_of(int i) { return (i / 2) % 2; }
  // Parity of the phase in which the block of a number is full.
  __device__ __forceinline__ static uint32_t parity(uint32_t count) { return (count / Config::kStages) % 2; }
};

// ---------------------------------------------------------------------------------------------------------------------

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    dense_decode_kernel(const __grid_constant__ DenseDecodeParams params, const __grid_constant__ Grid grid,
                        const __grid_constant__ KeyMaps maps) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<typename Config::SharedStorage*>(memory);
  const int part_index = blockIdx.x / grid.lanes, grid_lane = blockIdx.x % grid.lanes;

  if (threadIdx.x == 0) {
    constexpr int kSpeakers = 32;  // of a warpgroup: one for each pair of rows
    device::prefetch_tensor_map(maps.values);
    device::prefetch_tensor_map(maps.last_tile);
    for (int stage = 0; stage < Config::kStages; ++stage) {
      for (auto& barrier : shared.full[stage]) device::init_barrier(barrier, 1);
      for (auto& barrier : shared.empty[stage]) device::init_barrier(barrier, 4);  // warps of a warpgroup
      device::init_barrier(shared.ready[stage], kSpeakers);
    }
    device::init_barrier(shared.summed, Config::kWarpgroups * kSpeakers);
    device::fence_barrier_init();
  }
  // Synchronises all threads.
  const Part part = find_part<Config>(params, grid, part_index, shared);
  if (threadIdx.x == 0 && grid_lane == 0) {
    reinterpret_cast<Split*>(params.plan)[part_index] = split_at<Config>(params, grid, part, part_index);
  }

  // The same in all lanes of a warp, and known to be by the compiler.
  const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
  if (warp / 4 == Config::kWarpgroups) {
    device::release_registers<Config::kProducerRegisters>();
    if (warp % 4 == 0) produce<Config>(params, grid, part, grid_lane, maps, shared);
  } else {
    device::claim_registers<Config::kMathRegisters>();
    Warpgroup<Config>(params, grid, shared, warp / 4).run(part, grid_lane);
  }
}

}  // namespace jax_flash_mla::dense_decode_sm90
