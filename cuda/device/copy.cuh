// Copies from global into shared memory.
#pragma once

#include <cuda.h>

#include "cuda/device/barrier.cuh"

namespace jax_flash_mla::device {

// --- Tensor copies (TMA): one thread issues a box; its bytes arrive on an mbarrier.

__device__ __forceinline__ void prefetch_tensor_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// A coordinate outside the tensor, negative ones too, delivers zeros and counts its bytes all the same.
__device__ __forceinline__ void copy_box(void* destination, const CUtensorMap& map, Barrier& barrier, int c0, int c1,
                                         int c2, int c3, int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(shared_address(destination)),
      "l"(&map), "r"(shared_address(&barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}

// --- Copies of 16 bytes by each thread (cp.async).

// Zeros where `valid` does not hold; `source` is then not read.
__device__ __forceinline__ void copy_16_bytes(void* destination, const void* source, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(destination)), "l"(source),
               "r"(valid ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void wait_for_own_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

}  // namespace jax_flash_mla::device
