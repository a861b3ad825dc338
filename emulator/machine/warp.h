// A warp: 32 lanes that execute one instruction at a time, in groups that are at different places where they diverged.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <type_traits>
#include <vector>

#include "emulator/machine/fault.h"
#include "emulator/machine/loop_watch.h"
#include "emulator/machine/memory.h"
#include "emulator/machine/poisoned_memory.h"
#include "emulator/machine/program.h"

namespace emulator {

class Cta;
class Debugger;

// Which window an address is in, as an instruction says; kGeneric: as the address itself says.
enum class Space : int32_t { kGeneric, kGlobal, kShared, kLocal, kParam, kConst };

// What a group of lanes waits for. Kept while it waits, so that an instruction executed again knows that it was before.
struct Wait {
  enum class Kind {
    kNothing,
    kLanes,
    kMbarrier,
    kNamedBarrier,
    kClusterBarrier,
    kWarpgroup,
    kRegisters,
    kTensorMemory
  };
  Kind kind = Kind::kNothing;
  uint32_t address = 0;     // kMbarrier; kNamedBarrier: its number; kLanes: which; kRegisters, kTensorMemory: how many
  uint32_t phase = 0;       // kMbarrier: the parity
  uint64_t generation = 0;  // of the barrier when these lanes arrived there
  bool arrived = false;     // these lanes are counted already
  bool may_time_out = false;
  bool timed_out = false;  // set when nothing else in the machine moves: the instruction gives up once
};

// An activation of a function: its registers, for all lanes that entered it together.
struct Frame {
  const Function* function = nullptr;
  PoisonedMemory registers;
  uint32_t local_base = 0;  // of its part of each thread's local memory
  std::shared_ptr<Frame> caller;
  uint32_t return_to = 0;  // instruction of the caller
  int depth = 0;
};

// Lanes at the same place.
struct Fragment {
  std::shared_ptr<Frame> frame;
  uint32_t pc = 0;
  Mask lanes = 0;
  Wait wait;
  bool blocked = false;    // not to be tried before something has changed
  uint64_t waited_at = 0;  // how much had changed when it last had to wait, see Warp::changes
};

// Whether there is a special register of a name that keeps its value; those that count time do not.
bool is_constant_special(const std::string& name);

// A register of some type as lanes see it. Types of at most 4 bytes lie in slots of 4.
template <typename T>
using SlotOf = std::conditional_t<(sizeof(T) > 4), uint64_t, uint32_t>;

template <typename T>
T from_slot(SlotOf<T> slot) {
  T value;
  std::memcpy(&value, &slot, sizeof(T));
  return value;
}
template <typename T>
SlotOf<T> to_slot(T value) {
  SlotOf<T> slot = 0;
  std::memcpy(&slot, &value, sizeof(T));
  return slot;
}

class Warp {
 public:
  Warp(Cta& cta, int index, const Function& kernel, Mask lanes);

  Cta& cta() { return cta_; }
  int index() const { return index_; }
  Mask live() const { return live_; }  // lanes that have not exited
  bool done() const { return live_ == 0; }
  int thread(int lane) const { return index_ * kLanes + lane; }

  // --- Registers of the current function. Handlers must write only lanes of their mask: see `store`.
  const uint32_t* slots32(const Operand& operand) const { return reinterpret_cast<const uint32_t*>(place(operand)); }
  const uint64_t* slots64(const Operand& operand) const { return reinterpret_cast<const uint64_t*>(place(operand)); }
  template <typename T>
  const SlotOf<T>* slots(const Operand& operand) const {
    return reinterpret_cast<const SlotOf<T>*>(place(operand));
  }
  template <typename T>
  T get(const Operand& operand, int lane) const {
    return from_slot<T>(slots<T>(operand)[lane]);
  }
  // A register of any width, widened with zeros.
  uint64_t get_any(const Operand& operand, int lane) const {
    return is_wide(operand) ? slots64(operand)[lane] : slots32(operand)[lane];
  }
  const std::byte* registers() const { return registers_; }
  // Where a destination lies; a sink has a place nobody reads.
  uint32_t* target32(const Operand& operand) { return reinterpret_cast<uint32_t*>(target(operand)); }
  uint64_t* target64(const Operand& operand) { return reinterpret_cast<uint64_t*>(target(operand)); }
  // Puts one value for each lane of the mask.
  template <typename T>
  void store(const Operand& operand, const T (&values)[kLanes], Mask mask);
  template <typename T>
  void put(const Operand& operand, int lane, T value) {
    reinterpret_cast<SlotOf<T>*>(target(operand))[lane] = to_slot(value);
  }
  void put_any(const Operand& operand, int lane, uint64_t value) {
    if (is_wide(operand))
      target64(operand)[lane] = value;
    else
      target32(operand)[lane] = operand.bits == 16 ? uint16_t(value) : uint32_t(value);
  }
  // The bytes of a register in one lane.
  const std::byte* bytes(const Operand& operand, int lane) const {
    return place(operand) + size_t(lane) * slot_bytes(operand);
  }
  std::byte* target_bytes(const Operand& operand, int lane) {
    return target(operand) + size_t(lane) * slot_bytes(operand);
  }
  Mask predicate(const Operand& operand) const {
    Mask value;
    std::memcpy(&value, place(operand), sizeof(value));
    return operand.negated ? ~value : value;
  }
  void set_predicate(const Operand& operand, Mask values, Mask mask);

