// Sums against integers of 128 bits.
#include "emulator/machine/exact_sums.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <random>

#include "emulator/machine/numerics.h"
#include "emulator/machine/testing.h"

namespace {

using namespace emulator;

using Wide = __int128;

// Numbers are multiples of 2^-40 here.
constexpr int kUnit = 40;

Wide units(double value) {
  int exponent;
  const auto fraction = Wide(std::ldexp(std::frexp(value, &exponent), 53));
  const int shift = exponent - 53 + kUnit;
  return shift >= 0 ? fraction * (Wide{1} << shift) : fraction / (Wide{1} << -shift);
}

Wide distance(Wide a, Wide b) { return a < b ? b - a : a - b; }

// The float that is nearest to so many units, of two the one whose last bit is zero.
float nearest(Wide sum) {
  constexpr Wide kExact = 1 << 24;
  if (sum > -kExact && sum < kExact) return float(std::ldexp(double(int64_t(sum)), -kUnit));
  // Near enough to have the right one among its neighbours.
  const auto guess = float(std::ldexp(double(sum), -kUnit));
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  float best = guess;
  for (const float other : {std::nextafter(guess, -kInfinity), std::nextafter(guess, kInfinity)}) {
    const Wide now = distance(units(best), sum), then = distance(units(other), sum);
    const bool is_even = (std::bit_cast<uint32_t>(other) & 1) == 0;
    if (then < now || (then == now && is_even)) best = other;
  }
  return best;
}

void test_random() {
  std::mt19937 random(1);
  const auto number = [&](int spread) {
    return std::ldexp(double(int(random() % 511) - 255), int(random() % unsigned(2 * spread + 1)) - spread);
  };
  for (int round = 0; round < 20000; ++round) {
    constexpr int kMostK = 32;
    const int k = round % 2 ? 16 : 32, spread = round % 20;
    double a[kMostK], b[kMostK][kSumsAtOnce], d[kSumsAtOnce];
    Wide want[kSumsAtOnce];
    for (int j = 0; j < kSumsAtOnce; ++j) {
      d[j] = float(number(spread));
      want[j] = units(d[j]);
    }
    for (int i = 0; i < k; ++i) {
      a[i] = number(spread / 2);
      for (int j = 0; j < kSumsAtOnce; ++j) {
        // Often what was added before is taken away again.
        const bool takes_away = i > 0 && random() % 4 == 0;
        b[i][j] = takes_away && a[i] != 0 ? -b[i - 1][j] : number(spread / 2);
        if (takes_away) a[i] = a[i - 1];
      }
    }
    for (int i = 0; i < k; ++i) {
      for (int j = 0; j < kSumsAtOnce; ++j) want[j] += units(a[i] * b[i][j]);
    }
    add_products(a, b[0], kSumsAtOnce, k, d);
    for (int j = 0; j < kSumsAtOnce; ++j) {
      CHECK(float(d[j]) == nearest(want[j]), "round %d: %a, should be %a", round, double(float(d[j])),
            double(nearest(want[j])));
    }
  }
}

// One sum, of a · 1 + … + before.
double sum(std::initializer_list<double> addends, double before) {
  double a[32] = {}, b[32][kSumsAtOnce], d[kSumsAtOnce];
  for (auto& row : b) std::fill_n(row, kSumsAtOnce, 1.0);
  std::copy(addends.begin(), addends.end(), a);
  std::fill_n(d, kSumsAtOnce, before);
  add_products(a, b[0], kSumsAtOnce, int(addends.size()), d);
  for (const double other : d) CHECK(other == d[0] || other != other, "columns differ");
  return d[0];
}

void test_edges() {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  // Half way between floats, and a trifle more or less that no double holds along with the rest.
  CHECK(float(sum({1, 0x1p-24}, 0)) == 1);
  CHECK(float(sum({1, 0x1p-24, 0x1p-120}, 0)) == 1 + 0x1p-23f);
  CHECK(float(sum({1, 0x1p-24, -0x1p-120}, 0)) == 1);
  CHECK(float(sum({1, 0x1p-23, 0x1p-24}, 0)) == 1 + 0x1p-22f);
  CHECK(float(sum({1, 0x1p-23, 0x1p-24, -0x1p-120}, 0)) == 1 + 0x1p-23f);
  // The same by way of what cancels.
  CHECK(float(sum({0x1p100, 1, -0x1p100, 0x1p-24}, 0x1p-100)) == 1 + 0x1p-23f);
  CHECK(sum({0x1p120, 0x1p-120, -0x1p120}, 0) == 0x1p-120);
  CHECK(sum({0x1p120, -0x1p120}, 0) == 0);
  CHECK(to_half(sum({2048, 1}, 0x1p-60)).bits == to_half(2050.0f).bits);
  CHECK(to_half(sum({2048, 1}, -0x1p-60)).bits == to_half(2048.0f).bits);
  CHECK(std::isinf(float(sum({0x1p127, 0x1p127}, 0))));
  CHECK(sum({kInfinity, 1}, 0) == kInfinity);
  CHECK(std::isnan(sum({kInfinity, -kInfinity}, 0)));
  CHECK(sum({1}, -kInfinity) == -kInfinity);
  CHECK(std::isnan(sum({1}, std::nan(""))));
}

}  // namespace

int main() {
  test_random();
  test_edges();
  return verdict();
}
