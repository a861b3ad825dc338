// Tests of wgmma_layout.h. Tiles are written as tensor copies write them, from coordinates; descriptors are made as
// CUTLASS makes them.
#include "emulator/machine/wgmma_layout.h"

#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <utility>

namespace {

using namespace emulator;

int failures = 0;

#define CHECK(condition, ...)                                     \
  do {                                                            \
    if (!(condition)) {                                           \
      ++failures;                                                 \
      std::printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::printf(__VA_ARGS__);                                   \
      std::printf("\n");                                          \
      if (failures > 20) std::exit(1);                            \
    }                                                             \
  } while (0)

// ---------------------------------------------------------------------------------------------------------------------
// Layouts

uint64_t make_descriptor(uint64_t start, uint64_t leading, uint64_t stride, uint64_t base_offset, uint64_t type) {
  return start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | base_offset << 49 | type << 62;
}

// One of the layouts of an operand: its type in the descriptor and the bytes of a line.
struct Swizzle {
  int type, line_bytes;
};
constexpr Swizzle kSwizzles[] = {{0, 16}, {1, 128}, {2, 64}, {3, 32}};

// Where a tensor copy that swizzles puts chunk `chunk` of line `line` of a box whose first line begins a pattern: the
// tables of the CUDA driver API, by coordinates.
int place_in_box(int line_bytes, int line, int chunk) {
  switch (line_bytes) {
    case 128:
      return line * 128 + (chunk ^ line % 8) * 16;
    case 64:
      return line * 64 + (chunk ^ line / 2 % 4) * 16;
    case 32:
      return line * 32 + (chunk ^ line / 4 % 2) * 16;
    default:
      return line * 16;
  }
}

struct Case {
  Swizzle swizzle;
  bool k_major;
  int element_bytes;
  int rows, depth;  // elements of M or N and of K in shared memory
  int gap;          // bytes between boxes beyond what they need
  int start;        // address
};

// A tile as boxes: lines of `line_bytes` along the contiguous dimension, all of the other dimension.
void test_layout(const Case& test) {
  const int line_bytes = test.swizzle.line_bytes;
  const int contiguous = test.k_major ? test.depth : test.rows, lines = test.k_major ? test.rows : test.depth;
  const int box_bytes = lines * line_bytes + test.gap;
  const int line_elements = line_bytes / test.element_bytes;
  std::map<uint32_t, std::pair<int, int>> memory;  // row and k of the element at an address
  for (int i = 0; i < contiguous; ++i) {
    for (int line = 0; line < lines; ++line) {
      const int byte = i % line_elements * test.element_bytes;
      const int address =
          test.start + i / line_elements * box_bytes + place_in_box(line_bytes, line, byte / 16) + byte % 16;
      const bool is_new = memory.emplace(address, test.k_major ? std::pair(line, i) : std::pair(i, line)).second;
      CHECK(is_new, "the test writes an address twice");
    }
  }

  const bool is_swizzled = line_bytes > 16;
  int leading = box_bytes, stride = 8 * line_bytes;
  if (test.k_major && is_swizzled) leading = 16;  // not used
  if (!test.k_major && !is_swizzled) std::swap(leading, stride);
  const int instruction_k = 32 / test.element_bytes;
  const int base_offset = is_swizzled ? test.start >> 7 & 7 : 0;
  for (int first_k = 0; first_k < test.depth; first_k += instruction_k) {
    // How kernels step from one instruction to the next.
    int start = test.start;
    if (test.k_major) {
      start += first_k / line_elements * box_bytes + first_k % line_elements * test.element_bytes;
    } else {
      start += first_k * line_bytes;
    }
    const auto layout = OperandLayout::of(make_descriptor(start, leading, stride, base_offset, test.swizzle.type));
    for (int row = 0; row < test.rows; ++row) {
      for (int k = 0; k < instruction_k; ++k) {
        const uint32_t address = layout.element(test.k_major, test.element_bytes, row, k);
        const auto found = memory.find(address);
        const auto [found_row, found_k] = found == memory.end() ? std::pair(-1, -1) : found->second;
        CHECK(found_row == row && found_k == first_k + k,
              "%d-byte lines, %s-major, elements of %d bytes, start %d: (%d, %d) is at %u, where (%d, %d) is",
              line_bytes, test.k_major ? "K" : "MN", test.element_bytes, test.start, row, first_k + k, address,
              found_row, found_k);
      }
    }
  }
}

void test_layouts() {
  for (const Swizzle& swizzle : kSwizzles) {
    for (const int start : {1024, 5 * 1024, 200 * 1024}) {
      for (const int gap : {0, 1024}) {
        for (const int element_bytes : {1, 2, 4}) {
          test_layout({swizzle, true, element_bytes, 64, 256 / element_bytes, gap, start});
          test_layout({swizzle, true, element_bytes, 256, 32 / element_bytes, gap, start});
          if (swizzle.line_bytes == 128) test_layout({swizzle, true, element_bytes, 8, 576, gap, start});
        }
        test_layout({swizzle, false, 2, 64, 64, gap, start});
        test_layout({swizzle, false, 2, 256, 16, gap, start});
        test_layout({swizzle, false, 2, 512, 32, gap, start});
      }
    }
    // Patterns that begin elsewhere, which the base offset makes up for.
    for (int line = 1; line < 8; ++line) {
      test_layout({swizzle, true, 2, 64, 64, 0, 2048 + 128 * line});
      test_layout({swizzle, false, 2, 64, 64, 0, 2048 + 128 * line});
    }
  }
}

// Atoms of an MN-major operand that follow each other along MN before K, and the other way round.
void test_order_of_atoms() {
  constexpr int kAtom = 1024, kRows = 256;
  for (const bool rows_first : {false, true}) {
    const int leading = rows_first ? kAtom : 2 * kAtom;
    const int stride = rows_first ? kRows / 64 * kAtom : kAtom;
    const auto layout = OperandLayout::of(make_descriptor(4096, leading, stride, 0, 1));
    for (int row = 0; row < kRows; ++row) {
      for (int k = 0; k < 16; ++k) {
        const int atom = rows_first ? k / 8 * (kRows / 64) + row / 64 : row / 64 * 2 + k / 8;
        const uint32_t expected = 4096 + atom * kAtom + place_in_box(128, k % 8, row % 64 / 8) + row % 8 * 2;
        CHECK(layout.element(false, 2, row, k) == expected, "row %d, k %d", row, k);
      }
    }
  }
}

void test_fields() {
  const auto layout = OperandLayout::of(0x3FFFull | 0x2AAAull << 16 | 0x1555ull << 32 | 5ull << 49 | 2ull << 62);
  CHECK(layout.start == 0x3FFF0 && layout.leading == 0x2AAA0 && layout.stride == 0x15550, "fields of a descriptor");
  CHECK(layout.base_offset == 5 && layout.swizzle_bits == 2, "fields of a descriptor");
}

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
      CHECK(nearest_half(value) == bits, "half %x", bits);
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

