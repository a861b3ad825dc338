// What the thread blocks of a cluster do to each other: places in another one's shared memory, arrivals at its barriers, copies
// to it.
#pragma once

#include <cstdint>

#include "cuda/device/barrier.cuh"

namespace jax_flash_mla::device {

__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// Where another thread block of the cluster has what this one has at `pointer`.
__device__ __forceinline__ uint32_t address_in(uint32_t rank, const void* pointer) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(pointer)), "r"(rank));
  return address;
}

// All threads of the cluster have come, and see what the others have written.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

// Arrives at another thread block's barrier. Tells it that reads are over, not of writes: `release.cluster` would wait until
// all of the thread's stores are seen by the whole device.
__device__ __forceinline__ void arrive_at(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Copies to another thread block, a multiple of 16 bytes, which arrive on a barrier of its. By one thread; what others have
// written is fenced (fence_async_proxy) before.
__device__ __forceinline__ void copy_to_block(uint32_t target, const void* source, int bytes, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(target),
      "r"(shared_address(source)), "r"(bytes), "r"(barrier)
      : "memory");
}

}  // namespace jax_flash_mla::device
