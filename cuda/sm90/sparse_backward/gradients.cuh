// What the two multiplying warpgroups do with a tile of heads: for each block of keys
//
//   warpgroup 0   q · kᵀ      ┐ each hands   ┌ weights, gradients   ┌ d_q += gradients · k   │ a tile of columns at a time
//   warpgroup 1   d_out · kᵀ  ┘ over a half  └ of half of the keys  └ of half of the columns │ of d_kv, added to memory
//
// d_q stays in registers. What a block adds to d_kv does not fit beside it: it comes tile by tile, weightsᵀ · d_out +
// gradientsᵀ · q, and each is on its way to memory before the next one.
#pragma once

#include "cuda/device/accumulators.cuh"
#include "cuda/device/barrier.cuh"
#include "cuda/device/math.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/wgmma.cuh"
#include "cuda/sm90/sparse_backward/config.h"

namespace jax_flash_mla::sparse_backward_sm90 {

template <typename Config, int kSelf>
class Gradients {
 public:
  __device__ __forceinline__ Gradients(const SparseBackwardParams& params, const Grid& grid,
                                       typename Config::SharedStorage& shared)
      : params_(params), grid_(grid), shared_(shared), lane_(threadIdx.x % 32) {}

  __device__ __forceinline__ void run() {
    uint32_t count = 0;
    for (int64_t i = grid_.first_item + blockIdx.x; i < grid_.items; i += gridDim.x, ++count) {
      const Item item = item_at(params_, grid_, i);
      start(item);
      device::wait(shared_.q_full, count % 2);
      device::fence_async_proxy();
      if (item.keys > 0) multiply();
#pragma unroll 1
      for (int first = 0; first < item.keys; first += Config::kKeys) add_block(first + Config::kKeys < item.keys);
      device::arrive(shared_.q_empty);
      write(item);
    }
  }

 private:
  using Element = typename Config::Element;
  using Mma = typename Config::Mma;
  static constexpr int kFirstTile = kSelf * Config::kHalfTiles;
  static constexpr bool kHasLastTile = kSelf == 1 && Config::kHasLastTile;  // of d_q
  // The other warpgroup has registers for two tiles of d_kv, and computes the last one.
  static constexpr int kBuffers = kSelf == 0 ? 2 : 1;
  static constexpr int kOwnTiles = Config::kHalfTiles + (kSelf == 0 && Config::kHasLastTile ? 1 : 0);
  static constexpr int kProducts = kOwnTiles % kBuffers;
  __device__ __forceinline__ static constexpr int tile_at(int i) {
    return i < Config::kHalfTiles ? kFirstTile + i : Config::kLastTile;
  }

  const SparseBackwardParams& params_;
  const Grid& grid_;
  typename Config::SharedStorage& shared_;
  const int lane_;
  uint32_t round_ = 0;  // blocks before
  // Where a block's first row goes, if rows are kept.
  Element* rows_;

  // Of both of this thread's rows of heads. The log-sum-exp is base 2.
  float lse_[2], share_[2], delta_[2];
  float d_q_[Config::kHalfTiles * Config::kTileSums], last_d_q_[Config::kTileSums];
  // Products of heads by keys, then tiles of d_kv, in turn.
  float sums_[kBuffers][Config::kTileSums];

  // The first of this thread's rows; the other one is 8 below.
  __device__ __forceinline__ int row() const { return threadIdx.x / 32 % 4 * 16 + lane_ / 4; }

  __device__ __forceinline__ void start(const Item& item) {
    for (float& x : d_q_) x = 0.0f;
    if constexpr (kHasLastTile) {
      for (float& x : last_d_q_) x = 0.0f;
    }
    if constexpr (Config::kOrdered) {
      const int tile = item.first_head / Config::kRows;
      const int64_t first = (int64_t(item.query - grid_.first_query) * grid_.tiles + tile) * params_.topk;
      rows_ = static_cast<Element*>(params_.rows) + first * Config::kDimQK;
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int head = item.first_head + row() + 8 * r;
      const bool exists = head < params_.h_q && item.keys > 0;
      const int64_t place = int64_t(item.query) * params_.h_q + (exists ? head : 0);
      // Where there is no head, weights are zero.
      lse_[r] = exists ? params_.lse[place] * device::kLog2E : device::kInfinity;
      share_[r] = exists ? params_.share[place] : 0.0f;
      delta_[r] = exists ? params_.delta[place] : 0.0f;
    }
  }

