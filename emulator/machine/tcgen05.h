// What the files of tcgen05 instructions share.
#pragma once

#include <cstdint>

#include "emulator/machine/cta.h"
#include "emulator/machine/instruction_set.h"

namespace emulator {

// --- Lowerings of instructions that share their first part. What is named here has been taken from the modifiers.
void lower_tensor_allocation(Lowering& l, std::string_view what);  // tcgen05.alloc, .dealloc, .relinquish_alloc_permit
void lower_tensor_move(Lowering& l, bool is_load);                 // tcgen05.ld, .st
void lower_tensor_fill(Lowering& l);                               // tcgen05.cp
void lower_tensor_shift(Lowering& l);                              // tcgen05.shift
void lower_tensor_product(Lowering& l);                            // tcgen05.mma

// --- .cta_group
// 1 or 2.
int32_t take_group(Lowering& l);
// A Fault unless the CTA may execute an instruction of that group: of two, its peer has to be there and live.
void check_group(Cta& cta, int32_t group);
// The CTA whose rank in the cluster differs in the last bit.
Cta& peer_of(Cta& cta);
// Those that an instruction of the group acts on, the one of even rank first.
template <typename F>
void for_group(Cta& cta, int32_t group, F&& f) {
  if (group == 1) return f(cta, 0);
  Cta& peer = peer_of(cta);
  const bool is_even = cta.rank() % 2 == 0;
  f(is_even ? cta : peer, 0);
  f(is_even ? peer : cta, 1);
}

// --- Races: an operation that was issued before accesses columns of a lane.
void touch_columns(Cta& cta, uint32_t lane, uint32_t column, uint32_t count, Access access);
// Where a column of a lane is, for who looks for races.
constexpr uint32_t offset_of(uint32_t lane, uint32_t column) {
  return (lane * kTensorColumns + column) * uint32_t(sizeof(uint32_t));
}

// --- Values that all lanes of a warp have to agree about; `what` names them.
uint32_t uniform(Warp& warp, const Operand& operand, const char* what);
void need_whole_warp(Mask mask);

}  // namespace emulator
