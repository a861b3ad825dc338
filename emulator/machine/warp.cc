#include "emulator/machine/warp.h"

#include <algorithm>
#include <cstdlib>

#include "emulator/machine/machine.h"

namespace emulator {
namespace {

constexpr uint32_t kSharedGranularity = 128;  // in which a launch gets shared memory
constexpr int kSpins = 256;                   // backward jumps after which other lanes of a warp have their turn

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// Registers

Warp::Warp(Cta& cta, int index, const Function& kernel, Mask lanes) : cta_(cta), index_(index), live_(lanes) {
  Fragment whole;
  whole.lanes = lanes;
  whole.frame = enter(kernel, nullptr, 0);
  fragments_.push_back(std::move(whole));
  registers_ = fragments_[0].frame->registers.get();
}

std::shared_ptr<Frame> Warp::enter(const Function& function, std::shared_ptr<Frame> caller, uint32_t return_to) {
  auto frame = std::make_shared<Frame>();
  frame->function = &function;
  frame->return_to = return_to;
  if (caller) {
    frame->local_base = caller->local_base + caller->function->local_bytes;
    frame->depth = caller->depth + 1;
  }
  frame->caller = std::move(caller);
  // Nobody should read a register before writing it; who does finds NaN.
  frame->registers = poisoned_memory(function.register_bytes);
  grow_local(frame->local_base + function.local_bytes);
  for (const Hidden& hidden : function.hidden) {
    for (int lane = 0; lane < kLanes; ++lane) {
      uint64_t value = hidden.value;
      switch (hidden.kind) {
        case Hidden::Kind::kSpecial:
          value = special(hidden.name, lane);
          break;
        case Hidden::Kind::kShared:
          value += cta_.shared_base();
          break;
        case Hidden::Kind::kLocal:
          value += frame->local_base;
          break;
        case Hidden::Kind::kParameter:
          value += reinterpret_cast<uint64_t>(cta_.grid().parameters);
          break;
        case Hidden::Kind::kGlobal:
          break;
      }
      std::byte* slots = frame->registers.get() + hidden.offset;
      if (hidden.bits == 1) {
        if (lane == 0) std::memset(slots, 0, sizeof(Mask));
        *reinterpret_cast<Mask*>(slots) |= Mask(value) << lane;
      } else if (hidden.bits == 64)
        reinterpret_cast<uint64_t*>(slots)[lane] = value;
      else
        reinterpret_cast<uint32_t*>(slots)[lane] = uint32_t(value);
    }
  }
  return frame;
}

void Warp::grow_local(uint32_t bytes) {
  if (bytes <= local_capacity_) return;
  const uint32_t capacity = std::max(bytes, 2 * local_capacity_);
  const auto grow = [&](auto& memory) {
    std::remove_reference_t<decltype(memory)> grown(size_t(capacity) * kLanes);
    for (int lane = 0; lane < kLanes; ++lane) {
      std::copy_n(memory.data() + size_t(lane) * local_capacity_, local_capacity_,
                  grown.data() + size_t(lane) * capacity);
    }
    memory = std::move(grown);
  };
  grow(local_);
  grow(local_written_);
  local_capacity_ = capacity;
}

void Warp::set_predicate(const Operand& operand, Mask values, Mask mask) {
  if (operand.bits == 0) return;
  auto* place = reinterpret_cast<Mask*>(registers_ + operand.offset);
  *place = (*place & ~mask) | (values & mask);
}

void Warp::addresses(const Operand& operand, uint64_t (&out)[kLanes]) const {
  for (int lane = 0; lane < kLanes; ++lane) out[lane] = address(operand, lane);
}

namespace {

enum class Axis { kNone, kX, kY, kZ };

uint32_t component(const Dim3& dims, char axis) { return axis == 'x' ? dims.x : axis == 'y' ? dims.y : dims.z; }

// Names with .x, .y, .z.
constexpr std::string_view kVectors[] = {"%tid",       "%ntid",       "%ctaid",         "%nctaid",
                                         "%clusterid", "%nclusterid", "%cluster_ctaid", "%cluster_nctaid"};
constexpr std::string_view kScalars[] = {"%laneid",
                                         "%warpid",
                                         "%nwarpid",
                                         "%lanemask_eq",
                                         "%lanemask_le",
                                         "%lanemask_lt",
                                         "%lanemask_ge",
                                         "%lanemask_gt",
                                         "%cluster_ctarank",
                                         "%cluster_nctarank",
                                         "%smid",
                                         "%nsmid",
                                         "%gridid",
                                         "%dynamic_smem_size",
                                         "%total_smem_size",
                                         "%aggr_smem_size",
                                         "%reserved_smem_offset_begin",
                                         "%reserved_smem_offset_end",
                                         "%reserved_smem_offset_cap",
                                         "%envreg1",
                                         "%envreg2",
                                         "%current_graph_exec",
                                         "%is_explicit_cluster"};

}  // namespace

bool is_constant_special(const std::string& name) {
  if (std::find(std::begin(kScalars), std::end(kScalars), name) != std::end(kScalars)) return true;
  if (name.size() < 3 || name[name.size() - 2] != '.' || name.back() < 'x' || name.back() > 'z') return false;
  const std::string_view vector(name.data(), name.size() - 2);
  return std::find(std::begin(kVectors), std::end(kVectors), vector) != std::end(kVectors);
}

uint64_t Warp::special(const std::string& name, int lane) const {
  const Launch& launch = cta_.grid().launch;
  const auto is = [&](std::string_view other) { return name == other; };
  const char axis = name.back();
  const std::string_view vector(name.data(), name.size() > 2 && name[name.size() - 2] == '.' ? name.size() - 2 : 0);
  if (vector == "%tid") {
    const uint32_t linear = uint32_t(thread(lane));
    const Dim3 index = {linear % launch.block.x, linear / launch.block.x % launch.block.y,
                        linear / launch.block.x / launch.block.y};
    return component(index, axis);
  }
  const Dim3 cluster = launch.cluster;
  const Dim3 clusters = {launch.grid.x / cluster.x, launch.grid.y / cluster.y, launch.grid.z / cluster.z};
  const Dim3 cta = cta_.index();
  if (vector == "%ntid") return component(launch.block, axis);
  if (vector == "%ctaid") return component(cta, axis);
  if (vector == "%nctaid") return component(launch.grid, axis);
  if (vector == "%clusterid") return component(cta_.cluster().index(), axis);
  if (vector == "%nclusterid") return component(clusters, axis);
  if (vector == "%cluster_ctaid") {
    return component({cta.x % cluster.x, cta.y % cluster.y, cta.z % cluster.z}, axis);
  }
  if (vector == "%cluster_nctaid") return component(cluster, axis);
  if (is("%laneid")) return uint64_t(lane);
  if (is("%warpid")) return uint64_t(index_);
  if (is("%nwarpid")) return (launch.block.count() + kLanes - 1) / kLanes;
  const uint64_t bit = uint64_t{1} << lane;
  if (is("%lanemask_eq")) return bit;
  if (is("%lanemask_lt")) return bit - 1;
  if (is("%lanemask_le")) return 2 * bit - 1;
  if (is("%lanemask_gt")) return kAllLanes & ~(2 * bit - 1);
  if (is("%lanemask_ge")) return kAllLanes & ~(bit - 1);
  if (is("%cluster_ctarank")) return cta_.rank();
  if (is("%cluster_nctarank")) return cluster.count();
  const uint64_t linear = (uint64_t(cta.z) * launch.grid.y + cta.y) * launch.grid.x + cta.x;
  if (is("%smid")) return linear % uint64_t(launch.num_sms);
  if (is("%nsmid")) return uint64_t(launch.num_sms);
  if (is("%gridid")) return 1;
  if (is("%is_explicit_cluster")) return launch.has_cluster;
  if (is("%dynamic_smem_size")) return launch.dynamic_shared;
  if (is("%total_smem_size")) {
    return (cta_.shared_bytes() + kSharedGranularity - 1) / kSharedGranularity * kSharedGranularity;
  }
  if (is("%aggr_smem_size")) return cta_.shared_bytes() + kReservedShared;  // not rounded, on an H200
  if (is("%reserved_smem_offset_begin")) return 0;
  if (is("%reserved_smem_offset_end")) return kReservedSharedUsed;
  if (is("%reserved_smem_offset_cap")) return kReservedShared;
  if (is("%envreg1")) return cta_.grid().workspace >> 32;
  if (is("%envreg2")) return uint32_t(cta_.grid().workspace);
  if (is("%current_graph_exec")) return 0;  // nothing here is launched by a graph
  std::abort();                             // is_constant_special has it, this has not
}

// ---------------------------------------------------------------------------------------------------------------------
// Memory

namespace {

// Parameters of functions called lie in local memory, those of kernels do not.
bool is_local(Space space, uint64_t address) {
  return space == Space::kLocal || (address & kWindowMask) == kLocalWindow;
}

}  // namespace

std::byte* Warp::resolve(Space space, uint64_t address, size_t bytes, Access access, int lane, size_t alignment) {
  if (address % alignment != 0) {
    char text[32];
    std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(address));
    throw Fault(FaultCode::kMisalignedAddress, "Lane " + std::to_string(lane) + " accesses " + std::to_string(bytes) +
                                                   " bytes at " + text + ", which is no multiple of " +
                                                   std::to_string(alignment) + ".");
  }
  const uint64_t window = address & kWindowMask;
  const bool is_shared = space == Space::kShared || window == kSharedWindow;
  const uint64_t within = address & ~kWindowMask;
  Races* const races = cta_.cluster().races();
  if (races && (is_shared || !is_local(space, address))) {
    races->act_as_lane(lane);
    if (instruction_ && instruction_->order) {
      races->synchronise(*this, lane, is_shared ? kSharedWindow | within : address, access);
    }
  }
  if (is_shared) return cta_.cluster().shared(within, bytes, access, 1);
  if (is_local(space, address)) {
    if (within > local_capacity_ || bytes > local_capacity_ - within) {
      throw Fault(FaultCode::kIllegalAddress, "Lane " + std::to_string(lane) + " accesses " + std::to_string(bytes) +
                                                  " bytes at offset " + std::to_string(within) +
                                                  " of its local memory, which has " + std::to_string(local_capacity_) +
                                                  ".");
    }
    uint8_t* const written = local_written(lane) + within;
    if (access != Access::kWrite) {
      if (const void* hole = std::memchr(written, 0, bytes)) {
        throw Fault(FaultCode::kUninitialized,
                    "Lane " + std::to_string(lane) + " reads offset " +
                        std::to_string(within + uint64_t(static_cast<const uint8_t*>(hole) - written)) +
                        " of its local memory before anything was written there.");
      }
    }
    if (access != Access::kRead) std::memset(written, 1, bytes);
    return local(lane) + within;
  }
  if (races) races->touch_global(*this, lane, address, bytes, access, &last_allocation_);
  cta_.grid().memory.check(address, bytes, access, &last_allocation_);
  return reinterpret_cast<std::byte*>(address);
}

void Warp::write(Space space, uint64_t address, const void* from, size_t bytes, int lane, size_t alignment) {
  std::byte* const place = resolve(space, address, bytes, Access::kWrite, lane, alignment);
  if (std::memcmp(place, from, bytes) == 0) {
    if (Races* races = cta_.cluster().races()) races->note_same_value(lane);
    return;
  }
  std::memcpy(place, from, bytes);
  note_change(space, address);
}

void Warp::note_change(Space space, uint64_t address) {
  if (is_local(space, address)) {
    note_private_change();
  } else {
    cta_.cluster().note_event();
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Control

void Warp::split_off(Mask lanes, uint32_t pc) {
  Fragment part = fragments_[current_];
  part.lanes = lanes;
  part.pc = pc;
  part.wait = {};
  part.blocked = false;
  fragments_[current_].lanes &= ~lanes;
  fragments_.push_back(std::move(part));
}

void Warp::jump(Mask lanes, uint32_t target) {
  Fragment& here = fragments_[current_];
  if (target <= here.pc) ++backward_jumps_;
  if (lanes == here.lanes) {
    here.pc = target;
  } else {
    ++here.pc;
    split_off(lanes, target);
  }
}

void Warp::exit(Mask lanes) {
  Fragment& here = fragments_[current_];
  live_ &= ~lanes;
  here.lanes &= ~lanes;
  ++here.pc;
  if (here.lanes == 0) fragments_.erase(fragments_.begin() + ptrdiff_t(current_));
  if (live_ == 0)
    cta_.warp_exited();
  else
    cta_.cluster().settle_cluster_barrier();
  cta_.cluster().note_milestone();
}

void Warp::call(Mask lanes, const Function& callee, uint32_t return_to) {
  if (lanes != fragments_[current_].lanes) {
    // The others are at the next instruction already.
    const Mask others = fragments_[current_].lanes & ~lanes;
    split_off(others, return_to);
  }
  Fragment& here = fragments_[current_];
  here.frame = enter(callee, here.frame, return_to);
  for_lanes(lanes, [&](int lane) { std::memset(local_written(lane) + here.frame->local_base, 0, callee.local_bytes); });
  here.pc = 0;
  registers_ = here.frame->registers.get();
}

void Warp::return_from_function(Mask lanes) {
  Fragment& here = fragments_[current_];
  if (!here.frame->caller) return exit(lanes);
  if (lanes != here.lanes) split_off(here.lanes & ~lanes, here.pc + 1);
  Fragment& back = fragments_[current_];
  const uint32_t pc = back.frame->return_to;
  const std::shared_ptr<Frame> callee = back.frame;
  back.frame = callee->caller;
  back.pc = pc;
  registers_ = back.frame->registers.get();
  const Function& caller = *back.frame->function;
  const Instruction& site = caller.code[pc - 1];
  for (const Call::Copy& copy : caller.calls[size_t(site.modes[0])].results) {
    for_lanes(lanes, [&](int lane) {
      const std::byte* from = parameter(*callee, copy, lane);
      std::memcpy(copy.operand >= 0 ? target_bytes(site.operands[copy.operand], lane)
                                    : passed(lane, back.frame->local_base + copy.caller, copy.bytes),
                  from, copy.bytes);
    });
  }
}

std::byte* Warp::passed(int lane, uint32_t offset, uint32_t bytes) {
  std::memset(local_written(lane) + offset, 1, bytes);
  return local(lane) + offset;
}

std::byte* Warp::parameter(const Frame& callee, const Call::Copy& copy, int lane) {
  if (copy.callee_register < 0) return passed(lane, callee.local_base + copy.callee, copy.bytes);
  const size_t slot = copy.bytes > 8 ? 16 : copy.bytes > 4 ? 8 : 4;
  return callee.registers.get() + callee.function->register_places[size_t(copy.callee_register)] + size_t(lane) * slot;
}

Step Warp::wait_for(Wait::Kind kind, uint32_t address, uint32_t phase) {
  Wait& wait = fragments_[current_].wait;
  if (wait.kind != kind) wait = {};
  wait.kind = kind;
  wait.address = address;
  wait.phase = phase;
  return Step::kWait;
}

// ---------------------------------------------------------------------------------------------------------------------
// The loop

uint64_t Warp::changes() const { return cta_.cluster().events() + private_changes_; }

std::vector<std::byte> Warp::state() const {
  std::vector<std::byte> out;
  const auto add = [&](const void* from, size_t bytes) {
    out.insert(out.end(), static_cast<const std::byte*>(from), static_cast<const std::byte*>(from) + bytes);
  };
  std::vector<const Frame*> frames;
  for (const Fragment& fragment : fragments_) {
    add(&fragment.pc, sizeof(fragment.pc));
    add(&fragment.lanes, sizeof(fragment.lanes));
    for (const Frame* frame = fragment.frame.get(); frame; frame = frame->caller.get()) {
      if (std::find(frames.begin(), frames.end(), frame) != frames.end()) break;
      frames.push_back(frame);
      add(&frame, sizeof(frame));
      add(frame->registers.get(), frame->function->register_bytes);
    }
  }
  return out;
}

// At a jump backwards. There must be one group of lanes that goes on, and the others must have found since the last
// change that they have to wait.
bool Warp::has_come_round() {
  const uint64_t now = changes();
  const auto waits = [&](const Fragment& fragment) {
    const Wait& wait = fragment.wait;
    return wait.kind != Wait::Kind::kNothing && !wait.timed_out && fragment.waited_at == now;
  };
  if (std::count_if(fragments_.begin(), fragments_.end(), waits) + 1 != ptrdiff_t(fragments_.size())) return false;
  return loop_watch_.has_come_round(now, [this] { return state(); });
}

void Warp::unblock() {
  for (Fragment& fragment : fragments_) fragment.blocked = false;
}

// Chooses who goes on: lanes deepest in calls, of those the ones least far in the text, since lanes that went different
// ways mostly meet further down. Those that are at the same place become one.
bool Warp::pick() {
  size_t best = fragments_.size();
  for (size_t i = 0; i < fragments_.size(); ++i) {
    const Fragment& fragment = fragments_[i];
    if (fragment.blocked) continue;
    if (best == fragments_.size()) {
      best = i;
      continue;
    }
    const Fragment& other = fragments_[best];
    const int depth = fragment.frame->depth, other_depth = other.frame->depth;
    if (depth > other_depth || (depth == other_depth && fragment.pc < other.pc)) best = i;
  }
  if (best == fragments_.size()) return false;
  for (size_t i = fragments_.size(); i-- > 0;) {
    if (i == best) continue;
    Fragment &into = fragments_[best], &from = fragments_[i];
    if (from.frame != into.frame || from.pc != into.pc || from.wait.arrived || into.wait.arrived) continue;
    into.lanes |= from.lanes;
    into.wait = {};
    fragments_.erase(fragments_.begin() + ptrdiff_t(i));
    if (i < best) --best;
  }
  current_ = best;
  registers_ = fragments_[current_].frame->registers.get();
  return true;
}

// Those of the lanes that may execute the instruction now because all are here that it wants together; the others of
// the fragment become one of their own. None: the fragment has to wait.
Mask Warp::gather(const Instruction& instruction, Mask mask) {
  const auto guarded = [&](Mask required) {
    if (required & fragments_[current_].lanes & ~mask) {
      throw Fault(FaultCode::kIllegalInstruction,
                  "Lanes that have to execute this together are kept from it by its guard.");
    }
  };
  Mask required = live_;
  if (const int place = instruction.modes[5]; place == 0) {
    if (mask == live_) return mask;
    guarded(required);
  } else {
    // Each lane has a member mask: lanes with the same one belong together.
    const uint32_t* named = slots32(instruction.operands[place - 1]);
    for (Mask left = mask; left;) {
      const Mask members = named[first_lane(left)];
      Mask group = 0;
      for_lanes(left, [&](int lane) { group |= Mask{named[lane] == members} << lane; });
      left &= ~group;
      if (group & ~members) {
        throw Fault(FaultCode::kIllegalInstruction, "A lane executes this that its own member mask does not name.");
      }
      required = members & live_;
      guarded(required);
      if ((required & ~group) && !(instruction.meets_anywhere && meet(required & ~group))) continue;
      if (group != fragments_[current_].lanes) split_off(fragments_[current_].lanes & ~group, fragments_[current_].pc);
      return group;
    }
  }
  Fragment& here = fragments_[current_];
  here.wait = {};
  here.wait.kind = Wait::Kind::kLanes;
  here.wait.address = required;
  here.blocked = true;
  here.waited_at = changes();
  return 0;
}

// For an instruction that lanes may execute in different places: whether the others are waiting at theirs. Lets them go.
bool Warp::meet(Mask others) {
  const auto waits = [&](const Fragment& fragment) {
    return fragment.wait.kind == Wait::Kind::kLanes && fragment.frame->function->code[fragment.pc].meets_anywhere &&
           (fragment.lanes & others) && &fragment != &fragments_[current_];
  };
  Mask there = 0;
  for (const Fragment& fragment : fragments_) there |= waits(fragment) ? fragment.lanes : 0;
  if (others & ~there) return false;
  for (Fragment& fragment : fragments_) {
    if (!waits(fragment)) continue;
    fragment.wait = {};
    fragment.blocked = false;
    ++fragment.pc;
  }
  return true;
}

void Warp::impersonate(const Instruction* instruction, Mask lanes, const std::function<void()>& action) {
  const auto* before = instruction_;
  const Mask executing = executing_;
  instruction_ = instruction;
  executing_ = lanes;
  action();
  instruction_ = before;
  executing_ = executing;
}

Step Warp::execute_watched(Debugger& debugger, const Instruction& instruction, Mask mask) {
  const std::shared_ptr<Frame> frame = fragments_[current_].frame;
  debugger.about_to_execute(*this, instruction, *frame, mask);
  const Step step = instruction.run(*this, instruction, mask);
  if (step != Step::kWait) debugger.executed(*this, instruction, *frame, mask);
  return step;
}

int Warp::run(int budget) {
  Debugger* const debugger = cta_.grid().debugger;
  Races* const races = cta_.cluster().races();
  loop_watch_.begin_turn(changes());
  goes_round_ = false;
  unblock();
  int executed = 0;
  bool moved = true;
  while (budget > 0 && !done()) {
    if (!pick()) {
      if (!moved) break;
      moved = false;
      unblock();
      continue;
    }
    // One fragment runs on while it is alone; else they take turns at each instruction.
    do {
      Fragment& here = fragments_[current_];
      const Instruction& instruction = here.frame->function->code[here.pc];
      Mask mask = instruction.guard.bits ? here.lanes & predicate(instruction.guard) : here.lanes;
      --budget;
      if (mask == 0) {
        ++here.pc;
        ++executed;
        moved = true;
        continue;
      }
      instruction_ = &instruction;
      executing_ = mask;
      if (instruction.is_aligned && (mask = gather(instruction, mask)) == 0) break;
      executing_ = mask;
      if ((instruction.touches_products | instruction.touches_loads) && races) {
        races->touch_registers(*this, instruction);
      }
      const int jumps = backward_jumps_;
      const Step step =
          debugger ? execute_watched(*debugger, instruction, mask) : instruction.run(*this, instruction, mask);
      if (races && races->has_acted()) races->finish(*this);
      instruction_ = nullptr;
      if (step == Step::kWait) {
        if (mask != fragments_[current_].lanes) {
          split_off(fragments_[current_].lanes & ~mask, fragments_[current_].pc + 1);
        }
        fragments_[current_].blocked = true;
        fragments_[current_].waited_at = changes();
        break;
      }
      ++executed;
      moved = true;
      if (step == Step::kBranch) {
        if (backward_jumps_ != jumps && (goes_round_ = has_come_round())) return executed;
        if (fragments_.size() > 1 && backward_jumps_ >= kSpins) {
          backward_jumps_ = 0;
          fragments_[std::min(current_, fragments_.size() - 1)].blocked = true;
        }
        break;
      }
      Fragment& after = fragments_[current_];
      if (after.wait.kind != Wait::Kind::kNothing) after.wait = {};
      ++after.pc;
      if (step == Step::kYield) return executed;
    } while (budget > 0 && fragments_.size() == 1);
  }
  instruction_ = nullptr;
  return executed;
}

bool Warp::time_out() {
  bool any = false;
  for (Fragment& fragment : fragments_) {
    if (fragment.wait.may_time_out && !fragment.wait.timed_out) any = fragment.wait.timed_out = true;
  }
  return any;
}

}  // namespace emulator
