// Numbers against what they are defined to be, computed in other ways.
#include "emulator/machine/numerics.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "emulator/machine/testing.h"

namespace emulator {
namespace {

std::mt19937_64 generator(20260101);

constexpr Rounding kRoundings[] = {Rounding::kNearestEven, Rounding::kZero, Rounding::kDown, Rounding::kUp,
                                   Rounding::kNearestAway};

uint32_t bits(float value) { return std::bit_cast<uint32_t>(value); }
float random_float() { return std::bit_cast<float>(uint32_t(generator())); }
// Of exponents close to each other, so that operations have something to round.
float random_near_one() { return std::ldexp(float(int32_t(generator()) | 1) * 0x1p-31f, int(generator() % 60) - 30); }

struct Named {
  const char* name;
  Format format;
};
constexpr Named kFormats[] = {
    {"f16", kHalfFormat},
    {"bf16", kBfloatFormat},
    {"e5m2", kE5M2Format},
    {"e4m3", kE4M3Format},
};

void test_decode() {
  for (const auto& [name, format] : kFormats) {
    for (uint32_t code = 0; code < 2 * format.sign(); ++code) {
      const double value = decode(format, code);
      const uint32_t magnitude = code & (format.sign() - 1);
      const int exponent = int(magnitude >> format.fraction_bits);
      const int fraction = int(magnitude - (uint32_t(exponent) << format.fraction_bits));
      const bool top = exponent == (1 << format.exponent_bits) - 1;
      const double sign = code & format.sign() ? -1 : 1;
      if (format.specials == Format::Specials::kIeee && top) {
        CHECK(fraction ? value != value : value == sign * HUGE_VAL, "%s %x", name, code);
      } else if (format.specials == Format::Specials::kNan && magnitude == format.sign() - 1) {
        CHECK(value != value, "%s %x", name, code);
      } else {
        const double ulps = std::pow(2.0, -format.fraction_bits);
        const double expected = exponent ? (1 + fraction * ulps) * std::pow(2.0, exponent - format.bias())
                                         : fraction * ulps * std::pow(2.0, 1 - format.bias());
        CHECK(value == sign * expected && std::signbit(value) == (sign < 0), "%s %x: %g", name, code, value);
      }
      if (value == value) CHECK(encode(format, value) == code, "%s %x", name, code);
    }
  }
}

// The code by looking among all that there are.
class Table {
 public:
  explicit Table(const Format& format) : format_(format) {
    for (uint32_t code = 0; code <= format.largest(); ++code) values_.push_back(decode(format, code));
  }
  uint32_t encode(double value, Rounding rounding, bool finite) const {
    if (value != value) return format_.nan;
    const double magnitude = std::fabs(value);
    const uint32_t sign = std::signbit(value) ? format_.sign() : 0;
    const uint32_t infinity =
        format_.specials == Format::Specials::kIeee ? sign | (format_.largest() + 1) : format_.nan;
    const uint32_t overflow = finite ? sign | format_.largest() : infinity;
    if (magnitude == HUGE_VAL) return overflow;
    // The two neighbours; above the largest number, its successor had the exponent no limit.
    const size_t above = size_t(std::lower_bound(values_.begin(), values_.end(), magnitude) - values_.begin());
    if (above < values_.size() && values_[above] == magnitude) return sign | uint32_t(above);
    const size_t below = above - 1;
    const double high =
        above < values_.size() ? values_[above] : values_[below] + (values_[below] - values_[below - 1]);
    const double down = magnitude - values_[below], up = high - magnitude;
    bool upwards = false;
    switch (rounding) {
      case Rounding::kNearestEven:
        upwards = up < down || (up == down && (below & 1));
        break;
      case Rounding::kNearestAway:
        upwards = up <= down;
        break;
      case Rounding::kZero:
        break;
      case Rounding::kDown:
        upwards = sign != 0;
        break;
      case Rounding::kUp:
        upwards = sign == 0;
        break;
    }
    if (!upwards) return sign | uint32_t(below);
    return above < values_.size() ? sign | uint32_t(above) : overflow;
  }

