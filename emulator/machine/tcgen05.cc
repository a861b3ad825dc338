// tcgen05: dispatch, allocation of tensor memory, what completes operations and orders them.
#include "emulator/machine/tcgen05.h"

#include <string>

#include "emulator/machine/copies.h"
#include "emulator/machine/machine.h"

namespace emulator {
namespace {

[[noreturn]] void illegal(const std::string& message) { throw Fault(FaultCode::kIllegalInstruction, message); }

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// Groups of CTAs

int32_t take_group(Lowering& l) { return l.need_one_of({"cta_group::1", "cta_group::2"}).back() - '0'; }

Cta& peer_of(Cta& cta) { return cta.cluster().cta(cta.rank() ^ 1); }

void check_group(Cta& cta, int32_t group) {
  cta.tensor_memory.check_group(group);
  if (group == 1) return;
  if (cta.cluster().ctas().size() % 2 != 0) {
    illegal(
        "An instruction of .cta_group::2 is executed in a cluster of an odd number of CTAs: one of them has no peer.");
  }
  if (peer_of(cta).live_warps() == 0) {
    illegal("An instruction of .cta_group::2 is executed by CTA " + std::to_string(cta.rank()) +
            " of the cluster, whose peer has exited.");
  }
}

void touch_columns(Cta& cta, uint32_t lane, uint32_t column, uint32_t count, Access access) {
  if (Races* races = cta.cluster().races()) {
    races->touch_tensor(cta, offset_of(lane, column), count * sizeof(uint32_t), access);
  }
}

uint32_t uniform(Warp& warp, const Operand& operand, const char* what) {
  const uint32_t* slots = warp.slots32(operand);
  for (int lane = 1; lane < kLanes; ++lane) {
    if (slots[lane] != slots[0]) illegal(std::string("The lanes of a warp disagree about ") + what + ".");
  }
  return slots[0];
}

void need_whole_warp(Mask mask) {
  if (mask != kAllLanes) {
    illegal("An instruction for all lanes of a warp is executed by " + std::to_string(__builtin_popcount(mask)) +
            " of them.");
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Allocation

namespace {

// Does what both CTAs of a pair have come to. False: it has to wait.
bool perform_together(PairRequest& mine, TensorMemory& own, TensorMemory& peer) {
  PairRequest& other = peer.request;
  if (other.kind != mine.kind || other.columns != mine.columns ||
      (mine.kind == PairRequest::Kind::kDeallocate && other.address != mine.address)) {
    illegal(
        "The two CTAs of a pair have come to different tcgen05 instructions of .cta_group::2, or with other operands.");
  }
  switch (mine.kind) {
    case PairRequest::Kind::kAllocate: {
      const auto first = own.allocate(mine.columns);
      if (!first) return false;
      // A pair allocates everything together: the same columns are free there.
      peer.allocate(mine.columns);
      mine.address = other.address = *first;
      break;
    }
    case PairRequest::Kind::kDeallocate:
      own.deallocate(mine.address, mine.columns);
      peer.deallocate(mine.address, mine.columns);
      break;
    default:
      own.relinquish();
      peer.relinquish();
      break;
  }
  other.is_done = true;
  return true;
}

// Whether the warp has executed the instruction before, and had to wait.
bool has_come_before(Warp& warp) { return warp.fragment().wait.kind == Wait::Kind::kTensorMemory; }

Step wait_for_tensor_memory(Warp& warp, uint32_t columns) {
  if (!has_come_before(warp)) warp.cta().cluster().note_event();  // the peer may have waited for this
  return warp.wait_for(Wait::Kind::kTensorMemory, columns);
}

// The request of a warp, until it is fulfilled: true then, with the address of what was allocated.
bool perform(Warp& warp, PairRequest& request, int32_t group) {
  Cta& cta = warp.cta();
  TensorMemory& own = cta.tensor_memory;
  if (group == 1) {
    if (request.kind == PairRequest::Kind::kAllocate) {
      const auto first = own.allocate(request.columns);
      if (first) request.address = *first;
      return first.has_value();
    }
    request.kind == PairRequest::Kind::kDeallocate ? own.deallocate(request.address, request.columns)
                                                   : own.relinquish();
    return true;
  }
  if (!has_come_before(warp)) {
    if (own.request.kind != PairRequest::Kind::kNone) {
      illegal("Two warps of a CTA execute tcgen05 instructions of .cta_group::2 that manage tensor memory.");
    }
    own.request = request;
  }
  TensorMemory& peer = peer_of(cta).tensor_memory;
  bool is_done = own.request.is_done;
  // One that is done already belongs to an earlier instruction, of which the peer has not heard yet.
  const bool has_peer_come = peer.request.kind != PairRequest::Kind::kNone && !peer.request.is_done;
  if (!is_done && has_peer_come) is_done = perform_together(own.request, own, peer);
  if (is_done) {
    request = own.request;
    own.request = {};
  }
  return is_done;
}

// Operands: where the address is put; the number of columns. modes: Space, group.
Step allocate(Warp& warp, const Instruction& instruction, Mask mask) {
  need_whole_warp(mask);
  const int32_t group = instruction.modes[1];
  if (!has_come_before(warp)) check_group(warp.cta(), group);
  PairRequest request{PairRequest::Kind::kAllocate, uniform(warp, instruction.operands[1], "the number of columns"), 0,
                      false};
  warp.cta().tensor_memory.check_allocation(request.columns);
  if (!perform(warp, request, group)) return wait_for_tensor_memory(warp, request.columns);
  if (Races* races = warp.cta().cluster().races()) races->allocate_tensor(warp);
  warp.write(Space(instruction.modes[0]), warp.address(instruction.operands[0], 0), &request.address,
             sizeof(request.address), 0, sizeof(request.address));
  warp.cta().cluster().note_event();
  return Step::kNext;
}

// Operands: address and number of columns, or none. modes: group.
template <PairRequest::Kind kKind>
Step give_back(Warp& warp, const Instruction& instruction, Mask mask) {
  need_whole_warp(mask);
  const int32_t group = instruction.modes[0];
  PairRequest request{kKind, 0, 0, false};
  if (kKind == PairRequest::Kind::kDeallocate) {
    request.address = uniform(warp, instruction.operands[0], "an address in tensor memory");
    request.columns = uniform(warp, instruction.operands[1], "the number of columns");
  }
  if (Races* races = warp.cta().cluster().races()) races->free_tensor(warp);
  // The peer that did it for both may have exited meanwhile.
  if (!has_come_before(warp)) check_group(warp.cta(), group);
  if (!perform(warp, request, group)) return wait_for_tensor_memory(warp, request.columns);
  warp.cta().cluster().note_event();
  return Step::kNext;
}

}  // namespace

void lower_tensor_allocation(Lowering& l, std::string_view what) {
  const int32_t group = take_group(l);
  if (!l.take("sync") || !l.take("aligned")) l.unknown("it is not .sync.aligned");
  l.out.is_aligned = true;
  if (what == "relinquish_alloc_permit") {
    need_operands(l, 0);
    l.out.modes[0] = group;
    l.out.run = give_back<PairRequest::Kind::kRelinquish>;
    return;
  }
  const bool is_allocation = what == "alloc";
  const bool is_shared = is_allocation && l.take("shared::cta");
  if (!l.take("b32")) l.unknown("it is not .b32");
  need_operands(l, 2);
  if (is_allocation) {
    l.address(0);
    l.out.modes = {int32_t(is_shared ? Space::kShared : Space::kGeneric), group};
    l.out.run = allocate;
  } else {
    l.source(0, 32);
    l.out.modes[0] = group;
    l.out.run = give_back<PairRequest::Kind::kDeallocate>;
  }
  l.source(1, 32);
}

// ---------------------------------------------------------------------------------------------------------------------
// Completion and order

namespace {

// Operands: address of the mbarrier; CTAs of a multicast. modes: group, multicast.
Step commit(Warp& warp, const Instruction& instruction, Mask mask) {
  Cta& cta = warp.cta();
  check_group(cta, instruction.modes[0]);
  const bool is_multicast = instruction.modes[1];
  for_lanes(mask, [&](int lane) {
    Delivery delivery;
    // Generic or not: the barrier's window says nothing that is not known.
    delivery.barrier = uint32_t(warp.address(instruction.operands[0], lane) & ~kWindowMask);
    need_alignment(delivery.barrier, 8, "mbarrier");
    if (is_multicast) delivery.ctas = warp.get<uint16_t>(instruction.operands[1], lane);
    // What was issued before is done before.
    cta.issue(Mask{1} << lane, Completion::kTensor, [&cta, delivery, lane] {
      delivery.for_each([&](uint32_t, uint32_t barrier) {
        const auto [target, offset] = cta.cluster().locate(barrier, 8);
        if (Races* races = cta.cluster().races()) races->arrive_after_copies(*target, offset, lane);
        target->arrive(offset, 1);
      });
    });
  });
  return Step::kNext;
}

void lower_commit(Lowering& l) {
  l.out.modes[0] = take_group(l);
  if (!l.take("mbarrier::arrive::one")) l.unknown("it does not arrive at an mbarrier");
  l.take("shared::cluster");
  const bool is_multicast = l.take("multicast::cluster");
  if (!l.take("b64")) l.unknown("it is not .b64");
  need_operands(l, 1 + is_multicast);
  l.address(0);
  if (is_multicast) l.source(1, 16);
  l.out.modes[1] = is_multicast;
  l.out.run = commit;
}

// Stores are done by then, and so is all else that was issued before: nobody can tell.
Step wait_for_stores(Warp& warp, const Instruction& instruction, Mask mask) {
  need_whole_warp(mask);
  return wait_for_copies(warp, instruction, mask);
}

// Loads are done where they stand.
Step wait_for_loads(Warp& warp, const Instruction&, Mask mask) {
  need_whole_warp(mask);
  if (Races* races = warp.cta().cluster().races()) races->wait_for_loads(warp);
  return Step::kNext;
}

template <bool kIsBefore>
Step fence_tensor_memory(Warp& warp, const Instruction&, Mask mask) {
  if (Races* races = warp.cta().cluster().races()) {
    kIsBefore ? races->fence_tensor_before(warp, mask) : races->fence_tensor_after(warp, mask);
  }
  return Step::kNext;
}

void lower_tcgen05(Lowering& l) {
  l.need_family(10);
  const std::string_view what = l.take_next();
  if (what == "alloc" || what == "dealloc" || what == "relinquish_alloc_permit") {
    lower_tensor_allocation(l, what);
  } else if (what == "ld" || what == "st") {
    lower_tensor_move(l, what == "ld");
  } else if (what == "cp") {
    lower_tensor_fill(l);
  } else if (what == "shift") {
    lower_tensor_shift(l);
  } else if (what == "mma") {
    lower_tensor_product(l);
  } else if (what == "commit") {
    lower_commit(l);
  } else if (what == "wait::ld" || what == "wait::st") {
    if (!l.take("sync") || !l.take("aligned")) l.unknown("it is not .sync.aligned");
    need_operands(l, 0);
    l.out.is_aligned = true;
    l.out.modes = {int32_t(Counted::kTensorStores), kNoGroups};
    l.out.run = what == "wait::ld" ? wait_for_loads : wait_for_stores;
  } else if (what == "fence::before_thread_sync" || what == "fence::after_thread_sync") {
    need_operands(l, 0);
    l.out.run = what == "fence::before_thread_sync" ? fence_tensor_memory<true> : fence_tensor_memory<false>;
  } else {
    l.unknown("." + std::string(what));
  }
}

}  // namespace

void add_tcgen05(InstructionSet& set) { set["tcgen05"] = lower_tcgen05; }

}  // namespace emulator
