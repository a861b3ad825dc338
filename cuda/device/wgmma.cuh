// Warpgroup matrix products. The instructions are CuTe's atoms; descriptors and register arrays are ours.
//
// Accumulators of a 64 × N product: thread t of the warpgroup holds, for each group j of eight columns, elements
// 4j + {0, 1} of row r = 16 (t / 32) + (t % 32) / 4 and 4j + {2, 3} of row r + 8, at columns 8j + 2 (t % 4) + {0, 1}.
#pragma once

#include <cute/arch/mma_sm90_gmma.hpp>
#include <utility>

#include "cuda/device/barrier.cuh"
#include "cuda/device/registers.cuh"
#include "cuda/device/swizzle.cuh"

namespace jax_flash_mla::device {

using cute::SM90::GMMA::ScaleOut;

// An operand in shared memory: tiles in the 128-byte swizzle, whose eight-row atoms follow each other.
struct Operand {
  uint32_t upper, lower;

  // Further on by a number of bytes.
  __device__ __forceinline__ uint64_t at(int bytes) const { return uint64_t(upper) << 32 | (lower + (bytes >> 4)); }
};

// Row-major (A, and B of scores): the summed dimension runs along the columns of a tile. Step over k by adding bytes
// within the row. Where the compiler knows that the address is the same in all lanes it need not be told.
template <bool kIsKnown = false>
__device__ __forceinline__ Operand row_major_operand(const void* tile) {
  constexpr uint32_t kSwizzle128 = 1u << 30, kAtomStride = kSwizzleAtomBytes >> 4;
  const uint32_t lower = (shared_address(tile) & 0x3FFFF) >> 4;
  return {kSwizzle128 | kAtomStride, kIsKnown ? lower : uniform(lower)};
}

// Column-major (B of outputs): the summed dimension runs down the rows, and the columns over several tiles of 64,
// `tile_bytes` apart. Step over k by adding bytes of whole rows.
template <bool kIsKnown = false>
__device__ __forceinline__ Operand column_major_operand(const void* tile, int tile_bytes) {
  Operand operand = row_major_operand<kIsKnown>(tile);
  operand.lower |= (tile_bytes >> 4) << 16;
  return operand;
}

// --- Order: fence before the first product of a batch, commit after its last, wait before its results are touched.

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most `Pending` of the committed batches are unfinished.
template <int Pending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

namespace detail {

template <typename Atom, size_t N, size_t... I>
__device__ __forceinline__ void multiply(uint64_t a, uint64_t b, float (&d)[N], ScaleOut add,
                                         std::index_sequence<I...>) {
  Atom::fma(a, b, d[I]..., add);
}

template <typename Atom, size_t N, size_t... I>
__device__ __forceinline__ void multiply(const uint32_t (&a)[4], uint64_t b, float (&d)[N], ScaleOut add,
                                         std::index_sequence<I...>) {
  Atom::fma(a[0], a[1], a[2], a[3], b, d[I]..., add);
}

}  // namespace detail

// d = a · b, or d += a · b with `add`. `A` is an operand in shared memory or four registers.
template <typename Atom, typename A, size_t N>
__device__ __forceinline__ void multiply(const A& a, uint64_t b, float (&d)[N], bool add) {
  detail::multiply<Atom>(a, b, d, add ? ScaleOut::One : ScaleOut::Zero, std::make_index_sequence<N>{});
}

}  // namespace jax_flash_mla::device
