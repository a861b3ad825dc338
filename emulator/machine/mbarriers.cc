// mbarrier: barriers that are objects in shared memory.
#include "emulator/machine/cta.h"
#include "emulator/machine/instruction_set.h"

namespace emulator {
namespace {

constexpr uint64_t kBarrierBytes = 8;

// What arrive returns: the phase that the arrival belonged to, and how many arrivals were pending before.
uint64_t token(const Mbarrier& barrier) { return uint64_t(barrier.phase) << 32 | uint64_t(uint32_t(barrier.pending)); }
uint32_t phase_of(uint64_t token) { return uint32_t(token >> 32); }

// Where the barrier of a lane is.
Cluster::SharedPlace place_of(Warp& warp, const Operand& operand, int lane) {
  const uint64_t address = warp.address(operand, lane);
  const uint64_t window = address & kWindowMask;
  if (window != 0 && window != kSharedWindow) {
    throw Fault(FaultCode::kIllegalAddress, "An mbarrier is outside of shared memory.");
  }
  const uint64_t within = address & ~kWindowMask;
  if (within % kBarrierBytes != 0) {
    throw Fault(FaultCode::kMisalignedAddress, "An mbarrier is not aligned to 8 bytes.");
  }
  return warp.cta().cluster().locate(within, kBarrierBytes);
}

void take_space(Lowering& lowering) { lowering.take_one_of({"shared", "shared::cta", "shared::cluster"}); }

// `usual`: what goes without saying. Accesses of a barrier are no races with each other.
void take_order(Lowering& lowering, Instruction::Order usual = Instruction::kStrong) {
  const bool is_relaxed = lowering.take_one_of({"release", "acquire", "relaxed"}) == "relaxed";
  lowering.take_one_of({"cta", "cluster"});
  lowering.out.order = int8_t(Instruction::kStrong | (is_relaxed ? 0 : usual));
}

// Calls f(races, cta, offset, lanes) for each barrier of these lanes, if anybody looks for races.
template <typename F>
void for_barriers(Warp& warp, const Operand& operand, Mask mask, F&& f) {
  Races* const races = warp.cta().cluster().races();
  if (!races) return;
  for (Mask left = mask; left;) {
    const auto [cta, offset] = place_of(warp, operand, first_lane(left));
    Mask same = 0;
    for_lanes(left, [&](int lane) {
      const auto other = place_of(warp, operand, lane);
      if (other.cta == cta && other.offset == offset) same |= Mask{1} << lane;
    });
    f(*races, *cta, offset, same);
    left &= ~same;
  }
}

void need_b64(Lowering& lowering) {
  if (lowering.need_type() != Type::kB64) lowering.unknown("its type is not b64");
}

// ---------------------------------------------------------------------------------------------------------------------

Step init(Warp& warp, const Instruction& instruction, Mask mask) {
  for_lanes(mask, [&](int lane) {
    const auto [cta, offset] = place_of(warp, instruction.operands[0], lane);
    const auto count = warp.get<uint32_t>(instruction.operands[1], lane);
    if (Races* races = warp.cta().cluster().races()) {
      const auto found = cta->mbarriers().find(offset);
      const bool changes = found == cta->mbarriers().end() || found->second != Mbarrier{count, int32_t(count)};
      races->init_barrier(warp, lane, *cta, offset, changes);
    }
    cta->init_mbarrier(offset, count);
  });
  return Step::kNext;
}

Step invalidate(Warp& warp, const Instruction& instruction, Mask mask) {
  for_barriers(warp, instruction.operands[0], mask, [](Races& races, Cta& cta, uint32_t offset, Mask lanes) {
    races.use_barrier(lanes, cta, offset, Access::kWrite);
  });
  for_lanes(mask, [&](int lane) {
    const auto [cta, offset] = place_of(warp, instruction.operands[0], lane);
    cta->invalidate_mbarrier(offset);
  });
  return Step::kNext;
}

// modes: whether there is a result, whether bytes are expected, whether the thread leaves the barrier.
// operands: address, result, number of arrivals, bytes.
Step arrive(Warp& warp, const Instruction& instruction, Mask mask) {
  const bool has_result = instruction.modes[0], expects = instruction.modes[1], drops = instruction.modes[2];
  for_barriers(warp, instruction.operands[0], mask, [&](Races& races, Cta& cta, uint32_t offset, Mask lanes) {
    races.use_barrier(lanes, cta, offset, Access::kAtomic);
    races.arrive(warp, lanes, cta, offset, instruction.order & Instruction::kRelease);
  });
  for_lanes(mask, [&](int lane) {
    const auto [cta, offset] = place_of(warp, instruction.operands[0], lane);
    Mbarrier& barrier = cta->mbarrier(offset);
    const uint64_t state = token(barrier);
    const uint32_t count = warp.get<uint32_t>(instruction.operands[2], lane);
    if (count == 0) throw Fault(FaultCode::kIllegalInstruction, "An arrival on an mbarrier has the count 0.");
    if (drops) {
      if (count > barrier.expected) {
        throw Fault(FaultCode::kIllegalInstruction, "More threads leave an mbarrier than it expects.");
      }
      cta->lower_expectation(offset, count);
    }
    if (expects) cta->expect(offset, warp.get<uint32_t>(instruction.operands[3], lane));
    cta->arrive(offset, int32_t(count));
    if (has_result) warp.put<uint64_t>(instruction.operands[1], lane, state);
  });
  return Step::kNext;
}

void lower_arrive(Lowering& lowering, bool drops) {
  const bool expects = lowering.take("expect_tx");
  const bool no_complete = lowering.take("noComplete");
  take_order(lowering, Instruction::kRelease);
  take_space(lowering);
  need_b64(lowering);
  // [state,] address [, count or bytes]; the state may be a sink.
  const bool has_state = lowering.operand(0).kind != ptx::Operand::Kind::kAddress;
  const int at = has_state ? 1 : 0;
  const bool has_last = int(lowering.count()) > at + 1;
  if ((expects || no_complete) && !has_last) lowering.unknown("a number is missing");
  lowering.address(at);
  const bool has_result = has_state && lowering.operand(0).kind != ptx::Operand::Kind::kSink;
  ptx::Operand one;
  one.kind = ptx::Operand::Kind::kInteger;
  one.bits = 1;
  if (has_result)
    lowering.destination(0, 64);
  else
    lowering.source(one, 32);
  if (has_last && !expects)
    lowering.source(at + 1, 32);
  else
    lowering.source(one, 32);
  if (expects) lowering.source(at + 1, 32);
  lowering.out.modes = {has_result, expects, drops};
  lowering.out.run = arrive;
}

Step expect(Warp& warp, const Instruction& instruction, Mask mask) {
  for_barriers(warp, instruction.operands[0], mask, [](Races& races, Cta& cta, uint32_t offset, Mask lanes) {
    races.use_barrier(lanes, cta, offset, Access::kAtomic);
  });
  for_lanes(mask, [&](int lane) {
    const auto [cta, offset] = place_of(warp, instruction.operands[0], lane);
    const int64_t bytes = warp.get<uint32_t>(instruction.operands[1], lane);
    cta->expect(offset, instruction.modes[0] ? bytes : -bytes);
  });
  return Step::kNext;
}

// ---------------------------------------------------------------------------------------------------------------------
// Waiting

// modes: whether it may wait, whether the phase is named by its parity. operands: result, address, phase.
Step test(Warp& warp, const Instruction& instruction, Mask mask) {
  const bool may_wait = instruction.modes[0], by_parity = instruction.modes[1];
  Mask complete = 0, odd = 0;
  uint32_t waited_at = 0, waited_for = 0;
  for_lanes(mask, [&](int lane) {
    const auto [cta, offset] = place_of(warp, instruction.operands[1], lane);
    if (cta != &warp.cta()) throw Fault(FaultCode::kIllegalAddress, "A thread waits on an mbarrier of another CTA.");
    const Mbarrier& barrier = cta->mbarrier(offset);
    uint32_t wanted;  // the parity of the phase that is to be over
    bool over;
    if (by_parity) {
      wanted = warp.get<uint32_t>(instruction.operands[2], lane) & 1;
      over = (barrier.phase & 1) != wanted;
    } else {
      const uint32_t phase = phase_of(warp.get<uint64_t>(instruction.operands[2], lane));
      wanted = phase & 1;
      over = barrier.phase != phase;
      if (barrier.phase - phase > 1) {
        throw Fault(FaultCode::kIllegalInstruction, "A thread waits with a state that is more than a phase old.");
      }
    }
    odd |= Mask{wanted} << lane;
    if (over) {
      complete |= Mask{1} << lane;
    } else {
      waited_at = offset;
      waited_for = wanted;
    }
  });
  for_barriers(warp, instruction.operands[1], mask, [&](Races& races, Cta& cta, uint32_t offset, Mask lanes) {
    races.use_barrier(lanes, cta, offset, Access::kRead);
    const bool acquires = instruction.order & Instruction::kAcquire;
    for (const uint32_t parity : {0, 1}) {
      const Mask passed = lanes & complete & (parity ? odd : ~odd);
      if (passed) races.pass(warp, passed, cta, offset, parity, acquires);
    }
  });
  if (complete == 0 && may_wait) {
    const Step step = warp.wait_for(Wait::Kind::kMbarrier, waited_at, waited_for);
    Wait& wait = warp.fragment().wait;
    wait.may_time_out = true;
    if (!wait.timed_out) return step;
  }
  warp.set_predicate(instruction.operands[0], complete, mask);
  return complete == mask ? Step::kNext : Step::kYield;
}

void lower_test(Lowering& lowering, bool may_wait) {
  const bool by_parity = lowering.take("parity");
  take_order(lowering, Instruction::kAcquire);
  take_space(lowering);
  need_b64(lowering);
  lowering.predicate_destination(0);
  lowering.address(1);
  lowering.source(2, by_parity ? 32 : 64);
  // A hint how long to wait may follow; nobody here knows what time is.
  lowering.out.modes = {may_wait, by_parity};
  lowering.out.run = test;
}

Step pending(Warp& warp, const Instruction& instruction, Mask mask) {
  for_lanes(mask, [&](int lane) {
    warp.put<uint32_t>(instruction.operands[0], lane, uint32_t(warp.get<uint64_t>(instruction.operands[1], lane)));
  });
  return Step::kNext;
}

void lower_mbarrier(Lowering& lowering) {
  const auto what = lowering.need_one_of(
      {"init", "inval", "arrive", "arrive_drop", "expect_tx", "complete_tx", "test_wait", "try_wait", "pending_count"});
  if (what == "arrive" || what == "arrive_drop") return lower_arrive(lowering, what == "arrive_drop");
  if (what == "test_wait" || what == "try_wait") return lower_test(lowering, what == "try_wait");
  take_order(lowering);
  take_space(lowering);
  need_b64(lowering);
  if (what == "pending_count") {
    lowering.destination(0, 32);
    lowering.source(1, 64);
    lowering.out.run = pending;
    return;
  }
  lowering.address(0);
  if (what == "init" || what == "inval") lowering.out.order = Instruction::kWeak;
  if (what == "inval") {
    lowering.out.run = invalidate;
    return;
  }
  lowering.source(1, 32);
  lowering.out.modes[0] = what == "expect_tx";
  lowering.out.run = what == "init" ? init : expect;
}

}  // namespace

void add_mbarriers(InstructionSet& set) { set["mbarrier"] = lower_mbarrier; }

}  // namespace emulator
