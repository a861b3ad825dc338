// e4m3 codes as bfloat16.
//
// A code's bits are those of a bfloat16 number once exponent and mantissa have moved down by four places: the number is then
// the value times 2^-120, since the exponents' biases are 7 and 127. That holds for subnormal codes as well. The two codes
// for NaN become those of 480 and -480.
#pragma once

#include <cstdint>

#include "cuda/device/math.cuh"

namespace jax_flash_mla::device {

inline constexpr float kPlacedUnit = 0x1p120f;  // what placed codes are to be multiplied by

// Codes 0 and 1 of four, or 2 and 3, as a pair of bfloat16: placed.
__device__ __forceinline__ uint32_t place_codes(uint32_t codes, bool upper) {
  // Each in the lower byte of a half. Four places up, all but the sign are where they belong, and that is four too low: 15, not
  // 11. Multiplications and additions, since the units of logic and shifts are what limits.
  const uint32_t spread = __byte_perm(codes, 0, upper ? 0x4342 : 0x4140);
  return (spread & 0x00800080) * 0xF0 + spread * 0x10;
}

// A scale of any size as bfloat16 factors: a code's value times the scale is x · high + x · low, where only the last operation
// rounds noticeably. `high` is the scale cut off, so that it stays finite, and `low` the rest, both as pairs. x is the placed
// code, whose unit then is in the factors, or, where that might be too much for them, the value itself.
struct ScaleFactors {
  uint32_t high, low;
  bool of_value;
};

__device__ __forceinline__ ScaleFactors factors_of(float scale) {
  const bool is_large = fabsf(scale) >= 1.0f;
  const float rest = is_large ? scale : scale * kPlacedUnit;
  const uint32_t high = __float_as_uint(rest) & 0xFFFF0000;
  const float low = rest - __uint_as_float(high);
  return {high | high >> 16, pack<__nv_bfloat16>(low, low), is_large};
}

__device__ __forceinline__ uint32_t times_scale(uint32_t placed, const ScaleFactors& factors) {
  constexpr uint32_t kUnits = 0x7B807B80;
  const uint32_t x = factors.of_value ? multiply_pairs(placed, kUnits) : placed;
  return fma_pairs(x, factors.high, multiply_pairs(x, factors.low));
}

// The same of a scale below 2^7, to the same bits: the unit is always in the factors.
struct SmallScaleFactors {
  uint32_t high, low;
};

__device__ __forceinline__ bool is_small(float scale) { return fabsf(scale) < 0x1p7f; }

__device__ __forceinline__ uint2 small_factors_of(float scale) {
  const float scaled = scale * kPlacedUnit;
  const uint32_t high = __float_as_uint(scaled) & 0xFFFF0000;
  const float low = scaled - __uint_as_float(high);
  return make_uint2(high | high >> 16, pack<__nv_bfloat16>(low, low));
}

__device__ __forceinline__ uint32_t times_scale(uint32_t placed, const SmallScaleFactors& factors) {
  return fma_pairs(placed, factors.high, multiply_pairs(placed, factors.low));
}

// The same of a power of two: e8m0, whose code 255 is NaN.
struct PowerFactors {
  uint32_t power;
};

__device__ __forceinline__ PowerFactors power_of(uint32_t code) {
  // Code 0 is the subnormal 2^-127.
  const uint32_t bits = code << 7 | (code == 0 || code == 255 ? 0x40 : 0);
  return {bits | bits << 16};
}

__device__ __forceinline__ uint32_t times_scale(uint32_t placed, const PowerFactors& factors) {
  constexpr uint32_t kUnits = 0x7B807B80;
  return multiply_pairs(multiply_pairs(placed, kUnits), factors.power);
}

// And of one below 2^8.
struct SmallPowerFactors {
  uint32_t power;
};

__device__ __forceinline__ bool is_small(uint8_t code) { return code < 127 + 8; }

__device__ __forceinline__ uint32_t small_factors_of(uint8_t code) {
  const uint32_t bits = uint32_t(code) + 120 << 7;
  return bits | bits << 16;
}

__device__ __forceinline__ uint32_t times_scale(uint32_t placed, const SmallPowerFactors& factors) {
  return multiply_pairs(placed, factors.power);
}

// Factors as they are noted: those of small scales, or else scales.
__device__ __forceinline__ uint2 scale_bits(float scale) { return make_uint2(__float_as_uint(scale), 0); }
__device__ __forceinline__ uint32_t scale_bits(uint8_t code) { return code; }

template <bool Small>
__device__ __forceinline__ auto noted_factors(uint2 noted) {
  if constexpr (Small) {
    return SmallScaleFactors{noted.x, noted.y};
  } else {
    return factors_of(__uint_as_float(noted.x));
  }
}

template <bool Small>
__device__ __forceinline__ auto noted_factors(uint32_t noted) {
  if constexpr (Small) {
    return SmallPowerFactors{noted};
  } else {
    return power_of(noted);
  }
}

// Eight codes times their scale, in their order.
template <typename Factors>
__device__ __forceinline__ uint4 dequantize(uint32_t first, uint32_t second, const Factors& factors) {
  return make_uint4(times_scale(place_codes(first, false), factors), times_scale(place_codes(first, true), factors),
                    times_scale(place_codes(second, false), factors), times_scale(place_codes(second, true), factors));
}

}  // namespace jax_flash_mla::device
