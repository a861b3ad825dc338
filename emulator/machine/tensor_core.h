// Products of small tiles, with the sums that the tensor cores of SM90 make of them, bit for bit.
//
// An instruction adds all of its products along K, and the accumulator, at once:
//
// - A product is exact, its exponent the sum of those of its factors: its significand is from 1 to below 4, or below 1
//   where a factor is subnormal, since significands are not normalised before.
// - Addends are aligned to the largest exponent among them, or to that of the least normal float. Of each, what is less
//   than 2^-25 of that power of two is cut off, towards zero; where a warpgroup multiplies FP8, what is less than 2^-13.
// - What is left is added exactly, and rounded once: to float towards zero, of FP8 with 13 bits after the point; to half
//   to the nearest, ties to even. Too large a sum becomes infinity.
// - A NaN, infinity minus infinity, or infinity times zero gives the one NaN that matrix units know.
//
// All random families of wgmma and mma in tests/emulator come out as an H200 wrote them, to the last bit, and with no
// other number of bits. The ends of the range are as others found them (arXiv:2511.10909, arXiv:2512.07004).
#pragma once

#include <cstdint>

namespace emulator {

inline constexpr int kPanelRows = 16;
inline constexpr int kPanelColumns = 8;
inline constexpr int kMostK = 32;

// A[16][k] and B[k][8]. `powers`: two to the exponent of each value, see `find_powers`. Columns of B and D are in the
// order in which registers hold them, see `panel_column`.
struct PanelA {
  double values[kPanelRows][kMostK];
  double powers[kPanelRows][kMostK];
};
struct PanelB {
  double values[kMostK][kPanelColumns];
  double powers[kMostK][kPanelColumns];
};
using PanelD = double[kPanelRows][kPanelColumns];

// Lane 4r + c holds columns 2c and 2c + 1 of row r, in two registers. Even columns before odd ones, eight rows of panel
// D are the slots of one register beside those of the other.
constexpr int panel_column(int column) { return column % 2 * 4 + column / 2; }

// From the values; `smallest`: the least normal number of their type.
void find_powers(double smallest, int k, PanelA& a);
void find_powers(double smallest, int k, PanelB& b);

// What a sum is rounded to: float, float with 13 bits after the point, half.
enum class Sum : int32_t { kFloat, kShortFloat, kHalf };

struct Adder {
  int width;  // an addend keeps what is at least 2^-width of the largest power
  Sum sum;
};

inline constexpr int kAdderWidth = 25;
inline constexpr int kFp8AdderWidth = 13;

// d = a · b + d, of values that are zero or have a power. Elements of D are values of the type of sums.
void multiply_add(const PanelA& a, const PanelB& b, int k, const Adder& adder, PanelD& d);

// The same of integers of 8 bits, and exact.
void multiply_add_integers(const PanelA& a, const PanelB& b, int k, PanelD& d);

}  // namespace emulator
