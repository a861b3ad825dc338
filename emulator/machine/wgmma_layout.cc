#include "emulator/machine/wgmma_layout.h"

namespace emulator {

OperandLayout OperandLayout::of(uint64_t descriptor) {
  const auto field = [&](int from) { return uint32_t(descriptor >> from & 0x3FFF) << 4; };
  constexpr int kSwizzleBits[4] = {0, 3, 2, 1};
  OperandLayout layout;
  layout.start = field(0);
  layout.leading = field(16);
  layout.stride = field(32);
  layout.base_offset = uint32_t(descriptor >> 49 & 7);
  layout.swizzle_bits = kSwizzleBits[descriptor >> 62];
  return layout;
}

}  // namespace emulator
