// Kernels that lack one of their instructions on purpose, so that tests see whether it would be missed.
#pragma once

#include <memory>

#include "emulator/machine/program.h"

namespace emulator {

// The kernel without the instruction that JAX_FLASH_MLA_EMULATOR_WITHOUT names, KERNEL:LINE of the PTX; null where it names
// another kernel. Who tests whether a phase is over then finds that it is. The kernel has to stay. Throws
// std::invalid_argument where there is no instruction on that line.
std::unique_ptr<Function> without_named_instruction(const Function& kernel);

}  // namespace emulator
