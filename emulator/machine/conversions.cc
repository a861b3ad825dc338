// cvt: between integers, floating-point numbers and packed ones.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>

#include "emulator/machine/instruction_set.h"
#include "emulator/machine/lanewise.h"
#include "emulator/machine/numerics.h"
#include "emulator/machine/warp.h"

namespace emulator {
namespace {

// Modes of the general handlers.
constexpr int kTo = 0, kFrom = 1, kRounding = 2, kFlags = 3;
enum Flag : int32_t { kFlush = 1, kSaturate = 2, kRelu = 4, kFinite = 8, kToIntegers = 16 };

struct IntegerKind {
  int bits;
  bool is_signed;
};

std::optional<IntegerKind> integer_kind(Type type) {
  switch (type) {
    case Type::kU8:
    case Type::kU16:
    case Type::kU32:
    case Type::kU64:
      return IntegerKind{bits_of(type), false};
    case Type::kS8:
    case Type::kS16:
    case Type::kS32:
    case Type::kS64:
      return IntegerKind{bits_of(type), true};
    default:
      return std::nullopt;
  }
}

bool is_float(Type type) {
  return type == Type::kF16 || type == Type::kBF16 || type == Type::kF32 || type == Type::kF64;
}

// The lower bits of a register as the integer they are.
int64_t extended(uint64_t value, IntegerKind kind) {
  const int unused = 64 - kind.bits;
  return kind.is_signed ? int64_t(value << unused) >> unused : int64_t(value << unused >> unused);
}

// --- Integers to integers

// The lower bits in any case, the extension for destinations that are wider than their type.
uint64_t integer_to_integer(uint64_t raw, IntegerKind from, IntegerKind to, bool saturate) {
  const int64_t value = extended(raw, from);
  if (!saturate) return uint64_t(extended(uint64_t(value), to));
  // Above int64's range only where it is unsigned and of 64 bits.
  const bool is_huge = !from.is_signed && value < 0;
  const uint64_t highest = to.is_signed ? ~uint64_t{0} >> (65 - to.bits) : ~uint64_t{0} >> (64 - to.bits);
  if (is_huge || value >= 0) return std::min(uint64_t(value), highest);
  if (!to.is_signed) return 0;
  return uint64_t(std::max(value, -int64_t(highest) - 1));
}

// --- Floating-point numbers

double read_float(uint64_t raw, Type type, bool flush) {
  switch (type) {
    case Type::kF16: {
      const Half value{uint16_t(raw)};
      if (!is_nan(value)) return to_float(value);
      // With its sign and payload, which is seen where it becomes an f64.
      const uint64_t sign = raw >> 15 & 1, fraction = raw & 0x3FF;
      return std::bit_cast<double>(sign << 63 | uint64_t{0x7FF8} << 48 | fraction << 42);
    }
    case Type::kBF16:
      return to_float(Bfloat{uint16_t(raw)});
    case Type::kF32: {
      const float value = std::bit_cast<float>(uint32_t(raw));
      // What flushes is an operation of f32, which knows one NaN; others of f64 keep its payload.
      return flush ? canonical(flushed(value)) : value;
    }
    default:
      return std::bit_cast<double>(raw);
  }
}

uint64_t write_float(double value, Type type, Rounding rounding, int32_t flags) {
  if (flags & kSaturate) value = saturated(value);
  if ((flags & kRelu) && !(value != value || value > 0)) value = 0;
  const bool finite = flags & kFinite;
  switch (type) {
    case Type::kF16:
      return encode(kHalfFormat, value, rounding, finite);
    case Type::kBF16:
      return encode(kBfloatFormat, value, rounding, finite);
    case Type::kTF32:
      return encode(kTf32Format, value, rounding, finite) << 13;
    case Type::kF32: {
      const float result = std::bit_cast<float>(encode(kFloatFormat, value, rounding));
      return std::bit_cast<uint32_t>(flags & kFlush ? flushed(result) : result);
    }
    default:
      return std::bit_cast<uint64_t>(value);
  }
}

const Format& format_of(Type type) {
  return type == Type::kF16 ? kHalfFormat : type == Type::kBF16 ? kBfloatFormat : kFloatFormat;
}

uint64_t float_to_float(uint64_t raw, Type from, Type to, Rounding rounding, int32_t flags) {
  // A shift also on a GPU: the payload of a NaN is kept.
  if (from == Type::kBF16 && to == Type::kF32 && flags == 0) return (raw & 0xFFFF) << 16;
  if (from == Type::kF32 && to == Type::kF32 && flags == 0) return raw;  // likewise: nothing is to be done
  double value = read_float(raw, from, flags & kFlush);
  if (value != value && to == Type::kTF32 && rounding == Rounding::kNearestAway) {
    // Computed with the bits of an integer, for which NaNs are numbers that are too large, as infinities are.
    constexpr uint32_t kPlace = 1u << 13;
    const uint32_t code = uint32_t(raw) & ~(kPlace - 1);
    return flags & kFinite ? code - kPlace : code;
  }
  if (value != value && from == Type::kF64 && to != Type::kF64 && !(flags & kSaturate)) {
    return encode_nan(format_of(to), value);
  }
  if (flags & kToIntegers) value = round_to_integer(value, rounding);
  return write_float(value, to, rounding, flags);
}

uint64_t float_to_integer(double value, Type from, IntegerKind to, Rounding rounding) {
  if (value != value) {
    const bool is_zero = from != Type::kF64 && to.bits != 64;
    return is_zero ? 0 : uint64_t(extended(uint64_t{1} << (to.bits - 1), to));
  }
  const double integer = round_to_integer(value, rounding);
  if (to.is_signed) {
    const double limit = std::ldexp(1, to.bits - 1);
    const int64_t highest = int64_t(~uint64_t{0} >> (65 - to.bits));
    if (integer >= limit) return uint64_t(highest);
    return integer < -limit ? uint64_t(-highest - 1) : uint64_t(int64_t(integer));
  }
  if (integer >= std::ldexp(1, to.bits)) return ~uint64_t{0} >> (64 - to.bits);
  return integer > 0 ? uint64_t(integer) : 0;
}

uint64_t integer_to_float(uint64_t raw, IntegerKind from, Type to, Rounding rounding, int32_t flags) {
  const int64_t value = extended(raw, from);
  if (to == Type::kF64) {
    const double result = from.is_signed ? to_double(value, rounding) : to_double(uint64_t(value), rounding);
    return write_float(result, to, rounding, flags);
  }
  return write_float(from.is_signed ? to_odd(value) : to_odd(uint64_t(value)), to, rounding, flags);
}

// --- Scalars in general

Step convert(Warp& warp, const Instruction& instruction, Mask mask) {
  const Type to = Type(instruction.modes[kTo]), from = Type(instruction.modes[kFrom]);
  const auto to_integer = integer_kind(to), from_integer = integer_kind(from);
  const auto rounding = Rounding(instruction.modes[kRounding]);
  const int32_t flags = instruction.modes[kFlags];
  for_lanes(mask, [&](int lane) {
    const uint64_t raw = warp.get_any(instruction.operands[1], lane);
    uint64_t result;
    if (from_integer && to_integer) {
      result = integer_to_integer(raw, *from_integer, *to_integer, flags & kSaturate);
    } else if (from_integer) {
      result = integer_to_float(raw, *from_integer, to, rounding, flags);
    } else if (to_integer) {
      result = float_to_integer(read_float(raw, from, flags & kFlush), from, *to_integer, rounding);
    } else {
      result = float_to_float(raw, from, to, rounding, flags);
    }
    warp.put_any(instruction.operands[0], lane, result);
  });
  return Step::kNext;
}

// Rounded to zero; T has 32 bits.
template <typename T>
T truncated(float value) {
  if (value != value) return 0;
  constexpr int64_t kLowest = std::numeric_limits<T>::min(), kHighest = std::numeric_limits<T>::max();
  // Within the limits of int64.
  const float limited = std::clamp(value, -0x1p40f, 0x1p40f);
  return T(std::clamp(int64_t(limited), kLowest, kHighest));
}

// Conversions that kernels are full of; null for the others.
Handler quick_conversion(Type to, Type from, Rounding rounding, int32_t flags) {
  if (flags == 0 && rounding == Rounding::kNearestEven) {
    if (to == Type::kBF16 && from == Type::kF32) return lanewise([](float a) { return to_bfloat(a); });
    if (to == Type::kF16 && from == Type::kF32) return lanewise([](float a) { return to_half(a); });
    if (to == Type::kF32 && from == Type::kBF16) return lanewise([](Bfloat a) { return to_float(a); });
    if (to == Type::kF32 && from == Type::kF16) return lanewise([](Half a) { return to_float(a); });
    if (to == Type::kF32 && from == Type::kS32) return lanewise([](int32_t a) { return float(a); });
    if (to == Type::kF32 && from == Type::kU32) return lanewise([](uint32_t a) { return float(a); });
    if (to == Type::kF32 && from == Type::kF64) return lanewise([](double a) { return to_float(a); });
    if (to == Type::kF64 && from == Type::kF32) return lanewise([](float a) { return double(a); });
    if (to == Type::kF64 && from == Type::kS32) return lanewise([](int32_t a) { return double(a); });
  }
  if (flags == 0 && rounding == Rounding::kZero && from == Type::kF32) {
    if (to == Type::kS32) return lanewise([](float a) { return truncated<int32_t>(a); });
    if (to == Type::kU32) return lanewise([](float a) { return truncated<uint32_t>(a); });
  }
  if (flags == 0 && integer_kind(to) && integer_kind(from) && bits_of(from) >= 32 && bits_of(to) >= 32) {
    if (bits_of(to) == 32 && bits_of(from) == 32) return lanewise([](uint32_t a) { return a; });
    if (bits_of(to) == 64 && bits_of(from) == 64) return lanewise([](uint64_t a) { return a; });
    if (bits_of(to) == 32) return lanewise([](uint64_t a) { return uint32_t(a); });
    if (from == Type::kS32) return lanewise([](int32_t a) { return int64_t(a); });
    return lanewise([](uint32_t a) { return uint64_t(a); });
  }
  return nullptr;
}

int register_bits(const Lowering& lower, Type type) {
  const int bits = bits_of(type);
  if (bits == 0) lower.unknown("not with this type");
  return std::max(bits, 16);
}

// Whether the text's operand is a register of just the type's bits.
bool fits(Lowering& lower, int i, Type type) {
  const ptx::Operand& operand = lower.operand(i);
  if (operand.kind != ptx::Operand::Kind::kRegister) return false;
  return lower.function().text->registers[operand.reg].bits == bits_of(type);
}

// --- Packed numbers

// What a packed type consists of.
struct Element {
  Format format;
  int bits;  // in the register
};

std::optional<Element> element_of(Type type) {
  switch (type) {
    case Type::kF16x2:
      return Element{kHalfFormat, 16};
    case Type::kBF16x2:
      return Element{kBfloatFormat, 16};
    case Type::kE4M3x2:
      return Element{kE4M3Format, 8};
    case Type::kE5M2x2:
      return Element{kE5M2Format, 8};
    default:
      return std::nullopt;
  }
}

uint32_t pack_element(double value, const Element& element, Rounding rounding, int32_t flags) {
  if ((flags & kRelu) && !(value != value || value > 0)) value = 0;
  return encode(element.format, value, rounding, flags & kFinite);
}

double unpack_element(uint32_t code, const Element& element) {
  return decode(element.format, code & ((1u << element.bits) - 1));
}

// From two floats, the first of which goes into the upper half, or from another pair.
Step convert_pair(Warp& warp, const Instruction& instruction, Mask mask) {
  const Element to = *element_of(Type(instruction.modes[kTo]));
  const std::optional<Element> from = element_of(Type(instruction.modes[kFrom]));
  const auto rounding = Rounding(instruction.modes[kRounding]);
  const int32_t flags = instruction.modes[kFlags];
  for_lanes(mask, [&](int lane) {
    double high, low;
    if (from) {
      const uint32_t raw = uint32_t(warp.get_any(instruction.operands[1], lane));
      high = unpack_element(raw >> from->bits, *from);
      low = unpack_element(raw, *from);
    } else {
      high = warp.get<float>(instruction.operands[1], lane);
      low = warp.get<float>(instruction.operands[2], lane);
    }
    const uint32_t result = pack_element(high, to, rounding, flags) << to.bits | pack_element(low, to, rounding, flags);
    warp.put_any(instruction.operands[0], lane, result);
  });
  return Step::kNext;
}

void lower_pair(Lowering& lower, Type to, Type from, std::string_view rounding_name) {
  Modes& modes = lower.out.modes;
  const bool from_floats = from == Type::kF32;
  const bool is_wide = to == Type::kF16x2 || to == Type::kBF16x2;
  const bool widens = !from_floats && is_wide;
  // Which pairs there are.
  const bool known = from_floats || (to == Type::kF16x2 && from != Type::kBF16x2 && from != Type::kF16x2) ||
                     (!is_wide && from == Type::kF16x2);
  if (!known) lower.unknown("not between these types");
  if (rounding_name == "rn") {
    modes[kRounding] = int32_t(Rounding::kNearestEven);
  } else if (rounding_name == "rz" && from_floats && is_wide) {
    modes[kRounding] = int32_t(Rounding::kZero);
  } else {
    lower.unknown("not with this rounding");
  }
  if (lower.take("relu")) modes[kFlags] |= kRelu;
  if (!widens && lower.take("satfinite")) modes[kFlags] |= kFinite;
  if (!is_wide && !(modes[kFlags] & kFinite)) lower.unknown("without .satfinite");
  modes[kTo] = int32_t(to);
  modes[kFrom] = int32_t(from);
  if (lower.count() != (from_floats ? 3 : 2)) lower.unknown("another number of operands");
  lower.destination_any(0);
  if (from_floats) {
    lower.source(1, 32);
    lower.source(2, 32);
  } else {
    lower.source_any(1);
  }
  lower.out.run = convert_pair;
  if (from_floats && rounding_name == "rn" && modes[kFlags] == 0 && fits(lower, 0, to)) {
    if (to == Type::kBF16x2) {
      lower.out.run =
          lanewise([](float high, float low) { return uint32_t(to_bfloat(high).bits) << 16 | to_bfloat(low).bits; });
    } else if (to == Type::kF16x2) {
      lower.out.run =
          lanewise([](float high, float low) { return uint32_t(to_half(high).bits) << 16 | to_half(low).bits; });
    }
  }
}

// Integers that are only packed may be as short as 2 bits.
std::optional<IntegerKind> take_packed_kind(Lowering& lower) {
  const std::string_view shortest = lower.take_one_of({"u2", "s2", "u4", "s4"});
  if (!shortest.empty()) return IntegerKind{shortest[1] - '0', shortest[0] == 's'};
  return integer_kind(lower.need_type());
}

// cvt.pack.sat: two integers into the lower bits, what was in c above them.
void lower_pack(Lowering& lower) {
  constexpr int kBits = 0, kIsSigned = 1, kHasRest = 2;
  if (!lower.take("sat")) lower.unknown("without .sat");
  const auto kind = take_packed_kind(lower);
  const Type from = lower.need_type();
  if (!kind || kind->bits > 16 || from != Type::kS32) lower.unknown("not between these types");
  const bool has_rest = kind->bits < 16;
  if (has_rest && lower.need_type() != Type::kB32) lower.unknown("not with this type");
  if (lower.count() != (has_rest ? 4 : 3)) lower.unknown("another number of operands");
  lower.destination(0, 32);
  for (int i = 1; i <= (has_rest ? 3 : 2); ++i) lower.source(i, 32);
  lower.out.modes[kBits] = kind->bits;
  lower.out.modes[kIsSigned] = kind->is_signed;
  lower.out.modes[kHasRest] = has_rest;
  lower.out.run = [](Warp& warp, const Instruction& instruction, Mask mask) {
    const IntegerKind to = {instruction.modes[kBits], bool(instruction.modes[kIsSigned])};
    const uint32_t used = (1u << to.bits) - 1;
    for_lanes(mask, [&](int lane) {
      uint32_t parts[2];
      for (int i = 0; i < 2; ++i) {
        const uint32_t raw = warp.slots32(instruction.operands[i + 1])[lane];
        parts[i] = uint32_t(integer_to_integer(raw, {32, true}, to, true)) & used;
      }
      uint32_t result = parts[0] << to.bits | parts[1];
      if (instruction.modes[kHasRest]) {
        result |= warp.slots32(instruction.operands[3])[lane] << (2 * to.bits);
      }
      warp.put<uint32_t>(instruction.operands[0], lane, result);
    });
    return Step::kNext;
  };
}

// --- Scalars

std::optional<Rounding> float_rounding(std::string_view name) {
  if (name == "rn") return Rounding::kNearestEven;
  if (name == "rz") return Rounding::kZero;
  if (name == "rm") return Rounding::kDown;
  if (name == "rp") return Rounding::kUp;
  return std::nullopt;
}

std::optional<Rounding> integer_rounding(std::string_view name) {
  if (name == "rni") return Rounding::kNearestEven;
  if (name == "rzi") return Rounding::kZero;
  if (name == "rmi") return Rounding::kDown;
  if (name == "rpi") return Rounding::kUp;
  return std::nullopt;
}

void lower_to_tf32(Lowering& lower, Type from, std::string_view rounding_name) {
  Modes& modes = lower.out.modes;
  if (from != Type::kF32) lower.unknown("not between these types");
  if (rounding_name == "rna") {
    modes[kRounding] = int32_t(Rounding::kNearestAway);
    if (lower.take("satfinite")) modes[kFlags] |= kFinite;
  } else if (rounding_name == "rn" || rounding_name == "rz") {
    modes[kRounding] = int32_t(*float_rounding(rounding_name));
    if (lower.take("relu")) modes[kFlags] |= kRelu;
  } else {
    lower.unknown("not with this rounding");
  }
  if (lower.count() != 2) lower.unknown("another number of operands");
  modes[kTo] = int32_t(Type::kTF32);
  modes[kFrom] = int32_t(from);
  lower.destination(0, 32);
  lower.source(1, 32);
  lower.out.run = convert;
}

// Sets the rounding and whether it is one to integers.
void lower_rounding(Lowering& lower, Type to, Type from, std::string_view name) {
  Modes& modes = lower.out.modes;
  const auto to_float_rounding = float_rounding(name), to_integer_rounding = integer_rounding(name);
  if (is_float(from) && (integer_kind(to) || to == from)) {
    // To the numbers of an integer; from a type to itself that is optional.
    if (to_integer_rounding) {
      modes[kRounding] = int32_t(*to_integer_rounding);
      if (to == from) modes[kFlags] |= kToIntegers;
    } else if (!name.empty() || to != from) {
      lower.unknown("not with this rounding");
    }
  } else if (is_float(to)) {
    const bool is_exact = is_float(from) && bits_of(to) > bits_of(from);
    // Rounded to nearest where nothing is said.
    const bool between_halves = is_float(from) && bits_of(to) == 16 && bits_of(from) == 16;
    if (to_float_rounding) {
      modes[kRounding] = int32_t(*to_float_rounding);
    } else if (!name.empty() || !(is_exact || between_halves)) {
      lower.unknown("not with this rounding");
    }
  } else if (!name.empty()) {
    lower.unknown("integers are not rounded");
  }
}

void lower_cvt(Lowering& lower) {
  if (lower.take("pack")) return lower_pack(lower);
  const std::string_view rounding = lower.take_one_of({"rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi"});
  if (lower_small_conversion(lower, rounding)) return;
  const Type to = lower.need_type(), from = lower.need_type();
  if (element_of(to)) {
    if (from != Type::kF32 && !element_of(from)) lower.unknown("not between these types");
    return lower_pair(lower, to, from, rounding);
  }
  if (to == Type::kTF32) return lower_to_tf32(lower, from, rounding);
  if ((!integer_kind(to) && !is_float(to)) || (!integer_kind(from) && !is_float(from))) {
    lower.unknown("not between these types");
  }
  Modes& modes = lower.out.modes;
  modes[kTo] = int32_t(to);
  modes[kFrom] = int32_t(from);
  lower_rounding(lower, to, from, rounding);
  if ((to == Type::kF32 || from == Type::kF32) && lower.take("ftz")) {
    // Subnormal floats are below all halves but for what rounding up makes of them, and a GPU does not flush them there.
    if (to != Type::kF16) modes[kFlags] |= kFlush;
  }
  if (lower.take("sat")) {
    // From floats to integers it is clamped anyway.
    if (!(integer_kind(to) && is_float(from))) modes[kFlags] |= kSaturate;
  }
  if ((to == Type::kF16 || to == Type::kBF16) && from == Type::kF32 && (rounding == "rn" || rounding == "rz")) {
    if (lower.take("relu")) modes[kFlags] |= kRelu;
    if (lower.take("satfinite")) modes[kFlags] |= kFinite;
  }
  if (lower.count() != 2) lower.unknown("another number of operands");
  lower.destination_any(0);
  // Constants of a float's type are no integers of 64 bits.
  if (is_float(from) && lower.operand(1).kind != ptx::Operand::Kind::kRegister) {
    lower.source(1, register_bits(lower, from));
  } else {
    lower.source_any(1);
  }
  lower.out.run = convert;
  if (fits(lower, 0, to) && fits(lower, 1, from)) {
    const Handler quick = quick_conversion(to, from, Rounding(modes[kRounding]), modes[kFlags]);
    if (quick) lower.out.run = quick;
  }
}

}  // namespace

void add_conversions(InstructionSet& set) { set["cvt"] = lower_cvt; }

}  // namespace emulator
