// Floating-point numbers as a GPU computes with them: formats, roundings, canonical NaNs, approximations.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace emulator {

enum class Rounding : int32_t { kNearestEven, kZero, kDown, kUp, kNearestAway };

struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};
// Two numbers in one register, the first in its lower half.
template <typename T>
struct Pair {
  T low, high;
};

inline constexpr uint32_t kNan32 = 0x7FFFFFFF;
inline constexpr uint16_t kNan16 = 0x7FFF;  // of Half and of Bfloat
// What copies of tensors fill in, of 16 bits, where zeros would not do; fma.oob knows it again.
inline constexpr uint16_t kOutsideNan = 0x7FF7;
inline constexpr uint64_t kNan64 = 0xFFF8000000000000;

// --- Any format of at most 32 bits, by way of double, which holds all of their values

struct Format {
  int exponent_bits;
  int fraction_bits;
  // kIeee: the highest exponent is for infinities and NaNs. kNan: only the code of all ones is none of the numbers.
  // kNone: all codes are numbers; what is none becomes the largest.
  enum class Specials { kIeee, kNan, kNone } specials;
  uint32_t nan;

  constexpr uint32_t sign() const { return 1u << (exponent_bits + fraction_bits); }
  constexpr int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  // The highest code of a number.
  constexpr uint32_t largest() const {
    if (specials == Specials::kNone) return sign() - 1;
    return specials == Specials::kIeee ? (((1u << exponent_bits) - 1) << fraction_bits) - 1 : sign() - 2;
  }
};

inline constexpr Format kFloatFormat{8, 23, Format::Specials::kIeee, kNan32};
inline constexpr Format kHalfFormat{5, 10, Format::Specials::kIeee, kNan16};
inline constexpr Format kBfloatFormat{8, 7, Format::Specials::kIeee, kNan16};
inline constexpr Format kTf32Format{8, 10, Format::Specials::kIeee, kNan32 >> 13};
inline constexpr Format kE5M2Format{5, 2, Format::Specials::kIeee, 0x7F};
inline constexpr Format kE4M3Format{4, 3, Format::Specials::kNan, 0x7F};
inline constexpr Format kE2M3Format{2, 3, Format::Specials::kNone, 0x1F};
inline constexpr Format kE3M2Format{3, 2, Format::Specials::kNone, 0x1F};
inline constexpr Format kE2M1Format{2, 1, Format::Specials::kNone, 0x7};

// `finite`: what is too large becomes the largest number (.satfinite).
uint32_t encode(const Format& format, double value, Rounding rounding = Rounding::kNearestEven, bool finite = false);
double decode(const Format& format, uint32_t code);
// A NaN with its sign and as much of its payload as there is room for, made quiet. For formats of Specials::kIeee.
uint32_t encode_nan(const Format& format, double nan);

// --- float and double

inline float canonical(float value) { return value == value ? value : std::bit_cast<float>(kNan32); }

// Subnormal numbers become zeros of their sign.
inline float flushed(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return std::bit_cast<float>((bits & 0x7F800000) == 0 ? bits & 0x80000000 : bits);
}

// NaNs become quiet, and are what they were otherwise.
inline double quiet(double value) {
  return value == value ? value : std::bit_cast<double>(std::bit_cast<uint64_t>(value) | uint64_t{1} << 51);
}

// Clamped to [0, 1]; NaNs become 0.
template <typename T>
T saturated(T value) {
  return value > 0 ? (value < 1 ? value : T(1)) : T(0);
}

// The sum, of which the lowest bit is set if it is not exact. Rounding this once more, to a format that is shorter by at
// least two bits, gives what rounding the exact sum would have given, in whatever direction.
inline double add_to_odd(double a, double b) {
  const double sum = a + b;
  const double b_part = sum - a;
  const double error = (a - (sum - b_part)) + (b - b_part);
  const uint64_t bits = std::bit_cast<uint64_t>(sum);
  // Without branches, for the sake of vectors. The error is NaN where the sum is infinite.
  const uint64_t step = (std::fabs(error) > 0 ? uint64_t{1} : 0) & ~bits;
  const uint64_t inwards = -((std::bit_cast<uint64_t>(error) ^ bits) >> 63);
  return std::bit_cast<double>(bits + ((step ^ inwards) - inwards));
}

