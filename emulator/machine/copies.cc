// Copies by threads that go on meanwhile (cp.async), and hints to caches. Dispatches all that begins with `cp`.
#include "emulator/machine/copies.h"

#include <cstdio>
#include <cstring>
#include <vector>

#include "emulator/machine/machine.h"

namespace emulator {

void need_operands(Lowering& l, size_t count) {
  if (l.count() != count) l.unknown("it has " + std::to_string(l.count()) + " operands, not " + std::to_string(count));
}

Step do_nothing(Warp&, const Instruction&, Mask) { return Step::kNext; }

Step commit_copies(Warp& warp, const Instruction& instruction, Mask mask) {
  if (Races* races = warp.cta().cluster().races()) races->commit(warp, mask, Counted(instruction.modes[0]));
  return Step::kNext;
}

Step wait_for_copies(Warp& warp, const Instruction& instruction, Mask mask) {
  warp.cta().finish_copies();
  if (Races* races = warp.cta().cluster().races()) {
    const auto kind = Counted(instruction.modes[0]);
    const int32_t pending = instruction.modes[1];
    if (pending == kNoGroups) races->commit(warp, mask, kind);
    races->wait(warp, mask, kind, pending == kNoGroups ? 0 : uint32_t(pending));
  }
  return Step::kNext;
}

void lower_commit(Lowering& l, Counted kind) {
  need_operands(l, 0);
  l.out.modes[0] = int32_t(kind);
  l.out.run = commit_copies;
}

void lower_wait(Lowering& l, Counted kind) {
  need_operands(l, 1);
  const auto pending = l.constant(0);
  if (!pending) l.unknown("its operand is no constant");
  l.out.modes[0] = int32_t(kind);
  l.out.modes[1] = int32_t(*pending);
  l.out.run = wait_for_copies;
}

void need_alignment(uint64_t address, uint64_t alignment, const char* what) {
  if (address % alignment == 0) return;
  char text[128];
  std::snprintf(text, sizeof(text), "The %s at 0x%llx is not aligned to %llu bytes.", what,
                static_cast<unsigned long long>(address), static_cast<unsigned long long>(alignment));
  throw Fault(FaultCode::kMisalignedAddress, text);
}

void need_own(const Cta& cta, uint32_t address) {
  if (address >> kRankShift == cta.rank()) return;
  throw Fault(FaultCode::kIllegalAddress, "Shared address " + std::to_string(address) + " is in CTA " +
                                              std::to_string(address >> kRankShift) +
                                              " of the cluster; the instruction wants one of its own CTA.");
}

std::byte* global_bytes(Cta& cta, uint64_t address, size_t bytes, Access access, Allocation** last) {
  Cluster& cluster = cta.cluster();
  if (cluster.races()) cluster.races()->touch_global_in_copy(*cluster.running, address, bytes, access, last);
  cta.grid().memory.check(address, bytes, access, last);
  return reinterpret_cast<std::byte*>(address);
}

namespace {

// ---------------------------------------------------------------------------------------------------------------------
// cp.async

enum Rest : int32_t { kNoRest, kSourceBytes, kIgnoreSource };

// Operands: destination, source, and what `modes[1]` says there is besides; modes[0]: bytes.
Step copy(Warp& warp, const Instruction& instruction, Mask mask) {
  const auto bytes = uint32_t(instruction.modes[0]);
  struct Part {
    int lane;
    uint32_t destination;
    uint32_t read;
    uint64_t source;
  };
  std::vector<Part> parts;
  parts.reserve(kLanes);
  const Mask ignored = instruction.modes[1] == kIgnoreSource ? warp.predicate(instruction.operands[2]) : 0;
  for_lanes(mask, [&](int lane) {
    Part part;
    part.lane = lane;
    part.destination = uint32_t(warp.address(instruction.operands[0], lane));
    part.source = warp.address(instruction.operands[1], lane);
    part.read = ignored >> lane & 1 ? 0 : bytes;
    if (instruction.modes[1] == kSourceBytes) {
      part.read = warp.get<uint32_t>(instruction.operands[2], lane);
      if (part.read > bytes) {
        throw Fault(FaultCode::kIllegalInstruction,
                    "Lane " + std::to_string(lane) + " wants " + std::to_string(part.read) +
                        " bytes of its source, more than the " + std::to_string(bytes) + " that are copied.");
      }
    }
    need_own(warp.cta(), part.destination);
    need_alignment(part.destination, bytes, "destination");
    if (part.read) need_alignment(part.source, bytes, "source");
    parts.push_back(part);
  });
  Cta& cta = warp.cta();
  cta.issue(mask, Completion::kGroup, [&cta, bytes, parts = std::move(parts)] {
    Allocation* last = nullptr;
    for (const Part& part : parts) {
      if (Races* races = cta.cluster().races()) races->act_as_copy(part.lane);
      std::byte* const destination = cta.cluster().shared(part.destination, bytes, Access::kWrite, bytes);
      // What is not read need not exist.
      if (part.read) {
        std::memcpy(destination, global_bytes(cta, part.source, part.read, Access::kRead, &last), part.read);
      }
      std::memset(destination + part.read, 0, bytes - part.read);
    }
  });
  return Step::kNext;
}

void lower_copy(Lowering& l) {
  const bool all_levels = l.need_one_of({"ca", "cg"}) == "ca";
  l.need_one_of({"shared", "shared::cta"});
  if (!l.take("global")) l.unknown("its source is not .global");
  const bool has_policy = l.take("L2::cache_hint");
  l.take_one_of({"L2::64B", "L2::128B", "L2::256B"});
  const size_t rest = has_policy ? 4 : 3;
  if (l.count() != rest && l.count() != rest + 1) l.unknown("it has another number of operands");
  const auto bytes = l.constant(2);
  if (!bytes || (*bytes != 16 && (!all_levels || (*bytes != 4 && *bytes != 8)))) {
    l.unknown("it copies another number of bytes");
  }
  l.out.modes[0] = int32_t(*bytes);
  l.address(0);
  l.address(1);
  if (l.count() == rest + 1) {
    const ptx::Operand& given = l.operand(3);
    if (given.kind == ptx::Operand::Kind::kRegister && l.function().text->registers[given.reg].bits == 1) {
      l.predicate(3);
      l.out.modes[1] = kIgnoreSource;
    } else {
      l.source(3, 32);
      l.out.modes[1] = kSourceBytes;
    }
  }
  l.out.run = copy;
}

// ---------------------------------------------------------------------------------------------------------------------
// cp.async.mbarrier.arrive

// Operand: address of the barrier; modes[0]: .noinc.
Step arrive(Warp& warp, const Instruction& instruction, Mask mask) {
  Cta& cta = warp.cta();
  Races* const races = cta.cluster().races();
  std::vector<std::pair<int, uint32_t>> arrivals;  // lane, offset
  for_lanes(mask, [&](int lane) {
    const auto address = uint32_t(warp.address(instruction.operands[0], lane));
    need_own(cta, address);
    need_alignment(address, 8, "mbarrier");
    const uint32_t offset = cta.cluster().locate(address, 8).offset;
    // The arrival to come is one more than those that the barrier knows of: its phase waits for the copies.
    if (!instruction.modes[0]) cta.arrive(offset, -1);
    if (races) races->use_barrier(Mask{1} << lane, cta, offset, Access::kAtomic);
    arrivals.emplace_back(lane, offset);
  });
  // Copies are done in the order in which they were issued, hence those of these threads are before.
  cta.issue(mask, Completion::kGroup, [&cta, races, arrivals = std::move(arrivals)] {
    for (const auto& [lane, offset] : arrivals) {
      if (races) races->arrive_after_copies(cta, offset, lane);
      cta.arrive(offset, 1);
    }
  });
  return Step::kNext;
}

void lower_arrive(Lowering& l) {
  if (!l.take("arrive")) l.unknown("it is no .arrive");
  l.out.order = Instruction::kStrong;
  l.out.modes[0] = l.take("noinc");
  l.take_one_of({"shared", "shared::cta"});
  if (!l.take("b64")) l.unknown("it is not .b64");
  need_operands(l, 1);
  l.address(0);
  l.out.run = arrive;
}

void lower_cp(Lowering& l) {
  const bool reduces = l.take("reduce");
  if (!l.take("async")) l.unknown("it is not .async");
  if (l.take("bulk")) {
    const bool prefetches = !reduces && l.take("prefetch");
    if (l.take("tensor")) {
      (reduces ? lower_tensor_reduction : prefetches ? lower_tensor_prefetch : lower_tensor_copy)(l);
    } else if (prefetches) {
      if (!l.take("L2") || !l.take("global")) l.unknown("it is not .L2.global");
      need_operands(l, l.take("L2::cache_hint") ? 3 : 2);
      l.address(0);
      l.source(1, 32);
      l.out.run = do_nothing;
    } else {
      (reduces ? lower_bulk_reduction : lower_bulk_copy)(l);
    }
  } else if (reduces) {
    l.unknown("it is not .bulk");
  } else if (l.take("commit_group")) {
    lower_commit(l, Counted::kCopies);
  } else if (l.take("wait_all")) {
    need_operands(l, 0);
    l.out.modes = {int32_t(Counted::kCopies), kNoGroups};
    l.out.run = wait_for_copies;
  } else if (l.take("wait_group")) {
    lower_wait(l, Counted::kCopies);
  } else if (l.take("mbarrier")) {
    lower_arrive(l);
  } else {
    lower_copy(l);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Hints to caches, of which there are none. As on the hardware, prefetching from a bad address is no fault.

void lower_prefetch(Lowering& l) {
  need_operands(l, 1);
  if (l.take("tensormap")) {
    l.take_one_of({"const", "param"});
  } else {
    l.take_one_of({"global", "local"});
    l.need_one_of({"L1", "L2", "L2::evict_last", "L2::evict_normal"});
  }
  l.address(0);
  l.out.run = do_nothing;
}

void lower_uniform_prefetch(Lowering& l) {
  need_operands(l, 1);
  l.need_one_of({"L1"});
  l.address(0);
  l.out.run = do_nothing;
}

// For lines of 128 bytes. What discard leaves there is anything, hence also what was there.
Step hint(Warp& warp, const Instruction& instruction, Mask mask) {
  for_lanes(mask, [&](int lane) { need_alignment(warp.address(instruction.operands[0], lane), 128, "cache line"); });
  return Step::kNext;
}

void lower_hint(Lowering& l) {
  l.take("global");
  l.need_one_of({l.text.parts[0] == "discard" ? "L2" : "L2::evict_normal"});
  need_operands(l, 2);
  if (l.constant(1) != 128) l.unknown("it is not for 128 bytes");
  l.address(0);
  l.out.run = hint;
}

Step create_policy(Warp& warp, const Instruction& instruction, Mask mask) {
  // Policies are opaque, and those who take one do not look at it.
  for_lanes(mask, [&](int lane) { warp.put<uint64_t>(instruction.operands[0], lane, uint64_t{1} << 60); });
  return Step::kNext;
}

void lower_create_policy(Lowering& l) {
  const std::string_view kind = l.need_one_of({"range", "fractional", "cvt"});
  if (kind == "cvt") {
    if (!l.take("L2")) l.unknown("it is not .L2");
    need_operands(l, 2);
  } else {
    l.need_one_of({"L2::evict_last", "L2::evict_normal", "L2::evict_first", "L2::evict_unchanged"});
    l.take_one_of({"L2::evict_first", "L2::evict_unchanged"});
    if (kind == "range") {
      l.take("global");
      need_operands(l, 4);
    } else if (l.count() != 1) {
      need_operands(l, 2);
    }
  }
  if (!l.take("b64")) l.unknown("it is not .b64");
  l.destination(0, 64);
  l.out.run = create_policy;
}

}  // namespace

void add_copies(InstructionSet& set) {
  set["cp"] = lower_cp;
  set["prefetch"] = lower_prefetch;
  set["prefetchu"] = lower_uniform_prefetch;
  set["applypriority"] = lower_hint;
  set["discard"] = lower_hint;
  set["createpolicy"] = lower_create_policy;
}

}  // namespace emulator
