// What the files of asynchronous copies share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "emulator/machine/cta.h"
#include "emulator/machine/instruction_set.h"
#include "emulator/machine/memory.h"

namespace emulator {

// --- Lowerings of instructions that share their first part. What is named here has been taken from the modifiers.
void lower_bulk_copy(Lowering& l);         // cp.async.bulk
void lower_bulk_reduction(Lowering& l);    // cp.reduce.async.bulk
void lower_tensor_copy(Lowering& l);       // cp.async.bulk.tensor
void lower_tensor_prefetch(Lowering& l);   // cp.async.bulk.prefetch.tensor
void lower_tensor_reduction(Lowering& l);  // cp.reduce.async.bulk.tensor
void lower_async_store(Lowering& l);       // st.async
void lower_async_reduction(Lowering& l);   // red.async

// Unknown unless the instruction has so many operands.
void need_operands(Lowering& l, size_t count);

// --- Handlers
Step do_nothing(Warp& warp, const Instruction& instruction, Mask mask);
// Of what threads count; modes[0]: Counted. Waits that are for some copies wait for all: nobody can tell, for those others
// might have been as fast. Only who looks for races knows which were waited for; modes[1]: how many groups may be pending,
// kNoGroups: copies of no group are waited for, too.
inline constexpr int32_t kNoGroups = -1;
Step commit_copies(Warp& warp, const Instruction& instruction, Mask mask);
Step wait_for_copies(Warp& warp, const Instruction& instruction, Mask mask);
void lower_commit(Lowering& l, Counted kind);
void lower_wait(Lowering& l, Counted kind);

// --- Memory
// Throws a Fault; `what` names what is at the address.
void need_alignment(uint64_t address, uint64_t alignment, const char* what);
// That the shared memory at an address is the CTA's own.
void need_own(const Cta& cta, uint32_t address);
std::byte* global_bytes(Cta& cta, uint64_t address, size_t bytes, Access access, Allocation** last);

// A copy into shared memory: where to, and the barrier that is told.
struct Delivery {
  uint32_t destination = 0;
  uint32_t barrier = 0;
  std::optional<uint16_t> ctas;  // of a multicast
  bool to_pairs = false;         // .cta_group::2

  // Calls f(destination, barrier) for each CTA; both are at the same offsets in all of them. Of pairs, the barriers are
  // in the CTAs of even rank, or in those of odd rank, as the one that the instruction names.
  template <typename F>
  void for_each(F&& f) const {
    if (!ctas) {
      f(destination, barrier);
      return;
    }
    constexpr uint32_t kOffset = (1u << kRankShift) - 1;
    for (uint32_t rank = 0; rank < 16; ++rank) {
      if (!(*ctas >> rank & 1)) continue;
      const uint32_t barrier_rank = to_pairs ? (rank & ~1u) | (barrier >> kRankShift & 1) : rank;
      f((destination & kOffset) | rank << kRankShift, (barrier & kOffset) | barrier_rank << kRankShift);
    }
  }
};

// --- Reductions by copies
enum class Reduction : int32_t { kAdd, kMin, kMax, kInc, kDec, kAnd, kOr, kXor };

Reduction need_reduction(Lowering& l);
// Whether the PTX ISA has it for elements of that type, into global or into shared memory.
bool has_reduction(Reduction reduction, Type type, bool into_global);
// Reduces elements one after another, each of them atomically if they are in global memory.
void reduce(std::byte* destination, const std::byte* source, size_t bytes, Reduction reduction, Type type, bool global);

}  // namespace emulator