 private:
  const Format& format_;
  std::vector<double> values_;
};

void test_encode() {
  for (const auto& [name, format] : kFormats) {
    const Table table(format);
    std::vector<double> values = {0.0, -0.0, HUGE_VAL, -HUGE_VAL, NAN, 0x1p-1074, -0x1p-1050, 1e300, -1e300};
    for (uint32_t code = 0; code < 65536; ++code) {
      values.push_back(decode(kHalfFormat, code));
      values.push_back(decode(kBfloatFormat, code));
    }
    for (uint32_t code = 0; code < format.largest(); ++code) {
      const double middle = (decode(format, code) + decode(format, code + 1)) / 2;
      for (double value : {middle, std::nextafter(middle, 0), std::nextafter(middle, 1e300)}) {
        values.push_back(value);
        values.push_back(-value);
      }
    }
    for (int i = 0; i < 100000; ++i) {
      values.push_back(random_float());
      values.push_back(double(random_near_one()) * random_near_one());
    }
    for (Rounding rounding : kRoundings) {
      for (bool finite : {false, true}) {
        for (double value : values) {
          const uint32_t expected = table.encode(value, rounding, finite),
                         got = encode(format, value, rounding, finite);
          CHECK(got == expected, "%s, rounding %d, finite %d: %a gives %x, not %x", name, int(rounding), finite, value,
                got, expected);
        }
      }
    }
  }
  CHECK(encode(kE4M3Format, NAN) == 0x7F && encode(kE5M2Format, -NAN) == 0x7F, "NaN");
  CHECK(encode(kE4M3Format, 1000, Rounding::kNearestEven, true) == 0x7E, "saturation");
  CHECK(encode(kE4M3Format, -1000, Rounding::kNearestEven, true) == 0xFE, "saturation");
  CHECK(encode(kE4M3Format, 464, Rounding::kNearestEven, false) == 0x7E, "448 is nearest");
  CHECK(encode(kE5M2Format, HUGE_VAL, Rounding::kNearestEven, true) == 0x7B, "saturation");
  CHECK(encode(kTf32Format, 1 + 0x1p-11, Rounding::kNearestAway) << 13 == bits(1 + 0x1p-10f), "tf32");
}

void test_narrow_floats() {
  for (uint32_t code = 0; code < 65536; ++code) {
    const float half = to_float(Half{uint16_t(code)}), bfloat = to_float(Bfloat{uint16_t(code)});
    const double half_value = decode(kHalfFormat, code);
    if (half_value != half_value) {
      CHECK(bits(half) == kNan32 && is_nan(Half{uint16_t(code)}), "%x", code);
    } else {
      CHECK(bits(half) == bits(float(half_value)) && !is_nan(Half{uint16_t(code)}), "%x", code);
    }
    CHECK(bits(bfloat) == code << 16 && is_nan(Bfloat{uint16_t(code)}) == (bfloat != bfloat), "%x", code);
  }
  for (uint64_t i = 0; i < uint64_t{1} << 32; i += 509) {
    const float value = std::bit_cast<float>(uint32_t(i));
    const Half half = to_half(value);
    const Bfloat bfloat = to_bfloat(value);
    CHECK(half.bits == encode(kHalfFormat, value), "%a gives %x", value, half.bits);
    CHECK(bfloat.bits == encode(kBfloatFormat, value), "%a gives %x", value, bfloat.bits);
  }
  // Where the ways to compute halves meet, and every tie.
  for (uint32_t code = 0; code < 0x7C00; ++code) {
    const float middle = float((decode(kHalfFormat, code) + decode(kHalfFormat, code + 1)) / 2);
    for (float value : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f), -middle}) {
      if (code + 1 == 0x7C00) value = std::copysign(65520.0f, value);
      CHECK(to_half(value).bits == encode(kHalfFormat, value), "%a", value);
    }
  }
}

// The bits of what is correct, one pattern for NaNs.
uint32_t expected_bits(double exact_or_odd, Rounding rounding) { return encode(kFloatFormat, exact_or_odd, rounding); }