  // --- Memory
  // The addresses that an address operand has in each lane. Those of 32 bits end where 32 bits do, as the registers'
  // own sums.
  void addresses(const Operand& operand, uint64_t (&out)[kLanes]) const;
  uint64_t address(const Operand& operand, int lane) const {
    const uint64_t sum = (operand.bits == 0 ? 0 : get_any(operand, lane)) + uint64_t(operand.displacement);
    return operand.bits == 32 ? uint32_t(sum) : sum;
  }
  // Where the bytes of an address are, after checking that `lane` may access them so; they are aligned to `alignment`.
  std::byte* resolve(Space space, uint64_t address, size_t bytes, Access access, int lane, size_t alignment);
  std::byte* resolve(Space space, uint64_t address, size_t bytes, Access access, int lane) {
    return resolve(space, address, bytes, access, lane, bytes);
  }

  // Puts bytes there.
  void write(Space space, uint64_t address, const void* from, size_t bytes, int lane, size_t alignment);
  // To be called when memory has become other than it was, or a value was read that nothing here decides.
  void note_change(Space space, uint64_t address);
  void note_private_change() { ++private_changes_; }

  // --- Control, for handlers
  Fragment& fragment() { return fragments_[current_]; }
  void jump(Mask lanes, uint32_t target);
  void exit(Mask lanes);
  void call(Mask lanes, const Function& callee, uint32_t return_to);
  void return_from_function(Mask lanes);
  // Where a parameter or result of a function that was called lies in its frame.
  std::byte* parameter(const Frame& callee, const Call::Copy& copy, int lane);
  // Local memory that a call passes on: it counts as written.
  std::byte* passed(int lane, uint32_t offset, uint32_t bytes);
  // Returns Step::kWait for a wait of this kind, keeping what the fragment's wait already holds if it is of that kind.
  Step wait_for(Wait::Kind kind, uint32_t address = 0, uint32_t phase = 0);
  // Which generation of the cluster's barrier a lane has arrived at, counted from 1; 0 after it has waited.
  uint64_t cluster_arrival(int lane) const { return cluster_arrival_[lane]; }
  void set_cluster_arrival(int lane, uint64_t generation) { cluster_arrival_[lane] = generation; }
  // How many matrix products and fences of its warpgroup the warp has come to.
  uint64_t wgmma_products = 0, wgmma_fences = 0;
  // Registers of each of the warp's threads, as setmaxnreg changes them; 0: as at the launch.
  int registers_per_thread = 0;
  std::byte* local(int lane) { return local_.data() + size_t(lane) * local_capacity_; }

  // --- For the scheduler
  // Executes up to so many instructions; returns how many were executed and did not have to wait.
  int run(int budget);
  // Whether it stopped because it goes round in a loop, as it will for as long as nothing changes.
  bool goes_round() const { return goes_round_; }
  // Lets one of the waits that may time out do so; false if there is none.
  bool time_out();
  const std::vector<Fragment>& fragments() const { return fragments_; }
  // Does what an earlier instruction of this warp began.
  void impersonate(const Instruction* instruction, Mask lanes, const std::function<void()>& action);
  // What is executed just now; null between instructions.
  const Instruction* instruction() const { return instruction_; }
  Mask executing() const { return executing_; }

 private:
  static size_t slot_bytes(const Operand& operand) { return operand.bits > 64 ? 16 : operand.bits > 32 ? 8 : 4; }
  static bool is_wide(const Operand& operand) { return operand.bits > 32; }
  const std::byte* place(const Operand& operand) const {
    return operand.constant ? operand.constant : registers_ + operand.offset;
  }
  std::byte* target(const Operand& operand) { return operand.bits ? registers_ + operand.offset : sink_; }
  std::shared_ptr<Frame> enter(const Function& function, std::shared_ptr<Frame> caller, uint32_t return_to);
  uint64_t special(const std::string& name, int lane) const;
  bool pick();
  void unblock();
  Mask gather(const Instruction& instruction, Mask mask);
  bool meet(Mask others);
  void split_off(Mask lanes, uint32_t pc);
  Step execute_watched(Debugger& debugger, const Instruction& instruction, Mask mask);
  void grow_local(uint32_t bytes);
  uint8_t* local_written(int lane) { return local_written_.data() + size_t(lane) * local_capacity_; }
  uint64_t changes() const;
  bool has_come_round();
  std::vector<std::byte> state() const;

  Cta& cta_;
  int index_;
  Mask live_;
  std::vector<Fragment> fragments_;
  size_t current_ = 0;
  std::byte* registers_ = nullptr;  // of the current fragment's frame
  const Instruction* instruction_ = nullptr;
  Mask executing_ = 0;
  int backward_jumps_ = 0;
  LoopWatch loop_watch_;
  bool goes_round_ = false;
  uint64_t private_changes_ = 0;  // of what only this warp sees
  uint64_t cluster_arrival_[kLanes] = {};
  std::vector<std::byte> local_;
  std::vector<uint8_t> local_written_;  // a byte for each byte
  uint32_t local_capacity_ = 0;
  Allocation* last_allocation_ = nullptr;
  alignas(64) std::byte sink_[16 * kLanes];
};

template <typename T>
void Warp::store(const Operand& operand, const T (&values)[kLanes], Mask mask) {
  auto* slots = reinterpret_cast<SlotOf<T>*>(target(operand));
  if (mask == kAllLanes) {
    for (int lane = 0; lane < kLanes; ++lane) slots[lane] = to_slot(values[lane]);
  } else {
    for (int lane = 0; lane < kLanes; ++lane) {
      if (mask >> lane & 1) slots[lane] = to_slot(values[lane]);
    }
  }
}

// Calls f(lane) for each lane of a mask.
template <typename F>
void for_lanes(Mask mask, F&& f) {
  if (mask == kAllLanes) {
    for (int lane = 0; lane < kLanes; ++lane) f(lane);
  } else {
    for (; mask; mask &= mask - 1) f(__builtin_ctz(mask));
  }
}

inline int first_lane(Mask mask) { return __builtin_ctz(mask); }

}  // namespace emulator
