// Lanes of a warp that exchange values: shfl, vote, match, redux, elect, activemask.
//
// With a member mask the loop that runs a warp sees to it that all lanes named in it execute these together.
#include <algorithm>
#include <bit>
#include <cmath>

#include "emulator/machine/instruction_set.h"
#include "emulator/machine/numerics.h"
#include "emulator/machine/warp.h"

namespace emulator {
namespace {

// The member mask is the operand `i` of the text; lanes wait for those that it names.
void need_members(Lowering& lowering, int i) {
  if (!lowering.take("sync")) lowering.unknown("without .sync");
  lowering.out.is_aligned = true;
  lowering.out.modes[5] = 1 + lowering.source(i, 32);
}

// d, or d|p.
struct Destinations {
  const ptx::Operand* value;
  const ptx::Operand* flag = nullptr;
};

Destinations destinations_of(const Lowering& lowering) {
  const ptx::Operand& first = lowering.operand(0);
  if (first.kind == ptx::Operand::Kind::kPair) return {&first.elements[0], &first.elements[1]};
  return {&first};
}

void lower_flag(Lowering& lowering, const Destinations& destinations) {
  ptx::Operand nobody;
  nobody.kind = ptx::Operand::Kind::kSink;
  lowering.predicate_destination(destinations.flag ? *destinations.flag : nobody);
}

// ---------------------------------------------------------------------------------------------------------------------
// shfl

enum class Shuffle : int32_t { kUp, kDown, kButterfly, kIndex };

// operands: value, flag, source, which, clamp and segment mask, members.
Step shuffle(Warp& warp, const Instruction& instruction, Mask mask) {
  const uint32_t* from = warp.slots32(instruction.operands[2]);
  const uint32_t* which = warp.slots32(instruction.operands[3]);
  const uint32_t* bounds = warp.slots32(instruction.operands[4]);
  uint32_t values[kLanes];
  Mask found = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    const int b = int(which[lane] & 31), clamp = int(bounds[lane] & 31), segments = int(bounds[lane] >> 8 & 31);
    const int last = (lane & segments) | (clamp & ~segments), first = lane & segments;
    int source = lane;
    bool inside = false;
    switch (Shuffle(instruction.modes[0])) {
      case Shuffle::kUp:
        source = lane - b;
        inside = source >= last;
        break;
      case Shuffle::kDown:
        source = lane + b;
        inside = source <= last;
        break;
      case Shuffle::kButterfly:
        source = lane ^ b;
        inside = source <= last;
        break;
      case Shuffle::kIndex:
        source = first | (b & ~segments);
        inside = source <= last;
        break;
    }
    if (!inside) source = lane;
    if (inside) found |= Mask{1} << lane;
    values[lane] = from[source];
  }
  warp.store(instruction.operands[0], values, mask);
  warp.set_predicate(instruction.operands[1], found, mask);
  return Step::kNext;
}

void lower_shfl(Lowering& lowering) {
  const Destinations destinations = destinations_of(lowering);
  const auto mode = lowering.need_one_of({"up", "down", "bfly", "idx"});
  if (lowering.need_type() != Type::kB32) lowering.unknown("its type is not b32");
  lowering.destination(*destinations.value, 32);
  lower_flag(lowering, destinations);
  for (int i = 1; i <= 3; ++i) lowering.source(i, 32);
  need_members(lowering, 4);
  lowering.out.modes[0] = int32_t(mode == "up"     ? Shuffle::kUp
                                  : mode == "down" ? Shuffle::kDown
                                  : mode == "bfly" ? Shuffle::kButterfly
                                                   : Shuffle::kIndex);
  lowering.out.run = shuffle;
}

// ---------------------------------------------------------------------------------------------------------------------
// vote

enum class Vote : int32_t { kAll, kAny, kUniform, kBallot };

Step vote(Warp& warp, const Instruction& instruction, Mask mask) {
  const Mask members = warp.get<uint32_t>(instruction.operands[2], first_lane(mask)) & mask;
  const Mask votes = warp.predicate(instruction.operands[1]) & members;
  const auto kind = Vote(instruction.modes[0]);
  if (kind == Vote::kBallot) {
    for_lanes(mask, [&](int lane) { warp.put<uint32_t>(instruction.operands[0], lane, votes); });
    return Step::kNext;
  }
  const bool result = kind == Vote::kAll   ? votes == members
                      : kind == Vote::kAny ? votes != 0
                                           : votes == 0 || votes == members;
  warp.set_predicate(instruction.operands[0], result ? kAllLanes : 0, mask);
  return Step::kNext;
}

void lower_vote(Lowering& lowering) {
  const auto kind = lowering.need_one_of({"all", "any", "uni", "ballot"});
  const bool is_ballot = kind == "ballot";
  if (lowering.need_type() != (is_ballot ? Type::kB32 : Type::kPred)) lowering.unknown("of this type");
  if (is_ballot)
    lowering.destination(0, 32);
  else
    lowering.predicate_destination(0);
  lowering.predicate(1);
  need_members(lowering, 2);
  lowering.out.modes[0] = int32_t(kind == "all"   ? Vote::kAll
                                  : kind == "any" ? Vote::kAny
                                  : is_ballot     ? Vote::kBallot
                                                  : Vote::kUniform);
  lowering.out.run = vote;
}

// ---------------------------------------------------------------------------------------------------------------------
// match

// modes[0]: whether all have to be equal. operands: mask of the lanes with the same value, flag, value, members.
Step match(Warp& warp, const Instruction& instruction, Mask mask) {
  const Mask members = warp.get<uint32_t>(instruction.operands[3], first_lane(mask)) & mask;
  uint32_t equal[kLanes] = {};
  for_lanes(members, [&](int lane) {
    for_lanes(members, [&](int other) {
      const bool same = warp.get_any(instruction.operands[2], lane) == warp.get_any(instruction.operands[2], other);
      equal[lane] |= Mask{same} << other;
    });
  });
  if (instruction.modes[0]) {
    const bool all = equal[first_lane(mask)] == members;
    for (uint32_t& value : equal) value = all ? members : 0;
    warp.set_predicate(instruction.operands[1], all ? kAllLanes : 0, mask);
  }
  warp.store(instruction.operands[0], equal, mask);
  return Step::kNext;
}

void lower_match(Lowering& lowering) {
  const bool all = lowering.need_one_of({"any", "all"}) == "all";
  const Destinations destinations = destinations_of(lowering);
  if (!all && destinations.flag) lowering.unknown("match.any has no predicate");
  const int bits = bits_of(lowering.need_type());
  if (bits != 32 && bits != 64) lowering.unknown("of this type");
  lowering.destination(*destinations.value, 32);
  lower_flag(lowering, destinations);
  lowering.source(1, bits);
  need_members(lowering, 2);
  lowering.out.modes[0] = all;
  lowering.out.run = match;
}

// ---------------------------------------------------------------------------------------------------------------------
// redux

// operands: result, value, members.
template <typename T, typename F>
Step reduce_with(Warp& warp, const Instruction& instruction, Mask mask, F&& combine) {
  const Mask members = warp.get<uint32_t>(instruction.operands[2], first_lane(mask)) & mask;
  T result = warp.get<T>(instruction.operands[1], first_lane(members));
  for_lanes(members & (members - 1),
            [&](int lane) { result = combine(result, warp.get<T>(instruction.operands[1], lane)); });
  for_lanes(mask, [&](int lane) { warp.put<T>(instruction.operands[0], lane, result); });
  return Step::kNext;
}

template <typename T>
Handler reduction_named(std::string_view name) {
  if (name == "add") {
    return [](Warp& w, const Instruction& i, Mask m) {
      return reduce_with<uint32_t>(w, i, m, [](uint32_t a, uint32_t b) { return a + b; });
    };
  }
  if (name == "min") {
    return [](Warp& w, const Instruction& i, Mask m) {
      return reduce_with<T>(w, i, m, [](T a, T b) { return std::min(a, b); });
    };
  }
  if (name == "max") {
    return [](Warp& w, const Instruction& i, Mask m) {
      return reduce_with<T>(w, i, m, [](T a, T b) { return std::max(a, b); });
    };
  }
  return nullptr;
}

Handler bitwise_reduction_named(std::string_view name) {
  if (name == "and") {
    return [](Warp& w, const Instruction& i, Mask m) {
      return reduce_with<uint32_t>(w, i, m, [](uint32_t a, uint32_t b) { return a & b; });
    };
  }
  if (name == "or") {
    return [](Warp& w, const Instruction& i, Mask m) {
      return reduce_with<uint32_t>(w, i, m, [](uint32_t a, uint32_t b) { return a | b; });
    };
  }
  if (name == "xor") {
    return [](Warp& w, const Instruction& i, Mask m) {
      return reduce_with<uint32_t>(w, i, m, [](uint32_t a, uint32_t b) { return a ^ b; });
    };
  }
  return nullptr;
}

// +0 is more than -0. Of NaNs, only numbers count, unless one is to be the result.
template <bool kMaximum>
Step reduce_floats(Warp& warp, const Instruction& instruction, Mask mask) {
  const bool is_absolute = instruction.modes[0], keeps_nan = instruction.modes[1];
  const Mask members = warp.get<uint32_t>(instruction.operands[2], first_lane(mask)) & mask;
  float result = std::bit_cast<float>(kNan32);
  bool has_nan = false;
  for_lanes(members, [&](int lane) {
    float value = warp.get<float>(instruction.operands[1], lane);
    if (is_absolute) value = std::fabs(value);
    has_nan |= is_nan(value);
    if (is_nan(value)) return;
    const bool is_less = value < result || (value == result && std::signbit(value));
    if (is_nan(result) || is_less != kMaximum) result = value;
  });
  if (keeps_nan && has_nan) result = std::bit_cast<float>(kNan32);
  for_lanes(mask, [&](int lane) { warp.put<float>(instruction.operands[0], lane, result); });
  return Step::kNext;
}

void lower_redux(Lowering& lowering) {
  const auto name = lowering.need_one_of({"add", "min", "max", "and", "or", "xor"});
  const bool is_absolute = lowering.take("abs"), keeps_nan = lowering.take("NaN");
  switch (lowering.need_type()) {
    case Type::kU32:
      lowering.out.run = reduction_named<uint32_t>(name);
      break;
    case Type::kS32:
      lowering.out.run = reduction_named<int32_t>(name);
      break;
    case Type::kB32:
      lowering.out.run = bitwise_reduction_named(name);
      break;
    case Type::kF32:
      lowering.need_family(10);
      lowering.out.modes = {is_absolute, keeps_nan};
      lowering.out.run = name == "min" ? reduce_floats<false> : name == "max" ? reduce_floats<true> : nullptr;
      break;
    default:
      lowering.unknown("of this type");
  }
  const bool is_integer = lowering.out.run != reduce_floats<false> && lowering.out.run != reduce_floats<true>;
  if ((is_absolute || keeps_nan) && is_integer) lowering.unknown("not of this type");
  if (!lowering.out.run) lowering.unknown("not of this type");
  lowering.destination(0, 32);
  lowering.source(1, 32);
  need_members(lowering, 2);
}

// ---------------------------------------------------------------------------------------------------------------------
// elect and activemask

// The lowest of the members is chosen. operands: its number, whether the lane is it, members.
Step elect(Warp& warp, const Instruction& instruction, Mask mask) {
  const Mask members = warp.get<uint32_t>(instruction.operands[2], first_lane(mask)) & mask;
  const int leader = first_lane(members);
  for_lanes(mask, [&](int lane) { warp.put<uint32_t>(instruction.operands[0], lane, uint32_t(leader)); });
  warp.set_predicate(instruction.operands[1], Mask{1} << leader, mask);
  return Step::kNext;
}

void lower_elect(Lowering& lowering) {
  const Destinations destinations = destinations_of(lowering);
  if (!destinations.flag) lowering.unknown("it has no predicate");
  lowering.destination(*destinations.value, 32);
  lower_flag(lowering, destinations);
  need_members(lowering, 1);
  lowering.out.run = elect;
}

Step active_mask(Warp& warp, const Instruction& instruction, Mask mask) {
  for_lanes(mask, [&](int lane) { warp.put<uint32_t>(instruction.operands[0], lane, mask); });
  return Step::kNext;
}

void lower_activemask(Lowering& lowering) {
  if (lowering.need_type() != Type::kB32) lowering.unknown("its type is not b32");
  lowering.destination(0, 32);
  lowering.out.run = active_mask;
}

}  // namespace

void add_warp_wide(InstructionSet& set) {
  set["shfl"] = lower_shfl;
  set["vote"] = lower_vote;
  set["match"] = lower_match;
  set["redux"] = lower_redux;
  set["elect"] = lower_elect;
  set["activemask"] = lower_activemask;
}

}  // namespace emulator
