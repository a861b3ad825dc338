// Tests of wgmma_layout.h. Tiles are written as tensor copies write them, from coordinates; descriptors are made as
// CUTLASS makes them.
#include "emulator/machine/wgmma_layout.h"

#include <map>
#include <utility>

#include "emulator/machine/testing.h"

namespace emulator {
namespace {

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

}  // namespace
}  // namespace emulator

int main() {
  emulator::test_fields();
  emulator::test_layouts();
  emulator::test_order_of_atoms();
  return emulator::verdict();
}
