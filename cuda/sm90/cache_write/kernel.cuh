// Tokens into an FP8 cache: quantised and put where they belong.
//
// One warp a token. A lane holds 16 neighbouring values of the latent vector in float32; the lanes of a group, eight or four,
// agree on its largest magnitude, hence on its scale, and each stores its 16 codes. The group's first lane stores the scale.
// All lanes together copy the 64 rotary dimensions. Warps do not wait for each other, and nothing is kept in shared memory:
// what hides the memory's latency is how many warps there are.
//
//   lane          0 ... 7    8 ... 15   16 ... 23  24 ... 31        V32: values of one scale
//                 0..3 4..7  ...        ...        24..27  28..31   MODEL1: the same; the last four have none
#pragma once

#include <cuda_fp8.h>

#include "cuda/device/math.cuh"
#include "cuda/sm90/cache_write/claims.cuh"

namespace jax_flash_mla::cache_write_sm90 {

inline constexpr float kE4m3Max = 448.0f, kLeastScale = 1e-4f;
inline constexpr uint32_t kInfinityBits = 0x7F800000;

// 16 values of two bytes each, from a place aligned to 16 bytes.
template <typename Element>
__device__ __forceinline__ void unpack_values(float (&x)[kLaneValues], const void* source) {
#pragma unroll
  for (int i = 0; i < kLaneValues / 8; ++i) {
    const uint4 eight = __ldg(static_cast<const uint4*>(source) + i);
    const uint32_t pairs[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 two = device::unpack<Element>(pairs[j]);
      x[8 * i + 2 * j] = two.x, x[8 * i + 2 * j + 1] = two.y;
    }
  }
}

// The same of any type.
__device__ __forceinline__ void load_values(float (&x)[kLaneValues], const void* values, int64_t first,
                                            FloatType type) {
  if (type == FloatType::kFp32) {
    const auto* source = reinterpret_cast<const float4*>(static_cast<const float*>(values) + first);
#pragma unroll
    for (int i = 0; i < kLaneValues / 4; ++i) {
      const float4 four = __ldg(source + i);
      x[4 * i] = four.x, x[4 * i + 1] = four.y, x[4 * i + 2] = four.z, x[4 * i + 3] = four.w;
    }
    return;
  }
  const void* const source = static_cast<const uint16_t*>(values) + first;
  if (type == FloatType::kBf16) {
    unpack_values<__nv_bfloat16>(x, source);
  } else {
    unpack_values<__half>(x, source);
  }
}

// A pair of values as bfloat16.
__device__ __forceinline__ uint32_t load_pair(const void* values, int64_t first, FloatType type) {
  if (type == FloatType::kFp32) {
    const float2 two = __ldg(reinterpret_cast<const float2*>(static_cast<const float*>(values) + first));
    return device::pack<__nv_bfloat16>(two.x, two.y);
  }
  const uint32_t pair = __ldg(reinterpret_cast<const uint32_t*>(static_cast<const uint16_t*>(values) + first));
  if (type == FloatType::kBf16) return pair;
  const float2 two = device::unpack<__half>(pair);
  return device::pack<__nv_bfloat16>(two.x, two.y);
}

// The larger magnitude; NaN where one of them is.
__device__ __forceinline__ float larger(float x, float y) {
  float most;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(most) : "f"(x), "f"(fabsf(y)));
  return most;
}

// x / y rounded to nearest, as by IEEE's division, wherever that decides about a code: |x / y| above 2^-80, say. Where x is
// a zero, its sign stays. `reciprocal` is 1 / y rounded to nearest.
//
// Of the quotient's approximations the first may be one and a half units in the last place off, the second less than one;
// from such a one the step with the exact remainder arrives at the quotient rounded to nearest (Markstein, Computation of
// elementary functions on the IBM RISC System/6000 processor, 1990).
__device__ __forceinline__ float divide(float x, float y, float reciprocal) {
  float quotient = __fmul_rn(x, reciprocal);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float excess = __fmaf_rn(quotient, y, -x);
    quotient = __fmaf_rn(-excess, reciprocal, quotient);
  }
  return quotient;
}

// Four quotients as codes, saturated; 0x7F for NaN.
__device__ __forceinline__ uint32_t codes_of(float a, float b, float c, float d) {
  const uint32_t low = __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
  const uint32_t high = __nv_cvt_float2_to_fp8x2(make_float2(c, d), __NV_SATFINITE, __NV_E4M3);
  return low | high << 16;
}

