// Registers that a warp has lent to matrix products: nobody may touch accumulators, or write factors, until
// wgmma.wait_group says that the product is done; and what was written before counts from wgmma.fence on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>

#include "emulator/machine/program.h"

namespace emulator {

// What was wrong, and the other instruction that has to do with it.
struct RegisterMisuse {
  const char* what = nullptr;  // null: nothing
  const char* other_did = nullptr;
  const Instruction* other = nullptr;
};

class ProductRegisters {
 public:
  void fence() { ++fences_; }
  // A product, of a number that grows. `registers`: where those of the function are.
  RegisterMisuse begin(const std::byte* registers, const Instruction& product, int accumulators, int factors,
                       uint32_t number);
  void wait(uint32_t done) { done_ = done; }
  // Another instruction that touches registers which are a product's at some time.
  RegisterMisuse touch(const std::byte* registers, const Instruction& instruction);

 private:
  struct State {
    const Instruction *accumulates = nullptr, *multiplies = nullptr, *writes = nullptr;
    uint32_t accumulated_by = 0, multiplied_by = 0;  // products
    uint32_t written_after = 0;                      // so many fences, and one
  };

  std::unordered_map<const std::byte*, State> states_;
  uint32_t fences_ = 0, done_ = 0;
};

// Finds the instructions of a function that are to be told to `touch`.
void mark_product_registers(Function& function);

}  // namespace emulator
