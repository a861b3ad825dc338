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
  // Each in the upper byte of a half, over zeros.
  const uint32_t spread = __byte_perm(codes, 0, upper ? 0x3424 : 0x1404);
  return (spread & 0x80008000) | (spread >> 4 & 0x07F007F0);
}

// A scale of any size as bfloat16 factors: a code's value times the scale is placed · unit · high + placed · unit · low, where
// only the last operation rounds noticeably. `high` is the scale cut off, so that it stays finite, and `low` the rest;
// `unit` is a power of two that keeps both in range. All are pairs.
struct ScaleFactors {
  uint32_t unit, high, low;
};

__device__ __forceinline__ ScaleFactors factors_of(float scale) {
  const bool is_large = fabsf(scale) >= 1.0f;
  const float rest = is_large ? scale : scale * kPlacedUnit;
  const uint32_t high = __float_as_uint(rest) & 0xFFFF0000;
  const float low = rest - __uint_as_float(high);
  constexpr uint32_t kOnes = 0x3F803F80, kUnits = 0x7B807B80;
  return {is_large ? kUnits : kOnes, high | high >> 16, pack<__nv_bfloat16>(low, low)};
}

__device__ __forceinline__ uint32_t times_scale(uint32_t placed, const ScaleFactors& factors) {
  const uint32_t x = multiply_pairs(placed, factors.unit);
  return fma_pairs(x, factors.high, multiply_pairs(x, factors.low));
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

// Eight codes times their scale, in their order.
template <typename Factors>
__device__ __forceinline__ uint4 dequantize(uint32_t first, uint32_t second, const Factors& factors) {
  return make_uint4(times_scale(place_codes(first, false), factors), times_scale(place_codes(first, true), factors),
                    times_scale(place_codes(second, false), factors), times_scale(place_codes(second, true), factors));
}

}  // namespace jax_flash_mla::device
