// Descriptors of tcgen05 instructions: of a matrix in shared memory, and of a product.
#pragma once

#include <cstdint>

#include "emulator/machine/matrix_operands.h"
#include "emulator/machine/wgmma_layout.h"

namespace emulator {

// A matrix in shared memory. The layouts are those of wgmma, and one more.
struct SharedDescriptor {
  OperandLayout layout;

  // A Fault where the descriptor is none, or one of a kind that the emulator does not know.
  static SharedDescriptor of(uint64_t descriptor);
  void need_k_major() const;
};

// What a product is of.
enum class ProductKind : int32_t { kF16, kTF32, kF8F6F4 };

struct ProductDescriptor {
  Element a, b;
  bool to_half;  // the accumulator's elements
  bool negates_a, negates_b;
  bool a_is_mn_major, b_is_mn_major;
  uint32_t m, n;

  // A Fault where an instruction of that kind has no such product.
  static ProductDescriptor of(uint32_t descriptor, ProductKind kind, int ctas, bool is_ws);
};

}  // namespace emulator
