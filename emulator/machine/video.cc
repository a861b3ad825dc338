// Of the video instructions, those that nvcc makes of __vabsdiffu4, __vsadu4 and their like: vabsdiff2, vabsdiff4.
#include <cstdint>

#include "emulator/machine/arithmetic_internal.h"
#include "emulator/machine/lanewise.h"

namespace emulator {
namespace {

constexpr int kIsSigned = 0, kAdds = 1;  // of modes

// Differences of numbers side by side; or c and all of the differences.
template <int kBits>
uint32_t absolute_differences(const Modes& modes, uint32_t a, uint32_t b, uint32_t c) {
  constexpr uint32_t kMask = (1u << kBits) - 1, kSign = 1u << (kBits - 1);
  const uint32_t bias = modes[kIsSigned] ? kSign : 0;  // makes numbers unsigned that differ as much
  uint32_t sum = c, packed = 0;
  for (int place = 0; place < 32; place += kBits) {
    const uint32_t x = (a >> place ^ bias) & kMask, y = (b >> place ^ bias) & kMask;
    const uint32_t difference = x > y ? x - y : y - x;
    sum += difference;
    packed |= difference << place;
  }
  return modes[kAdds] ? sum : packed;
}

// Without selectors or masks of bytes: those make the operand another than a register.
template <int kBits>
void lower_absolute_difference(Lowering& lower) {
  const Type result = lower.need_type(), a = lower.need_type(), b = lower.need_type();
  if (result != Type::kU32 || a != b || (a != Type::kU32 && a != Type::kS32)) lower.unknown("not between these types");
  lower.out.modes[kIsSigned] = a == Type::kS32;
  lower.out.modes[kAdds] = lower.take("add");
  take_operands(lower, 32, 3);
  lower.out.run = lanewise([](const Modes& modes, uint32_t a, uint32_t b, uint32_t c) {
    return absolute_differences<kBits>(modes, a, b, c);
  });
}

}  // namespace

void add_video(InstructionSet& set) {
  set["vabsdiff2"] = lower_absolute_difference<16>;
  set["vabsdiff4"] = lower_absolute_difference<8>;
}

}  // namespace emulator
