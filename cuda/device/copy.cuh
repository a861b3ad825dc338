// Copies from global into shared memory, and stores that are wider than those of C++.
#pragma once

#include <cuda.h>

#include "cuda/device/barrier.cuh"

namespace jax_flash_mla::device {

// --- Tensor copies (TMA): one thread issues a box; its bytes arrive on an mbarrier.

__device__ __forceinline__ void prefetch_tensor_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// A box outside the matrix, at negative coordinates too, delivers zeros and counts its bytes all the same.
__device__ __forceinline__ void copy_box(void* destination, const CUtensorMap& map, Barrier& barrier, int column,
                                         int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
          "r"(shared_address(destination)),
      "l"(&map), "r"(shared_address(&barrier)), "r"(column), "r"(row)
      : "memory");
}

// Brings the 128 bytes that an address lies in to the L2 cache.
__device__ __forceinline__ void prefetch_line(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address) : "memory");
}

// --- Loads of what nobody writes meanwhile, to registers: where they stand, which the compiler does not change.

__device__ __forceinline__ uint4 load_16_bytes(const void* source) {
  uint4 x;
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(source));
  return x;
}

__device__ __forceinline__ uint2 load_8_bytes(const void* source) {
  uint2 x;
  asm volatile("ld.global.nc.v2.u32 {%0, %1}, [%2];" : "=r"(x.x), "=r"(x.y) : "l"(source));
  return x;
}

// --- Copies of 16 bytes by each thread (cp.async).

// Zeros where `valid` does not hold; `source` is then not read.
__device__ __forceinline__ void copy_16_bytes(void* destination, const void* source, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(destination)), "l"(source),
               "r"(valid ? 16 : 0)
               : "memory");
}

// The same, of a row that is copied as a whole: brings the 256 bytes around it to the L2 cache, if they are not there.
__device__ __forceinline__ void copy_16_bytes_of_row(void* destination, const void* source, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(shared_address(destination)), "l"(source),
               "r"(valid ? 16 : 0)
               : "memory");
}

// Like copy_16_bytes, of 8 or 4 bytes, for what is not aligned to 16.
__device__ __forceinline__ void copy_8_bytes(void* destination, const void* source, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(destination)), "l"(source),
               "r"(valid ? 8 : 0)
               : "memory");
}

__device__ __forceinline__ void copy_4_bytes(void* destination, const void* source, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(destination)), "l"(source),
               "r"(valid ? 4 : 0)
               : "memory");
}

// Until all copies that this thread has started are there.
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Arrives when all copies that this thread has started are there. One of the barrier's expected arrivals.
__device__ __forceinline__ void arrive_after_copies(Barrier& barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(&barrier)) : "memory");
}

// --- Stores of SM100.

// Eight words side by side in global memory, 32-byte aligned: a whole sector of the L2 cache.
__device__ __forceinline__ void store_32_bytes(void* target, const uint32_t* x) {
  asm volatile("st.global.v8.b32 [%0], {%1, %2, %3, %4, %5, %6, %7, %8};" ::"l"(__cvta_generic_to_global(target)),
               "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(x[4]), "r"(x[5]), "r"(x[6]), "r"(x[7])
               : "memory");
}

}  // namespace jax_flash_mla::device
