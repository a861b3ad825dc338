#include "emulator/machine/numerics.h"

#include <algorithm>
#include <cfenv>
#include <type_traits>

#if defined(__x86_64__) && defined(__GNUC__)
#define EMULATOR_HAS_AVX2_VERSIONS 1
#endif

namespace emulator {
namespace {

constexpr int kLaneCount = 32;

class RoundingMode {
 public:
  explicit RoundingMode(Rounding rounding) {
    switch (rounding) {
      case Rounding::kZero:
        std::fesetround(FE_TOWARDZERO);
        break;
      case Rounding::kDown:
        std::fesetround(FE_DOWNWARD);
        break;
      case Rounding::kUp:
        std::fesetround(FE_UPWARD);
        break;
      default:
        break;
    }
  }
  ~RoundingMode() { std::fesetround(FE_TONEAREST); }
};

template <typename Integer>
double integer_to_odd(Integer value) {
  using Magnitude = std::make_unsigned_t<Integer>;
  Magnitude magnitude = value < 0 ? Magnitude(0) - Magnitude(value) : Magnitude(value);
  // What a double's 53 bits have no room for is gathered in the lowest that it has.
  const int surplus = std::bit_width(magnitude) - 53;
  if (surplus > 0 && (magnitude & ((Magnitude(1) << surplus) - 1)) != 0) {
    magnitude = ((magnitude >> surplus) | 1) << surplus;
  }
  return value < 0 ? -double(magnitude) : double(magnitude);
}

template <typename Integer>
double integer_to_double(Integer value, Rounding rounding) {
  // Volatile, so that the conversion stays between the changes of the mode.
  volatile Integer in = value;
  RoundingMode mode(rounding);
  volatile double out = double(in);
  return out;
}

// One bit pattern for NaNs: floats have no payload, doubles keep that of an operand.
float with_nan(Operation, float result, float, float, float) { return canonical(result); }
double with_nan(Operation operation, double result, double a, double b, double c) {
  if (result == result) return result;
  // The quotient comes of a routine that looks at the dividend first.
  if (operation == Operation::kDivide && a != a) return quiet(a);
  for (const double operand : {b, c, a}) {
    if (operand != operand) return quiet(operand);
  }
  return std::bit_cast<double>(kNan64);
}

// 2^x by Taylor's series around the nearest integer. Written so that loops of it are vectorised.
[[gnu::always_inline]] inline float exp2_inline(float x) {
  constexpr double kLn2 = 0.693147180559945309417232121458176568;
  constexpr int kDegree = 13;  // the next term is less than 2^-55
  struct Coefficients {
    double of[kDegree + 1];
  };
  constexpr Coefficients kCoefficients = [] {
    Coefficients c{};
    c.of[0] = 1;
    for (int i = 1; i <= kDegree; ++i) c.of[i] = c.of[i - 1] * kLn2 / i;
    return c;
  }();
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  // Beyond ±160 the result is infinity or zero.
  const uint32_t clamped = std::min(magnitude, std::bit_cast<uint32_t>(160.0f)) | (bits & 0x80000000);
  const double argument = std::bit_cast<float>(clamped);
  // Added to a number this large, the argument is rounded to an integer, which is found in the lowest bits.
  constexpr double kLarge = 0x1.8p52;
  const double shifted = argument + kLarge;
  const double fraction = argument - (shifted - kLarge);
  double power = kCoefficients.of[kDegree];
#pragma GCC unroll 16
  for (int i = kDegree - 1; i >= 0; --i) power = power * fraction + kCoefficients.of[i];
  const uint64_t exponent = std::bit_cast<uint64_t>(shifted) << 52;
  const float result = float(std::bit_cast<double>(std::bit_cast<uint64_t>(power) + exponent));
  const uint32_t nan = magnitude > 0x7F800000 ? kNan32 : 0;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(result) | nan);
}

[[gnu::always_inline]] inline void exp2_loop(const uint32_t* __restrict in, uint32_t* __restrict out, bool flush) {
  if (flush) {
    for (int i = 0; i < kLaneCount; ++i) {
      out[i] = std::bit_cast<uint32_t>(flushed(exp2_inline(flushed(std::bit_cast<float>(in[i])))));
    }
  } else {
    for (int i = 0; i < kLaneCount; ++i) {
      out[i] = std::bit_cast<uint32_t>(exp2_inline(std::bit_cast<float>(in[i])));
    }
  }
}

#ifdef EMULATOR_HAS_AVX2_VERSIONS
bool has_avx2() {
  static const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return has;
}

[[gnu::target("avx2,fma")]] void exp2_loop_avx2(const uint32_t* __restrict in, uint32_t* __restrict out, bool flush) {
  exp2_loop(in, out, flush);
}

[[gnu::target("avx2,fma")]] void fused_loop_avx2(const uint32_t* __restrict a, const uint32_t* __restrict b,
                                                 const uint32_t* __restrict c, uint32_t* __restrict out) {
  for (int i = 0; i < kLaneCount; ++i) {
    out[i] = std::bit_cast<uint32_t>(
        canonical(std::fma(std::bit_cast<float>(a[i]), std::bit_cast<float>(b[i]), std::bit_cast<float>(c[i]))));
  }
}
#endif

}  // namespace

