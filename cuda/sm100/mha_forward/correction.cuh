// The warpgroup of SM100 multi-head attention, forward, that corrects outputs where maxima have moved, and writes them:
// those of both tiles, a row for each thread.
#pragma once

#include "cuda/device/copy.cuh"
#include "cuda/device/math.cuh"
#include "cuda/mha/tiles.cuh"
#include "cuda/sm100/mha_forward/roles.cuh"

namespace jax_flash_mla::mha_forward_sm100 {

template <typename Config>
class Correction {
 public:
  __device__ __forceinline__ Correction(const MhaForwardParams& params, typename Config::SharedStorage& shared)
      : params_(params),
        shared_(shared),
        row_(threadIdx.x % Config::kTileRows),
        outputs_(own_lanes(shared) + Config::kOutputsColumn) {}

  __device__ __forceinline__ void run() {
    for (uint32_t items = 0;; ++items) {
      const Item& item = wait_for_item(shared_, items);
      if (item.rows == 0) break;
        // A tile's first block has nothing to correct.
#pragma unroll 1
      for (int block = item.most_blocks() - 2; block >= 0; --block) {
        for (int t = 0; t < Config::kTiles; ++t) {
          if (block < item.blocks[t] - 1) correct(t);
        }
      }
      for (int t = 0; t < Config::kTiles; ++t) write(item, t);
      device::arrive(shared_.item_empty[items % 2]);
    }
  }

 private:
  static constexpr int kChunks = Config::kDimV / Config::kChunk;

  const MhaForwardParams& params_;
  typename Config::SharedStorage& shared_;
  const int row_;
  const uint32_t outputs_;  // where this warp's are in tensor memory, of the first tile
  uint32_t published_[Config::kTiles] = {}, items_[Config::kTiles] = {};  // of each tile, before

  // What the softmax says of this thread's row; products of the tile that came before are then done.
  __device__ __forceinline__ float2 statistics(int tile) {
    device::wait(shared_.statistics_full[tile], published_[tile]++ % 2);
    device::tensor_fence_after_sync();
    return shared_.statistics[tile][row_];
  }

  __device__ __forceinline__ void load(float (&out)[Config::kChunk], int tile, int chunk) const {
    device::start_loading(out, outputs_ + tile * Config::kDimV + chunk * Config::kChunk);
    device::wait_for_loads();
    device::pin_registers(out);
  }

  // Outputs are the next product's from now on.
  __device__ __forceinline__ void hand_over(int tile) {
    device::tensor_fence_before_sync();
    device::arrive(shared_.out_ready[tile]);
  }

  __device__ __forceinline__ void correct(int tile) {
    const float factor = statistics(tile).x;
    if (__any_sync(~0u, factor != 1.0f)) {
#pragma unroll 1
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        float out[Config::kChunk];
        uint32_t corrected[Config::kChunk];
        load(out, tile, chunk);
#pragma unroll
        for (int i = 0; i < Config::kChunk; ++i) corrected[i] = __float_as_uint(out[i] * factor);
        device::start_storing(outputs_ + tile * Config::kDimV + chunk * Config::kChunk, corrected);
      }
      device::wait_for_stores();
    }
    hand_over(tile);
  }

  // Normalises a tile's outputs and writes them, rows that exist alone.
  __device__ __forceinline__ void write(const Item& item, int tile) {
    const int row = tile * Config::kTileRows + row_;
    const bool exists = row<item.rows, has_keys = item.blocks[tile]> 0;
    float2 sum_and_max = make_float2(0.0f, -device::kInfinity);
    if (has_keys) {
      sum_and_max = statistics(tile);
      device::wait(shared_.out_full[tile], items_[tile]++ % 2);
      device::tensor_fence_after_sync();
    } else if (item.pack >= 0 && exists) {
      const int token = int(item.first_row + row - int64_t(item.pack) * params_.queries.tokens);
      if (mha::is_claimed(params_.queries, item.pack, token)) sum_and_max.x = device::kNaN;
    }
    const auto [sum, max] = sum_and_max;
    const int64_t place = (item.first_row + (exists ? row : 0)) * params_.h_q + item.head;
    if (exists) params_.lse[place] = sum != 0.0f ? (max + log2f(sum)) * device::kLn2 : -device::kInfinity;
    auto* target = static_cast<typename Config::Element*>(params_.out) + place * Config::kDimV;
#pragma unroll 1
    for (int chunk = 0; chunk < kChunks; ++chunk, target += Config::kChunk) {
      // Whatever the outputs of a row with nothing to attend to are, it gets zeros; one that is claimed gets its NaN.
      float out[Config::kChunk];
      if (has_keys) load(out, tile, chunk);
      if (sum == 0.0f || !has_keys) {
#pragma unroll
        for (float& x : out) x = sum;
      }
      if (exists) store(target, out, sum != 0.0f ? 1.0f / sum : 1.0f);
    }
    if (has_keys) hand_over(tile);
  }

  __device__ __forceinline__ static void store(typename Config::Element* target, const float (&out)[Config::kChunk],
                                               float factor) {
    uint32_t pairs[Config::kChunk / 2];
#pragma unroll
    for (int i = 0; i < Config::kChunk / 2; ++i) {
      pairs[i] = device::pack<typename Config::Element>(out[2 * i] * factor, out[2 * i + 1] * factor);
    }
#pragma unroll
    for (int i = 0; i < Config::kChunk / 2; i += 8) device::store_32_bytes(target + 2 * i, pairs + i);
  }
};

}  // namespace jax_flash_mla::mha_forward_sm100
