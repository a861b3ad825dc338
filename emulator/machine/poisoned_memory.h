// Memory that is all ones until it is written, and takes no room until then.
//
// A kernel's registers are many, since PTX has a new one for each value, and most warps come to few of them: their role's.
#pragma once

#include <cstddef>
#include <memory>

namespace emulator {

struct PoisonedMemoryRelease {
  size_t bytes = 0;
  void operator()(std::byte* memory) const;
};
using PoisonedMemory = std::unique_ptr<std::byte, PoisonedMemoryRelease>;

// Aligned to 64.
PoisonedMemory poisoned_memory(size_t bytes);

}  // namespace emulator