void test_rounded_floats() {
  for (int i = 0; i < 300000; ++i) {
    float a = random_near_one(), b = random_near_one(), c = random_near_one();
    if (i % 4 == 0) a = random_float(), b = random_float(), c = random_float();
    if (i % 4 == 1) c = -a * b;  // cancellation
    CHECK(bits(fused(a, b, c)) == bits(canonical(std::fma(a, b, c))), "%a * %a + %a", a, b, c);
    const double product = double(a) * b;
    CHECK(expected_bits(add_to_odd(product, c), Rounding::kNearestEven) == bits(canonical(std::fma(a, b, c))),
          "%a * %a + %a", a, b, c);
    for (Rounding rounding : kRoundings) {
      if (rounding == Rounding::kNearestAway) continue;
      const auto check = [&](Operation operation, double exact) {
        const uint32_t got = bits(rounded(operation, rounding, a, b, c)), expected = expected_bits(exact, rounding);
        // The sign of a sum that is zero depends on the direction; encode knows the sum only.
        const bool both_zero = (got | expected) << 1 == 0;
        CHECK(got == expected || both_zero, "operation %d, rounding %d, %a, %a, %a: %x, not %x", int(operation),
              int(rounding), a, b, c, got, expected);
      };
      check(Operation::kAdd, add_to_odd(a, b));
      check(Operation::kSubtract, add_to_odd(a, -double(b)));
      check(Operation::kMultiply, product);
      check(Operation::kFma, add_to_odd(product, c));
    }
    // A quotient's and a root's neighbours, tested by multiplying, which is exact.
    a = std::fabs(random_near_one());
    b = std::fabs(random_near_one());
    const float down = rounded(Operation::kDivide, Rounding::kDown, a, b);
    const float up = rounded(Operation::kDivide, Rounding::kUp, a, b);
    CHECK(double(down) * b <= a && double(up) * b >= a && std::nextafter(down, HUGE_VALF) >= up, "%a / %a", a, b);
    CHECK(rounded(Operation::kDivide, Rounding::kZero, -a, b) == -down, "%a / %a", a, b);
    const float low = rounded(Operation::kSquareRoot, Rounding::kZero, a);
    const float high = rounded(Operation::kSquareRoot, Rounding::kUp, a);
    CHECK(double(low) * low <= a && double(high) * high >= a && std::nextafter(low, HUGE_VALF) >= high, "root %a", a);
  }
  CHECK(bits(rounded(Operation::kAdd, Rounding::kDown, 1.0f, -1.0f)) == 0x80000000, "zero downwards");
  CHECK(bits(rounded(Operation::kMultiply, Rounding::kZero, 0.0f, HUGE_VALF)) == kNan32, "NaN");
  CHECK(std::bit_cast<uint64_t>(rounded(Operation::kSubtract, Rounding::kZero, HUGE_VAL, HUGE_VAL)) == kNan64, "NaN");
  CHECK(rounded(Operation::kAdd, Rounding::kUp, 1.0, 0x1p-80) == 1 + 0x1p-52, "double upwards");
  CHECK(rounded(Operation::kAdd, Rounding::kZero, 1.0, 0x1p-80) == 1, "double to zero");
  volatile double one = 1, little = 0x1p-53;
  CHECK(one + little == 1 && one - little / 2 == 1, "the mode is as it was");

  alignas(64) uint32_t a[32], b[32], c[32], out[32];
  for (int round = 0; round < 1000; ++round) {
    for (int i = 0; i < 32; ++i) {
      a[i] = bits(round & 1 ? random_float() : random_near_one());
      b[i] = bits(round & 1 ? random_float() : random_near_one());
      c[i] = bits(round & 2 ? random_float() : random_near_one());
    }
    fused_lanes(a, b, c, out);
    for (int i = 0; i < 32; ++i) {
      const float x = std::bit_cast<float>(a[i]), y = std::bit_cast<float>(b[i]), z = std::bit_cast<float>(c[i]);
      CHECK(out[i] == bits(fused(x, y, z)), "%a * %a + %a", x, y, z);
    }
  }
}

template <typename Integer>
void test_integers() {
  for (int i = 0; i < 100000; ++i) {
    const auto value = Integer(Integer(generator()) >> (generator() % 60));
    const auto exact = __int128(value);
    // Floats of integers are integers.
    const float down = to_float(value, Rounding::kDown), up = to_float(value, Rounding::kUp);
    CHECK(__int128(down) <= exact && __int128(up) >= exact && std::nextafter(down, HUGE_VALF) >= up, "%Lg",
          (long double)value);
    CHECK(to_float(value, Rounding::kNearestEven) == float(value), "%Lg", (long double)value);
    CHECK(to_float(value, Rounding::kZero) == (value < 0 ? up : down), "%Lg", (long double)value);
    const double low = to_double(value, Rounding::kDown), high = to_double(value, Rounding::kUp);
    CHECK(__int128(low) <= exact && __int128(high) >= exact && std::nextafter(low, HUGE_VAL) >= high, "%Lg",
          (long double)value);
    CHECK(to_double(value, Rounding::kNearestEven) == double(value), "%Lg", (long double)value);
  }
}

