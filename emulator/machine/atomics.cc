// Operations on memory that nobody comes in between of: atom and red. Dispatches all that begins with `red`.
#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <mutex>

#include "emulator/machine/arithmetic_internal.h"
#include "emulator/machine/copies.h"
#include "emulator/machine/cta.h"
#include "emulator/machine/instruction_set.h"
#include "emulator/machine/machine.h"
#include "emulator/machine/numerics.h"
#include "emulator/machine/warp.h"

namespace emulator {
namespace {

constexpr int kSpaceMode = 0, kElements = 1, kHasResult = 2, kHasThird = 3;

struct Bits128 {
  uint64_t low, high;
  bool operator==(const Bits128&) const = default;
};

// What becomes of the value in memory. `global`: of global memory; `c`: of cas only.
template <typename T>
using Combine = T (*)(T old, T b, T c, bool global);

template <typename T>
T exchange(T, T b, T, bool) {
  return b;
}
template <typename T>
T compare_and_swap(T old, T b, T c, bool) {
  return old == b ? c : old;
}
template <typename T>
T bitwise_and(T old, T b, T, bool) {
  return old & b;
}
template <typename T>
T bitwise_or(T old, T b, T, bool) {
  return old | b;
}
template <typename T>
T bitwise_xor(T old, T b, T, bool) {
  return old ^ b;
}
template <typename T>
T add_integers(T old, T b, T, bool) {
  return old + b;
}
template <typename T>
T minimum(T old, T b, T, bool) {
  return std::min(old, b);
}
template <typename T>
T maximum(T old, T b, T, bool) {
  return std::max(old, b);
}
uint32_t increment(uint32_t old, uint32_t b, uint32_t, bool) { return old >= b ? 0 : old + 1; }
uint32_t decrement(uint32_t old, uint32_t b, uint32_t, bool) { return old == 0 || old > b ? b : old - 1; }

// In global memory, subnormal floats count as zeros.
float add_floats(float old, float b, float, bool global) {
  return flush_if(global, canonical(flush_if(global, old) + flush_if(global, b)));
}
double add_doubles(double old, double b, double, bool) {
  return rounded(Operation::kAdd, Rounding::kNearestEven, old, b);
}

template <typename T>
T add_narrow(T old, T b, T, bool) {
  return from_bits<T>(encode(format_of(T{}), add_to_odd(to_double(old), to_double(b))));
}
template <typename T>
T add_pairs(T old, T b, T, bool global) {
  return {add_narrow(old.low, b.low, {}, global), add_narrow(old.high, b.high, {}, global)};
}

// As the instructions min and max: NaNs lose, +0 is more than -0.
template <bool kMaximum, typename T>
T extreme_narrow(T old, T b, T, bool) {
  if (is_nan(old) && is_nan(b)) return from_bits<T>(kNan16);
  if (is_nan(old)) return b;
  if (is_nan(b)) return old;
  const double x = to_double(old), y = to_double(b);
  if (x == y) return from_bits<T>(kMaximum ? old.bits & b.bits : old.bits | b.bits);
  return (x > y) == kMaximum ? old : b;
}
template <bool kMaximum, typename T>
T extreme_pairs(T old, T b, T, bool global) {
  return {extreme_narrow<kMaximum>(old.low, b.low, {}, global), extreme_narrow<kMaximum>(old.high, b.high, {}, global)};
}

template <typename T>
T read(const Warp& warp, const Operand& operand, int lane) {
  T value;
  std::memcpy(&value, warp.bytes(operand, lane), sizeof(T));
  return value;
}

template <typename T>
void write(Warp& warp, const Operand& operand, int lane, T value) {
  if constexpr (sizeof(T) > 8) {
    std::memcpy(warp.target_bytes(operand, lane), &value, sizeof(T));
  } else {
    warp.put(operand, lane, value);
  }
}

// operands: where the old values go (if there is a result), the address, b, c.
template <typename T, Combine<T> kCombine>
Step atomic(Warp& warp, const Instruction& instruction, Mask mask) {
  constexpr int kMostElements = 8;
  const auto space = Space(instruction.modes[kSpaceMode]);
  const int elements = instruction.modes[kElements];
  const Operand* results = instruction.modes[kHasResult] ? instruction.operands : nullptr;
  const Operand& address_operand = instruction.operands[results ? elements : 0];
  const Operand* b = &address_operand + 1;
  const Operand* c = instruction.modes[kHasThird] ? b + elements : nullptr;
  for (Mask left = mask; left; left &= left - 1) {
    const int lane = first_lane(left);
    const uint64_t address = warp.address(address_operand, lane);
    std::byte* place = warp.resolve(space, address, size_t(elements) * sizeof(T), Access::kAtomic, lane);
    const bool global = space == Space::kGlobal || (space == Space::kGeneric && (address & kWindowMask) == 0);
    // Results may lie in the registers of operands.
    T old[kMostElements];
    for (int i = 0; i < elements; ++i) {
      const uint64_t offset = uint64_t(i) * sizeof(T);
      const T operand = read<T>(warp, b[i], lane);
      const T third = c ? read<T>(warp, c[i], lane) : T{};
      std::unique_lock<std::mutex> lock;
      if (global) lock = std::unique_lock(atomic_lock(address + offset));
      std::memcpy(&old[i], place + offset, sizeof(T));
      const T combined = kCombine(old[i], operand, third, global);
      if (std::memcmp(&combined, &old[i], sizeof(T)) != 0) warp.note_change(space, address);
      std::memcpy(place + offset, &combined, sizeof(T));
    }
    for (int i = 0; results && i < elements; ++i) write(warp, results[i], lane, old[i]);
  }
  return Step::kNext;
}

// --- Which operations there are on which types

Handler bitwise_handler(std::string_view name, Type type) {
  if (type == Type::kB32) {
    if (name == "and") return atomic<uint32_t, bitwise_and>;
    if (name == "or") return atomic<uint32_t, bitwise_or>;
    if (name == "xor") return atomic<uint32_t, bitwise_xor>;
  } else if (type == Type::kB64) {
    if (name == "and") return atomic<uint64_t, bitwise_and>;
    if (name == "or") return atomic<uint64_t, bitwise_or>;
    if (name == "xor") return atomic<uint64_t, bitwise_xor>;
  }
  return nullptr;
}

Handler exchange_handler(std::string_view name, Type type) {
  const bool is_cas = name == "cas";
  switch (type) {
    case Type::kB16:
      return is_cas ? Handler(atomic<uint16_t, compare_and_swap>) : nullptr;
    case Type::kB32:
      return is_cas ? Handler(atomic<uint32_t, compare_and_swap>) : atomic<uint32_t, exchange>;
    case Type::kB64:
      return is_cas ? Handler(atomic<uint64_t, compare_and_swap>) : atomic<uint64_t, exchange>;
    case Type::kB128:
      return is_cas ? Handler(atomic<Bits128, compare_and_swap>) : atomic<Bits128, exchange>;
    default:
      return nullptr;
  }
}

Handler add_handler(Type type) {
  switch (type) {
    case Type::kU32:
    case Type::kS32:
      return atomic<uint32_t, add_integers>;
    case Type::kU64:
    case Type::kS64:
      return atomic<uint64_t, add_integers>;
    case Type::kF32:
      return atomic<float, add_floats>;
    case Type::kF64:
      return atomic<double, add_doubles>;
    case Type::kF16:
      return atomic<Half, add_narrow>;
    case Type::kBF16:
      return atomic<Bfloat, add_narrow>;
    case Type::kF16x2:
      return atomic<Pair<Half>, add_pairs>;
    case Type::kBF16x2:
      return atomic<Pair<Bfloat>, add_pairs>;
    default:
      return nullptr;
  }
}

template <typename T>
Handler integer_extreme_handler(bool is_maximum) {
  return is_maximum ? Handler(atomic<T, maximum>) : atomic<T, minimum>;
}

Handler extreme_handler(bool maximum, Type type) {
  switch (type) {
    case Type::kU32:
      return integer_extreme_handler<uint32_t>(maximum);
    case Type::kS32:
      return integer_extreme_handler<int32_t>(maximum);
    case Type::kU64:
      return integer_extreme_handler<uint64_t>(maximum);
    case Type::kS64:
      return integer_extreme_handler<int64_t>(maximum);
    case Type::kF16:
      return maximum ? Handler(atomic<Half, extreme_narrow<true>>) : atomic<Half, extreme_narrow<false>>;
    case Type::kBF16:
      return maximum ? Handler(atomic<Bfloat, extreme_narrow<true>>) : atomic<Bfloat, extreme_narrow<false>>;
    case Type::kF16x2:
      return maximum ? Handler(atomic<Pair<Half>, extreme_pairs<true>>) : atomic<Pair<Half>, extreme_pairs<false>>;
    case Type::kBF16x2:
      return maximum ? Handler(atomic<Pair<Bfloat>, extreme_pairs<true>>) : atomic<Pair<Bfloat>, extreme_pairs<false>>;
    default:
      return nullptr;
  }
}

Handler handler_named(std::string_view name, Type type) {
  if (name == "add") return add_handler(type);
  if (name == "min" || name == "max") return extreme_handler(name == "max", type);
  if (name == "exch" || name == "cas") return exchange_handler(name, type);
  if (name == "inc") return type == Type::kU32 ? atomic<uint32_t, increment> : nullptr;
  if (name == "dec") return type == Type::kU32 ? atomic<uint32_t, decrement> : nullptr;
  return bitwise_handler(name, type);
}

bool is_narrow(Type type) {
  return type == Type::kF16 || type == Type::kBF16 || type == Type::kF16x2 || type == Type::kBF16x2;
}

void lower_atomic(Lowering& lower, bool has_result) {
  std::array<int32_t, 6>& modes = lower.out.modes;
  // Memory here is one, and every access is seen by all at once.
  lower.take_order();
  lower.out.order |= Instruction::kStrong;
  const std::string_view space = lower.take_one_of({"global", "shared", "shared::cta", "shared::cluster"});
  modes[kSpaceMode] = int32_t(space.empty() ? Space::kGeneric : space == "global" ? Space::kGlobal : Space::kShared);
  const std::string_view name =
      has_result ? lower.need_one_of({"add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas"})
                 : lower.need_one_of({"add", "min", "max", "inc", "dec", "and", "or", "xor"});
  const bool has_policy = lower.take("L2::cache_hint");
  const std::string_view vector = lower.take_one_of({"v2", "v4", "v8"});
  const Type type = lower.need_type();
  if (is_narrow(type) && !lower.take("noftz")) lower.unknown("without .noftz");
  const bool is_extreme = name == "min" || name == "max";
  if (vector.empty() && is_extreme && is_narrow(type)) lower.unknown("of vectors only");
  if (!vector.empty()) {
    if (!is_narrow(type) && !(type == Type::kF32 && name == "add")) lower.unknown("no vectors of this type");
    if (modes[kSpaceMode] == int32_t(Space::kShared)) lower.unknown("no vectors in shared memory");
  }
  if (space == "shared::cluster" && (type == Type::kF16x2 || type == Type::kBF16x2)) {
    lower.unknown("an H200 adds these in another CTA's memory as integers");
  }
  lower.out.run = handler_named(name, type);
  if (!lower.out.run) lower.unknown("not with this type");

  const bool has_third = name == "cas";
  const int first = has_result ? 1 : 0;  // of the text's operands after the result
  const size_t operands = size_t(first) + 2 + (has_third ? 1 : 0) + (has_policy ? 1 : 0);
  if (lower.count() != operands) lower.unknown("another number of operands");
  const size_t elements = vector.empty() ? 1 : size_t(vector[1] - '0');
  modes[kElements] = int32_t(elements);
  modes[kHasResult] = has_result;
  modes[kHasThird] = has_third;
  const int bits = bits_of(type);
  if (elements * size_t(bits) > 128) lower.unknown("vectors have 128 bits at most");
  size_t found = elements;
  if (has_result && lower.operand(0).kind == ptx::Operand::Kind::kSink) {
    for (size_t i = 0; i < elements; ++i) lower.destination(0, bits);
  } else if (has_result) {
    lower.destinations(0, bits, &found);
  }
  if (found != elements) lower.unknown("another number of results");
  lower.address(first);
  lower.sources(first + 1, bits, &found);
  if (found != elements) lower.unknown("another number of sources");
  if (has_third) lower.source(first + 2, bits);
}

void lower_atom(Lowering& lower) { lower_atomic(lower, true); }
void lower_red(Lowering& lower) {
  if (lower.take("async")) return lower_async_reduction(lower);
  lower_atomic(lower, false);
}

}  // namespace

void add_atomics(InstructionSet& set) {
  set["atom"] = lower_atom;
  set["red"] = lower_red;
}

}  // namespace emulator
