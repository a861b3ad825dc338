// Memory that is all ones until it is written, and takes no room until then.
//
// A kernel's registers are many, since PTX has a new one for each value, and most warps come to few of them: their role's.
#pragma once

#include <cstddef>

namespace emulator {

class PoisonedMemory {
 public:
  PoisonedMemory() = default;
  explicit PoisonedMemory(size_t bytes);
  PoisonedMemory(PoisonedMemory&& other) noexcept;
  PoisonedMemory& operator=(PoisonedMemory&& other) noexcept;
  ~PoisonedMemory();

  std::byte* data() const { return data_; }  // aligned to 64

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace emulator