  // Halfway between neighbours: to the even one. A little more: up.
  for (uint32_t bits = 0; bits < 0x7BFF; ++bits) {
    const double middle = (by_definition(bits, 5, 10) + by_definition(bits + 1, 5, 10)) / 2;
    CHECK(nearest_half(middle) == bits + bits % 2, "beyond half %x", bits);
    CHECK(nearest_half(-middle) == (0x8000 | (bits + bits % 2)), "beyond half %x", bits);
    CHECK(nearest_half(std::nextafter(middle, 1e9)) == bits + 1, "beyond half %x", bits);
    CHECK(nearest_half(std::nextafter(middle, 0)) == bits, "beyond half %x", bits);
  }
  CHECK(nearest_half(65519.99) == 0x7BFF && nearest_half(65520) == 0x7C00, "large halves");
  CHECK(nearest_half(NAN) == 0x7FFF && nearest_half(-INFINITY) == 0xFC00 && nearest_half(-0.0) == 0x8000, "special");
}

// ---------------------------------------------------------------------------------------------------------------------
// Products and registers

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
    multiply_add(panel_a, panel_b, depth, panel_d);
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
  CHECK(registers[1].slots[31] == (uint32_t(nearest_half(127)) << 16 | nearest_half(126)), "two halves");
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

int main() {
  test_fields();
  test_layouts();
  test_order_of_atoms();
  test_elements();
  test_registers();
  test_accumulators();
  if (failures == 0) std::printf("ok\n");
  return failures != 0;
}
