// What the roles of SM100 multi-head attention, forward, have in common: whose turn it is.
#pragma once

#include "cuda/device/barrier.cuh"
#include "cuda/device/tensor_memory.cuh"
#include "cuda/sm100/mha_forward/config.h"

namespace jax_flash_mla::mha_forward_sm100 {

// A place in the ring of slots, and the parity of the round it is in.
template <typename Config>
struct Ring {
  uint32_t slot = 0, parity = 0;

  __device__ __forceinline__ void advance(uint32_t panels) {
    slot += panels;
    parity ^= slot / Config::kSlots & 1;
    slot %= Config::kSlots;
  }
};

// Item number `count`, once it is there.
template <typename Shared>
__device__ __forceinline__ const Item& wait_for_item(Shared& shared, uint32_t count) {
  device::wait(shared.item_full[count % 2], count / 2 % 2);
  return shared.items[count % 2];
}

// Where a warp has its lanes of the tensor memory.
template <typename Shared>
__device__ __forceinline__ uint32_t own_lanes(const Shared& shared) {
  return shared.tensor_memory + (device::uniform(threadIdx.x / 32 % 4) * 32 << 16);
}

}  // namespace jax_flash_mla::mha_forward_sm100
