#include "emulator/machine/tensor_core.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "emulator/machine/numerics.h"
#include "emulator/machine/wide_vectors.h"

namespace emulator {
namespace {

typedef double Quad __attribute__((vector_size(32)));
typedef int32_t IntQuad __attribute__((vector_size(16)));

// By reference: how vectors are returned depends on the processor that a file is compiled for.
[[gnu::always_inline]] inline void load(Quad& to, const double* from) { std::memcpy(&to, from, sizeof(to)); }
[[gnu::always_inline]] inline void keep_larger(Quad& to, const Quad& other) { to = to > other ? to : other; }

// ---------------------------------------------------------------------------------------------------------------------
// Exponents

// Powers are products of powers of finite values and lie between 2^-252 and 2^254. With these two in their place a zero
// is never the largest addend, and an infinity or a NaN always is: also their product.
constexpr double kPowerOfZero = 0x1p-400;
constexpr double kPowerOfSpecial = 0x1p900;
constexpr double kLeastSpecialPower = 0x1p300;

constexpr uint64_t kExponentOfDouble = 0x7FF0000000000000;

inline double power_of(double value, double smallest) {
  const uint64_t bits = std::bit_cast<uint64_t>(value) & kExponentOfDouble;
  const double power = std::bit_cast<double>(bits);
  return bits == 0 ? kPowerOfZero : bits == kExponentOfDouble ? kPowerOfSpecial : power < smallest ? smallest : power;
}

constexpr double kLeastFloat = 0x1p-126, kLeastHalf = 0x1p-14;  // normal ones

// ---------------------------------------------------------------------------------------------------------------------
// Results

// Towards zero; kBits after the point.
template <int kBits>
inline double float_towards_zero(double sum) {
  const double magnitude = std::fabs(sum);
  if (magnitude < kLeastFloat) {
    constexpr double kPerUnit = double(uint64_t{1} << kBits) / kLeastFloat;
    return std::copysign(double(int64_t(magnitude * kPerUnit)) / kPerUnit, sum);
  }
  if (magnitude >= 0x1p128) return std::copysign(std::numeric_limits<double>::infinity(), sum);
  constexpr uint64_t kKept = ~uint64_t{0} << (52 - kBits);
  return std::bit_cast<double>(std::bit_cast<uint64_t>(sum) & kKept);
}

inline double rounded(Sum kind, double sum) {
  switch (kind) {
    case Sum::kFloat:
      return float_towards_zero<23>(sum);
    case Sum::kShortFloat:
      return float_towards_zero<13>(sum);
    case Sum::kHalf:
      return to_double(to_half(sum));
  }
  return sum;
}

// Where some addend is not finite the sum is not, and no bits of the others matter.
double special_sum(const PanelA& a, const PanelB& b, int k, int row, int column, double sum) {
  for (int i = 0; i < k; ++i) sum += a.values[row][i] * b.values[i][column];
  return sum;
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------

EMULATOR_AVX2_IF_THERE
void find_powers(double smallest, int k, PanelA& a) {
  for (int row = 0; row < kPanelRows; ++row) {
    for (int i = 0; i < k; ++i) a.powers[row][i] = power_of(a.values[row][i], smallest);
  }
}

EMULATOR_AVX2_IF_THERE
void find_powers(double smallest, int k, PanelB& b) {
  for (int i = 0; i < k; ++i) {
    for (int column = 0; column < kPanelColumns; ++column) {
      b.powers[i][column] = power_of(b.values[i][column], smallest);
    }
  }
}

EMULATOR_AVX2_IF_THERE
void multiply_add(const PanelA& a, const PanelB& b, int k, const Adder& adder, PanelD& d) {
  constexpr int kLanes = int(sizeof(Quad) / sizeof(double));
  const double width = std::ldexp(1.0, adder.width);
  const double smallest = adder.sum == Sum::kHalf ? kLeastHalf : kLeastFloat;
  for (int row = 0; row < kPanelRows; ++row) {
    for (int first = 0; first < kPanelColumns; first += kLanes) {
      double* const to = &d[row][first];
      Quad before, top, line;
      load(before, to);
      for (int lane = 0; lane < kLanes; ++lane) top[lane] = power_of(to[lane], smallest);
      keep_larger(top, Quad{} + kLeastFloat);
      for (int i = 0; i < k; ++i) {
        load(line, &b.powers[i][first]);
        keep_larger(top, a.powers[row][i] * line);
      }

      // In units of what addends keep. A product is less than 4 · 2^25 of them by so much, its factors having few bits,
      // that the sum of sixteen is an int; FP8, of which there are more, has shorter ones.
      const Quad scale = width / top;
      IntQuad sum = {};
      for (int i = 0; i < k; ++i) {
        load(line, &b.values[i][first]);
        sum += __builtin_convertvector(a.values[row][i] * line * scale, IntQuad);
      }
      const IntQuad kept = __builtin_convertvector(before * scale, IntQuad);
      const Quad after = (__builtin_convertvector(sum, Quad) + __builtin_convertvector(kept, Quad)) / scale;
      for (int lane = 0; lane < kLanes; ++lane) {
        const bool is_special = top[lane] >= kLeastSpecialPower;
        to[lane] = is_special ? special_sum(a, b, k, row, first + lane, to[lane]) : rounded(adder.sum, after[lane]);
      }
    }
  }
}

EMULATOR_AVX2_IF_THERE
void multiply_add_integers(const PanelA& a, const PanelB& b, int k, PanelD& d) {
  for (int row = 0; row < kPanelRows; ++row) {
    for (int i = 0; i < k; ++i) {
      for (int column = 0; column < kPanelColumns; ++column) {
        d[row][column] += a.values[row][i] * b.values[i][column];
      }
    }
  }
}

}  // namespace emulator
