// Additions to global memory, in whatever order they come.
#pragma once

namespace jax_flash_mla::device {

// Adds to two floats side by side, 8-byte aligned.
__device__ __forceinline__ void add_pair(float* target, float x, float y) {
  asm volatile("red.relaxed.gpu.global.add.v2.f32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(target)), "f"(x),
               "f"(y)
               : "memory");
}

}  // namespace jax_flash_mla::device
