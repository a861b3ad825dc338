#include "emulator/machine/loaded_registers.h"

#include <unordered_set>

namespace emulator {
namespace {

bool is_load(const Instruction& instruction) {
  return instruction.text && instruction.text->parts.size() > 1 && instruction.text->parts[0] == "tcgen05" &&
         instruction.text->parts[1] == "ld";
}

bool is_copy(const Instruction& instruction) { return instruction.text && instruction.text->parts[0] == "mov"; }

// A register that may have something of a load in it: two of them are packed into one of 64 bits.
bool is_register(const Operand& operand) { return operand.bits >= 16 && !operand.constant; }

template <typename F>
void for_registers(const Instruction& instruction, F&& f) {
  for (int i = 0; i < instruction.operand_count; ++i) {
    if (is_register(instruction.operands[i])) f(instruction.operands[i]);
  }
}

template <typename F>
void for_targets(const Instruction& instruction, F&& f) {
  for_registers(instruction, [&](const Operand& operand) {
    if (operand.is_target) f(operand);
  });
}

}  // namespace

void LoadedRegisters::begin(const std::byte* registers, const Instruction& load) {
  ++begun_;
  for_targets(load, [&](const Operand& operand) { states_[registers + operand.offset] = {&load, begun_, false}; });
}

RegisterMisuse LoadedRegisters::touch(const std::byte* registers, const Instruction& instruction) {
  if (begun_ == waited_) return {};
  const bool copies = is_copy(instruction), loads = is_load(instruction);
  State copied;
  for (int i = 0; i < instruction.operand_count; ++i) {
    const Operand& operand = instruction.operands[i];
    if (!is_register(operand)) continue;
    const auto found = states_.find(registers + operand.offset);
    if (found == states_.end() || found->second.number <= waited_) continue;
    const State& state = found->second;
    if (operand.is_target) {
      if (loads || state.is_copy) continue;
      return {"It writes a register that a tcgen05.ld fills, which no tcgen05.wait::ld has waited for.", "filled",
              state.load};
    }
    if (!copies) {
      return {"It reads a register that a tcgen05.ld fills, which no tcgen05.wait::ld has waited for.", "filled",
              state.load};
    }
    copied = {state.load, state.number, true};
  }
  if (!loads) {
    for_targets(instruction, [&](const Operand& operand) { states_[registers + operand.offset] = copied; });
  }
  return {};
}

void mark_loaded_registers(Function& function) {
  std::unordered_set<uint32_t> places;
  const auto add_targets = [&](const Instruction& instruction) {
    const size_t before = places.size();
    for_targets(instruction, [&](const Operand& operand) { places.insert(operand.offset); });
    return places.size() > before;
  };
  const auto has_one = [&](const Instruction& instruction) {
    bool found = false;
    for_registers(instruction, [&](const Operand& operand) { found |= places.count(operand.offset) > 0; });
    return found;
  };
  for (const Instruction& instruction : function.code) {
    if (is_load(instruction)) add_targets(instruction);
  }
  if (places.empty()) return;
  for (bool grows = true; grows;) {  // copies of copies
    grows = false;
    for (const Instruction& instruction : function.code) {
      if (is_copy(instruction) && has_one(instruction)) grows |= add_targets(instruction);
    }
  }
  for (Instruction& instruction : function.code) instruction.touches_loads = has_one(instruction);
}

}  // namespace emulator
