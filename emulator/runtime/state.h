// What the parts of the runtime know together.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>

#include "emulator/machine/machine.h"
#include "emulator/runtime/device.h"

namespace emulator::runtime {

// --- Errors, which belong to the calling thread

// Returns the error, after keeping it for cudaGetLastError and `why`, if there is one, for cudaGetErrorString.
cudaError_t fail(cudaError_t error, const std::string& why = {});
// Only the latter.
void explain(cudaError_t error, const std::string& why);
// A kernel went wrong: as above, on stderr too. `unseen`: the launch was written <<<…>>>, which drops what it returns,
// so that the next call that waits for the device returns it again unless cudaGetLastError did.
cudaError_t fail(const Report& report, bool unseen);
cudaError_t to_error(FaultCode code);
// For calls that wait for the device: returns such an error, once, or success.
cudaError_t wait_for_device();

// --- Kernels

struct Binary;

// A kernel that was registered, and what cudaFuncSetAttribute says about it.
struct Kernel {
  Binary* binary = nullptr;
  std::string name;
  const Function* function = nullptr;  // null until it is asked for

  std::atomic<int> max_dynamic_shared{-1};  // -1: as much as there is by itself
  std::atomic<int> carveout{-1};
  std::atomic<int> cluster_policy{0};
  std::atomic<bool> non_portable_cluster{false};
  std::atomic<uint32_t> required_cluster[3] = {};  // zeros: none

  size_t dynamic_shared_limit() const;
  // The cluster that the kernel's text or its attributes require; zeros: none.
  Dim3 cluster() const;
};

// Finds what a host stub or a handle stands for, and makes it ready to run.
cudaError_t find_kernel(const void* symbol, Kernel** kernel);

// How many blocks a multiprocessor holds. It has registers enough for them: the emulator allocates none.
uint32_t blocks_per_sm(const Kernel& kernel, uint64_t threads, size_t dynamic_shared);

// --- Allocations

enum class Kind {
  kDevice,
  kManaged,
  kHost,
  kRegistered,  // the host's own, by cudaHostRegister
  kSymbol,      // a variable of a module
  kBorrowed,    // see BorrowedBuffers
};

// What fresh memory is filled with: NaN as a number, -1 as an index.
inline constexpr int kPoison = 0xFF;

struct Block {
  uint64_t begin = 0;
  size_t bytes = 0;
  Kind kind = Kind::kDevice;
  int holders = 0;          // of a borrowed one
  bool is_operand = false;  // likewise: some call only reads it
  bool is_result = false;
};

void add_block(const void* begin, size_t bytes, Kind kind);
// False unless there is such a block that begins there.
bool remove_block(const void* begin, Kind kind);
// The block around an address.
std::optional<Block> find_block(const void* address);

// --- Running: launches come one after another, and whoever replaces allocations keeps them out.
std::mutex& launch_lock();

}  // namespace emulator::runtime
