// Bits, comparisons and selections.
#include <bit>

#include "emulator/machine/instruction_set.h"
#include "emulator/machine/lanewise.h"
#include "emulator/machine/numerics.h"

namespace emulator {
namespace {

// A width as an unsigned type.
template <typename F>
Handler for_bits(const Lowering& lowering, int bits, F&& make) {
  switch (bits) {
    case 16:
      return make(uint16_t{});
    case 32:
      return make(uint32_t{});
    case 64:
      return make(uint64_t{});
    default:
      lowering.unknown("not of this width");
  }
}

void take_operands(Lowering& lowering, int bits, size_t sources) {
  if (lowering.count() != sources + 1) lowering.unknown("it has another number of operands");
  lowering.destination(0, bits);
  for (size_t i = 1; i <= sources; ++i) lowering.source(int(i), bits);
}

// ---------------------------------------------------------------------------------------------------------------------
// and, or, xor, not, cnot, lop3

enum class Bitwise { kAnd, kOr, kXor };

template <Bitwise kOperation, typename T>
T combine(T a, T b) {
  if constexpr (kOperation == Bitwise::kAnd) return T(a & b);
  if constexpr (kOperation == Bitwise::kOr) return T(a | b);
  if constexpr (kOperation == Bitwise::kXor) return T(a ^ b);
}

template <Bitwise kOperation>
Step combine_predicates(Warp& warp, const Instruction& instruction, Mask mask) {
  const Mask a = warp.predicate(instruction.operands[1]), b = warp.predicate(instruction.operands[2]);
  warp.set_predicate(instruction.operands[0], combine<kOperation>(a, b), mask);
  return Step::kNext;
}

template <Bitwise kOperation>
void lower_bitwise(Lowering& lowering) {
  const Type type = lowering.need_type();
  if (type == Type::kPred) {
    lowering.predicate_destination(0);
    lowering.predicate(1);
    lowering.predicate(2);
    lowering.out.run = combine_predicates<kOperation>;
    return;
  }
  take_operands(lowering, bits_of(type), 2);
  lowering.out.run = for_bits(lowering, bits_of(type), [](auto t) {
    using T = decltype(t);
    return lanewise([](T a, T b) { return combine<kOperation>(a, b); });
  });
}

Step negate_predicate(Warp& warp, const Instruction& instruction, Mask mask) {
  warp.set_predicate(instruction.operands[0], ~warp.predicate(instruction.operands[1]), mask);
  return Step::kNext;
}

void lower_not(Lowering& lowering) {
  const Type type = lowering.need_type();
  if (type == Type::kPred) {
    lowering.predicate_destination(0);
    lowering.predicate(1);
    lowering.out.run = negate_predicate;
    return;
  }
  take_operands(lowering, bits_of(type), 1);
  lowering.out.run = for_bits(lowering, bits_of(type), [](auto t) {
    using T = decltype(t);
    return lanewise([](T a) { return T(~a); });
  });
}

void lower_cnot(Lowering& lowering) {
  const int bits = bits_of(lowering.need_type());
  take_operands(lowering, bits, 1);
  lowering.out.run = for_bits(lowering, bits, [](auto t) {
    using T = decltype(t);
    return lanewise([](T a) { return T(a == 0); });
  });
}

// Bit i of the table is the result for bits a, b, c that spell i.
uint32_t look_up(uint32_t table, uint32_t a, uint32_t b, uint32_t c) {
  uint32_t result = 0;
  for (uint32_t i = 0; i < 8; ++i) {
    const uint32_t chosen = -(table >> i & 1);
    result |= chosen & (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  }
  return result;
}

// d|p: p tells whether d is not zero, combined with q.
void lower_lop3_with_predicate(Lowering& lowering, bool is_and) {
  const ptx::Operand& pair = lowering.operand(0);
  if (pair.kind != ptx::Operand::Kind::kPair) lowering.unknown("it has no predicate");
  lowering.destination(pair.elements[0], 32);
  lowering.predicate_destination(pair.elements[1]);
  for (int i = 1; i <= 3; ++i) lowering.source(i, 32);
  lowering.predicate(5);
  lowering.out.modes[1] = is_and;
  lowering.out.run = [](Warp& warp, const Instruction& instruction, Mask mask) {
    const Operand* operands = instruction.operands;
    const uint32_t *a = warp.slots32(operands[2]), *b = warp.slots32(operands[3]), *c = warp.slots32(operands[4]);
    const Mask q = warp.predicate(operands[5]);
    alignas(64) uint32_t results[kLanes];
    alignas(64) uint8_t flags[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      results[lane] = look_up(uint32_t(instruction.modes[0]), a[lane], b[lane], c[lane]);
      flags[lane] = results[lane] != 0;
    }
    const Mask p = lanewise_internal::gather(flags);
    warp.store(operands[0], results, mask);
    warp.set_predicate(operands[1], instruction.modes[1] ? p & q : p | q, mask);
    return Step::kNext;
  };
}

void lower_lop3(Lowering& lowering) {
  if (lowering.need_type() != Type::kB32) lowering.unknown("its type is not b32");
  const auto table = lowering.constant(4);
  if (!table || *table < 0 || *table > 255) lowering.unknown("its table is no constant of 8 bits");
  lowering.out.modes[0] = int32_t(*table);
  const auto with = lowering.take_one_of({"and", "or"});
  if (!with.empty()) return lower_lop3_with_predicate(lowering, with == "and");
  lowering.destination(0, 32);
  for (int i = 1; i <= 3; ++i) lowering.source(i, 32);
  lowering.out.run = lanewise(
      [](const Modes& modes, uint32_t a, uint32_t b, uint32_t c) { return look_up(uint32_t(modes[0]), a, b, c); });
}

// ---------------------------------------------------------------------------------------------------------------------
// Shifts. Amounts above the width shift everything out.

void take_shift_operands(Lowering& lowering, int bits) {
  lowering.destination(0, bits);
  lowering.source(1, bits);
  lowering.source(2, 32);
}

void lower_shl(Lowering& lowering) {
  const int bits = bits_of(lowering.need_type());
  take_shift_operands(lowering, bits);
  lowering.out.run = for_bits(lowering, bits, [](auto t) {
    using T = decltype(t);
    constexpr uint32_t kBits = sizeof(T) * 8;
    return lanewise([](T a, uint32_t n) { return T(n < kBits ? uint64_t(a) << (n & 63) : 0); });
  });
}

void lower_shr(Lowering& lowering) {
  const Type type = lowering.need_type();
  const int bits = bits_of(type);
  take_shift_operands(lowering, bits);
  const bool is_signed = type == Type::kS16 || type == Type::kS32 || type == Type::kS64;
  lowering.out.run = for_bits(lowering, bits, [is_signed](auto t) {
    using T = decltype(t);
    using S = std::make_signed_t<T>;
    constexpr uint32_t kBits = sizeof(T) * 8;
    return is_signed ? lanewise([](S a, uint32_t n) { return S(a >> (n < kBits ? n : kBits - 1)); })
                     : lanewise([](T a, uint32_t n) { return T(n < kBits ? uint64_t(a) >> (n & 63) : 0); });
  });
}

// Half of two registers side by side, shifted.
void lower_shf(Lowering& lowering) {
  const bool left = lowering.need_one_of({"l", "r"}) == "l";
  const bool clamps = lowering.need_one_of({"clamp", "wrap"}) == "clamp";
  if (lowering.need_type() != Type::kB32) lowering.unknown("its type is not b32");
  take_operands(lowering, 32, 3);
  lowering.out.modes = {left, clamps};
  lowering.out.run = lanewise([](const Modes& modes, uint32_t low, uint32_t high, uint32_t amount) {
    const uint32_t n = modes[1] ? (amount < 32 ? amount : 32) : amount & 31;
    const uint64_t both = uint64_t(high) << 32 | low;
    return uint32_t(modes[0] ? (both << n) >> 32 : both >> n);
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// prmt: bytes of two registers in another order

enum class Permutation : int32_t { kAny, kForward4, kBackward4, kReplicate8, kEdgeLeft, kEdgeRight, kReplicate16 };

// The byte of the eight that becomes byte i, and whether its sign is spread instead; `c` selects.
uint32_t selector(Permutation mode, uint32_t c, uint32_t i) {
  const uint32_t n = c & 3;
  switch (mode) {
    case Permutation::kForward4:
      return (n + i) & 7;
    case Permutation::kBackward4:
      return (n - i) & 7;
    case Permutation::kReplicate8:
      return n;
    case Permutation::kEdgeLeft:
      return i > n ? i : n;
    case Permutation::kEdgeRight:
      return i < n ? i : n;
    case Permutation::kReplicate16:
      return (n & 1) * 2 + (i & 1);
    case Permutation::kAny:
      break;
  }
  return c >> (4 * i) & 15;
}

void lower_prmt(Lowering& lowering) {
  if (lowering.need_type() != Type::kB32) lowering.unknown("its type is not b32");
  const auto name = lowering.take_one_of({"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"});
  take_operands(lowering, 32, 3);
  lowering.out.modes[0] = int32_t(name == "f4e"    ? Permutation::kForward4
                                  : name == "b4e"  ? Permutation::kBackward4
                                  : name == "rc8"  ? Permutation::kReplicate8
                                  : name == "ecl"  ? Permutation::kEdgeLeft
                                  : name == "ecr"  ? Permutation::kEdgeRight
                                  : name == "rc16" ? Permutation::kReplicate16
                                                   : Permutation::kAny);
  lowering.out.run = lanewise([](const Modes& modes, uint32_t a, uint32_t b, uint32_t c) {
    const uint64_t bytes = uint64_t(b) << 32 | a;
    uint32_t result = 0;
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t chosen = selector(Permutation(modes[0]), c, i);
      uint32_t byte = uint32_t(bytes >> (8 * (chosen & 7))) & 0xFF;
      if (chosen & 8) byte = byte & 0x80 ? 0xFF : 0;
      result |= byte << (8 * i);
    }
    return result;
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// Comparisons

enum class Comparison : int32_t { kEq, kNe, kLt, kLe, kGt, kGe, kEqu, kNeu, kLtu, kLeu, kGtu, kGeu, kNum, kNan };

struct NamedComparison {
  std::string_view name;
  Comparison comparison;
  bool is_unsigned = false;
};
constexpr NamedComparison kComparisons[] = {
    {"eq", Comparison::kEq},       {"ne", Comparison::kNe},       {"lt", Comparison::kLt},
    {"le", Comparison::kLe},       {"gt", Comparison::kGt},       {"ge", Comparison::kGe},
    {"lo", Comparison::kLt, true}, {"ls", Comparison::kLe, true}, {"hi", Comparison::kGt, true},
    {"hs", Comparison::kGe, true}, {"equ", Comparison::kEqu},     {"neu", Comparison::kNeu},
    {"ltu", Comparison::kLtu},     {"leu", Comparison::kLeu},     {"gtu", Comparison::kGtu},
    {"geu", Comparison::kGeu},     {"num", Comparison::kNum},     {"nan", Comparison::kNan},
};

const NamedComparison& need_comparison(Lowering& lowering) {
  for (const NamedComparison& known : kComparisons) {
    if (lowering.take(known.name)) return known;
  }
  lowering.unknown("it does not say how to compare");
}

// All lanes at once. modes[0] is the comparison, modes[1] whether subnormal numbers count as zero. Comparisons ending in u
// hold where one of the two is NaN as well; the others do not.
template <typename T, typename Read>
Mask compare_lanes(const Warp& warp, const Instruction& instruction, int a, int b, Read&& read) {
  const auto* first = warp.slots<T>(instruction.operands[a]);
  const auto* second = warp.slots<T>(instruction.operands[b]);
  // One loop for each comparison: they are vectorised.
  const auto where = [&](auto&& holds) {
    alignas(64) uint8_t flags[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      flags[lane] = holds(read(from_slot<T>(first[lane])), read(from_slot<T>(second[lane])));
    }
    return lanewise_internal::gather(flags);
  };
  switch (Comparison(instruction.modes[0])) {
    case Comparison::kEq:
      return where([](auto x, auto y) { return x == y; });
    case Comparison::kNe:
      return where([](auto x, auto y) { return (x < y) | (x > y); });
    case Comparison::kLt:
      return where([](auto x, auto y) { return x < y; });
    case Comparison::kLe:
      return where([](auto x, auto y) { return x <= y; });
    case Comparison::kGt:
      return where([](auto x, auto y) { return x > y; });
    case Comparison::kGe:
      return where([](auto x, auto y) { return x >= y; });
    case Comparison::kEqu:
      return ~where([](auto x, auto y) { return (x < y) | (x > y); });
    case Comparison::kNeu:
      return ~where([](auto x, auto y) { return x == y; });
    case Comparison::kLtu:
      return ~where([](auto x, auto y) { return x >= y; });
    case Comparison::kLeu:
      return ~where([](auto x, auto y) { return x > y; });
    case Comparison::kGtu:
      return ~where([](auto x, auto y) { return x <= y; });
    case Comparison::kGeu:
      return ~where([](auto x, auto y) { return x < y; });
    case Comparison::kNum:
      return where([](auto x, auto y) { return (x == x) & (y == y); });
    case Comparison::kNan:
      return where([](auto x, auto y) { return (x != x) | (y != y); });
  }
  return 0;
}

using Compare = Mask (*)(const Warp&, const Instruction&, int a, int b);

template <typename T>
Mask compare_integers(const Warp& warp, const Instruction& instruction, int a, int b) {
  return compare_lanes<T>(warp, instruction, a, b, [](T x) { return x; });
}

// Flushed if so asked.
template <typename T>
float widened(T x, bool flushes) {
  constexpr uint16_t kExponent = std::is_same_v<T, Half> ? 0x7C00 : 0x7F80;
  if (flushes && (x.bits & kExponent) == 0) x.bits &= 0x8000;
  return to_float(x);
}

template <typename T>
Mask compare_narrow(const Warp& warp, const Instruction& instruction, int a, int b) {
  const bool flushes = instruction.modes[1];
  return compare_lanes<T>(warp, instruction, a, b, [flushes](T x) { return widened(x, flushes); });
}

Mask compare_floats(const Warp& warp, const Instruction& instruction, int a, int b) {
  const bool flushes = instruction.modes[1];
  return compare_lanes<float>(warp, instruction, a, b, [flushes](float x) { return flushes ? flushed(x) : x; });
}

// One half of pairs.
template <typename T, bool kHigh>
Mask compare_halves(const Warp& warp, const Instruction& instruction, int a, int b) {
  const bool flushes = instruction.modes[1];
  return compare_lanes<Pair<T>>(warp, instruction, a, b,
                                [flushes](Pair<T> x) { return widened(kHigh ? x.high : x.low, flushes); });
}

// The second is for the high half of pairs, else null.
struct Comparer {
  Compare low, high = nullptr;
};

Comparer comparer_of(const Lowering& lowering, Type type, bool is_unsigned) {
  switch (type) {
    case Type::kB16:
    case Type::kU16:
      return {compare_integers<uint16_t>};
    case Type::kB32:
    case Type::kU32:
      return {compare_integers<uint32_t>};
    case Type::kB64:
    case Type::kU64:
      return {compare_integers<uint64_t>};
    case Type::kS16:
      return {is_unsigned ? compare_integers<uint16_t> : compare_integers<int16_t>};
    case Type::kS32:
      return {is_unsigned ? compare_integers<uint32_t> : compare_integers<int32_t>};
    case Type::kS64:
      return {is_unsigned ? compare_integers<uint64_t> : compare_integers<int64_t>};
    case Type::kF16:
      return {compare_narrow<Half>};
    case Type::kBF16:
      return {compare_narrow<Bfloat>};
    case Type::kF16x2:
      return {compare_halves<Half, false>, compare_halves<Half, true>};
    case Type::kBF16x2:
      return {compare_halves<Bfloat, false>, compare_halves<Bfloat, true>};
    case Type::kF32:
      return {compare_floats};
    case Type::kF64:
      return {compare_integers<double>};
    default:
      lowering.unknown("not of this type");
  }
}

enum class With : int32_t { kNothing, kAnd, kOr, kXor };

With take_with(Lowering& lowering) {
  const auto name = lowering.take_one_of({"and", "or", "xor"});
  return name == "and" ? With::kAnd : name == "or" ? With::kOr : name == "xor" ? With::kXor : With::kNothing;
}

Mask apply(With with, Mask result, Mask other) {
  switch (with) {
    case With::kAnd:
      return result & other;
    case With::kOr:
      return result | other;
    case With::kXor:
      return result ^ other;
    case With::kNothing:
      break;
  }
  return result;
}

// operands: p, q, a, b, c.
template <Compare kLow, Compare kHigh>
Step set_predicates(Warp& warp, const Instruction& instruction, Mask mask) {
  const auto with = With(instruction.modes[2]);
  const Mask other = with == With::kNothing ? 0 : warp.predicate(instruction.operands[4]);
  const Mask low = kLow(warp, instruction, 2, 3);
  Mask high;
  if constexpr (kHigh != nullptr)
    high = kHigh(warp, instruction, 2, 3);
  else
    high = ~low;
  warp.set_predicate(instruction.operands[0], apply(with, low, other), mask);
  warp.set_predicate(instruction.operands[1], apply(with, high, other), mask);
  return Step::kNext;
}

// operands: d, unused, a, b, c. modes[3]: what d is where the comparison holds.
template <Compare kLow, Compare kHigh>
Step set_values(Warp& warp, const Instruction& instruction, Mask mask) {
  const auto with = With(instruction.modes[2]);
  const Mask other = with == With::kNothing ? 0 : warp.predicate(instruction.operands[4]);
  const Mask low = apply(with, kLow(warp, instruction, 2, 3), other);
  Mask high = 0;
  if constexpr (kHigh != nullptr) high = apply(with, kHigh(warp, instruction, 2, 3), other);
  const auto value = uint32_t(instruction.modes[3]);
  for_lanes(mask, [&](int lane) {
    uint32_t result = low >> lane & 1 ? value : 0;
    if constexpr (kHigh != nullptr) result = (result & 0xFFFF) | (high >> lane & 1 ? value & 0xFFFF0000 : 0);
    warp.put<uint32_t>(instruction.operands[0], lane, result);
  });
  return Step::kNext;
}

// One handler for each comparer.
template <template <Compare, Compare> class Make>
Handler handler_for(const Lowering& lowering, const Comparer& comparer) {
#define EMULATOR_TRY(low_half, high_half) \
  if (comparer.low == low_half) return Make<low_half, high_half>::handler;
  EMULATOR_TRY(compare_integers<uint16_t>, nullptr)
  EMULATOR_TRY(compare_integers<uint32_t>, nullptr)
  EMULATOR_TRY(compare_integers<uint64_t>, nullptr)
  EMULATOR_TRY(compare_integers<int16_t>, nullptr)
  EMULATOR_TRY(compare_integers<int32_t>, nullptr)
  EMULATOR_TRY(compare_integers<int64_t>, nullptr)
  EMULATOR_TRY(compare_integers<double>, nullptr)
  EMULATOR_TRY(compare_floats, nullptr)
  EMULATOR_TRY(compare_narrow<Half>, nullptr)
  EMULATOR_TRY(compare_narrow<Bfloat>, nullptr)
  EMULATOR_TRY((compare_halves<Half, false>), (compare_halves<Half, true>))
  EMULATOR_TRY((compare_halves<Bfloat, false>), (compare_halves<Bfloat, true>))
#undef EMULATOR_TRY
  lowering.unknown("not of this type");
}

template <Compare kLow, Compare kHigh>
struct SetPredicates {
  static constexpr Handler handler = set_predicates<kLow, kHigh>;
};
template <Compare kLow, Compare kHigh>
struct SetValues {
  static constexpr Handler handler = set_values<kLow, kHigh>;
};

void lower_setp(Lowering& lowering) {
  const NamedComparison& named = need_comparison(lowering);
  const With with = take_with(lowering);
  const bool flushes = lowering.take("ftz");
  const Type type = lowering.need_type();
  const Comparer comparer = comparer_of(lowering, type, named.is_unsigned);
  const ptx::Operand& first = lowering.operand(0);
  ptx::Operand nobody;
  nobody.kind = ptx::Operand::Kind::kSink;
  const bool is_pair = first.kind == ptx::Operand::Kind::kPair;
  lowering.predicate_destination(is_pair ? first.elements[0] : first);
  lowering.predicate_destination(is_pair ? first.elements[1] : nobody);
  lowering.source(1, bits_of(type));
  lowering.source(2, bits_of(type));
  if (with != With::kNothing) lowering.predicate(3);
  lowering.out.modes = {int32_t(named.comparison), flushes, int32_t(with)};
  lowering.out.run = handler_for<SetPredicates>(lowering, comparer);
}

void lower_set(Lowering& lowering) {
  const NamedComparison& named = need_comparison(lowering);
  const With with = take_with(lowering);
  const bool flushes = lowering.take("ftz");
  const Type result = lowering.need_type(), type = lowering.need_type();
  const Comparer comparer = comparer_of(lowering, type, named.is_unsigned);
  uint32_t value;
  switch (result) {
    case Type::kU32:
    case Type::kS32:
      value = ~0u;
      break;
    case Type::kU16:
    case Type::kS16:
      value = 0xFFFF;
      break;
    case Type::kF32:
      value = 0x3F800000;
      break;
    case Type::kF16:
      value = 0x3C00;
      break;
    case Type::kBF16:
      value = 0x3F80;
      break;
    case Type::kF16x2:
      value = 0x3C003C00;
      break;
    case Type::kBF16x2:
      value = 0x3F803F80;
      break;
    default:
      lowering.unknown("with a result of this type");
  }
  lowering.destination(0, bits_of(result));
  ptx::Operand nobody;
  nobody.kind = ptx::Operand::Kind::kSink;
  lowering.predicate_destination(nobody);
  lowering.source(1, bits_of(type));
  lowering.source(2, bits_of(type));
  if (with != With::kNothing) lowering.predicate(3);
  lowering.out.modes = {int32_t(named.comparison), flushes, int32_t(with), int32_t(value)};
  lowering.out.run = handler_for<SetValues>(lowering, comparer);
}

// ---------------------------------------------------------------------------------------------------------------------
// Selections

void lower_selp(Lowering& lowering) {
  const int bits = bits_of(lowering.need_type());
  lowering.destination(0, bits);
  lowering.source(1, bits);
  lowering.source(2, bits);
  lowering.predicate(3);
  lowering.out.run = for_bits(lowering, bits, [](auto t) {
    using T = decltype(t);
    return lanewise([](T a, T b, bool c) { return c ? a : b; });
  });
}

// By the sign of the third operand; NaN counts as negative.
void lower_slct(Lowering& lowering) {
  const bool flushes = lowering.take("ftz");
  const int bits = bits_of(lowering.need_type());
  const Type type = lowering.need_type();
  if (type != Type::kS32 && type != Type::kF32) lowering.unknown("it selects by another type");
  lowering.destination(0, bits);
  lowering.source(1, bits);
  lowering.source(2, bits);
  lowering.source(3, 32);
  lowering.out.modes[0] = flushes;
  const bool by_float = type == Type::kF32;
  lowering.out.run = for_bits(lowering, bits, [by_float](auto t) {
    using T = decltype(t);
    return by_float ? lanewise([](const Modes& modes, T a, T b, float c) {
      return (modes[0] ? flushed(c) : c) >= 0 ? a : b;
    })
                    : lanewise([](T a, T b, int32_t c) { return c >= 0 ? a : b; });
  });
}

}  // namespace

void add_logic(InstructionSet& set) {
  set["and"] = lower_bitwise<Bitwise::kAnd>;
  set["or"] = lower_bitwise<Bitwise::kOr>;
  set["xor"] = lower_bitwise<Bitwise::kXor>;
  set["not"] = lower_not;
  set["cnot"] = lower_cnot;
  set["lop3"] = lower_lop3;
  set["shl"] = lower_shl;
  set["shr"] = lower_shr;
  set["shf"] = lower_shf;
  set["prmt"] = lower_prmt;
  set["setp"] = lower_setp;
  set["set"] = lower_set;
  set["selp"] = lower_selp;
  set["slct"] = lower_slct;
}

}  // namespace emulator
