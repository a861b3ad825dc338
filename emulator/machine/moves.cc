// Moves between registers, and between the forms of an address.
#include <algorithm>
#include <chrono>
#include <cstring>

#include "emulator/machine/cta.h"
#include "emulator/machine/instruction_set.h"

namespace emulator {
namespace {

using Kind = ptx::Operand::Kind;

// ---------------------------------------------------------------------------------------------------------------------
// mov

Step move32(Warp& warp, const Instruction& instruction, Mask mask) {
  const uint32_t* from = warp.slots32(instruction.operands[1]);
  uint32_t values[kLanes];
  std::memcpy(values, from, sizeof(values));
  warp.store(instruction.operands[0], values, mask);
  return Step::kNext;
}

Step move64(Warp& warp, const Instruction& instruction, Mask mask) {
  const uint64_t* from = warp.slots64(instruction.operands[1]);
  uint64_t values[kLanes];
  std::memcpy(values, from, sizeof(values));
  warp.store(instruction.operands[0], values, mask);
  return Step::kNext;
}

Step move128(Warp& warp, const Instruction& instruction, Mask mask) {
  for_lanes(mask, [&](int lane) {
    std::memcpy(warp.target_bytes(instruction.operands[0], lane), warp.bytes(instruction.operands[1], lane), 16);
  });
  return Step::kNext;
}

Step move_predicate(Warp& warp, const Instruction& instruction, Mask mask) {
  warp.set_predicate(instruction.operands[0], warp.predicate(instruction.operands[1]), mask);
  return Step::kNext;
}

// Several registers and one that holds all their bits, in this order or the other. modes[0]: how many; modes[1]: bytes
// of each; modes[2]: the one is the destination.
Step move_vector(Warp& warp, const Instruction& instruction, Mask mask) {
  const int count = instruction.modes[0], each = instruction.modes[1];
  const bool packs = instruction.modes[2];
  for_lanes(mask, [&](int lane) {
    std::byte whole[16];
    if (packs) {
      for (int i = 0; i < count; ++i)
        std::memcpy(whole + i * each, warp.bytes(instruction.operands[1 + i], lane), each);
      std::memcpy(warp.target_bytes(instruction.operands[0], lane), whole, size_t(count) * each);
      return;
    }
    std::memcpy(whole, warp.bytes(instruction.operands[0], lane), size_t(count) * each);
    for (int i = 0; i < count; ++i) {
      if (instruction.operands[1 + i].bits == 0) continue;
      uint64_t part = 0;
      std::memcpy(&part, whole + i * each, each);
      warp.put_any(instruction.operands[1 + i], lane, part);
    }
  });
  return Step::kNext;
}

void lower_vector_move(Lowering& lowering, int bits) {
  const bool packs = lowering.operand(1).kind == Kind::kVector;
  const auto& elements = lowering.operand(packs ? 1 : 0).elements;
  const int each = bits / int(elements.size());
  if (each % 8 != 0 || each < 16) lowering.unknown("it has parts of " + std::to_string(each) + " bits");
  if (packs) {
    lowering.destination(0, bits);
    lowering.sources(1, each);
  } else {
    lowering.source(1, bits);
    lowering.destinations(0, each);
  }
  lowering.out.modes = {int32_t(elements.size()), each / 8, packs};
  lowering.out.run = move_vector;
}

// Nanoseconds stand for clocks too: only differences mean something.
Step read_clock(Warp& warp, const Instruction& instruction, Mask mask) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  const auto ns = uint64_t(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
  const uint64_t value = ns >> instruction.modes[0];
  warp.note_private_change();
  for_lanes(mask, [&](int lane) { warp.put_any(instruction.operands[0], lane, value); });
  return Step::kNext;
}

void lower_mov(Lowering& lowering) {
  const Type type = lowering.need_type();
  const ptx::Operand& from = lowering.operand(1);
  if (type == Type::kPred) {
    lowering.predicate_destination(0);
    lowering.predicate(1);
    lowering.out.run = move_predicate;
    return;
  }
  const int bits = bits_of(type);
  if (from.kind == Kind::kVector || lowering.operand(0).kind == Kind::kVector) return lower_vector_move(lowering, bits);
  if (from.kind == Kind::kSpecial && !is_constant_special(from.name)) {
    constexpr std::string_view kWholeOrLow[] = {"%clock", "%clock64", "%globaltimer", "%globaltimer_lo"};
    const bool is_high = from.name == "%clock_hi" || from.name == "%globaltimer_hi";
    if (!is_high && std::find(std::begin(kWholeOrLow), std::end(kWholeOrLow), from.name) == std::end(kWholeOrLow)) {
      lowering.unknown("of " + from.name);
    }
    lowering.destination_any(0);
    lowering.out.modes[0] = is_high ? 32 : 0;
    lowering.out.run = read_clock;
    return;
  }
  lowering.destination(0, bits);
  lowering.source(1, bits);
  lowering.out.run = bits == 128 ? move128 : bits == 64 ? move64 : move32;
}

// ---------------------------------------------------------------------------------------------------------------------
// Addresses

// Adds or takes away the window of a space. modes[0]: 1 to generic, 0 from it.
template <uint64_t kWindow>
Step convert_address(Warp& warp, const Instruction& instruction, Mask mask) {
  for_lanes(mask, [&](int lane) {
    const uint64_t address = warp.get_any(instruction.operands[1], lane);
    warp.put_any(instruction.operands[0], lane, instruction.modes[0] ? address | kWindow : address & ~kWindow);
  });
  return Step::kNext;
}

void lower_cvta(Lowering& lowering) {
  lowering.out.modes[0] = !lowering.take("to");
  const auto space = lowering.need_one_of(
      {"global", "shared", "shared::cta", "shared::cluster", "local", "const", "param", "param::entry"});
  lowering.need_one_of({"u64", "u32"});
  lowering.destination_any(0);
  lowering.source_any(1);
  lowering.out.run = convert_address<0>;
  if (space.substr(0, 6) == "shared") lowering.out.run = convert_address<kSharedWindow>;
  if (space == "local") lowering.out.run = convert_address<kLocalWindow>;
}

bool is_in(std::string_view space, uint64_t address, Warp& warp) {
  const uint64_t window = address & kWindowMask;
  if (space == "shared::cluster") return window == kSharedWindow;
  if (space == "shared" || space == "shared::cta") {
    return window == kSharedWindow && (address & ~kWindowMask) >> kRankShift == warp.cta().rank();
  }
  if (space == "local") return window == kLocalWindow;
  return window == 0;
}

constexpr std::string_view kSpaces[] = {"global", "shared", "shared::cta", "shared::cluster", "local"};

Step test_space(Warp& warp, const Instruction& instruction, Mask mask) {
  Mask result = 0;
  for_lanes(mask, [&](int lane) {
    const uint64_t address = warp.get_any(instruction.operands[1], lane);
    if (is_in(kSpaces[instruction.modes[0]], address, warp)) result |= Mask{1} << lane;
  });
  warp.set_predicate(instruction.operands[0], result, mask);
  return Step::kNext;
}

void lower_isspacep(Lowering& lowering) {
  const auto space = lowering.need_one_of({"global", "shared", "shared::cta", "shared::cluster", "local"});
  for (int i = 0; i < int(std::size(kSpaces)); ++i) {
    if (kSpaces[i] == space) lowering.out.modes[0] = i;
  }
  lowering.predicate_destination(0);
  lowering.source_any(1);
  lowering.out.run = test_space;
}

constexpr uint64_t kOffsetMask = (uint64_t{1} << kRankShift) - 1;

// The same place in the shared memory of another CTA of the cluster.
Step map_address(Warp& warp, const Instruction& instruction, Mask mask) {
  for_lanes(mask, [&](int lane) {
    const uint64_t address = warp.get_any(instruction.operands[1], lane);
    const uint64_t rank = warp.get<uint32_t>(instruction.operands[2], lane);
    if (rank >= warp.cta().cluster().ctas().size()) {
      throw Fault(FaultCode::kIllegalAddress, "mapa names CTA " + std::to_string(rank) + " of a cluster of " +
                                                  std::to_string(warp.cta().cluster().ctas().size()) + ".");
    }
    const uint64_t window = instruction.modes[0] ? kSharedWindow : 0;
    warp.put_any(instruction.operands[0], lane, window | rank << kRankShift | (address & kOffsetMask));
  });
  return Step::kNext;
}

void lower_mapa(Lowering& lowering) {
  lowering.out.modes[0] = !lowering.take("shared::cluster");
  lowering.need_one_of({"u32", "u64"});
  lowering.destination_any(0);
  lowering.source_any(1);
  lowering.source(2, 32);
  lowering.out.run = map_address;
}

Step rank_of_address(Warp& warp, const Instruction& instruction, Mask mask) {
  for_lanes(mask, [&](int lane) {
    const uint64_t address = warp.get_any(instruction.operands[1], lane) & ~kWindowMask;
    warp.put_any(instruction.operands[0], lane, address >> kRankShift);
  });
  return Step::kNext;
}

void lower_getctarank(Lowering& lowering) {
  lowering.take("shared::cluster");
  lowering.need_one_of({"u32", "u64"});
  lowering.destination(0, 32);
  lowering.source_any(1);
  lowering.out.run = rank_of_address;
}

}  // namespace

void add_moves(InstructionSet& set) {
  set["mov"] = lower_mov;
  set["cvta"] = lower_cvta;
  set["isspacep"] = lower_isspacep;
  set["mapa"] = lower_mapa;
  set["getctarank"] = lower_getctarank;
}

}  // namespace emulator
