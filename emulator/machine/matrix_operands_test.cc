// Tests of matrix_operands.h.
#include "emulator/machine/matrix_operands.h"

#include <bit>
#include <cmath>

#include "emulator/machine/numerics.h"
#include "emulator/machine/testing.h"

namespace emulator {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Elements

float decoded(Element element, uint32_t bits) {
  const uint32_t raw[4] = {bits};
  float values[kMostPerChunk];
  decode(element, raw, values);
  return values[0];
}

// Sign, exponent, mantissa by definition; no special values.
double by_definition(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = int(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = int(bits) & ((1 << mantissa_bits) - 1);
  const double magnitude = exponent ? std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits)
                                    : std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return bits >> (exponent_bits + mantissa_bits) & 1 ? -magnitude : magnitude;
}

void test_elements() {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = decoded(Element::kF16, bits);
    if ((bits & 0x7C00) != 0x7C00) {
      CHECK(value == by_definition(bits, 5, 10), "half %x", bits);
    } else {
      CHECK(bits & 0x3FF ? std::isnan(value) : std::isinf(value), "half %x", bits);
    }
    CHECK(std::bit_cast<uint32_t>(decoded(Element::kBF16, bits)) == bits << 16, "bfloat16 %x", bits);
  }
  for (uint32_t bits = 0; bits < 0x100; ++bits) {
    const float e4m3 = decoded(Element::kE4M3, bits), e5m2 = decoded(Element::kE5M2, bits);
    CHECK((bits & 0x7F) == 0x7F ? std::isnan(e4m3) : e4m3 == by_definition(bits, 4, 3), "e4m3 %x", bits);
    CHECK((bits & 0x7C) == 0x7C ? (bits & 3 ? std::isnan(e5m2) : std::isinf(e5m2)) : e5m2 == by_definition(bits, 5, 2),
          "e5m2 %x", bits);
    CHECK(decoded(Element::kS8, bits) == float(int8_t(bits)), "s8 %x", bits);
    CHECK(decoded(Element::kU8, bits) == float(bits), "u8 %x", bits);
  }
  CHECK(decoded(Element::kTF32, 0x3F801FFF) == 1.0f, "lower bits of tf32");
  CHECK(decoded(Element::kTF32, 0x3F802000) == 1.0f + 0x1p-10f, "bits of tf32");
}

// ---------------------------------------------------------------------------------------------------------------------
// Registers

struct Register {
  uint32_t slots[32] = {};
};