uint32_t encode(const Format& format, double value, Rounding rounding, bool finite) {
  if (value != value) return format.nan;
  constexpr int kDoubleFraction = 52;
  const uint64_t bits = std::bit_cast<uint64_t>(value);
  const bool negative = bits >> 63;
  const uint32_t sign = negative ? format.sign() : 0;
  const int lowest = 1 - format.bias();  // exponent of the lowest normal number
  int exponent = int(bits >> kDoubleFraction & 0x7FF);
  uint64_t significand = bits & ((uint64_t{1} << kDoubleFraction) - 1);
  bool overflow = false;
  uint32_t code = 0;
  if (exponent == 0x7FF) {
    if (format.specials == Format::Specials::kIeee && !finite) return sign | (format.largest() + 1);
    overflow = true;
    rounding = Rounding::kNearestEven;
  } else {
    if (exponent) {
      significand |= uint64_t{1} << kDoubleFraction;
    } else {
      exponent = 1;
    }
    exponent -= 1023;
    const int below = exponent < lowest ? lowest - exponent : 0;
    const int cut = std::min(kDoubleFraction - format.fraction_bits + below, 63);
    const uint64_t rest = significand & ((uint64_t{1} << cut) - 1);
    const uint64_t half = uint64_t{1} << (cut - 1);
    uint64_t kept = significand >> cut;
    switch (rounding) {
      case Rounding::kNearestEven:
        kept += rest > half || (rest == half && (kept & 1));
        break;
      case Rounding::kNearestAway:
        kept += rest >= half;
        break;
      case Rounding::kZero:
        break;
      case Rounding::kDown:
        kept += rest && negative;
        break;
      case Rounding::kUp:
        kept += rest && !negative;
        break;
    }
    // A significand that rounding made too long carries into the exponent, as it should.
    const uint64_t wide = below ? kept : (uint64_t(exponent - lowest) << format.fraction_bits) + kept;
    overflow = wide > format.largest();
    code = uint32_t(wide);
  }
  if (!overflow) return sign | code;
  const bool inwards = rounding == Rounding::kZero || rounding == (negative ? Rounding::kUp : Rounding::kDown);
  if (finite || inwards) return sign | format.largest();
  return format.specials == Format::Specials::kIeee ? sign | (format.largest() + 1) : format.nan;
}

uint32_t encode_nan(const Format& format, double nan) {
  const uint64_t bits = std::bit_cast<uint64_t>(quiet(nan));
  const uint32_t fraction = uint32_t(bits >> (52 - format.fraction_bits)) & ((1u << format.fraction_bits) - 1);
  return (bits >> 63 ? format.sign() : 0) | (format.largest() + 1) | fraction;
}

