// Operands of matrix instructions: what the elements of each type are worth, and how the registers of a warp hold tiles.
#pragma once

#include <cstdint>
#include <optional>

#include "emulator/machine/instruction_set.h"
#include "emulator/machine/tensor_core.h"

namespace emulator {

// ---------------------------------------------------------------------------------------------------------------------
// Elements

// Elements of 6 and 4 bits lie sixteen in a chunk, too: side by side in its first 12 or 8 bytes.
enum class Element : int32_t { kF16, kBF16, kTF32, kE4M3, kE5M2, kE2M3, kE3M2, kE2M1, kS8, kU8 };

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
// Narrower than a byte.
constexpr bool is_narrow(Element element) {
  return element == Element::kE2M3 || element == Element::kE3M2 || element == Element::kE2M1;
}
constexpr bool is_fp8(Element element) { return element == Element::kE4M3 || element == Element::kE5M2; }

std::optional<Element> element_of(Type type);

// The values of the elements in 16 bytes.
void decode(Element element, const void* from, float (&values)[kMostPerChunk]);

// The least normal number of a floating-point type.
constexpr double smallest_of(Element element) {
  switch (element) {
    case Element::kF16:
    case Element::kE5M2:
      return 0x1p-14;
    case Element::kE4M3:
      return 0x1p-6;
    default:
      return 0x1p-126;
  }
}

// What accumulators are.
enum class Accumulator : int32_t { kF16, kF32, kS32, kS32Saturated };

// Nothing where no instruction combines these types.
std::optional<Accumulator> accumulator_of(Element a, Element b, Type d, bool saturated);

// ---------------------------------------------------------------------------------------------------------------------
// Registers

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
