// SM90 dense decode: attention of tiles of 64 query rows over paged keys.
//
// Two warpgroups multiply (mla/warpgroup.cuh), a third loads (loader.cuh). What is here: which keys a row may attend to, and
// where results go.
#pragma once

#include <cooperative_groups.h>

#include "cuda/sm90/dense_decode/config.h"
#include "cuda/sm90/dense_decode/loader.cuh"
#include "cuda/sm90/dense_decode/problem.cuh"
#include "cuda/sm90/split/attention.cuh"
#include "cuda/sm90/split/combine.cuh"

namespace jax_flash_mla::dense_decode_sm90 {

template <typename Config>
class Attention : public split_sm90::Attention<Config, Attention<Config>, Problem<Config>> {
  using Base = split_sm90::Attention<Config, Attention<Config>, Problem<Config>>;

 public:
  using Base::Base, Base::is_sound;

 private:
  friend mla_sm90::Warpgroup<Config, Attention<Config>>;
  using Base::shared_, Base::self_, Base::lane_, Base::problem_, Base::item, Base::row;

  // Counted from the item's first block, as far as its blocks go: the first that not every row may attend to as a whole,
  // and the first that not all keys are there of.
  int unmasked_, full_;

  __device__ __forceinline__ bool is_sound(int stage) const { return !shared_.unsound[stage]; }

  __device__ __forceinline__ int begin() {
    const int first = item().piece.first_block, blocks = item().piece.last_block - first;
    unmasked_ = min(max(item().visible_to_all / Config::kBlockN - first, 0), blocks);
    full_ = min(item().keys / Config::kBlockN - first, blocks);
    return blocks;
  }

  __device__ __forceinline__ void prepare(float (&scores)[Config::kScores], int block) {
    const int first_key = (item().piece.first_block + block) * Config::kBlockN;
    if (block >= full_) clear_values(item().keys - first_key);
    if (block >= unmasked_) mask(scores, first_key);
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
    device::named_sync(mla_sm90::kWarpgroupBarrier + self_, 128);
  }

  // -inf where a row may not attend.
  __device__ __forceinline__ void mask(float (&scores)[Config::kScores], int first_key) const {
    const Tile tile = problem_.tile(item().piece.tile);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int tile_row = min(row() + 8 * r, tile.rows - 1);
      const int columns = problem_.visible_keys(tile, item().keys, tile_row) - first_key - lane_ % 4 * 2;
#pragma unroll
      for (int i = 2 * r; i < Config::kScores; i += 4) {
        if (i / 4 * 8 >= columns) scores[i] = -device::kInfinity;
        if (i / 4 * 8 + 1 >= columns) scores[i + 1] = -device::kInfinity;
      }
    }
  }
};

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    dense_decode_kernel(const __grid_constant__ DenseDecodeParams params, const __grid_constant__ Grid grid,
                        const __grid_constant__ CUtensorMap keys) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<typename Config::SharedStorage*>(memory);
  if (threadIdx.x == 0) {
    device::prefetch_tensor_map(keys);
    mla_sm90::init_barriers<Config>(shared, Loader<Config>::kQueryArrivals, [](int, int) { return 1; });
  }
  __syncthreads();

  const int warpgroup = device::uniform(threadIdx.x / 128);
  const Problem<Config> problem(params, grid);
  const auto all_blocks = cooperative_groups::this_grid();
  if (warpgroup == Config::kWarpgroups) {
    Loader<Config> loader(problem, keys, shared);
    device::release_registers<Config::kLoaderRegisters>();
    if (loader.run()) all_blocks.sync();
  } else {
    device::claim_registers<Config::kMathRegisters>();
    Attention<Config> attention(problem, shared, warpgroup);
    attention.run();
    if (!attention.has_cuts()) return;
    all_blocks.sync();
    split_sm90::combine<Config::kMathWarps>(problem, shared.splits(), shared.sums_of_warps(), mla_sm90::kMathBarrier);
  }
}

}  // namespace jax_flash_mla::dense_decode_sm90
