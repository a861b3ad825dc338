// st.async and red.async: what threads send into shared memory of their cluster, told to a barrier beside the target.
#include <cstring>
#include <vector>

#include "emulator/machine/copies.h"

namespace emulator {
namespace {

constexpr int kElements = 0, kElementBytes = 1, kGeneric = 2, kReduction = 3, kType = 4;  // of modes

// The address in shared memory that an operand has in a lane.
uint64_t shared_address(Warp& warp, const Instruction& instruction, const Operand& operand, int lane,
                        const char* what) {
  const uint64_t address = warp.address(operand, lane);
  if ((address & kWindowMask) != (instruction.modes[kGeneric] ? kSharedWindow : 0)) {
    throw Fault(FaultCode::kIllegalAddress,
                "The " + std::string(what) + " of lane " + std::to_string(lane) + " is not in shared memory.");
  }
  return address & ~kWindowMask;
}

// Operands: target, barrier, the elements. Calls change(target's address, bytes) when the copies are done.
template <typename Change>
void send(Warp& warp, const Instruction& instruction, Mask mask, Change change) {
  const auto elements = size_t(instruction.modes[kElements]), each = size_t(instruction.modes[kElementBytes]);
  Cluster& cluster = warp.cta().cluster();
  for_lanes(mask, [&](int lane) {
    std::vector<std::byte> values(elements * each);
    for (size_t i = 0; i < elements; ++i) {
      std::memcpy(&values[i * each], warp.bytes(instruction.operands[2 + i], lane), each);
    }
    const uint64_t target = shared_address(warp, instruction, instruction.operands[0], lane, "target");
    const uint64_t barrier = shared_address(warp, instruction, instruction.operands[1], lane, "mbarrier");
    need_alignment(target, values.size(), "target");
    need_alignment(barrier, 8, "mbarrier");
    if (target >> kRankShift != barrier >> kRankShift) {
      throw Fault(FaultCode::kIllegalInstruction, "The target is in CTA " + std::to_string(target >> kRankShift) +
                                                      " of the cluster, the mbarrier in CTA " +
                                                      std::to_string(barrier >> kRankShift) + ".");
    }
    warp.cta().issue(Mask{1} << lane, Completion::kMbarrierOfStore,
                     [&cluster, change, values = std::move(values), target, barrier] {
                       cluster.completes_on(barrier);
                       change(cluster, target, values);
                       cluster.complete_transaction(barrier, int64_t(values.size()));
                     });
  });
}

Step store(Warp& warp, const Instruction& instruction, Mask mask) {
  send(warp, instruction, mask, [](Cluster& cluster, uint64_t target, const std::vector<std::byte>& values) {
    std::byte* const place = cluster.shared(target, values.size(), Access::kWrite, 1, values.data());
    std::memcpy(place, values.data(), values.size());
  });
  return Step::kNext;
}

Step reduce_into(Warp& warp, const Instruction& instruction, Mask mask) {
  const auto reduction = Reduction(instruction.modes[kReduction]);
  const auto type = Type(instruction.modes[kType]);
  send(warp, instruction, mask, [=](Cluster& cluster, uint64_t target, const std::vector<std::byte>& values) {
    std::byte* const place = cluster.shared(target, values.size(), Access::kAtomic);
    reduce(place, values.data(), values.size(), reduction, type, false);
  });
  return Step::kNext;
}

// Those of sm_90; others, with .mmio or without a barrier, are of sm_100.
void take_target(Lowering& l) {
  l.out.modes[kGeneric] = !l.take("shared::cluster");
  if (!l.take("mbarrier::complete_tx::bytes")) l.unknown("it does not complete on an mbarrier");
}

void lower_operands(Lowering& l, int elements, int bits) {
  need_operands(l, 3);
  l.out.modes[kElements] = elements;
  l.out.modes[kElementBytes] = bits / 8;
  l.address(0);
  l.address(2);
  size_t found = 0;
  l.sources(1, bits, &found);
  if (found != size_t(elements)) l.unknown("it has another number of elements than it says");
}

}  // namespace

void lower_async_store(Lowering& l) {
  l.take("weak");
  take_target(l);
  const std::string_view vector = l.take_one_of({"v2", "v4"});
  const int elements = vector.empty() ? 1 : vector[1] - '0';
  const int bits = bits_of(l.need_type());
  if ((bits != 32 && bits != 64) || elements * bits > 128) l.unknown("of this type");
  lower_operands(l, elements, bits);
  l.out.run = store;
}

void lower_async_reduction(Lowering& l) {
  if (!l.take("relaxed") || !l.take("cluster")) l.unknown("it is not .relaxed.cluster");
  take_target(l);
  const Reduction reduction = need_reduction(l);
  const Type type = l.need_type();
  const bool adds_s64 = reduction == Reduction::kAdd && type == Type::kS64;  // which bulk copies do not
  if (!adds_s64 && !has_reduction(reduction, type, false)) l.unknown("it has no such reduction of this type");
  lower_operands(l, 1, bits_of(type));
  l.out.modes[kReduction] = int32_t(reduction);
  l.out.modes[kType] = int32_t(type);
  l.out.run = reduce_into;
}

}  // namespace emulator
