// Barriers of warps, CTAs and clusters, and fences.
#include "emulator/machine/cta.h"
#include "emulator/machine/instruction_set.h"

namespace emulator {
namespace {

Step next(Warp&, const Instruction&, Mask) { return Step::kNext; }

// ---------------------------------------------------------------------------------------------------------------------
// bar and barrier: named barriers of a CTA

enum class Use : int32_t { kSync, kArrive, kReduce };
enum class Reduction : int32_t { kPopulation, kAnd, kOr };

// modes: use, reduction, whether there is a number of threads, whether all lanes of the warp take part.
// operands: barrier, number of threads; for reductions then destination and predicate.
Step named_barrier(Warp& warp, const Instruction& instruction, Mask mask) {
  const auto use = Use(instruction.modes[0]);
  const bool has_count = instruction.modes[2], is_aligned = instruction.modes[3];
  const int lane = first_lane(mask);
  const uint32_t number = warp.get<uint32_t>(instruction.operands[0], lane);
  const uint32_t expected = has_count ? warp.get<uint32_t>(instruction.operands[1], lane) : 0;
  Cta& cta = warp.cta();
  if (number >= cta.named.size()) {
    throw Fault(FaultCode::kIllegalInstruction, "There is no barrier " + std::to_string(number) + "; 16 exist.");
  }
  if (expected % kLanes != 0) {
    throw Fault(FaultCode::kIllegalInstruction,
                "A barrier cannot expect " + std::to_string(expected) + " threads: it counts whole warps.");
  }
  NamedBarrier& barrier = cta.named[number];
  const uint32_t threads = is_aligned ? kLanes : uint32_t(__builtin_popcount(mask));
  Races* const races = cta.cluster().races();
  if (use == Use::kArrive) {
    if (races) races->arrive_named(warp, mask, int(number));
    cta.arrive_named(int(number), threads, expected);
    return Step::kNext;
  }
  Wait& wait = warp.fragment().wait;
  if (!(wait.kind == Wait::Kind::kNamedBarrier && wait.arrived)) {
    wait = {};
    wait.kind = Wait::Kind::kNamedBarrier;
    wait.address = number;
    wait.arrived = true;
    wait.generation = barrier.generation;
    if (use == Use::kReduce) {
      const Mask votes = warp.predicate(instruction.operands[3]) & mask;
      barrier.true_votes += uint32_t(__builtin_popcount(votes));
      barrier.votes += uint32_t(__builtin_popcount(mask));
    }
    if (races) races->arrive_named(warp, mask, int(number));
    cta.arrive_named(int(number), threads, expected);
  }
  if (barrier.generation == wait.generation) return Step::kWait;
  if (races) races->pass_named(warp, mask, int(number), wait.generation);
  if (use == Use::kReduce) {
    const Operand& result = instruction.operands[2];
    switch (Reduction(instruction.modes[1])) {
      case Reduction::kPopulation:
        for_lanes(mask, [&](int i) { warp.put<uint32_t>(result, i, barrier.last_true_votes); });
        break;
      case Reduction::kAnd:
        warp.set_predicate(result, barrier.last_true_votes == barrier.last_votes ? kAllLanes : 0, mask);
        break;
      case Reduction::kOr:
        warp.set_predicate(result, barrier.last_true_votes > 0 ? kAllLanes : 0, mask);
        break;
    }
  }
  return Step::kNext;
}

// bar is barrier.aligned under an older name.
void lower_named_barrier(Lowering& lowering, bool is_aligned) {
  lowering.take("cta");
  const auto use = lowering.need_one_of({"sync", "arrive", "red"});
  is_aligned |= lowering.take("aligned");
  int first = 0;
  if (use == "red") {
    const auto reduction = lowering.need_one_of({"popc", "and", "or"});
    lowering.out.modes[1] = int32_t(reduction == "popc"  ? Reduction::kPopulation
                                    : reduction == "and" ? Reduction::kAnd
                                                         : Reduction::kOr);
    if (lowering.need_type() != (reduction == "popc" ? Type::kU32 : Type::kPred)) lowering.unknown("of this type");
    first = 1;
  }
  const int last = int(lowering.count()) - (use == "red" ? 1 : 0);
  const bool has_count = last - first == 2;
  if (use == "arrive" && !has_count) lowering.unknown("it does not say how many threads are expected");
  lowering.source(first, 32);
  lowering.source(has_count ? first + 1 : first, 32);
  if (use == "red") {
    if (lowering.out.modes[1] == int32_t(Reduction::kPopulation))
      lowering.destination(0, 32);
    else
      lowering.predicate_destination(0);
    lowering.predicate(last);
  }
  lowering.out.modes[0] = int32_t(use == "sync" ? Use::kSync : use == "arrive" ? Use::kArrive : Use::kReduce);
  lowering.out.modes[2] = has_count;
  lowering.out.modes[3] = is_aligned;
  lowering.out.is_aligned = is_aligned;
  lowering.out.run = named_barrier;
}

// ---------------------------------------------------------------------------------------------------------------------
// barrier.cluster

Step arrive_at_cluster(Warp& warp, const Instruction& instruction, Mask mask) {
  Cluster& cluster = warp.cta().cluster();
  for_lanes(mask, [&](int lane) {
    if (warp.cluster_arrival(lane) != 0) {
      throw Fault(FaultCode::kIllegalInstruction,
                  "Lane " + std::to_string(lane) + " arrives at the cluster's barrier twice without waiting.");
    }
    warp.set_cluster_arrival(lane, cluster.cluster_generation + 1);
  });
  if (Races* races = cluster.races(); races && (instruction.order & Instruction::kRelease)) {
    races->arrive_at_cluster(warp, mask);
  }
  cluster.settle_cluster_barrier();
  cluster.note_event();
  return Step::kNext;
}

Step wait_for_cluster(Warp& warp, const Instruction&, Mask mask) {
  Cluster& cluster = warp.cta().cluster();
  bool passed = true;
  for_lanes(mask, [&](int lane) {
    if (warp.cluster_arrival(lane) == 0) {
      throw Fault(FaultCode::kIllegalInstruction,
                  "Lane " + std::to_string(lane) + " waits at the cluster's barrier without having arrived.");
    }
    passed &= warp.cluster_arrival(lane) <= cluster.cluster_generation;
  });
  if (!passed) return warp.wait_for(Wait::Kind::kClusterBarrier);
  for_lanes(mask, [&](int lane) { warp.set_cluster_arrival(lane, 0); });
  if (Races* races = cluster.races()) races->pass_cluster(warp, mask);
  return Step::kNext;
}

void lower_cluster_barrier(Lowering& lowering) {
  const bool arrives = lowering.need_one_of({"arrive", "wait"}) == "arrive";
  if (lowering.take_one_of({"release", "relaxed", "acquire"}) != "relaxed") lowering.out.order = Instruction::kRelease;
  lowering.out.is_aligned = lowering.take("aligned");
  lowering.out.run = arrives ? arrive_at_cluster : wait_for_cluster;
}

// ---------------------------------------------------------------------------------------------------------------------

// Some of the members may have come to a barrier elsewhere.
Step meet(Warp& warp, const Instruction& instruction, Mask mask) {
  const Mask members = warp.get<uint32_t>(instruction.operands[instruction.modes[5] - 1], first_lane(mask));
  if (Races* races = warp.cta().cluster().races()) races->meet(warp, members & warp.live());
  return Step::kNext;
}

void lower_bar(Lowering& lowering) {
  if (!lowering.take("warp")) return lower_named_barrier(lowering, true);
  if (!lowering.take("sync")) lowering.unknown("it does not synchronise");
  lowering.out.is_aligned = true;
  lowering.out.meets_anywhere = true;
  lowering.out.modes[5] = 1 + lowering.source(0, 32);
  lowering.out.run = meet;
}

void lower_barrier(Lowering& lowering) {
  if (lowering.take("cluster")) return lower_cluster_barrier(lowering);
  lower_named_barrier(lowering, false);
}

// Memory here has one order that all see: what fences are for matters only to those who look for races.
enum class Fence : int32_t { kMemory, kProxy, kBarrierInit };

Step fence(Warp& warp, const Instruction& instruction, Mask mask) {
  Races* const races = warp.cta().cluster().races();
  if (!races) return Step::kNext;
  switch (Fence(instruction.modes[0])) {
    case Fence::kMemory:
      races->fence(warp, mask);
      break;
    case Fence::kProxy:
      races->fence_proxy(warp, mask);
      break;
    case Fence::kBarrierInit:
      races->fence_barrier_init(warp, mask);
      break;
  }
  return Step::kNext;
}

void lower_fence(Lowering& lowering) {
  Fence kind = Fence::kMemory;
  bool matters = true;
  if (lowering.take("proxy")) {
    const auto proxy = lowering.need_one_of({"alias", "async", "async::generic", "tensormap::generic", "async.global"});
    const auto space = lowering.take_one_of({"global", "shared::cta", "shared::cluster", "shared"});
    lowering.take_one_of({"acquire", "release"});
    kind = Fence::kProxy;
    matters = (proxy == "async" || proxy == "async::generic") && space != "global";
  } else {
    const auto order = lowering.take_one_of({"sc", "acq_rel", "acquire", "release", "mbarrier_init"});
    lowering.take("release");
    if (order == "mbarrier_init") kind = Fence::kBarrierInit;
  }
  lowering.take("sync_restrict::shared::cta");
  lowering.take("sync_restrict::shared::cluster");
  lowering.take_one_of({"cta", "cluster", "gpu", "sys"});
  lowering.out.modes[0] = int32_t(kind);
  lowering.out.run = matters ? fence : next;
}

void lower_membar(Lowering& lowering) {
  const bool is_proxy = lowering.need_one_of({"cta", "gl", "sys", "proxy"}) == "proxy";
  const auto proxy = lowering.take_one_of({"alias", "async"});
  lowering.out.modes[0] = int32_t(is_proxy ? Fence::kProxy : Fence::kMemory);
  lowering.out.run = is_proxy && proxy != "async" ? next : fence;
}

}  // namespace

void add_barriers(InstructionSet& set) {
  set["bar"] = lower_bar;
  set["barrier"] = lower_barrier;
  set["fence"] = lower_fence;
  set["membar"] = lower_membar;
}

}  // namespace emulator
