// Keys that are named by indices: which of a block are there.
#pragma once

#include <cstdint>

#include "cuda/device/math.cuh"

namespace jax_flash_mla::mla_sm90 {

// -inf for the scores of keys that are not there. Bit i of `valid` tells of key i of the block; a thread has columns 0 and 1
// of each eight, counted from twice its place in its quad.
template <int Scores>
__device__ __forceinline__ void mask_absent(float (&scores)[Scores], const uint32_t (&valid)[2]) {
  if ((valid[0] & valid[1]) == ~0u) return;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t own = valid[half] >> threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < Scores / 2; ++i) {
      if (!(own >> (i / 4 * 8 + i % 2) & 1)) scores[half * Scores / 2 + i] = -device::kInfinity;
    }
  }
}

}  // namespace jax_flash_mla::mla_sm90