// The bits of a group's scale.
__device__ __forceinline__ uint32_t scale_of(float largest, bool power_of_two) {
  const uint32_t bits = __float_as_uint(fmaxf(__fdiv_rn(largest, kE4m3Max), kLeastScale));
  return power_of_two ? (bits + 0x7FFFFF) & 0xFF800000 : bits;
}

// Where a token's parts are. Its scales are in its body, or behind those of its page.
template <typename Format>
struct Place {
  uint8_t *body, *scales;

  __device__ __forceinline__ Place(const CacheWriteParams& params, int32_t slot) {
    auto* const cache = static_cast<uint8_t*>(params.cache);
    if constexpr (Format::kTokenBytes == Format::kBodyBytes) {
      body = cache + int64_t(slot) * Format::kTokenBytes;
      scales = body + Format::kScalesAt;
    } else {
      const uint32_t page = uint32_t(slot) / uint32_t(params.page_size), in_page = slot - page * params.page_size;
      uint8_t* const first = cache + int64_t(page) * params.page_size * Format::kTokenBytes;
      body = first + int64_t(in_page) * Format::kBodyBytes;
      scales = first + int64_t(params.page_size) * Format::kBodyBytes + int64_t(in_page) * Format::kScaleBytes;
    }
  }
};

template <typename Format>
__global__ void __launch_bounds__(kThreads) cache_write_kernel(const __grid_constant__ CacheWriteParams params) {
  constexpr int kLatentLanes = Format::kLatent / kLaneValues, kGroupLanes = Format::kScaleGroup / kLaneValues;
  static_assert(kLatentLanes <= 32 && 32 % kGroupLanes == 0);
  const int64_t warp = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (warp >= params.tokens) return;
  const int token = int(warp), lane = threadIdx.x % 32;
  const bool has_values = lane < kLatentLanes;

  // --- What the token holds, asked for ahead of where it goes: both take long.
  float x[kLaneValues] = {};
  if (has_values) {
    load_values(x, params.latent, int64_t(token) * Format::kLatent + lane * kLaneValues, params.latent_type);
  }
  const uint32_t rotary = load_pair(params.rope, int64_t(token) * kCacheWriteRotary + 2 * lane, params.rope_type);

  const int32_t slot = named_slot(params, token);
  if (slot < 0 || !is_last(params, token, slot)) return;
  const Place<Format> place(params, slot);

  // --- Scales.
  float largest = 0.0f;
#pragma unroll
  for (int i = 0; i < kLaneValues; ++i) largest = larger(largest, x[i]);
#pragma unroll
  for (int other = 1; other < kGroupLanes; other *= 2) {
    largest = larger(largest, __shfl_xor_sync(~0u, largest, other));
  }
  const bool is_finite = __float_as_uint(largest) < kInfinityBits;
  const uint32_t scale = scale_of(largest, Format::kPowerOfTwoScales || params.power_of_two_scales);
  const int group = lane / kGroupLanes;
  if constexpr (Format::kPowerOfTwoScales) {
    // The group without values stores the byte that no scale is in.
    const uint32_t code = !has_values ? 0 : is_finite ? scale >> 23 : 255;
    if (lane % kGroupLanes == 0) place.scales[group] = uint8_t(code);
  } else {
    const uint32_t bits = is_finite ? scale : __float_as_uint(device::kNaN);
    if (lane % kGroupLanes == 0) reinterpret_cast<uint32_t*>(place.scales)[group] = bits;
  }

  // --- Codes. What is not finite makes all quotients of its group NaN.
  const float y = __uint_as_float(scale), reciprocal = is_finite ? __frcp_rn(y) : device::kNaN;
#pragma unroll
  for (int i = 0; i < kLaneValues; ++i) x[i] = divide(x[i], y, reciprocal);
  uint32_t codes[kLaneValues / 4];
#pragma unroll
  for (int i = 0; i < kLaneValues / 4; ++i) {
    codes[i] = codes_of(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]);
  }
  if (has_values) {
    // Where pages hold an odd number of tokens theirs are aligned to 8 bytes.
    auto* const target = reinterpret_cast<uint2*>(place.body + lane * kLaneValues);
    if constexpr (Format::kTokenBytes % 16 == 0) {
      *reinterpret_cast<uint4*>(target) = make_uint4(codes[0], codes[1], codes[2], codes[3]);
    } else {
      target[0] = make_uint2(codes[0], codes[1]);
      target[1] = make_uint2(codes[2], codes[3]);
    }
  }

  reinterpret_cast<uint32_t*>(place.body + Format::kRotaryAt)[lane] = rotary;
}

}  // namespace jax_flash_mla::cache_write_sm90
