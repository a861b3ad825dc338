// Operands of matrix instructions: where the elements of a tile in shared memory lie according to a WGMMA descriptor,
// what the elements of each type are worth, and the product of small tiles. Nothing here knows of warps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "emulator/machine/instruction_set.h"

namespace emulator {

// ---------------------------------------------------------------------------------------------------------------------
// Addresses

// A descriptor of an operand in shared memory, its fields in bytes.
//
// An operand is a grid of core matrices: eight rows of 16 bytes. "Rows" are along M or N if the operand is K-major, and
// along K if it is MN-major. Swizzled layouts set cores side by side until a line of 32, 64 or 128 bytes is full; eight
// such lines are an atom. T being the elements in 16 bytes and W the cores in a line, an operand is (in CuTe's notation)
//
//   K-major,  not swizzled  ((8, m), (T, k)) : ((1T, stride), (1, leading))
//   K-major,  swizzled      ((8, m), (T, k)) : ((WT, stride), (1, T))
//   MN-major, not swizzled  ((T, m), (8, k)) : ((1, stride), (1T, leading))
//   MN-major, swizzled      ((T, W, m), (8, k)) : ((1, T, leading), (WT, stride))
//
// and the swizzle then exchanges 16-byte chunks within each 128 bytes, depending on which 128 bytes these are. As it
// looks at addresses and not at coordinates, a start that was moved on within an atom needs no care.
struct OperandLayout {
  uint32_t start = 0;  // address in shared memory, of 18 bits
  uint32_t leading = 0;
  uint32_t stride = 0;
  uint32_t base_offset = 0;  // where the pattern begins, in units of 128 bytes modulo 8
  int swizzle_bits = 0;      // 0 to 3: chunks are exchanged within 16, 32, 64 or 128 bytes

  static OperandLayout of(uint64_t descriptor);

  // The address of the 16 bytes that hold T elements: of a K-major operand, elements k = column · T … of row `line`; of
  // an MN-major operand, rows column · T … at k = `line`.
  uint32_t chunk(bool k_major, uint32_t line, uint32_t column) const {
    const uint32_t cores_in_line = 1u << swizzle_bits;
    uint32_t address = start + (line % 8) * (cores_in_line * 16);
    if (k_major) {
      address += line / 8 * stride + column * (swizzle_bits == 0 ? leading : 16);
    } else if (swizzle_bits == 0) {
      address += line / 8 * leading + column * stride;
    } else {
      address += line / 8 * stride + column % cores_in_line * 16 + column / cores_in_line * leading;
    }
    return swizzled(address);
  }

  // The address of an element of M or N `row`.
  uint32_t element(bool k_major, uint32_t element_bytes, uint32_t row, uint32_t k) const {
    const uint32_t per_chunk = 16 / element_bytes;
    const uint32_t along = k_major ? k : row;
    return chunk(k_major, k_major ? row : k, along / per_chunk) + along % per_chunk * element_bytes;
  }

 private:
  uint32_t swizzled(uint32_t address) const {
    const uint32_t pattern_line = (address >> 7) - base_offset;
    return address ^ (pattern_line & ((1u << swizzle_bits) - 1)) << 4;
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// Elements

enum class Element : int32_t { kF16, kBF16, kTF32, kE4M3, kE5M2, kS8, kU8 };

inline constexpr int kMostPerChunk = 16;

constexpr int bytes_of(Element element) {
  switch (element) {
    case Element::kF16:
    case Element::kBF16:
      return 2;
    case Element::kTF32:
      return 4;
    default:
      return 1;
  }
}

constexpr bool is_integer(Element element) { return element == Element::kS8 || element == Element::kU8; }
constexpr bool is_fp8(Element element) { return element == Element::kE4M3 || element == Element::kE5M2; }

std::optional<Element> element_of(Type type);

// The values of the elements in 16 bytes.
void decode(Element element, const void* from, float (&values)[kMostPerChunk]);

// The half nearest to a double (ties to even; too large: infinity).
uint16_t nearest_half(double value);

// What accumulators are, and how a sum is rounded to them.
enum class Accumulator : int32_t { kF16, kF32, kS32, kS32Saturated };

// Nothing where no instruction combines these types.
std::optional<Accumulator> accumulator_of(Element a, Element b, Type d, bool saturated);

// ---------------------------------------------------------------------------------------------------------------------
// Products of what a warp holds

inline constexpr int kPanelRows = 16;
inline constexpr int kPanelColumns = 8;
inline constexpr int kMostK = 32;

// A[16][k], B[k][8], D[16][8]. Columns of B and D are in the order in which registers hold them, see `panel_column`.
using PanelA = double[kPanelRows][kMostK];
using PanelB = double[kMostK][kPanelColumns];
using PanelD = double[kPanelRows][kPanelColumns];

// Lane 4r + c holds columns 2c and 2c + 1 of row r, in two registers. Even columns before odd ones, eight rows of panel
// D are the slots of one register beside those of the other.
constexpr int panel_column(int column) { return column % 2 * 4 + column / 2; }

// d += a · b. A product of two elements has at most 22 significant bits and no extreme exponent: it is exact in double,
// so that it does not matter whether the processor adds it in the same instruction, and results are the same
// everywhere. Sums of small integers are exact too; others are right to some 2^-47 of the sum of the magnitudes, and
// are rounded once, when they become accumulators. (Hardware aligns the addends of an instruction to the largest and
// cuts off what is below its adder's width. For FP8 on Hopper that leaves some 13 bits; nothing here imitates that.)
void multiply_add(const PanelA& a, const PanelB& b, int k, PanelD& d);

// A register is given as its 32 slots. Lane 4r + c of an operand's register holds, of row r (of A) or column r (of B),
// the four bytes 4c … of a chunk of 16 bytes along k; the registers of A go down rows first, then along k.
using Slots = const uint32_t*;
void load_a(Element element, const Slots* registers, int count, PanelA& a);
void load_b(Element element, const Slots* registers, int count, PanelB& b);
// 4 registers, or 2 of halves: rows 0 to 7, then rows 8 to 15.
constexpr int accumulator_registers(Accumulator kind) { return kind == Accumulator::kF16 ? 2 : 4; }
void load_d(Accumulator kind, const Slots* registers, PanelD& d);
void store_d(Accumulator kind, const PanelD& d, uint32_t* const* registers);

}  // namespace emulator
