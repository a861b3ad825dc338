// SM90 sparse attention, backward: gradients of tiles of 64 heads of a query token, and of the keys that its indices name.
//
// Two warpgroups multiply (gradients.cuh), a third gathers (loader.cuh). Thread blocks take tiles in turn, so that those of
// one query token gather the same keys side by side. Sums over query tokens are additions in memory, in any order.
#pragma once

#include "cuda/sm90/sparse_backward/config.h"
#include "cuda/sm90/sparse_backward/gradients.cuh"
#include "cuda/sm90/sparse_backward/loader.cuh"

namespace jax_flash_mla::sparse_backward_sm90 {

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    sparse_backward_kernel(const __grid_constant__ SparseBackwardParams params, const __grid_constant__ Grid grid) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<typename Config::SharedStorage*>(memory);
  if (threadIdx.x == 0) {
    for (int tile = 0; tile < Config::kTiles; ++tile) {
      device::init_barrier(shared.k_full[tile], Loader<Config>::key_arrivals(tile));
    }
    device::init_barrier(shared.k_empty, Config::kMathThreads);
    device::init_barrier(shared.q_full, Loader<Config>::kQueryArrivals);
    device::init_barrier(shared.q_empty, Config::kMathThreads);
    device::fence_barrier_init();
  }
  __syncthreads();

  const int warpgroup = device::uniform(threadIdx.x / 128);
  if (warpgroup == Config::kWarpgroups) {
    device::release_registers<Config::kLoaderRegisters>();
    Loader<Config>(params, grid, shared).run();
  } else if (warpgroup == 0) {
    device::claim_registers<Config::kMathRegisters>();
    Gradients<Config, 0>(params, grid, shared).run();
  } else {
    device::claim_registers<Config::kMathRegisters>();
    Gradients<Config, 1>(params, grid, shared).run();
  }
}

}  // namespace jax_flash_mla::sparse_backward_sm90
