// What the compiler is told, and not told, of registers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace jax_flash_mla::device {

// The same in all lanes of a warp, and known to be by the compiler, which then keeps it, and what is computed from it, in
// uniform registers. It does not see through it: nothing is computed ahead and kept.
__device__ __forceinline__ uint32_t uniform(uint32_t x) { return __shfl_sync(~0u, x, 0); }

// Keeps the compiler from moving accesses of registers over this point.
template <typename T, size_t N>
__device__ __forceinline__ void pin_registers(T (&registers)[N]) {
#pragma unroll
  for (size_t i = 0; i < N; ++i) {
    if constexpr (std::is_same_v<T, float>) {
      asm volatile("" : "+f"(registers[i])::"memory");
    } else {
      asm volatile("" : "+r"(registers[i])::"memory");
    }
  }
}

}  // namespace jax_flash_mla::device
