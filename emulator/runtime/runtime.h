// What the emulated CUDA runtime offers beyond the functions of CUDA's own headers, to bindings and tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "emulator/machine/machine.h"

namespace emulator::runtime {

// Global memory: what kernels may touch.
Memory& memory();

// What the latest kernel to go wrong, of any thread, went wrong with.
//
// Kernels run to their end in the call that launches them, so that call returns the error, and the calling thread's
// cudaGetErrorString of this error is the report's text. Unlike on a GPU, the error does not stay: later calls work.
std::optional<Report> last_report();
void forget_report();

// The modules of this program whose PTX can be read, for those who look at their text. They stay as long as it does.
std::vector<const Module*> modules();

// Makes buffers that belong to others (JAX) global memory for the time of a call. Several calls may share a buffer at
// the same time as long as none has it as a result.
class BorrowedBuffers {
 public:
  BorrowedBuffers() = default;
  ~BorrowedBuffers();
  BorrowedBuffers(const BorrowedBuffers&) = delete;
  BorrowedBuffers& operator=(const BorrowedBuffers&) = delete;

  // To be read only. Operands come before results.
  void operand(const void* begin, size_t bytes);
  // To be written, with nothing in it yet: its bytes are set to 0xFF, and reading one that no kernel wrote is a fault.
  // A result in the place of an operand keeps what is there.
  void result(void* begin, size_t bytes);

 private:
  std::vector<uint64_t> held_;  // an address in each
};

}  // namespace emulator::runtime
