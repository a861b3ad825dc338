// SM90 sparse decode: attention of tiles of 64 heads of a query token over the keys that its indices name in FP8 caches.
//
// Two warpgroups multiply (mla/warpgroup.cuh), two others fetch and convert keys (loader.cuh), one for each
// half of values. What is
// here: which keys are there.
#pragma once

#include <cooperative_groups.h>

#include "cuda/device/cluster.cuh"
#include "cuda/sm90/mla/validity.cuh"
#include "cuda/sm90/sparse_decode/config.h"
#include "cuda/sm90/sparse_decode/loader.cuh"
#include "cuda/sm90/sparse_decode/problem.cuh"
#include "cuda/sm90/split/attention.cuh"
#include "cuda/sm90/split/combine.cuh"

namespace jax_flash_mla::sparse_decode_sm90 {

template <typename Config>
class Attention : public split_sm90::Attention<Config, Attention<Config>, Problem<Config>> {
  using Base = split_sm90::Attention<Config, Attention<Config>, Problem<Config>>;

 public:
  using Base::Base, Base::is_sound;

 private:
  friend mla_sm90::Warpgroup<Config, Attention<Config>>;
  using Base::shared_, Base::self_, Base::lane_, Base::item;

  __device__ __forceinline__ bool is_sound(int) const { return true; }
  __device__ __forceinline__ int begin() const { return item().piece.last_block - item().piece.first_block; }

  __device__ __forceinline__ void give_back(int stage, int part) const {
    Base::give_back(stage, part);
    if constexpr (Config::kPairs) {
      // For its warp, whose products are done: nothing else reads what the other thread block's loaders will overwrite.
      const auto* empty = &shared_.empty[stage][self_][part];
      if (lane_ == 0) device::arrive_at(device::address_in(1 - device::cluster_rank(), empty));
    }
  }

  __device__ __forceinline__ void prepare(float (&scores)[Config::kScores], int) const {
    mla_sm90::mask_absent(scores, shared_.valid[self_]);
  }
};

// ---------------------------------------------------------------------------------------------------------------------

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    sparse_decode_kernel(const __grid_constant__ SparseDecodeParams params, const __grid_constant__ Grid grid) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<typename Config::SharedStorage*>(memory);
  if (threadIdx.x == 0) {
    mla_sm90::init_barriers<Config>(shared, Loader<Config>::kQueryArrivals, [](int, int tile) {
      return Config::kHalfWarps + (tile == Config::kRotaryTile ? Config::kHalfThreads : 0);
    });
  }
  Config::kPairs ? device::cluster_sync() : __syncthreads();

  const int warpgroup = device::uniform(threadIdx.x / 128);
  const Problem<Config> problem(params, grid);
  const auto all_blocks = cooperative_groups::this_grid();
  if (warpgroup >= Config::kWarpgroups) {
    Loader<Config> loader(problem, shared, warpgroup - Config::kWarpgroups);
    device::release_registers<Config::kLoaderRegisters>();
    const bool has_cuts = loader.run();
    // Until nothing is on its way to the other thread block any more.
    if constexpr (Config::kPairs) device::cluster_sync();
    if (has_cuts) all_blocks.sync();
  } else {
    device::claim_registers<Config::kMathRegisters>();
    Attention<Config> attention(problem, shared, warpgroup);
    attention.run();
    if constexpr (Config::kPairs) device::cluster_sync();
    if (!attention.has_cuts()) return;
    all_blocks.sync();
    split_sm90::combine<Config::kMathWarps>(problem, shared.splits(), shared.sums_of_warps(), mla_sm90::kMathBarrier);
  }
}

}  // namespace jax_flash_mla::sparse_decode_sm90