// Fragments as the PTX ISA documents them for m16n8k16 of 16-bit types and m16n8k32 of 8-bit types.
void test_registers() {
  Register a[4], b[2], c[4];
  const auto a_at = [](int row, int k) { return (row * 3 + k * 5) % 11 - 5; };
  const auto b_at = [](int k, int column) { return (k * 7 + column * 2) % 9 - 4; };
  const auto c_at = [](int row, int column) { return row * 100 - column; };
  for (const bool bytes : {false, true}) {
    const int depth = bytes ? 32 : 16;
    for (int lane = 0; lane < 32; ++lane) {
      const int group = lane >> 2, in_group = lane % 4;
      for (auto& reg : a) reg.slots[lane] = 0;
      for (auto& reg : b) reg.slots[lane] = 0;
      const int elements = bytes ? 16 : 8;  // of A, in a lane
      const int in_register = elements / 4, bits = bytes ? 8 : 16;
      for (int i = 0; i < elements; ++i) {
        // Elements i of A: as documented, row group or group + 8, and columns from in_group * in_register.
        const int reg = i / in_register;
        const int row = reg == 0 || reg == 2 ? group : group + 8;
        const int k = in_group * in_register + i % in_register + (reg >= 2 ? depth / 2 : 0);
        const uint32_t value = bytes ? uint8_t(a_at(row, k)) : std::bit_cast<uint32_t>(float(a_at(row, k))) >> 16;
        a[reg].slots[lane] |= value << i % in_register * bits;
      }
      for (int i = 0; i < elements / 2; ++i) {
        const int reg = i / in_register;
        const int k = in_group * in_register + i % in_register + (reg ? depth / 2 : 0);
        const uint32_t value = bytes ? uint8_t(b_at(k, group)) : std::bit_cast<uint32_t>(float(b_at(k, group))) >> 16;
        b[reg].slots[lane] |= value << i % in_register * bits;
      }
      for (int i = 0; i < 4; ++i) {
        const int value = c_at(i < 2 ? group : group + 8, in_group * 2 + i % 2);
        c[i].slots[lane] = bytes ? uint32_t(value) : std::bit_cast<uint32_t>(float(value));
      }
    }
    const Element element = bytes ? Element::kS8 : Element::kBF16;
    const Accumulator accumulator = bytes ? Accumulator::kS32 : Accumulator::kF32;
    const Slots a_slots[] = {a[0].slots, a[1].slots, a[2].slots, a[3].slots}, b_slots[] = {b[0].slots, b[1].slots};
    const Slots c_slots[] = {c[0].slots, c[1].slots, c[2].slots, c[3].slots};
    uint32_t* const d_slots[] = {c[0].slots, c[1].slots, c[2].slots, c[3].slots};
    PanelA panel_a;
    PanelB panel_b;
    PanelD panel_d;
    load_a(element, a_slots, 4, panel_a);
    load_b(element, b_slots, 2, panel_b);
    load_d(accumulator, c_slots, panel_d);
    if (bytes) {
      multiply_add_integers(panel_a, panel_b, depth, panel_d);
    } else {
      find_powers(smallest_of(element), depth, panel_a);
      find_powers(smallest_of(element), depth, panel_b);
      multiply_add(panel_a, panel_b, depth, {kAdderWidth, Sum::kFloat}, panel_d);
    }
    store_d(accumulator, panel_d, d_slots);
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        int expected = c_at(row, column);
        for (int k = 0; k < depth; ++k) expected += a_at(row, k) * b_at(k, column);
        const uint32_t got = c[row / 8 * 2 + column % 2].slots[row % 8 * 4 + column / 2];
        CHECK((bytes ? int32_t(got) : int(std::bit_cast<float>(got))) == expected, "row %d, column %d", row, column);
      }
    }
  }
}

void test_accumulators() {
  PanelD d;
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) d[row][panel_column(column)] = row * 8 + column;
  }
  d[0][0] = NAN;
  d[0][panel_column(1)] = 3e9;
  d[0][panel_column(2)] = -3e9;
  Register registers[4];
  uint32_t* const slots[] = {registers[0].slots, registers[1].slots, registers[2].slots, registers[3].slots};
  store_d(Accumulator::kF32, d, slots);
  CHECK(registers[0].slots[0] == 0x7FFFFFFF, "the NaN of matrix units");
  CHECK(std::bit_cast<float>(registers[1].slots[0]) == 3e9f, "a large sum");
  store_d(Accumulator::kF16, d, slots);
  CHECK(registers[0].slots[0] == 0x7C007FFF, "two halves");
  CHECK(registers[1].slots[31] == (uint32_t(to_half(127.0).bits) << 16 | to_half(126.0).bits), "two halves");
  PanelD back;
  const Slots sources[] = {slots[0], slots[1], slots[2], slots[3]};
  load_d(Accumulator::kF16, sources, back);
  CHECK(back[15][panel_column(6)] == 126 && back[8][panel_column(1)] == 65 && back[7][panel_column(7)] == 63, "halves");
  d[0][0] = 0;
  store_d(Accumulator::kS32Saturated, d, slots);
  CHECK(registers[1].slots[0] == 0x7FFFFFFF && registers[0].slots[1] == 0x80000000, "saturated sums");
  store_d(Accumulator::kS32, d, slots);
  CHECK(registers[1].slots[0] == uint32_t(3000000000ll) && registers[0].slots[1] == uint32_t(-3000000000ll), "wrapped");
}

}  // namespace
}  // namespace emulator

int main() {
  emulator::test_elements();
  emulator::test_registers();
  emulator::test_accumulators();
  return emulator::verdict();
}