void test_small_functions() {
  const float subnormal = 0x1p-140f, nan = -std::numeric_limits<float>::quiet_NaN();
  CHECK(bits(flushed(-subnormal)) == 0x80000000 && flushed(0x1p-126f) == 0x1p-126f, "flushed");
  CHECK(bits(canonical(nan)) == kNan32 && canonical(1.0f) == 1, "canonical");
  CHECK(saturated(nan) == 0 && saturated(2.0f) == 1 && bits(saturated(-0.0f)) == 0, "saturated");
  CHECK(round_to_integer(2.5, Rounding::kNearestEven) == 2 && round_to_integer(-2.5, Rounding::kUp) == -2 &&
            round_to_integer(-2.5, Rounding::kDown) == -3 && round_to_integer(-2.9, Rounding::kZero) == -2,
        "integers");
  CHECK(std::signbit(round_to_integer(-0.25, Rounding::kUp)), "the sign of zero");
}

// The true value rounded, or its neighbour.
void check_close(const char* name, float x, float got, long double exact, int& inexact) {
  const float expected = canonical(float(exact));
  if (bits(got) == bits(expected)) return;
  ++inexact;
  CHECK(std::nextafter(got, expected) == expected, "%s %a: %a, not %a", name, x, got, expected);
}

void test_approximations() {
  int inexact = 0, tested = 0;
  for (uint64_t i = 0; i < uint64_t{1} << 32; i += 20011, ++tested) {
    const float x = std::bit_cast<float>(uint32_t(i));
    check_close("exp2", x, exp2_float(x), std::exp2((long double)x), inexact);
    check_close("log2", x, log2_float(x), std::log2((long double)x), inexact);
    check_close("rcp", x, reciprocal_float(x), 1 / (long double)x, inexact);
    check_close("rsqrt", x, reciprocal_square_root_float(x), 1 / std::sqrt((long double)x), inexact);
    check_close("sqrt", x, square_root_float(x), std::sqrt((long double)x), inexact);
    check_close("tanh", x, tanh_float(x), std::tanh((long double)x), inexact);
    if (std::fabs(x) < 1e6f) {
      check_close("sin", x, sine_float(x), std::sin((long double)x), inexact);
      check_close("cos", x, cosine_float(x), std::cos((long double)x), inexact);
    }
  }
  for (int i = 0; i < 1000000; ++i, ++tested) {
    const float x = std::ldexp(random_near_one(), int(generator() % 8));
    check_close("exp2", x, exp2_float(x), std::exp2((long double)x), inexact);
  }
  CHECK(inexact <= 2, "%d of %d are not the nearest", inexact, tested);
  for (int x = -149; x < 128; ++x) CHECK(exp2_float(float(x)) == std::ldexp(1.0f, x), "2^%d", x);
  const float infinity = HUGE_VALF, nan = std::bit_cast<float>(0xFFC01234u);
  CHECK(exp2_float(infinity) == infinity && bits(exp2_float(-infinity)) == 0 && bits(exp2_float(nan)) == kNan32,
        "exp2");
  CHECK(exp2_float(128) == infinity && bits(exp2_float(-1e30f)) == 0 && exp2_float(-0.0f) == 1, "exp2");
  CHECK(log2_float(-0.0f) == -infinity && bits(log2_float(-1)) == kNan32 && log2_float(infinity) == infinity, "log2");
  CHECK(reciprocal_float(-0.0f) == -infinity && bits(reciprocal_float(-infinity)) == 0x80000000, "rcp");
  CHECK(reciprocal_square_root_float(-0.0f) == -infinity && bits(reciprocal_square_root_float(-1)) == kNan32, "rsqrt");
  CHECK(bits(square_root_float(-0.0f)) == 0x80000000 && bits(square_root_float(-1)) == kNan32, "sqrt");
  CHECK(bits(sine_float(infinity)) == kNan32 && bits(sine_float(-0.0f)) == 0x80000000, "sin");

  alignas(64) uint32_t in[32], out[32];
  for (int round = 0; round < 2000; ++round) {
    for (uint32_t& x : in) x = bits(round & 1 ? random_float() : std::ldexp(random_near_one(), 7));
    for (bool flush : {false, true}) {
      exp2_lanes(in, out, flush);
      for (int i = 0; i < 32; ++i) {
        const float x = std::bit_cast<float>(in[i]);
        CHECK(out[i] == bits(flush ? flushed(exp2_float(flushed(x))) : exp2_float(x)), "exp2 %a", x);
      }
    }
  }
}

}  // namespace
}  // namespace emulator

int main() {
  using namespace emulator;
  test_decode();
  test_encode();
  test_narrow_floats();
  test_rounded_floats();
  test_integers<int64_t>();
  test_integers<uint64_t>();
  test_small_functions();
  test_approximations();
  return verdict();
}
