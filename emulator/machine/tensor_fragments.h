// Where in tensor memory the registers of a warp lie, rows of shared memory, and the elements of an accumulator.
#pragma once

#include <cstdint>
#include <string_view>

#include "emulator/machine/tensor_memory.h"

namespace emulator {

// ---------------------------------------------------------------------------------------------------------------------
// tcgen05.ld and .st

enum class FragmentShape : int32_t { k32x32b, k16x64b, k16x128b, k16x256b, k16x32bx2 };

// How many registers a lane has of the shape, before it is repeated.
constexpr int registers_of(FragmentShape shape) {
  return shape == FragmentShape::k16x128b ? 2 : shape == FragmentShape::k16x256b ? 4 : 1;
}
// How many columns the shape has, before it is repeated. Those of 16x32bx2 are of two runs.
constexpr int columns_of(FragmentShape shape) {
  switch (shape) {
    case FragmentShape::k16x64b:
      return 2;
    case FragmentShape::k16x128b:
      return 4;
    case FragmentShape::k16x256b:
      return 8;
    default:
      return 1;
  }
}

// What tcgen05.ld or .st moves: so many registers of each lane. Where two elements of 16 bits are packed into a register,
// each of them has a column to itself. `half_offset`: of 16x32bx2, where the columns of the upper sixteen lanes begin.
struct TensorFragment {
  FragmentShape shape = FragmentShape::k32x32b;
  int32_t registers = 1;
  bool is_packed = false;
  int32_t half_offset = 0;

  constexpr uint32_t cells() const { return is_packed ? 2 : 1; }  // of a register
  // Columns of it; of 16x32bx2, of either half.
  constexpr uint32_t width() const { return uint32_t(registers / registers_of(shape) * columns_of(shape)) * cells(); }
  // The first of the cells, relative to the address, of a register of one lane of a warp.
  constexpr TensorPlace place(uint32_t lane, uint32_t reg) const {
    const TensorPlace unpacked = unpacked_place(lane, reg);
    const bool is_upper = shape == FragmentShape::k16x32bx2 && lane >= 16;
    return {unpacked.lane, unpacked.column * cells() + (is_upper ? uint32_t(half_offset) : 0)};
  }

 private:
  constexpr TensorPlace unpacked_place(uint32_t lane, uint32_t reg) const {
    switch (shape) {
      case FragmentShape::k32x32b:
        return {lane, reg};
      case FragmentShape::k16x64b:
        return {lane % 2 * 8 + lane / 4, reg * 2 + lane / 2 % 2};
      case FragmentShape::k16x128b:
        return {reg % 2 * 8 + lane / 4, reg / 2 * 4 + lane % 4};
      case FragmentShape::k16x256b:
        return {reg / 2 % 2 * 8 + lane / 4, reg / 4 * 8 + lane % 4 * 2 + reg % 2};
      case FragmentShape::k16x32bx2:
        return {lane % 16, reg};
    }
    return {};
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// tcgen05.cp

// Rows of a matrix in shared memory, and the lanes that get them.
struct FillShape {
  std::string_view name, multicast;
  uint32_t rows, chunks;  // of 16 bytes
  uint32_t copies;
  // Lane of a row in one of the copies, relative to the address.
  uint32_t (*lane)(uint32_t row, uint32_t copy);

  // How many lanes from the address on it reaches.
  uint32_t lanes() const { return lane(rows - 1, copies - 1) + 1; }
};

inline constexpr FillShape kFills[] = {
    {"128x256b", "", 128, 2, 1, [](uint32_t row, uint32_t) { return row; }},
    {"128x128b", "", 128, 1, 1, [](uint32_t row, uint32_t) { return row; }},
    {"4x256b", "", 4, 2, 1, [](uint32_t row, uint32_t) { return 32 * row; }},
    {"64x128b", "warpx2::02_13", 64, 1, 2, [](uint32_t row, uint32_t copy) { return row + 64 * copy; }},
    {"64x128b", "warpx2::01_23", 64, 1, 2,
     [](uint32_t row, uint32_t copy) { return row / 32 * 64 + row % 32 + 32 * copy; }},
    {"32x128b", "warpx4", 32, 1, 4, [](uint32_t row, uint32_t copy) { return row + 32 * copy; }},
};

// ---------------------------------------------------------------------------------------------------------------------
// tcgen05.mma

// How one CTA holds its rows of an accumulator. The lanes are those of the data path: a lane multiplies the row of A that
// it holds, or that stands for it in shared memory, with some of the columns of B.
//
//   rows of the CTA                      lanes                          columns of D in a lane
//   128                                  the row                        all
//    64                                  16 of each warp's 32, that is  all
//                                        row / 16 · 32 + row % 16
//    64, .ws; or half of 128 rows that   the row, and the row + 64      half of them in either
//        belong to a pair of CTAs
//    32, .ws                             the row + 0, 32, 64, 96        a quarter of them in each
struct AccumulatorLayout {
  uint32_t rows = 0;
  uint32_t columns = 0;    // of D
  uint32_t segments = 1;   // lanes that a row has
  bool is_spread = false;  // over half the lanes of each warp

  static constexpr AccumulatorLayout of(uint32_t rows, uint32_t columns, bool is_ws, bool is_pair) {
    const bool is_folded = is_ws || is_pair;
    return {rows, columns, is_folded ? kTensorLanes / rows : 1, rows == 64 && !is_folded};
  }

  constexpr uint32_t columns_in_lane() const { return columns / segments; }
  // Of the lane that holds the row's columns segment · columns_in_lane() … on.
  constexpr uint32_t lane(uint32_t row, uint32_t segment) const {
    return is_spread ? row / 16 * 32 + row % 16 : segment * rows + row;
  }
  constexpr TensorPlace place(uint32_t row, uint32_t column) const {
    return {lane(row, column / columns_in_lane()), column % columns_in_lane()};
  }
};

}  // namespace emulator
