// Matrices of 8 by 8 two-byte elements from registers, as WGMMA's accumulators lie there, to shared memory.
#pragma once

#include "cuda/device/barrier.cuh"

namespace jax_flash_mla::device {

// Four of them, pairs of elements of each: lane l has the place of row l % 8 of matrix l / 8, 16 bytes.
__device__ __forceinline__ void store_matrices(void* row, uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)), "r"(x),
               "r"(y), "r"(z), "r"(w)
               : "memory");
}

}  // namespace jax_flash_mla::device
