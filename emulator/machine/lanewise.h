// Handlers made of functions of one lane's values.
//
// `lanewise(f)` is a handler that computes operand 0 as f(operand 1, operand 2, …) in each lane. The types of f's
// parameters and result say how registers are read and written: bool is a predicate, everything else a value of its own
// size. If the first parameter is `const Modes&`, f gets what the lowering left in the instruction's modes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "emulator/machine/instruction_set.h"
#include "emulator/machine/warp.h"

namespace emulator {

using Modes = std::array<int32_t, 6>;

namespace lanewise_internal {

// Shifting by the lane's number would keep loops from being vectorised.
struct LaneBits {
  Mask of[kLanes];
};
inline constexpr LaneBits kLaneBits = [] {
  LaneBits bits{};
  for (int lane = 0; lane < kLanes; ++lane) bits.of[lane] = Mask{1} << lane;
  return bits;
}();

template <typename T>
struct Source {
  const SlotOf<T>* slots;
  Source(const Warp& warp, const Operand& operand) : slots(warp.slots<T>(operand)) {}
  T operator[](int lane) const { return from_slot<T>(slots[lane]); }
};

template <>
struct Source<bool> {
  Mask mask;
  Source(const Warp& warp, const Operand& operand) : mask(warp.predicate(operand)) {}
  bool operator[](int lane) const { return (mask & kLaneBits.of[lane]) != 0; }
};

// Gathers the lowest bits of 32 bytes.
inline Mask gather(const uint8_t (&flags)[kLanes]) {
  Mask mask = 0;
  for (int i = 0; i < kLanes / 8; ++i) {
    uint64_t bytes;
    std::memcpy(&bytes, flags + 8 * i, sizeof(bytes));
    mask |= Mask(bytes * 0x0102040810204080u >> 56) << (8 * i);
  }
  return mask;
}

template <bool kAll, typename R, typename... A, typename Call, size_t... I>
Step compute(Warp& warp, const Instruction& instruction, Mask mask, Call call, std::index_sequence<I...>) {
  const std::tuple<Source<A>...> sources{Source<A>(warp, instruction.operands[I + 1])...};
  auto each_lane = [&](auto&& body) {
    if constexpr (kAll) {
      for (int lane = 0; lane < kLanes; ++lane) body(lane);
    } else {
      for_lanes(mask, body);
    }
  };
  if constexpr (std::is_same_v<R, bool>) {
    alignas(64) uint8_t flags[kLanes] = {};
    each_lane([&](int lane) { flags[lane] = call(std::get<I>(sources)[lane]...); });
    warp.set_predicate(instruction.operands[0], gather(flags), mask);
  } else {
    alignas(64) SlotOf<R> results[kLanes];
    each_lane([&](int lane) { results[lane] = to_slot<R>(call(std::get<I>(sources)[lane]...)); });
    warp.store(instruction.operands[0], results, mask);
  }
  return Step::kNext;
}

template <bool kAll, typename F, typename R, typename... A>
Step dispatch(Warp& warp, const Instruction& instruction, Mask mask, R (F::*)(A...) const) {
  return compute<kAll, R, A...>(
      warp, instruction, mask, [](A... values) { return F{}(values...); }, std::index_sequence_for<A...>());
}

template <bool kAll, typename F, typename R, typename... A>
Step dispatch(Warp& warp, const Instruction& instruction, Mask mask, R (F::*)(const Modes&, A...) const) {
  return compute<kAll, R, A...>(
      warp, instruction, mask, [modes = instruction.modes](A... values) { return F{}(modes, values...); },
      std::index_sequence_for<A...>());
}

}  // namespace lanewise_internal

// `f` is computed for all lanes, those outside of the mask on whatever is in their registers: it must be cheap, and
// defined for every value.
template <typename F>
Handler lanewise(F) {
  return [](Warp& warp, const Instruction& instruction, Mask mask) {
    return lanewise_internal::dispatch<true, F>(warp, instruction, mask, &F::operator());
  };
}

// The same for functions that are worth avoiding.
template <typename F>
Handler lanewise_costly(F) {
  return [](Warp& warp, const Instruction& instruction, Mask mask) {
    return lanewise_internal::dispatch<false, F>(warp, instruction, mask, &F::operator());
  };
}

// Calls make(T{}) with the C++ type of an integer type.
template <typename F>
Handler for_integer(const Lowering& lower, Type type, F&& make) {
  switch (type) {
    case Type::kU16:
      return make(uint16_t{});
    case Type::kU32:
      return make(uint32_t{});
    case Type::kU64:
      return make(uint64_t{});
    case Type::kS16:
      return make(int16_t{});
    case Type::kS32:
      return make(int32_t{});
    case Type::kS64:
      return make(int64_t{});
    default:
      lower.unknown("not with this type");
  }
}

}  // namespace emulator
