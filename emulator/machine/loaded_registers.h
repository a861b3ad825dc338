// Registers that tcgen05.ld fills: nobody may use them before tcgen05.wait::ld. Compilers copy them before, by mov, and
// those copies are as little to be used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>

#include "emulator/machine/product_registers.h"
#include "emulator/machine/program.h"

namespace emulator {

// Those of a warp.
class LoadedRegisters {
 public:
  // `registers`: where those of the function are.
  void begin(const std::byte* registers, const Instruction& load);
  void wait() { waited_ = begun_; }
  // Another instruction that touches registers which are loaded at some time, or copies of these.
  RegisterMisuse touch(const std::byte* registers, const Instruction& instruction);

 private:
  struct State {
    const Instruction* load = nullptr;
    uint32_t number = 0;  // of the load
    bool is_copy = false;
  };

  std::unordered_map<const std::byte*, State> states_;
  uint32_t begun_ = 0, waited_ = 0;  // loads
};

// Finds the instructions of a function that are to be told to `touch`.
void mark_loaded_registers(Function& function);

}  // namespace emulator
