// Arithmetic of integers, and what counts and moves their bits.
#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "emulator/machine/arithmetic_internal.h"
#include "emulator/machine/instruction_set.h"
#include "emulator/machine/lanewise.h"

namespace emulator {
namespace {

// Where sums and products of T wrap around without being undefined.
template <typename T>
using Wrapping = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

// The type of twice as many bits.
template <typename T>
struct WideOf;
template <>
struct WideOf<uint16_t> {
  using Type = uint32_t;
};
template <>
struct WideOf<int16_t> {
  using Type = int32_t;
};
template <>
struct WideOf<uint32_t> {
  using Type = uint64_t;
};
template <>
struct WideOf<int32_t> {
  using Type = int64_t;
};
template <>
struct WideOf<uint64_t> {
  using Type = unsigned __int128;
};
template <>
struct WideOf<int64_t> {
  using Type = __int128;
};
template <typename T>
using Wide = typename WideOf<T>::Type;

template <typename T>
T add(T a, T b) {
  return T(Wrapping<T>(a) + Wrapping<T>(b));
}
template <typename T>
T subtract(T a, T b) {
  return T(Wrapping<T>(a) - Wrapping<T>(b));
}
template <typename T>
T low_product(T a, T b) {
  return T(Wrapping<T>(a) * Wrapping<T>(b));
}
template <typename T>
T high_product(T a, T b) {
  return T(Wide<T>(a) * Wide<T>(b) >> (8 * sizeof(T)));
}

int32_t clamp_to_int(int64_t value) {
  return int32_t(std::clamp<int64_t>(value, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()));
}

template <typename T>
T divide(T a, T b) {
  if (b == 0) return T(-1);
  if (std::is_signed_v<T> && b == T(-1)) return subtract(T(0), a);  // the lowest number has no negative
  return T(a / b);
}

template <typename T>
T remainder(T a, T b) {
  if (b == 0) return T(-1);
  if (std::is_signed_v<T> && b == T(-1)) return 0;
  return T(a % b);
}

template <typename T>
T absolute(T a) {
  return a < 0 ? subtract(T(0), a) : a;
}

void need_signed(Lowering& lower, Type type) {
  if (type != Type::kS16 && type != Type::kS32 && type != Type::kS64) lower.unknown("not with this type");
}

// The factors are the lower 24 bits of a register.
template <typename T>
Wide<T> product_of_24(T a, T b) {
  return Wide<T>(T(a << 8) >> 8) * Wide<T>(T(b << 8) >> 8);
}

enum class Part { kLow, kHigh, kWide };

Part need_part(Lowering& lower, bool may_be_wide) {
  const std::string_view name = may_be_wide ? lower.need_one_of({"lo", "hi", "wide"}) : lower.need_one_of({"lo", "hi"});
  return name == "lo" ? Part::kLow : name == "hi" ? Part::kHigh : Part::kWide;
}

template <typename T>
Handler wide_multiply(T) {
  if constexpr (sizeof(T) == 8) {
    return nullptr;
  } else {
    return lanewise([](T a, T b) { return Wide<T>(Wide<T>(a) * b); });
  }
}

template <typename T>
Handler wide_multiply_add(T) {
  if constexpr (sizeof(T) == 8) {
    return nullptr;
  } else {
    return lanewise([](T a, T b, Wide<T> c) { return add(Wide<T>(Wide<T>(a) * b), c); });
  }
}

void take_wide_operands(Lowering& lower, int bits, bool has_addend) {
  if (bits == 64) lower.unknown("not with this type");
  if (lower.count() != (has_addend ? 4 : 3)) lower.unknown("another number of operands");
  lower.destination(0, 2 * bits);
  lower.source(1, bits);
  lower.source(2, bits);
  if (has_addend) lower.source(3, 2 * bits);
}

void lower_remainder(Lowering& lower) {
  const Type type = lower.need_type();
  take_operands(lower, bits_of(type), 2);
  lower.out.run = for_integer(
      lower, type, []<typename T>(T) -> Handler { return lanewise_costly([](T a, T b) { return remainder(a, b); }); });
}

void lower_sum_of_differences(Lowering& lower) {
  const Type type = lower.need_type();
  take_operands(lower, bits_of(type), 3);
  lower.out.run = for_integer(lower, type, []<typename T>(T) -> Handler {
    return lanewise([](T a, T b, T c) { return add(c, a < b ? subtract(b, a) : subtract(a, b)); });
  });
}

template <bool kAdd>
void lower_24(Lowering& lower) {
  const Part part = need_part(lower, false);
  const Type type = lower.need_type();
  if (type != Type::kU32 && type != Type::kS32) lower.unknown("not with this type");
  lower.out.modes[0] = part == Part::kHigh ? 16 : 0;
  if (kAdd && part == Part::kHigh && type == Type::kS32) lower.out.modes[1] = lower.take("sat");
  take_operands(lower, 32, kAdd ? 3 : 2);
  const auto make = []<typename T>(T) -> Handler {
    if constexpr (kAdd) {
      return lanewise([](const Modes& modes, T a, T b, T c) {
        const T product = T(product_of_24(a, b) >> modes[0]);
        return modes[1] ? T(clamp_to_int(int64_t(product) + int64_t(c))) : add(product, c);
      });
    } else {
      return lanewise([](const Modes& modes, T a, T b) { return T(product_of_24(a, b) >> modes[0]); });
    }
  };
  lower.out.run = type == Type::kU32 ? make(uint32_t{}) : make(int32_t{});
}

// --- Dot products

// Part i of a register, the signed or unsigned number of so many bits.
int64_t part_of(uint32_t value, int bits, int i, bool is_signed) {
  const uint32_t part = value << (32 - bits * (i + 1));
  return is_signed ? int32_t(part) >> (32 - bits) : int64_t(part >> (32 - bits));
}

// modes: whether a and b are signed, the bits of a's parts, the first of b's bytes
void lower_dot_product(Lowering& lower, int bits_of_a) {
  lower.out.modes[2] = bits_of_a;
  if (bits_of_a == 16) lower.out.modes[3] = lower.need_one_of({"lo", "hi"}) == "hi" ? 2 : 0;
  for (int i = 0; i < 2; ++i) {
    const Type type = lower.need_type();
    if (type != Type::kU32 && type != Type::kS32) lower.unknown("not with this type");
    lower.out.modes[i] = type == Type::kS32;
  }
  take_operands(lower, 32, 3);
  lower.out.run = lanewise_costly([](const Modes& modes, uint32_t a, uint32_t b, uint32_t c) {
    int64_t sum = c;
    for (int i = 0; i < 32 / modes[2]; ++i) {
      sum += part_of(a, modes[2], i, modes[0]) * part_of(b, 8, modes[3] + i, modes[1]);
    }
    return uint32_t(sum);
  });
}
void lower_dp4a(Lowering& lower) { lower_dot_product(lower, 8); }
void lower_dp2a(Lowering& lower) { lower_dot_product(lower, 16); }

// --- Bits

template <typename T>
T reversed(T value) {
  T result = 0;
  for (size_t i = 0; i < 8 * sizeof(T); ++i) result |= (value >> i & 1) << (8 * sizeof(T) - 1 - i);
  return result;
}

// Position of the highest bit that is not the sign, all ones if there is none.
template <typename T>
uint32_t highest_bit(T value) {
  using Unsigned = std::make_unsigned_t<T>;
  return uint32_t(std::bit_width(Unsigned(value < 0 ? ~value : value))) - 1;
}

// Positions and lengths of 32 bits are in the lowest byte of a register; for 64 bits all of it counts.
template <typename T>
void limit_field(uint32_t& position, uint32_t& length) {
  position = sizeof(T) == 8 ? std::min(position, 0xFFu) : position & 0xFF;
  length = sizeof(T) == 8 ? std::min(length, 0xFFu) : length & 0xFF;
}

template <typename T>
T extract_bits(T value, uint32_t position, uint32_t length) {
  constexpr uint32_t kBits = 8 * sizeof(T);
  limit_field<T>(position, length);
  if (length == 0) return 0;
  const uint32_t highest = std::min(position + length - 1, kBits - 1);
  const T sign = std::is_signed_v<T> && (value >> highest & 1) ? T(-1) : T(0);
  if (position >= kBits) return sign;
  // From the top downwards, so that the shift to the right extends the sign; it is that of the highest bit there is.
  return T(T(std::make_unsigned_t<T>(value) << (kBits - 1 - highest)) >> (kBits - 1 - highest + position));
}

template <typename T>
T insert_bits(T from, T into, uint32_t position, uint32_t length) {
  constexpr uint32_t kBits = 8 * sizeof(T);
  limit_field<T>(position, length);
  if (position >= kBits || length == 0) return into;
  const T field = length >= kBits ? T(-1) : (T(1) << length) - 1;
  return (into & ~(field << position)) | ((from & field) << position);
}

// The nth bit that is set, counted from the base up or, if n is negative, down.
uint32_t nth_set(uint32_t mask, uint32_t base, int32_t n) {
  constexpr uint32_t kNotFound = ~0u;
  if (base > 31) return kNotFound;
  if (n == 0) return mask >> base & 1 ? base : kNotFound;
  const int step = n > 0 ? 1 : -1;
  int64_t left = std::abs(int64_t(n));
  for (int position = int(base); position >= 0 && position < 32; position += step) {
    if ((mask >> position & 1) && --left == 0) return uint32_t(position);
  }
  return kNotFound;
}

// The lowest n of 32 bits, n up to 63.
uint32_t lowest_ones(uint32_t n) { return n >= 32 ? ~0u : (1u << n) - 1; }

uint32_t bit_mask(bool clamp, uint32_t position, uint32_t width) {
  if (clamp && position >= 32) return 0;
  if (clamp) width = std::min(width, 32u);
  position &= 31;
  if (!clamp) width &= 31;
  return lowest_ones(position + width) & ~lowest_ones(position);
}

uint32_t extend(bool clamp, bool is_signed, uint32_t value, uint32_t bits) {
  if (clamp && bits >= 32) return value;
  bits &= 31;
  if (bits == 0) return 0;
  const uint32_t kept = lowest_ones(bits);
  return is_signed && (value >> (bits - 1) & 1) ? value | ~kept : value & kept;
}

// Calls make(uint32_t{}) or make(uint64_t{}) for .b32 and .b64; returns the bits.
template <typename F>
int bits_handler(Lowering& lower, F&& make) {
  const Type type = lower.need_type();
  if (type != Type::kB32 && type != Type::kB64) lower.unknown("not with this type");
  lower.out.run = type == Type::kB32 ? make(uint32_t{}) : make(uint64_t{});
  return bits_of(type);
}

void take_count_operands(Lowering& lower, int bits) {
  lower.destination(0, 32);
  lower.source(1, bits);
}

void lower_population_count(Lowering& lower) {
  take_count_operands(lower, bits_handler(lower, []<typename T>(T) {
                        return lanewise([](T a) { return uint32_t(std::popcount(a)); });
                      }));
}

void lower_count_leading_zeros(Lowering& lower) {
  take_count_operands(lower, bits_handler(lower, []<typename T>(T) {
                        return lanewise([](T a) { return uint32_t(std::countl_zero(a)); });
                      }));
}

void lower_reverse_bits(Lowering& lower) {
  const int bits = bits_handler(lower, []<typename T>(T) { return lanewise_costly([](T a) { return reversed(a); }); });
  take_operands(lower, bits, 1);
}

void lower_find_bit(Lowering& lower) {
  lower.out.modes[0] = lower.take("shiftamt");
  const Type type = lower.need_type();
  if (bits_of(type) == 16) lower.unknown("not with this type");
  take_count_operands(lower, bits_of(type));
  lower.out.run = for_integer(lower, type, []<typename T>(T) -> Handler {
    return lanewise([](const Modes& modes, T a) {
      const uint32_t position = highest_bit(a);
      return modes[0] && position != ~0u ? uint32_t(8 * sizeof(T) - 1) - position : position;
    });
  });
}

void lower_extract_bits(Lowering& lower) {
  const Type type = lower.need_type();
  const int bits = bits_of(type);
  if (bits == 16) lower.unknown("not with this type");
  lower.destination(0, bits);
  lower.source(1, bits);
  lower.source(2, 32);
  lower.source(3, 32);
  lower.out.run = for_integer(lower, type, []<typename T>(T) -> Handler {
    return lanewise_costly([](T a, uint32_t b, uint32_t c) { return extract_bits(a, b, c); });
  });
}

void lower_insert_bits(Lowering& lower) {
  const int bits = bits_handler(lower, []<typename T>(T) {
    return lanewise_costly([](T a, T b, uint32_t c, uint32_t d) { return insert_bits(a, b, c, d); });
  });
  lower.destination(0, bits);
  lower.source(1, bits);
  lower.source(2, bits);
  lower.source(3, 32);
  lower.source(4, 32);
}

void lower_nth_set(Lowering& lower) {
  if (lower.need_type() != Type::kB32) lower.unknown("not with this type");
  take_operands(lower, 32, 3);
  lower.out.run =
      lanewise_costly([](uint32_t mask, uint32_t base, int32_t offset) { return nth_set(mask, base, offset); });
}

void lower_bit_mask(Lowering& lower) {
  lower.out.modes[0] = lower.need_one_of({"clamp", "wrap"}) == "clamp";
  if (lower.need_type() != Type::kB32) lower.unknown("not with this type");
  take_operands(lower, 32, 2);
  lower.out.run = lanewise_costly([](const Modes& modes, uint32_t a, uint32_t b) { return bit_mask(modes[0], a, b); });
}

void lower_extend(Lowering& lower) {
  lower.out.modes[0] = lower.need_one_of({"clamp", "wrap"}) == "clamp";
  const Type type = lower.need_type();
  if (type != Type::kU32 && type != Type::kS32) lower.unknown("not with this type");
  lower.out.modes[1] = type == Type::kS32;
  take_operands(lower, 32, 2);
  lower.out.run =
      lanewise_costly([](const Modes& modes, uint32_t a, uint32_t b) { return extend(modes[0], modes[1], a, b); });
}

template <PairOperation kOperation, typename T>
Handler pair_handler() {
  return lanewise([](const Modes& modes, Pair<T> a, Pair<T> b) {
    auto one = [&](T x, T y) {
      if constexpr (kOperation == PairOperation::kAdd) return add(x, y);
      const T result = kOperation == PairOperation::kMaximum ? std::max(x, y) : std::min(x, y);
      return modes[0] ? std::max(result, T(0)) : result;
    };
    return Pair<T>{one(a.low, b.low), one(a.high, b.high)};
  });
}

// --- Sums and differences of several words

enum class Carrying { kAdd, kSubtract, kMultiplyAdd };
constexpr int kReadsCarry = 0, kWritesCarry = 1, kUpperProduct = 2;

// The flag is the carry out of a sum, and of a difference the borrow.
template <Carrying kOperation, typename T>
Step with_carry(Warp& warp, const Instruction& instruction, Mask mask) {
  using Unsigned = std::make_unsigned_t<T>;
  const Modes& modes = instruction.modes;
  const Operand* operands = instruction.operands;
  const Operand& flag = operands[kOperation == Carrying::kMultiplyAdd ? 4 : 3];
  const Mask in = modes[kReadsCarry] ? warp.predicate(flag) : 0;
  Mask out = 0;
  for_lanes(mask, [&](int lane) {
    T a = warp.get<T>(operands[1], lane), b = warp.get<T>(operands[2], lane);
    if constexpr (kOperation == Carrying::kMultiplyAdd) {
      a = modes[kUpperProduct] ? high_product(a, b) : low_product(a, b);
      b = warp.get<T>(operands[3], lane);
    }
    const Wide<Unsigned> first = Unsigned(a), second = Wide<Unsigned>(Unsigned(b)) + (in >> lane & 1);
    const Wide<Unsigned> result = kOperation == Carrying::kSubtract ? first - second : first + second;
    out |= Mask(result >> (8 * sizeof(T)) & 1) << lane;
    warp.put<T>(operands[0], lane, T(result));
  });
  if (modes[kWritesCarry]) warp.set_predicate(flag, out, mask);
  return Step::kNext;
}

// With .cc, if there is one, taken.
template <Carrying kOperation>
void lower_carrying(Lowering& lower, Type type, bool reads, bool writes) {
  constexpr bool kIsMultiplyAdd = kOperation == Carrying::kMultiplyAdd;
  lower.out.modes[kReadsCarry] = reads;
  lower.out.modes[kWritesCarry] = writes;
  if (bits_of(type) == 16) lower.unknown("not with this type");
  if (kIsMultiplyAdd) lower.out.modes[kUpperProduct] = need_part(lower, false) == Part::kHigh;
  take_operands(lower, bits_of(type), kIsMultiplyAdd ? 3 : 2);
  lower.carry();
  lower.out.run = for_integer(lower, type, []<typename T>(T) -> Handler {
    if constexpr (sizeof(T) == 2) return nullptr;
    return with_carry<kOperation, T>;
  });
}

// addc, subc, madc
template <Carrying kOperation>
void lower_with_carry_in(Lowering& lower) {
  const bool writes = lower.take("cc");
  lower_carrying<kOperation>(lower, lower.need_type(), true, writes);
}

template <bool kMaximum>
void lower_integer_extreme(Lowering& lower, Type type) {
  if (type == Type::kS32) lower.out.modes[0] = lower.take("relu");
  take_operands(lower, bits_of(type), 2);
  if (lower.out.modes[0]) {
    lower.out.run =
        lanewise([](int32_t a, int32_t b) { return std::max(kMaximum ? std::max(a, b) : std::min(a, b), int32_t{0}); });
    return;
  }
  lower.out.run = for_integer(lower, type, []<typename T>(T) -> Handler {
    return lanewise([](T a, T b) { return kMaximum ? std::max(a, b) : std::min(a, b); });
  });
}

}  // namespace

bool is_integer(Type type) {
  switch (type) {
    case Type::kU16:
    case Type::kU32:
    case Type::kU64:
    case Type::kS16:
    case Type::kS32:
    case Type::kS64:
      return true;
    default:
      return false;
  }
}

void lower_integer_add(Lowering& lower, Type type) {
  if (lower.take("cc")) return lower_carrying<Carrying::kAdd>(lower, type, false, true);
  const bool saturate = type == Type::kS32 && lower.take("sat");
  take_operands(lower, bits_of(type), 2);
  if (saturate) {
    lower.out.run = lanewise([](int32_t a, int32_t b) { return clamp_to_int(int64_t(a) + b); });
    return;
  }
  lower.out.run =
      for_integer(lower, type, []<typename T>(T) -> Handler { return lanewise([](T a, T b) { return add(a, b); }); });
}

void lower_integer_subtract(Lowering& lower, Type type) {
  if (lower.take("cc")) return lower_carrying<Carrying::kSubtract>(lower, type, false, true);
  const bool saturate = type == Type::kS32 && lower.take("sat");
  take_operands(lower, bits_of(type), 2);
  if (saturate) {
    lower.out.run = lanewise([](int32_t a, int32_t b) { return clamp_to_int(int64_t(a) - b); });
    return;
  }
  lower.out.run = for_integer(
      lower, type, []<typename T>(T) -> Handler { return lanewise([](T a, T b) { return subtract(a, b); }); });
}

void lower_integer_multiply(Lowering& lower, Type type) {
  switch (need_part(lower, true)) {
    case Part::kLow:
      take_operands(lower, bits_of(type), 2);
      lower.out.run = for_integer(
          lower, type, []<typename T>(T) -> Handler { return lanewise([](T a, T b) { return low_product(a, b); }); });
      break;
    case Part::kHigh:
      take_operands(lower, bits_of(type), 2);
      lower.out.run = for_integer(
          lower, type, []<typename T>(T) -> Handler { return lanewise([](T a, T b) { return high_product(a, b); }); });
      break;
    case Part::kWide:
      take_wide_operands(lower, bits_of(type), false);
      lower.out.run = for_integer(lower, type, []<typename T>(T t) -> Handler { return wide_multiply(t); });
      break;
  }
}

void lower_integer_multiply_add(Lowering& lower, Type type) {
  if (lower.take("cc")) return lower_carrying<Carrying::kMultiplyAdd>(lower, type, false, true);
  switch (need_part(lower, true)) {
    case Part::kLow:
      take_operands(lower, bits_of(type), 3);
      lower.out.run = for_integer(lower, type, []<typename T>(T) -> Handler {
        return lanewise([](T a, T b, T c) { return add(low_product(a, b), c); });
      });
      break;
    case Part::kHigh: {
      const bool saturate = type == Type::kS32 && lower.take("sat");
      take_operands(lower, bits_of(type), 3);
      if (saturate) {
        lower.out.run =
            lanewise([](int32_t a, int32_t b, int32_t c) { return clamp_to_int(int64_t(high_product(a, b)) + c); });
        break;
      }
      lower.out.run = for_integer(lower, type, []<typename T>(T) -> Handler {
        return lanewise([](T a, T b, T c) { return add(high_product(a, b), c); });
      });
      break;
    }
    case Part::kWide:
      take_wide_operands(lower, bits_of(type), true);
      lower.out.run = for_integer(lower, type, []<typename T>(T t) -> Handler { return wide_multiply_add(t); });
      break;
  }
}

void lower_integer_divide(Lowering& lower, Type type) {
  take_operands(lower, bits_of(type), 2);
  lower.out.run = for_integer(
      lower, type, []<typename T>(T) -> Handler { return lanewise_costly([](T a, T b) { return divide(a, b); }); });
}

void lower_integer_absolute(Lowering& lower, Type type) {
  need_signed(lower, type);
  take_operands(lower, bits_of(type), 1);
  lower.out.run =
      for_integer(lower, type, []<typename T>(T) -> Handler { return lanewise([](T a) { return absolute(a); }); });
}

void lower_integer_negate(Lowering& lower, Type type) {
  need_signed(lower, type);
  take_operands(lower, bits_of(type), 1);
  lower.out.run = for_integer(lower, type,
                              []<typename T>(T) -> Handler { return lanewise([](T a) { return subtract(T(0), a); }); });
}

void lower_integer_minimum(Lowering& lower, Type type) { lower_integer_extreme<false>(lower, type); }
void lower_integer_maximum(Lowering& lower, Type type) { lower_integer_extreme<true>(lower, type); }

void lower_integer_pair(Lowering& lower, bool is_signed, PairOperation operation) {
  if (is_signed && operation != PairOperation::kAdd) lower.out.modes[0] = lower.take("relu");
  take_operands(lower, 32, 2);
  const auto choose = [is_signed]<PairOperation kOperation>() {
    return is_signed ? pair_handler<kOperation, int16_t>() : pair_handler<kOperation, uint16_t>();
  };
  switch (operation) {
    case PairOperation::kAdd:
      lower.out.run = choose.operator()<PairOperation::kAdd>();
      break;
    case PairOperation::kMinimum:
      lower.out.run = choose.operator()<PairOperation::kMinimum>();
      break;
    case PairOperation::kMaximum:
      lower.out.run = choose.operator()<PairOperation::kMaximum>();
      break;
  }
}

void add_integer_arithmetic(InstructionSet& set) {
  set["addc"] = lower_with_carry_in<Carrying::kAdd>;
  set["subc"] = lower_with_carry_in<Carrying::kSubtract>;
  set["madc"] = lower_with_carry_in<Carrying::kMultiplyAdd>;
  set["rem"] = lower_remainder;
  set["sad"] = lower_sum_of_differences;
  set["mul24"] = lower_24<false>;
  set["mad24"] = lower_24<true>;
  set["dp4a"] = lower_dp4a;
  set["dp2a"] = lower_dp2a;
  set["popc"] = lower_population_count;
  set["clz"] = lower_count_leading_zeros;
  set["brev"] = lower_reverse_bits;
  set["bfind"] = lower_find_bit;
  set["bfe"] = lower_extract_bits;
  set["bfi"] = lower_insert_bits;
  set["fns"] = lower_nth_set;
  set["bmsk"] = lower_bit_mask;
  set["szext"] = lower_extend;
}

}  // namespace emulator
