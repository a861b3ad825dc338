// SM90 multi-head attention, backward: tiles of 128 keys of a head over blocks of 64 queries, of all heads that share it.
#pragma once

#include "cuda/sm90/mha_backward/adder.cuh"
#include "cuda/sm90/mha_backward/gradients.cuh"
#include "cuda/sm90/mha_backward/loader.cuh"

namespace jax_flash_mla::mha_backward_sm90 {

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    mha_backward_kernel(const __grid_constant__ MhaBackwardParams params, const __grid_constant__ Maps maps) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<typename Config::SharedStorage*>(memory);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Config::kStages; ++stage) {
      device::init_barrier(shared.full[stage], Loader<Config>::kBlockArrivals);
      device::init_barrier(shared.empty[stage], Config::kMathThreads);
    }
    device::init_barrier(shared.own_full, 1);
    device::init_barrier(shared.own_empty, Config::kMathThreads + Config::kWarpgroups);
    device::init_barrier(shared.gradients_empty, Config::kMathWarps);
    for (int i = 0; i < Config::kWarpgroups; ++i) {
      device::init_barrier(shared.d_q_full[i], Config::kMathWarps / Config::kWarpgroups);
      device::init_barrier(shared.d_q_empty[i], 1);
    }
    device::fence_barrier_init();
  }
  __syncthreads();

  const int warpgroup = device::uniform(threadIdx.x / 128);
  if (warpgroup == Config::kWarpgroups) {
    device::release_registers<Config::kLoaderRegisters>();
    const int warp = device::uniform(threadIdx.x / 32 % 4);
    if (warp == 0) {
      Loader<Config>(params, maps, shared).run();
    } else if (warp <= Config::kWarpgroups && threadIdx.x % 32 == 0) {
      Adder<Config>(params, shared, warp - 1).run();
    }
  } else {
    device::claim_registers<Config::kMathRegisters>();
    Gradients<Config>(params, shared, warpgroup).run();
  }
}

}  // namespace jax_flash_mla::mha_backward_sm90