  // The products of heads by keys are under way, and so they are of the next block afterwards, if there is one.
  __device__ __forceinline__ void add_block(bool is_followed) {
    float(&products)[Config::kTileSums] = sums_[kProducts];
    device::wgmma_wait<0>();
    device::pin_registers(products);
    // No product that reads what is going to be written is under way in either warpgroup.
    device::named_sync_of_roles(kMathBarrier, Config::kMathThreads);
    float others[Config::kHalfSums];
    exchange(products, others);
    const int* tokens = shared_.tokens[round_ % 2];
    differentiate(products, others, tokens);
    ++round_;
    add_sums(tokens, is_followed);
    if constexpr (Config::kOrdered) rows_ += Config::kKeys * Config::kDimQK;
  }

  // Scores, or gradients of weights, of the next block.
  __device__ __forceinline__ void multiply() {
    if constexpr (kSelf == 0) {
      multiply(shared_.q, sums_[kProducts]);
    } else {
      multiply(shared_.d_out, sums_[kProducts]);
    }
  }

  // products = rows · kᵀ, started but not waited for; tile by tile as keys come.
  template <int kTiles, typename Tile>
  __device__ __forceinline__ void multiply(const Tile (&rows)[kTiles], float (&products)[Config::kTileSums]) {
    const auto a = device::row_major_operand(rows), b = device::row_major_operand(shared_.k);
    device::pin_registers(products);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      wait_for_keys(t);
      device::wgmma_fence();
#pragma unroll
      for (int c = 0; c < Config::kTileRowBytes; c += Config::kChunkRowBytes) {
        device::multiply<typename Mma::HeadsByKeys>(a.at(t * Config::kTileBytes + c), b.at(t * Config::kTileBytes + c),
                                                    products, t > 0 || c > 0);
      }
    }
    device::wgmma_commit();
    if constexpr (kTiles < Config::kTiles) wait_for_keys(Config::kLastTile);
  }

  __device__ __forceinline__ void wait_for_keys(int tile) {
    device::wait(shared_.k_full[tile], round_ % 2);
    device::fence_async_proxy();
  }

  // Each warpgroup has the products of all keys: it leaves those of the other one's half.
  __device__ __forceinline__ void exchange(const float (&products)[Config::kTileSums],
                                           float (&others)[Config::kHalfSums]) {
    auto& left = kSelf == 0 ? shared_.weights.halves : shared_.gradients.halves;
    const auto& found = kSelf == 0 ? shared_.gradients.halves : shared_.weights.halves;
    const int thread = threadIdx.x % 128;
#pragma unroll
    for (int i = 0; i < Config::kHalfSums / 4; ++i) {
      const float* x = products + (1 - kSelf) * Config::kHalfSums + 4 * i;
      left[i][thread] = make_float4(x[0], x[1], x[2], x[3]);
    }
    device::named_sync_of_roles(kMathBarrier, Config::kMathThreads);
#pragma unroll
    for (int i = 0; i < Config::kHalfSums / 4; ++i) {
      const float4 x = found[i][thread];
      others[4 * i] = x.x;
      others[4 * i + 1] = x.y;
      others[4 * i + 2] = x.z;
      others[4 * i + 3] = x.w;
    }
    // All have read what weights and gradients are to replace.
    device::named_sync_of_roles(kMathBarrier, Config::kMathThreads);
  }

