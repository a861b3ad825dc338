// SM100 multi-head attention, forward: items of two tiles of 128 query tokens of a head over blocks of 128 keys.
//
// Sums stay in tensor memory. One thread starts all products, those of the two tiles in turn, so that the tensor cores
// have the one tile's while the other one's scores are exponentiated, by a warpgroup for each tile with a thread for
// each row. A third warpgroup corrects outputs of rows whose maximum has moved, and writes them. Blocks come from the
// last to the first.
//
//   products    S0 2 | S1 2 |      | O0 2 | S0 1 | O1 2 | S1 1 | O0 1 | S0 0 | O1 1 | S1 0 | ...
//   softmax 0        | S0 2 → P0 2 |             | S0 1 → P0 1 |             | S0 0 → P0 0 |
//   softmax 1               | S1 2 → P1 2 |             | S1 1 → P1 1 |             | S1 0 → P1 0 |
//   correction                                      O0 * f           O1 * f  ...
//
// Weights P take the place of the scores S that they come from. A warp loads panels of keys and values into a ring of
// slots, and another one clears values past the sequence's end.
//
// Maxima lag behind: they move only when a row exceeds its own by 2^8, because moving them means rescaling outputs.
#pragma once

#include "cuda/sm100/mha_forward/correction.cuh"
#include "cuda/sm100/mha_forward/issuer.cuh"
#include "cuda/sm100/mha_forward/loader.cuh"
#include "cuda/sm100/mha_forward/softmax.cuh"

namespace jax_flash_mla::mha_forward_sm100 {

template <typename Config>
__device__ __forceinline__ void init_barriers(typename Config::SharedStorage& shared) {
  constexpr int kWarpgroup = 128;
  for (int i = 0; i < 2; ++i) {
    device::init_barrier(shared.item_full[i], 1);
    device::init_barrier(shared.item_empty[i], 3 * kWarpgroup + 2);  // issuer and cleaner
    device::init_barrier(shared.values_started[i], 1);
    device::init_barrier(shared.cleared[i], 32);
  }
  for (int i = 0; i < Config::kSlots; ++i) {
    device::init_barrier(shared.slot_full[i], 1);
    device::init_barrier(shared.slot_empty[i], 1);
  }
  for (int t = 0; t < Config::kTiles; ++t) {
    device::init_barrier(shared.q_full[t], 1);
    device::init_barrier(shared.q_empty[t], 1);
    device::init_barrier(shared.scores_full[t], 1);
    for (device::Barrier& full : shared.weights_full[t]) device::init_barrier(full, kWarpgroup);
    device::init_barrier(shared.statistics_full[t], kWarpgroup);
    device::init_barrier(shared.out_ready[t], kWarpgroup);
    device::init_barrier(shared.out_full[t], 1);
  }
  device::fence_barrier_init();
}

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    mha_forward_kernel(const __grid_constant__ MhaForwardParams params, const __grid_constant__ Grid grid,
                       const __grid_constant__ Maps maps) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<typename Config::SharedStorage*>(memory);
  const int warp = device::uniform(threadIdx.x / 32);
  if (threadIdx.x == 0) init_barriers<Config>(shared);
  if (warp == kIssuerWarp) {
    device::allocate_tensor_memory(shared.tensor_memory, device::kTensorColumns);
    device::give_up_allocating();
  }
  device::tensor_fence_before_sync();
  __syncthreads();
  device::tensor_fence_after_sync();

  if (warp < kCorrectionWarps) {
    device::claim_registers<Config::kSoftmaxRegisters>();
    Softmax<Config>(params, grid, shared, warp / 4).run();
  } else if (warp < kLoaderWarp) {
    device::release_registers<Config::kCorrectionRegisters>();
    Correction<Config>(params, shared).run();
  } else {
    device::release_registers<Config::kOtherRegisters>();
    if (warp == kLoaderWarp) Loader<Config>(params, maps, shared).run();
    if (warp == kIssuerWarp && device::elect_lane()) Issuer<Config>(shared).run();
    if (warp == kCleanerWarp) Cleaner<Config>(shared).run();
    __syncwarp();  // the barrier that follows wants whole warps
  }

  device::tensor_fence_before_sync();
  __syncthreads();
  device::tensor_fence_after_sync();
  if (warp == kIssuerWarp) device::free_tensor_memory(shared.tensor_memory, device::kTensorColumns);
}

}  // namespace jax_flash_mla::mha_forward_sm100