// a * b + c, rounded once. The product of two floats is exact in double.
inline float fused(float a, float b, float c) {
#ifdef __FP_FAST_FMAF
  return canonical(std::fma(a, b, c));
#else
  return canonical(float(add_to_odd(double(a) * double(b), double(c))));
#endif
}
// The same for 32 lanes, with the processor's own instruction where it has one. These are the bits of floats.
void fused_lanes(const uint32_t* a, const uint32_t* b, const uint32_t* c, uint32_t* out);

enum class Operation { kAdd, kSubtract, kMultiply, kFma, kDivide, kSquareRoot };

// The operation on as many of the operands as it has, rounded as asked (not kNearestAway). F: float or double. Where
// operands are NaNs, doubles are one of them, made quiet: a goes before b in quotients, elsewhere it is b, c, a.
template <typename F>
F rounded(Operation operation, Rounding rounding, F a, F b = 0, F c = 0);

// To an integer in the format itself.
double round_to_integer(double value, Rounding rounding);

float to_float(double value, Rounding rounding);
// To nearest; NaNs as encode_nan has them.
inline float to_float(double value) {
  const uint64_t bits = std::bit_cast<uint64_t>(value);
  const uint32_t nan = uint32_t(bits >> 32 & 0x80000000) | 0x7FC00000 | uint32_t(bits >> 29 & 0x003FFFFF);
  return value == value ? float(value) : std::bit_cast<float>(nan);
}
float to_float(int64_t value, Rounding rounding);
float to_float(uint64_t value, Rounding rounding);
// As add_to_odd does.
double to_odd(int64_t value);
double to_odd(uint64_t value);
double to_double(int64_t value, Rounding rounding);
double to_double(uint64_t value, Rounding rounding);

// --- Half and Bfloat

inline float to_float(Bfloat value) { return std::bit_cast<float>(uint32_t(value.bits) << 16); }

inline float to_float(Half value) {
  const uint32_t magnitude = value.bits & 0x7FFFu;
  // The bits as those of a float, with the exponent still to be put right: this normalises subnormal numbers, too.
  const float number = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  const uint32_t special = magnitude > 0x7C00 ? kNan32 : 0x7F800000;
  const uint32_t bits = magnitude >= 0x7C00 ? special : std::bit_cast<uint32_t>(number);
  const uint32_t sign = magnitude > 0x7C00 ? 0 : (value.bits & 0x8000u) << 16;
  return std::bit_cast<float>(bits | sign);
}

// To nearest, ties to even.
inline Bfloat to_bfloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t nearest = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
  return {uint16_t(value == value ? nearest : kNan16)};
}

inline Half to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  const uint32_t normal = (magnitude - (112u << 23) + 0xFFF + (magnitude >> 13 & 1)) >> 13;
  // The last place of floats around one half is that of subnormal halves: adding one half rounds.
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3F000000;
  uint32_t code = magnitude < (113u << 23) ? subnormal : normal;
  code = magnitude >= 0x477FF000 ? 0x7C00 : code;
  code |= bits >> 16 & 0x8000;
  return {uint16_t(value == value ? code : kNan16)};
}

inline Half to_half(double value) { return {uint16_t(encode(kHalfFormat, value))}; }

inline double to_double(Half value) { return to_float(value); }
inline double to_double(Bfloat value) { return to_float(value); }

inline bool is_nan(float value) { return value != value; }
inline bool is_nan(double value) { return value != value; }
inline bool is_nan(Half value) { return (value.bits & 0x7FFF) > 0x7C00; }
inline bool is_nan(Bfloat value) { return (value.bits & 0x7FFF) > 0x7F80; }

// --- Approximations. They are the true values rounded to nearest, but for one in some 2^28, of which the second nearest
// is given. Subnormal numbers are kept: who wants to flush them flushes argument and result.

float exp2_float(float x);
// The bits of 32 floats.
void exp2_lanes(const uint32_t* in, uint32_t* out, bool flush);
float log2_float(float x);
float reciprocal_float(float x);
float reciprocal_square_root_float(float x);
float square_root_float(float x);
float sine_float(float x);
float cosine_float(float x);
float tanh_float(float x);

}  // namespace emulator
