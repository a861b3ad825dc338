// Additions to global memory, in whatever order they come.
#pragma once

namespace jax_flash_mla::device {

// Adds to four floats side by side, 16-byte aligned.
__device__ __forceinline__ void add_four(float* target, float x, float y, float z, float w) {
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(target)),
               "f"(x), "f"(y), "f"(z), "f"(w)
               : "memory");
}

}  // namespace jax_flash_mla::device
