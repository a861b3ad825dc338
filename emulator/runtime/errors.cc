// Error codes, their names and texts; what the calling thread has seen of them.
#include <cstdio>
#include <mutex>
#include <utility>

#include "emulator/runtime/runtime.h"
#include "emulator/runtime/state.h"

namespace emulator::runtime {
namespace {

struct Entry {
  cudaError_t code;
  const char* name;
  const char* text;
};

#define ENTRY(name, text) \
  { name, #name, text }
// The codes that this runtime returns, and those that callers ask for by name.
constexpr Entry kEntries[] = {
    ENTRY(cudaSuccess, "no error"),
    ENTRY(cudaErrorInvalidValue, "invalid argument"),
    ENTRY(cudaErrorMemoryAllocation, "out of memory"),
    ENTRY(cudaErrorInitializationError, "initialization error"),
    ENTRY(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    ENTRY(cudaErrorInvalidPitchValue, "invalid pitch argument"),
    ENTRY(cudaErrorInvalidSymbol, "invalid device symbol"),
    ENTRY(cudaErrorInvalidDevicePointer, "invalid device pointer"),
    ENTRY(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    ENTRY(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version"),
    ENTRY(cudaErrorMissingConfiguration, "__global__ function call is not configured"),
    ENTRY(cudaErrorInvalidDeviceFunction, "invalid device function"),
    ENTRY(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    ENTRY(cudaErrorInvalidDevice, "invalid device ordinal"),
    ENTRY(cudaErrorInvalidKernelImage, "device kernel image is invalid"),
    ENTRY(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device"),
    ENTRY(cudaErrorUnsupportedLimit, "limit is not supported on this architecture"),
    ENTRY(cudaErrorInvalidPtx, "a PTX JIT compilation failed"),
    ENTRY(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    ENTRY(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
    ENTRY(cudaErrorSymbolNotFound, "named symbol not found"),
    ENTRY(cudaErrorNotReady, "device not ready"),
    ENTRY(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    ENTRY(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    ENTRY(cudaErrorLaunchTimeout, "the launch timed out and was terminated"),
    ENTRY(cudaErrorAssert, "device-side assert triggered"),
    ENTRY(cudaErrorHostMemoryAlreadyRegistered, "part or all of the requested memory range is already mapped"),
    ENTRY(cudaErrorHostMemoryNotRegistered, "pointer does not correspond to a registered memory region"),
    ENTRY(cudaErrorIllegalInstruction, "an illegal instruction was encountered"),
    ENTRY(cudaErrorMisalignedAddress, "misaligned address"),
    ENTRY(cudaErrorInvalidAddressSpace, "operation not supported on global/shared address space"),
    ENTRY(cudaErrorInvalidPc, "invalid program counter"),
    ENTRY(cudaErrorLaunchFailure, "unspecified launch failure"),
    ENTRY(cudaErrorCooperativeLaunchTooLarge, "too many blocks in cooperative launch"),
    ENTRY(cudaErrorNotPermitted, "operation not permitted"),
    ENTRY(cudaErrorNotSupported, "operation not supported"),
    ENTRY(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    ENTRY(cudaErrorInvalidClusterSize, "a kernel launch error has occurred due to cluster misconfiguration"),
    ENTRY(cudaErrorUnknown, "unknown error"),
};
#undef ENTRY

const Entry* find_entry(cudaError_t code) {
  for (const Entry& entry : kEntries) {
    if (entry.code == code) return &entry;
  }
  return nullptr;
}

constexpr const char* kUnknown = "unrecognized error code";

// What this thread has seen.
struct Seen {
  cudaError_t last = cudaSuccess;
  cudaError_t unseen_fault = cudaSuccess;
  cudaError_t explained = cudaSuccess;  // the error that the text explains
  std::string explanation;
};

Seen& seen() {
  thread_local Seen seen;
  return seen;
}

struct Kept {
  std::mutex mutex;
  std::optional<Report> report;
};

// Never destroyed: kernels may still be run while the process ends.
Kept& kept() {
  static Kept* kept = new Kept;
  return *kept;
}

}  // namespace

void explain(cudaError_t error, const std::string& why) {
  const Entry* entry = find_entry(error);
  seen().explained = error;
  seen().explanation = std::string(entry ? entry->text : kUnknown) + ": " + why;
}

cudaError_t fail(cudaError_t error, const std::string& why) {
  Seen& mine = seen();
  mine.last = error;
  if (!why.empty()) {
    explain(error, why);
  } else if (mine.explained == error) {
    mine.explained = cudaSuccess;  // that was another one
  }
  return error;
}

cudaError_t to_error(FaultCode code) {
  switch (code) {
    case FaultCode::kIllegalAddress:
      return cudaErrorIllegalAddress;
    case FaultCode::kMisalignedAddress:
      return cudaErrorMisalignedAddress;
    case FaultCode::kIllegalInstruction:
      return cudaErrorIllegalInstruction;
    case FaultCode::kDeadlock:
      return cudaErrorLaunchTimeout;
    case FaultCode::kAssert:
      return cudaErrorAssert;
    case FaultCode::kTrap:
    case FaultCode::kUninitialized:
    case FaultCode::kRace:
    case FaultCode::kUnknownInstruction:
      return cudaErrorLaunchFailure;
  }
  return cudaErrorUnknown;
}

cudaError_t fail(const Report& report, bool unseen) {
  std::fprintf(stderr, "A kernel went wrong in the emulator:\n%s\n", report.text.c_str());
  {
    const std::lock_guard lock(kept().mutex);
    kept().report = report;
  }
  Seen& mine = seen();
  mine.last = mine.explained = to_error(report.code);
  mine.explanation = report.text;
  if (unseen) mine.unseen_fault = mine.last;
  return mine.last;
}

cudaError_t wait_for_device() {
  Seen& mine = seen();
  const cudaError_t fault = std::exchange(mine.unseen_fault, cudaSuccess);
  if (fault != cudaSuccess) mine.last = fault;
  return fault;
}

std::optional<Report> last_report() {
  const std::lock_guard lock(kept().mutex);
  return kept().report;
}

void forget_report() {
  const std::lock_guard lock(kept().mutex);
  kept().report.reset();
}

}  // namespace emulator::runtime

using namespace emulator::runtime;

const char* cudaGetErrorName(cudaError_t error) {
  const Entry* entry = find_entry(error);
  return entry ? entry->name : kUnknown;
}

const char* cudaGetErrorString(cudaError_t error) {
  if (error != cudaSuccess && error == seen().explained) return seen().explanation.c_str();
  const Entry* entry = find_entry(error);
  return entry ? entry->text : kUnknown;
}

cudaError_t cudaGetLastError() {
  seen().unseen_fault = cudaSuccess;
  return std::exchange(seen().last, cudaSuccess);
}

cudaError_t cudaPeekAtLastError() { return seen().last; }
