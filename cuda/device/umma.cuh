// Matrix products of SM100, whose sums stay in tensor memory: descriptors, and one function for each PTX instruction
// used.
//
// One thread starts a product of 128 rows, for the whole thread block; whatever it starts is done in that order. Row r
// of the sums lies in lane r. Sums are float32, factors bfloat16.
#pragma once

#include <cstdint>

#include "cuda/device/barrier.cuh"
#include "cuda/device/swizzle.cuh"

namespace jax_flash_mla::device {

inline constexpr int kProductDepth = 16;  // what one instruction sums over, in two-byte elements

// --- What is multiplied.

enum class Contiguous { kAlongSum, kAcrossSum };  // the dimension that runs along a row of shared memory

// d = a · bᵀ of `rows` × `columns`; a's rows are contiguous along the sum.
__host__ __device__ constexpr uint32_t bf16_product(int rows, int columns, Contiguous b) {
  constexpr uint32_t kFloatSums = 1u << 4, kBf16A = 1u << 7, kBf16B = 1u << 10, kAcrossB = 1u << 16;
  return kFloatSums | kBf16A | kBf16B | (b == Contiguous::kAcrossSum ? kAcrossB : 0) | uint32_t(columns) / 8 << 17 |
         uint32_t(rows) / 16 << 24;
}

// A factor in shared memory: tiles in the 128-byte swizzle, whose atoms of eight rows follow each other.
struct SharedFactor {
  uint32_t upper, lower;

  // Further on by a number of bytes.
  __host__ __device__ constexpr uint64_t at(int bytes) const {
    return uint64_t(upper) << 32 | (lower + (uint32_t(bytes) >> 4));
  }
};

// The sum runs along the rows of one tile. Step over it by adding bytes within the row.
__host__ __device__ constexpr SharedFactor factor_along_sum(uint32_t tile_address) {
  constexpr uint32_t kVersion = 1u << 14, kSwizzle128 = 2u << 29, kAtomStride = kSwizzleAtomBytes >> 4;
  return {kVersion | kSwizzle128 | kAtomStride, (tile_address & 0x3FFFF) >> 4};
}

// The sum runs down the rows, and what is multiplied over several tiles of 64 columns, `tile_bytes` apart. Step over
// the sum by adding bytes of whole rows.
__host__ __device__ constexpr SharedFactor factor_across_sum(uint32_t tile_address, int tile_bytes) {
  SharedFactor factor = factor_along_sum(tile_address);
  factor.lower |= uint32_t(tile_bytes) >> 4 << 16;
  return factor;
}

// --- Products.

// One lane of the warp, always the same.
__device__ __forceinline__ bool elect_lane() {
  uint32_t is_elected;
  asm volatile(
      "{\n"
      ".reg .pred elected;\n"
      "elect.sync _|elected, 0xFFFFFFFF;\n"
      "selp.b32 %0, 1, 0, elected;\n"
      "}\n"
      : "=r"(is_elected));
  return is_elected;
}

// sums = a · bᵀ, or sums += a · bᵀ with `add`. Both factors are in shared memory.
__device__ __forceinline__ void start_product(uint32_t sums, uint64_t a, uint64_t b, uint32_t product, bool add) {
  asm volatile(
      "{\n"
      ".reg .pred adds;\n"
      "setp.ne.u32 adds, %4, 0;\n"
      "tcgen05.mma.cta_group::1.kind::f16 [%0], %1, %2, %3, adds;\n"
      "}\n" ::"r"(sums),
      "l"(a), "l"(b), "r"(product), "r"(uint32_t(add))
      : "memory");
}

// The same with the left factor in tensor memory, two elements in a column.
__device__ __forceinline__ void start_product_of_weights(uint32_t sums, uint32_t weights, uint64_t b, uint32_t product,
                                                         bool add) {
  asm volatile(
      "{\n"
      ".reg .pred adds;\n"
      "setp.ne.u32 adds, %4, 0;\n"
      "tcgen05.mma.cta_group::1.kind::f16 [%0], [%1], %2, %3, adds;\n"
      "}\n" ::"r"(sums),
      "r"(weights), "l"(b), "r"(product), "r"(uint32_t(add))
      : "memory");
}

// Arrives at a barrier when all products that this thread has started are done. It is a tensor_fence_before_sync, too.
__device__ __forceinline__ void arrive_after_products(Barrier& barrier) {
  asm volatile(
      "tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%0];" ::"r"(shared_address(&barrier))
      : "memory");
}

}  // namespace jax_flash_mla::device
