// Additions to global memory, and what puts them in order.
#pragma once

#include "cuda/device/barrier.cuh"

namespace jax_flash_mla::device {

// --- In whatever order they come.

// Adds to four floats side by side, 16-byte aligned.
__device__ __forceinline__ void add_four(float* target, float x, float y, float z, float w) {
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(target)),
               "f"(x), "f"(y), "f"(z), "f"(w)
               : "memory");
}

// Adds floats side by side by the copy engine: `bytes` of them, a multiple of 16, from shared memory; both 16-byte aligned.
__device__ __forceinline__ void add_bulk(float* target, const float* source, int bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(
                   __cvta_generic_to_global(target)),
               "r"(shared_address(source)), "r"(bytes)
               : "memory");
}

// After a thread's last one, before it waits for them.
__device__ __forceinline__ void commit_bulk_additions() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Until what this thread has committed is read.
__device__ __forceinline__ void wait_for_bulk_reads() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

// Until it is added.
__device__ __forceinline__ void wait_for_bulk_additions() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// --- One after another, of thread blocks.

__device__ __forceinline__ int load_acquire(const int& source) {
  int x;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(x) : "l"(__cvta_generic_to_global(&source)) : "memory");
  return x;
}

__device__ __forceinline__ void store_release(int& target, int x) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(__cvta_generic_to_global(&target)), "r"(x) : "memory");
}

}  // namespace jax_flash_mla::device