  // Weights, and gradients of scores, of the own half of the keys: heads by keys in shared memory.
  __device__ __forceinline__ void differentiate(const float (&products)[Config::kTileSums],
                                                const float (&others)[Config::kHalfSums], const int* tokens) {
    auto* weights = reinterpret_cast<uint8_t*>(shared_.weights.elements);
    auto* gradients = reinterpret_cast<uint8_t*>(shared_.gradients.elements);
#pragma unroll
    for (int group = 0; group < Config::kHalfKeys / 8; ++group) {
      const int key = kSelf * Config::kHalfKeys + group * 8 + lane_ % 4 * 2;
      const bool exists[2] = {tokens[key] >= 0, tokens[key + 1] >= 0};
      const int place = device::swizzled_chunk(row(), kSelf * Config::kHalfKeys / 8 + group) + lane_ % 4 * 4;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float weight[2], gradient[2];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const float own = products[kSelf * Config::kHalfSums + group * 4 + 2 * r + j];
          const float other = others[group * 4 + 2 * r + j];
          const float score = kSelf == 0 ? own : other, d_weight = kSelf == 0 ? other : own;
          const float probability = device::exp2_fast(fmaf(score, grid_.scale_log2, -lse_[r]));
          weight[j] = exists[j] ? probability * share_[r] : 0.0f;
          gradient[j] = exists[j] ? probability * fmaf(share_[r], d_weight, -delta_[r]) * params_.scale : 0.0f;
        }
        const int target = place + r * device::kSwizzleAtomBytes;
        *reinterpret_cast<uint32_t*>(weights + target) = device::pack<Element>(weight[0], weight[1]);
        *reinterpret_cast<uint32_t*>(gradients + target) = device::pack<Element>(gradient[0], gradient[1]);
      }
    }
    device::fence_async_proxy();
    device::named_sync_of_roles(kMathBarrier, Config::kMathThreads);
  }

  // d_q += gradients · k, started but not waited for.
  __device__ __forceinline__ void add_to_d_q() {
    const auto gradients = device::row_major_operand(shared_.gradients.elements);
    const auto keys = device::column_major_operand(shared_.k + kFirstTile, Config::kTileBytes);
    pin_d_q();
    device::wgmma_fence();
#pragma unroll
    for (int c = 0; c < Config::kKeys / Config::kChunk; ++c) {
      const uint64_t a = gradients.at(c * Config::kChunkRowBytes);
      device::multiply<typename Mma::HeadsByHalf>(a, keys.at(c * Config::kChunkColumnBytes), d_q_, true);
      if constexpr (kHasLastTile) {
        const int last = (Config::kLastTile - kFirstTile) * Config::kTileBytes;
        device::multiply<typename Mma::HeadsByTile>(a, keys.at(last + c * Config::kChunkColumnBytes), last_d_q_, true);
      }
    }
    device::wgmma_commit();
  }

  __device__ __forceinline__ void pin_d_q() {
    device::pin_registers(d_q_);
    if constexpr (kHasLastTile) device::pin_registers(last_d_q_);
  }

  // d_q, and d_kv a tile of columns at a time. Additions to memory take longer than products: one warpgroup begins with a tile
  // and the other one with d_q, so that they do not all add at once, and do not all multiply at once. Keys are given back once
  // d_q has what they add to it.
  __device__ __forceinline__ void add_sums(const int* tokens, bool is_followed) {
    if constexpr (kSelf == 0) {
      multiply_tile(0);
      add_to_d_q();
      multiply_tile(1);
      device::wgmma_wait<2>();
      device::pin_registers(sums_[0]);
      add_to_memory(sums_[0], tile_at(0), tokens);
      device::wgmma_wait<1>();
      pin_d_q();
      device::arrive(shared_.k_empty);
#pragma unroll
      for (int i = 1; i < kOwnTiles; ++i) {
        if (i + 1 < kOwnTiles) {
          multiply_tile(i + 1);
          device::wgmma_wait<1>();
        } else if (is_followed) {
          multiply();
          device::wgmma_wait<1>();
        } else {
          device::wgmma_wait<0>();
        }
        device::pin_registers(sums_[i % 2]);
        add_to_memory(sums_[i % 2], tile_at(i), tokens);
      }
    } else {
      add_to_d_q();
      multiply_tile(0);
      device::wgmma_wait<1>();
      pin_d_q();
      device::arrive(shared_.k_empty);
#pragma unroll
      for (int i = 0; i < kOwnTiles; ++i) {
        if (i > 0) multiply_tile(i);
        device::wgmma_wait<0>();
        device::pin_registers(sums_[0]);
        add_to_memory(sums_[0], tile_at(i), tokens);
      }
      if (is_followed) multiply();
    }
  }

  // One tile's, started but not waited for.
  __device__ __forceinline__ void multiply_tile(int i) {
    const int tile = tile_at(i);
    const auto gradients = device::column_major_operand(shared_.gradients.elements, Config::kTileBytes);
    const auto q = device::column_major_operand(shared_.q[tile].elements, Config::kTileBytes);
    float(&sums)[Config::kTileSums] = sums_[i % kBuffers];
    device::pin_registers(sums);
    device::wgmma_fence();
#pragma unroll
    for (int c = 0; c < Config::kTileBytes; c += Config::kChunkColumnBytes) {
      device::multiply<typename Mma::KeysByTile>(gradients.at(c), q.at(c), sums, c > 0);
    }
    if (tile < Config::kValueTiles) {
      const auto weights = device::column_major_operand(shared_.weights.elements, Config::kTileBytes);
      const auto d_out = device::column_major_operand(shared_.d_out[tile].elements, Config::kTileBytes);
#pragma unroll
      for (int c = 0; c < Config::kTileBytes; c += Config::kChunkColumnBytes) {
        device::multiply<typename Mma::KeysByTile>(weights.at(c), d_out.at(c), sums, true);
      }
    }
    device::wgmma_commit();
  }

  // A tile of columns of gradients of keys. Memory wants whole lines, 128 bytes of one row by eight lanes, and the columns of
  // a row are those of four: two quads with neighbouring rows exchange, of each half of the columns, a half. Then pairs of
  // lanes exchange, so that each has four columns side by side.
  __device__ __forceinline__ void add_to_memory(const float (&sums)[Config::kTileSums], int tile, const int* tokens) {
    if constexpr (Config::kOrdered) {
      keep_rows(sums, tile, tokens);
      return;
    }
    const bool second_quad = lane_ / 4 % 2, odd = lane_ % 2;
    const int column = tile * Config::kTileColumns + (second_quad ? 16 : 0) + (odd ? 8 : 0) + lane_ % 4 / 2 * 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int2 pair = *reinterpret_cast<const int2*>(tokens + (row() & ~1) + 8 * r);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        // Of two groups of eight columns this thread's two of each: of its own row, and of the other quad's.
        float own[4], others[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float *low = sums + half * 16 + i / 2 * 4 + 2 * r + i % 2, *high = low + 8;
          own[i] = second_quad ? *high : *low;
          others[i] = __shfl_xor_sync(~0u, second_quad ? *low : *high, 4);
        }
#pragma unroll
        for (int quad = 0; quad < 2; ++quad) {
          float x[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) x[i] = second_quad == (quad == 1) ? own[i] : others[i];
          const float y = __shfl_xor_sync(~0u, odd ? x[0] : x[2], 1), z = __shfl_xor_sync(~0u, odd ? x[1] : x[3], 1);
          const int token = quad ? pair.y : pair.x;
          if (token < 0) continue;
          float* target = params_.d_kv + int64_t(token) * Config::kDimQK + column + half * 32;
          device::add_four(target, odd ? y : x[0], odd ? z : x[1], odd ? x[2] : y, odd ? x[3] : z);
        }
      }
    }
  }

  // The same to rows of their own, rounded. Those of an index that names nothing are not written, and never read.
  __device__ __forceinline__ void keep_rows(const float (&sums)[Config::kTileSums], int tile, const int* tokens) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int key = row() + 8 * r;
      Element* target = rows_ + key * Config::kDimQK + tile * Config::kTileColumns;
      device::store_row(sums, r, tokens[key] >= 0, target, false, 1.0f);
    }
  }

  // Zeros for a query token without keys, NaN for one whose length makes no sense.
  __device__ __forceinline__ void write(const Item& item) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int head = item.first_head + row() + 8 * r;
      const bool exists = head < params_.h_q;
      auto* target = static_cast<Element*>(params_.d_q) +
                     (int64_t(item.query) * params_.h_q + (exists ? head : 0)) * Config::kDimQK;
      const float factor = item.sound ? 1.0f : device::kNaN;
      device::store_row(d_q_, r, exists, target + kFirstTile * Config::kTileColumns, false, factor);
      if constexpr (kHasLastTile) {
        device::store_row(last_d_q_, r, exists, target + Config::kLastTile * Config::kTileColumns, false, factor);
      }
    }
  }
};

}  // namespace jax_flash_mla::sparse_backward_sm90
