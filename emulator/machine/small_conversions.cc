// cvt to and from numbers of 4 and 6 bits, and powers of two of 8 bits, two at a time: what SM100 brought.
#include <bit>
#include <optional>

#include "emulator/machine/instruction_set.h"
#include "emulator/machine/numerics.h"
#include "emulator/machine/warp.h"

namespace emulator {
namespace {

// Two numbers in a register, the first in the upper bits.
struct Small {
  std::string_view name;
  Format format;
  int pitch;  // bits from one to the other
};

constexpr Small kSmall[] = {
    {"e2m1x2", kE2M1Format, 4},
    {"e2m3x2", kE2M3Format, 8},
    {"e3m2x2", kE3M2Format, 8},
};

int32_t take_small(Lowering& l) {
  for (size_t i = 0; i < std::size(kSmall); ++i) {
    if (l.take(kSmall[i].name)) return int32_t(i);
  }
  return -1;
}

uint32_t encode_small(const Small& small, float value, bool relu) {
  if (relu && !(value > 0) && value == value) value = 0;
  return encode(small.format, value, Rounding::kNearestEven, true);
}

// Operands: result, upper number, lower number. modes: which of kSmall, whether negative numbers become zero.
Step to_small(Warp& warp, const Instruction& instruction, Mask mask) {
  const Small& small = kSmall[instruction.modes[0]];
  const bool relu = instruction.modes[1];
  for_lanes(mask, [&](int lane) {
    const uint32_t high = encode_small(small, warp.get<float>(instruction.operands[1], lane), relu);
    const uint32_t low = encode_small(small, warp.get<float>(instruction.operands[2], lane), relu);
    warp.put_any(instruction.operands[0], lane, high << small.pitch | low);
  });
  return Step::kNext;
}

// Operands: result, numbers. The same modes.
Step from_small(Warp& warp, const Instruction& instruction, Mask mask) {
  const Small& small = kSmall[instruction.modes[0]];
  const uint32_t used = small.format.sign() * 2 - 1;
  const auto half = [&](uint32_t code) {
    const double value = decode(small.format, code & used);
    return uint32_t(to_half(instruction.modes[1] && !(value > 0) ? 0.0 : value).bits);
  };
  for_lanes(mask, [&](int lane) {
    const auto codes = uint32_t(warp.get_any(instruction.operands[1], lane));
    warp.put<uint32_t>(instruction.operands[0], lane, half(codes >> small.pitch) << 16 | half(codes));
  });
  return Step::kNext;
}

// ---------------------------------------------------------------------------------------------------------------------
// ue8m0: 2^(code - 127), or NaN. The sign is lost.

constexpr uint32_t kScaleNan = 0xFF;

uint32_t to_scale(float value, bool upwards, bool finite) {
  constexpr uint32_t kInfinity = 0x7F800000, kLeast = 0x00400000;  // 2^-127, the least power
  const uint32_t bits = std::bit_cast<uint32_t>(value) & 0x7FFFFFFF;
  uint32_t code = bits >> 23;
  if (bits > kInfinity) return kScaleNan;
  if (upwards && (bits & 0x7FFFFF) && bits > kLeast && bits < kInfinity) ++code;
  return finite && code == kScaleNan ? kScaleNan - 1 : code;
}

uint32_t from_scale(uint32_t code) { return code == kScaleNan ? kNan16 : code == 0 ? 0x0040 : code << 7; }

// Operands: result, two floats or a pair of bfloat16. modes: upwards, finite, whether it is a pair.
Step to_scales(Warp& warp, const Instruction& instruction, Mask mask) {
  const bool upwards = instruction.modes[0], finite = instruction.modes[1], is_pair = instruction.modes[2];
  for_lanes(mask, [&](int lane) {
    float high, low;
    if (is_pair) {
      const uint32_t raw = warp.get<uint32_t>(instruction.operands[1], lane);
      high = to_float(Bfloat{uint16_t(raw >> 16)});
      low = to_float(Bfloat{uint16_t(raw)});
    } else {
      high = warp.get<float>(instruction.operands[1], lane);
      low = warp.get<float>(instruction.operands[2], lane);
    }
    warp.put_any(instruction.operands[0], lane, to_scale(high, upwards, finite) << 8 | to_scale(low, upwards, finite));
  });
  return Step::kNext;
}

// Operands: pair of bfloat16, scales.
Step from_scales(Warp& warp, const Instruction& instruction, Mask mask) {
  for_lanes(mask, [&](int lane) {
    const auto codes = uint32_t(warp.get_any(instruction.operands[1], lane));
    warp.put<uint32_t>(instruction.operands[0], lane, from_scale(codes >> 8 & 0xFF) << 16 | from_scale(codes & 0xFF));
  });
  return Step::kNext;
}

void lower_scales(Lowering& l, std::string_view rounding) {
  l.need_architecture(100);
  if (l.text.parts.back() == "ue8m0x2") {
    if (rounding != "rn" || !l.take("bf16x2")) l.unknown("not to this type");
    if (l.count() != 2) l.unknown("another number of operands");
    l.destination(0, 32);
    l.source_any(1);
    l.out.run = from_scales;
    return;
  }
  if (rounding != "rz" && rounding != "rp") l.unknown("not with this rounding");
  const bool is_pair = l.take("bf16x2");
  if (!is_pair && !l.take("f32")) l.unknown("not from this type");
  if (l.count() != (is_pair ? 2 : 3)) l.unknown("another number of operands");
  l.destination_any(0);
  for (size_t i = 1; i < l.count(); ++i) l.source(int(i), 32);
  l.out.modes = {rounding == "rp", l.take("satfinite"), is_pair};
  l.out.run = to_scales;
}

}  // namespace

bool lower_small_conversion(Lowering& l, std::string_view rounding) {
  if (l.take("ue8m0x2")) {
    lower_scales(l, rounding);
    return true;
  }
  const int32_t small = take_small(l);
  if (small < 0) return false;
  l.need_architecture(100);
  if (rounding != "rn") l.unknown("not with this rounding");
  l.out.modes = {small, l.take("relu")};
  if (l.text.parts.back() == kSmall[small].name) {
    if (!l.take("f16x2")) l.unknown("not to this type");
    if (l.count() != 2) l.unknown("another number of operands");
    l.destination(0, 32);
    l.source_any(1);
    l.out.run = from_small;
  } else {
    if (!l.take("satfinite") || !l.take("f32")) l.unknown("not like this");
    if (l.count() != 3) l.unknown("another number of operands");
    l.destination_any(0);
    l.source(1, 32);
    l.source(2, 32);
    l.out.run = to_small;
  }
  return true;
}

}  // namespace emulator
