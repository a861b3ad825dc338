// Where the elements of a tile in shared memory lie according to a descriptor of WGMMA or tcgen05.
#pragma once

#include <cstdint>

namespace emulator {

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
//
// tcgen05 has one more, for MN-major operands of 32 bits: pairs of chunks are exchanged, and an atom has four lines,
//
//   ((T, 8, m), (4, k)) : ((1, T, leading), (8T, stride))
struct OperandLayout {
  uint32_t start = 0;  // address in shared memory, of 18 bits
  uint32_t leading = 0;
  uint32_t stride = 0;
  uint32_t base_offset = 0;  // where the pattern begins, in units of 128 bytes modulo 8
  int swizzle_bits = 0;      // 0 to 3: chunks are exchanged within 16, 32, 64 or 128 bytes
  bool swaps_pairs = false;  // of chunks, within 128 bytes

  static OperandLayout of(uint64_t descriptor);

  // The address of the 16 bytes that hold T elements: of a K-major operand, elements k = column · T … of row `line`; of
  // an MN-major operand, rows column · T … at k = `line`.
  uint32_t chunk(bool k_major, uint32_t line, uint32_t column) const {
    const uint32_t cores_in_line = 1u << swizzle_bits;
    const uint32_t lines = swaps_pairs ? 4 : 8;
    uint32_t address = start + (line % lines) * (cores_in_line * 16);
    if (k_major) {
      address += line / lines * stride + column * (swizzle_bits == 0 ? leading : 16);
    } else if (swizzle_bits == 0) {
      address += line / lines * leading + column * stride;
    } else {
      address += line / lines * stride + column % cores_in_line * 16 + column / cores_in_line * leading;
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
    if (swaps_pairs) return address ^ (pattern_line & 3) << 5;
    return address ^ (pattern_line & ((1u << swizzle_bits) - 1)) << 4;
  }
};

}  // namespace emulator
