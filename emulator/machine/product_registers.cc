#include "emulator/machine/product_registers.h"

#include <unordered_set>

namespace emulator {
namespace {

bool is_product(const Instruction& instruction) {
  return instruction.text && instruction.text->parts.size() > 1 && instruction.text->parts[0] == "wgmma" &&
         instruction.text->parts[1] == "mma_async";
}

bool is_register(const Operand& operand) { return operand.bits == 32 && !operand.constant; }

}  // namespace

RegisterMisuse ProductRegisters::begin(const std::byte* registers, const Instruction& product, int accumulators,
                                       int factors, uint32_t number) {
  if (fences_ == 0) return {"There was no wgmma.fence before the first product."};
  for (int i = 0; i < accumulators + factors; ++i) {
    if (!is_register(product.operands[i])) continue;
    State& state = states_[registers + product.operands[i].offset];
    if (state.written_after == fences_ + 1) {
      return {"The product uses a register that was written after the last wgmma.fence.", "written", state.writes};
    }
    if (i < accumulators) {
      state.accumulates = &product;
      state.accumulated_by = number;
    } else {
      state.multiplies = &product;
      state.multiplied_by = number;
    }
  }
  return {};
}

RegisterMisuse ProductRegisters::touch(const std::byte* registers, const Instruction& instruction) {
  for (int i = 0; i < instruction.operand_count; ++i) {
    const Operand& operand = instruction.operands[i];
    if (!is_register(operand)) continue;
    State& state = states_[registers + operand.offset];
    if (state.accumulated_by > done_) {
      return {operand.is_target ? "It writes an accumulator of a product that no wgmma.wait_group has waited for."
                                : "It reads an accumulator of a product that no wgmma.wait_group has waited for.",
              "given to the product", state.accumulates};
    }
    if (!operand.is_target) continue;
    if (state.multiplied_by > done_) {
      return {"It writes a register that is a factor of a product, which no wgmma.wait_group has waited for.",
              "given to the product", state.multiplies};
    }
    state.written_after = fences_ + 1;
    state.writes = &instruction;
  }
  return {};
}

void mark_product_registers(Function& function) {
  std::unordered_set<uint32_t> places;
  for (const Instruction& instruction : function.code) {
    if (!is_product(instruction)) continue;
    for (int i = 0; i < instruction.operand_count; ++i) {
      if (is_register(instruction.operands[i])) places.insert(instruction.operands[i].offset);
    }
  }
  if (places.empty()) return;
  for (Instruction& instruction : function.code) {
    if (is_product(instruction)) continue;
    for (int i = 0; i < instruction.operand_count; ++i) {
      const Operand& operand = instruction.operands[i];
      instruction.touches_products |= is_register(operand) && places.count(operand.offset) > 0;
    }
  }
}

}  // namespace emulator