double decode(const Format& format, uint32_t code) {
  const uint32_t magnitude = code & (format.sign() - 1);
  double value;
  if (magnitude <= format.largest()) {
    const int exponent = int(magnitude >> format.fraction_bits);
    const uint32_t fraction = magnitude & ((1u << format.fraction_bits) - 1);
    const uint32_t significand = fraction | (exponent ? 1u << format.fraction_bits : 0);
    value = std::ldexp(significand, std::max(exponent, 1) - format.bias() - format.fraction_bits);
  } else if (format.specials == Format::Specials::kIeee && magnitude == format.largest() + 1) {
    value = HUGE_VAL;
  } else {
    return std::bit_cast<double>(kNan64 & ~(uint64_t{1} << 63));
  }
  return code & format.sign() ? -value : value;
}

template <typename F>
F rounded(Operation operation, Rounding rounding, F a_value, F b_value, F c_value) {
  // Volatile, so that the operation stays between the changes of the mode.
  volatile F a = a_value, b = b_value, c = c_value, result = 0;
  {
    RoundingMode mode(rounding);
    switch (operation) {
      case Operation::kAdd:
        result = a + b;
        break;
      case Operation::kSubtract:
        result = a - b;
        break;
      case Operation::kMultiply:
        result = a * b;
        break;
      case Operation::kFma:
        result = std::fma(a, b, c);
        break;
      case Operation::kDivide:
        result = a / b;
        break;
      case Operation::kSquareRoot:
        result = std::sqrt(a);
        break;
    }
  }
  return with_nan(operation, F(result), a_value, b_value, c_value);
}
template float rounded(Operation, Rounding, float, float, float);
template double rounded(Operation, Rounding, double, double, double);

double round_to_integer(double value, Rounding rounding) {
  if (value != value) return quiet(value);
  switch (rounding) {
    case Rounding::kNearestEven:
      return std::nearbyint(value);
    case Rounding::kZero:
      return std::trunc(value);
    case Rounding::kDown:
      return std::floor(value);
    case Rounding::kUp:
      return std::ceil(value);
    default:
      return std::round(value);
  }
}

float to_float(double value, Rounding rounding) { return std::bit_cast<float>(encode(kFloatFormat, value, rounding)); }
float to_float(int64_t value, Rounding rounding) { return to_float(to_odd(value), rounding); }
float to_float(uint64_t value, Rounding rounding) { return to_float(to_odd(value), rounding); }
double to_odd(int64_t value) { return integer_to_odd(value); }
double to_odd(uint64_t value) { return integer_to_odd(value); }
double to_double(int64_t value, Rounding rounding) { return integer_to_double(value, rounding); }
double to_double(uint64_t value, Rounding rounding) { return integer_to_double(value, rounding); }

void fused_lanes(const uint32_t* __restrict a, const uint32_t* __restrict b, const uint32_t* __restrict c,
                 uint32_t* __restrict out) {
#ifdef EMULATOR_HAS_AVX2_VERSIONS
  if (has_avx2()) return fused_loop_avx2(a, b, c, out);
#endif
  for (int i = 0; i < kLaneCount; ++i) {
    out[i] = std::bit_cast<uint32_t>(
        fused(std::bit_cast<float>(a[i]), std::bit_cast<float>(b[i]), std::bit_cast<float>(c[i])));
  }
}

void exp2_lanes(const uint32_t* __restrict in, uint32_t* __restrict out, bool flush) {
#ifdef EMULATOR_HAS_AVX2_VERSIONS
  if (has_avx2()) return exp2_loop_avx2(in, out, flush);
#endif
  exp2_loop(in, out, flush);
}

float exp2_float(float x) { return exp2_inline(x); }
float log2_float(float x) { return canonical(float(std::log2(double(x)))); }
float reciprocal_float(float x) { return canonical(1 / x); }
float reciprocal_square_root_float(float x) { return canonical(float(1 / std::sqrt(double(x)))); }
float square_root_float(float x) { return canonical(std::sqrt(x)); }
float sine_float(float x) { return canonical(float(std::sin(double(x)))); }
float cosine_float(float x) { return canonical(float(std::cos(double(x)))); }
float tanh_float(float x) { return canonical(float(std::tanh(double(x)))); }

}  // namespace emulator
