// Tests of tensor_core.h: sums against the same computed with integers, from the bits of the operands.
#include "emulator/machine/tensor_core.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "emulator/machine/numerics.h"
#include "emulator/machine/testing.h"

namespace emulator {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr Format kShortFloatFormat{8, 13, Format::Specials::kIeee, 0};

std::mt19937_64 generator(20261125);

// ---------------------------------------------------------------------------------------------------------------------
// By definition

struct Addend {
  bool negative;
  int exponent;
  int fraction_bits;
  uint64_t significand;  // with so many bits after the point
};

Addend addend_of(const Format& format, uint32_t code) {
  const uint32_t fraction = code & ((1u << format.fraction_bits) - 1);
  const int field = int(code >> format.fraction_bits & ((1u << format.exponent_bits) - 1));
  return {(code & format.sign()) != 0, std::max(field, 1) - format.bias(), format.fraction_bits,
          fraction | uint64_t(field != 0) << format.fraction_bits};
}

Addend product_of(const Addend& a, const Addend& b) {
  return {a.negative != b.negative, a.exponent + b.exponent, a.fraction_bits + b.fraction_bits,
          a.significand * b.significand};
}

// magnitude · 2^unit in a format: its code.
uint32_t round_to(const Format& format, uint64_t magnitude, int unit, bool to_nearest) {
  if (magnitude == 0) return 0;
  const int lowest = 1 - format.bias();
  const int exponent = std::max(int(std::bit_width(magnitude)) - 1 + unit, lowest);
  const int drop = std::min(exponent - format.fraction_bits - unit, 63);
  uint64_t kept = drop > 0 ? magnitude >> drop : magnitude << -drop;
  if (to_nearest && drop > 0) {
    const uint64_t rest = magnitude - (kept << drop), half = uint64_t{1} << (drop - 1);
    kept += rest > half || (rest == half && kept % 2);
  }
  const uint64_t code = (uint64_t(exponent - lowest) << format.fraction_bits) + kept;
  return uint32_t(std::min<uint64_t>(code, format.largest() + 1));
}

double sum_of(std::vector<Addend> addends, const Adder& adder) {
  int top = -126;
  for (const Addend& addend : addends) {
    if (addend.significand) top = std::max(top, addend.exponent);
  }
  int64_t sum = 0;
  for (const Addend& addend : addends) {
    const int shift = adder.width - (top - addend.exponent) - addend.fraction_bits;
    const uint64_t kept =
        shift >= 0 ? addend.significand << std::min(shift, 40) : addend.significand >> std::min(-shift, 63);
    sum += addend.negative ? -int64_t(kept) : int64_t(kept);
  }
  const bool to_half = adder.sum == Sum::kHalf;
  const Format& format = to_half ? kHalfFormat : adder.sum == Sum::kFloat ? kFloatFormat : kShortFloatFormat;
  const double magnitude = decode(format, round_to(format, uint64_t(std::abs(sum)), top - adder.width, to_half));
  return sum < 0 ? -magnitude : magnitude;
}

// ---------------------------------------------------------------------------------------------------------------------
// Random operands

struct Kind {
  const char* name;
  Format format;
  Adder adder;
  int k;
};
constexpr Kind kKinds[] = {
    {"f16", kHalfFormat, {25, Sum::kFloat}, 16},        {"f16 to f16", kHalfFormat, {25, Sum::kHalf}, 16},
    {"bf16", kBfloatFormat, {25, Sum::kFloat}, 16},     {"tf32", kTf32Format, {25, Sum::kFloat}, 8},
    {"e4m3", kE4M3Format, {13, Sum::kShortFloat}, 32},  {"e5m2", kE5M2Format, {13, Sum::kShortFloat}, 32},
    {"e4m3 to f16", kE4M3Format, {13, Sum::kHalf}, 32}, {"e5m2 to f16", kE5M2Format, {13, Sum::kHalf}, 32},
};

// How far exponents are spread: everywhere, or near that of one, or near the least.
enum Spread { kEverywhere, kNearOne, kNearLeast };

uint32_t draw(const Format& format, Spread spread) {
  if (generator() % 16 == 0) return uint32_t(generator() % 2) * format.sign();  // zeros
  const uint32_t sign = uint32_t(generator() % 2) * format.sign();
  const uint32_t fraction = uint32_t(generator()) & ((1u << format.fraction_bits) - 1);
  const uint32_t some = uint32_t(generator() % 4);
  const uint32_t field = spread == kNearOne ? uint32_t(format.bias()) - 2 + some : some;
  if (spread == kEverywhere) return sign | uint32_t(generator() % (format.largest() + 1));
  return sign | field << format.fraction_bits | fraction;
}

void test_random_sums(const Kind& kind, Spread spread) {
  const Format& of_d = kind.adder.sum == Sum::kHalf ? kHalfFormat : kFloatFormat;
  uint32_t a_codes[kPanelRows][kMostK], b_codes[kMostK][kPanelColumns], d_codes[kPanelRows][kPanelColumns];
  PanelA a;
  PanelB b;
  PanelD d;
  for (int row = 0; row < kPanelRows; ++row) {
    for (int i = 0; i < kind.k; ++i)
      a.values[row][i] = decode(kind.format, a_codes[row][i] = draw(kind.format, spread));
    for (int column = 0; column < kPanelColumns; ++column) {
      d[row][column] = decode(of_d, d_codes[row][column] = draw(of_d, spread));
    }
  }
  for (int i = 0; i < kind.k; ++i) {
    for (int column = 0; column < kPanelColumns; ++column) {
      b.values[i][column] = decode(kind.format, b_codes[i][column] = draw(kind.format, spread));
    }
  }
  const double smallest = std::ldexp(1.0, 1 - kind.format.bias());
  find_powers(smallest, kind.k, a);
  find_powers(smallest, kind.k, b);
  multiply_add(a, b, kind.k, kind.adder, d);
  for (int row = 0; row < kPanelRows; ++row) {
    for (int column = 0; column < kPanelColumns; ++column) {
      std::vector<Addend> addends = {addend_of(of_d, d_codes[row][column])};
      for (int i = 0; i < kind.k; ++i) {
        addends.push_back(
            product_of(addend_of(kind.format, a_codes[row][i]), addend_of(kind.format, b_codes[i][column])));
      }
      const double expected = sum_of(addends, kind.adder);
      CHECK(d[row][column] == expected, "%s, spread %d: %a instead of %a", kind.name, spread, d[row][column], expected);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Sums by themselves

using Factors = std::vector<std::pair<double, double>>;

double sum(const Adder& adder, double before, const Factors& factors, double smallest = 0x1p-126) {
  constexpr int kRow = 3, kColumn = 5;
  PanelA a = {};
  PanelB b = {};
  PanelD d = {};
  d[kRow][kColumn] = before;
  for (size_t i = 0; i < factors.size(); ++i) {
    a.values[kRow][i] = factors[i].first;
    b.values[i][kColumn] = factors[i].second;
  }
  find_powers(smallest, 16, a);
  find_powers(smallest, 16, b);
  multiply_add(a, b, 16, adder, d);
  CHECK(d[0][0] == 0, "what is beside it is zero");
  return d[kRow][kColumn];
}

void test_what_is_cut_off() {
  constexpr Adder kFloat{25, Sum::kFloat}, kFp8{13, Sum::kShortFloat}, kHalf{25, Sum::kHalf};
  CHECK(sum(kFloat, 0, {{1, 1}, {0x1p-13, -0x1p-12}}) == 1 - 0x1p-24, "2^-25 is kept");
  CHECK(sum(kFloat, 0, {{1, 1}, {0x1p-13, -0x1p-13}}) == 1, "2^-26 is cut off");
  CHECK(sum(kFloat, 1, {{0x1p-13, -0x1p-12}}) == 1 - 0x1p-24, "the accumulator is one of the addends");
  CHECK(sum(kFloat, -0x1p-26, {{1, 1}}) == 1, "and loses bits as they do");
  CHECK(sum(kFloat, 0, {{1.5, 1.5}, {0x1p-13, -0x1p-12}}) == 2.25 - 0x1p-22, "the exponent of 1.5 · 1.5 is zero");
  CHECK(sum(kFloat, 2.25, {{0x1p-13, -0x1p-12}}) == 2.25, "that of 2.25 is one");
  CHECK(sum(kFloat, 0, {{0x1p14, 0x1p14}, {0x1p-6, 1}, {-0x1p14, 0x1p14}}) == 0,
        "also of what is not there in the end");
  // A subnormal half counts as one of exponent -14.
  CHECK(sum(kFloat, 0, {{0x1p-24, 1}, {-0x1p-12, 0x1p-27}}) == 0x1p-24 - 0x1p-39, "as a number it keeps more");
  CHECK(sum(kFloat, 0, {{0x1p-24, 1}, {-0x1p-14, 0x1p-26}}, 0x1p-14) == 0x1p-24, "than as a half");
  CHECK(sum(kFp8, -0x1p-13, {{1, 1}}) == 1 - 0x1p-13, "2^-13 is kept");
  CHECK(sum(kFp8, -0x1p-14, {{1, 1}}) == 1, "2^-14 is cut off");
  CHECK(sum(kFp8, 1, {{1, 1}, {0x1p-6, 0x1p-7}}) == 2, "and the sum has 13 bits after the point");
  CHECK(sum(kHalf, 1, {{0x1p-11, 1}}) == 1 && sum(kHalf, 1 + 0x1p-10, {{0x1p-11, 1}}) == 1 + 0x1p-9, "ties to even");
  CHECK(sum(kHalf, 1, {{0x1p-11, 1}, {0x1p-13, 0x1p-12}}) == 1 + 0x1p-10, "rounded once");
}

void test_ends_of_the_range() {
  constexpr Adder kFloat{25, Sum::kFloat}, kFp8{13, Sum::kShortFloat}, kHalf{25, Sum::kHalf};
  CHECK(sum(kFloat, 0x1p127, {{0x1p63, 0x1p64}}) == kInfinity && sum(kFloat, 0, {{-0x1p120, 0x1p100}}) == -kInfinity);
  CHECK(sum(kFloat, 0x1.fffffep127, {{1, 1}}) == 0x1.fffffep127, "the largest float");
  CHECK(sum(kFloat, 0, {{0x1p120, 0x1p100}, {-0x1p120, 0x1p100}}) == 0, "no sum on the way is too large");
  CHECK(sum(kFloat, 0x1p-149, {}) == 0x1p-149 && sum(kFloat, 0, {{0x1p-75, 0x1p-74}}) == 0x1p-149, "subnormal floats");
  CHECK(sum(kFloat, 0, {{0x1p-75, 0x1p-75}, {0x1p-75, 0x1p-75}}) == 0x1p-149, "of addends that are too small alone");
  CHECK(sum(kFloat, 0, {{0x1p-76, 0x1p-76}, {0x1p-76, 0x1p-76}}) == 0, "but below 2^-151 they are nothing");
  CHECK(sum(kFp8, 0x1p-149, {}) == 0, "as short float");
  CHECK(sum(kHalf, 0, {{0x1p15, 2}}) == kInfinity && sum(kHalf, 65504, {{15, 1}}) == 65504, "the largest half");
  CHECK(sum(kHalf, 0, {{0x1p-12, 0x1p-12}, {0x1p-13, 0x1p-12}}) == 0x1p-23, "a tie of subnormal halves");
  for (const Adder& adder : {kFloat, kFp8, kHalf}) {
    CHECK(!std::signbit(sum(adder, -0.0, {{-1, 0}})), "zeros have no sign");
    CHECK(!std::signbit(sum(adder, 1, {{-1, 1}})), "nor has a difference");
    CHECK(sum(adder, kInfinity, {{-1, 1}}) == kInfinity && sum(adder, 1, {{-1, kInfinity}}) == -kInfinity);
    CHECK(std::isnan(sum(adder, kInfinity, {{-1, kInfinity}})) && std::isnan(sum(adder, 1, {{0, kInfinity}})));
    CHECK(std::isnan(sum(adder, NAN, {{1, 1}})) && std::isnan(sum(adder, 0, {{NAN, 0}})));
  }
}

}  // namespace
}  // namespace emulator

int main() {
  using namespace emulator;
  for (const Kind& kind : kKinds) {
    for (const Spread spread : {kEverywhere, kNearOne, kNearLeast}) {
      for (int i = 0; i < 300; ++i) test_random_sums(kind, spread);
    }
  }
  test_what_is_cut_off();
  test_ends_of_the_range();
  return verdict();
}
