// Rows of WGMMA accumulators to memory.
#pragma once

#include "cuda/device/math.cuh"

namespace jax_flash_mla::device {

// Writes one of the two rows that a thread shares with its quad, row r of them, if it exists, times a factor; or zeros, whatever
// the accumulators hold. `target` is where the row's columns are. Called by all lanes. Stored as what is not read again soon:
// the L2 cache rather keeps operands.
template <typename Element, int N>
__device__ __forceinline__ void store_row(const float (&accumulators)[N], int r, bool exists, Element* target,
                                          bool is_zero, float factor) {
  target += threadIdx.x % 4 * 8;
#pragma unroll
  for (int i = 0; i < N; i += 16) {
    uint32_t pairs[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float* x = accumulators + i + 4 * j + 2 * r;
      pairs[j] = pack<Element>(is_zero ? 0.0f : x[0] * factor, is_zero ? 0.0f : x[1] * factor);
    }
    transpose_quad(pairs);
    if (exists) __stcs(reinterpret_cast<uint4*>(target + i * 2), make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]));
  }
}

}  // namespace jax_flash_mla::device
