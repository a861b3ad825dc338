#include "bindings/device.h"

#include <array>
#include <mutex>
#include <optional>
#include <string>

namespace jax_flash_mla {

namespace ffi = xla::ffi;

namespace {

constexpr int kMaxDevices = 64;

struct Entry {
  std::mutex mutex;
  std::optional<Device> device;
};

cudaError_t ask(int ordinal, Device& device) {
  cudaError_t status = cudaSuccess;
  const auto attribute = [&](int& value, cudaDeviceAttr which) {
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(&value, which, ordinal);
  };
  attribute(device.major, cudaDevAttrComputeCapabilityMajor);
  attribute(device.minor, cudaDevAttrComputeCapabilityMinor);
  attribute(device.num_sms, cudaDevAttrMultiProcessorCount);
  cudaDeviceProp properties;
  if (status == cudaSuccess) status = cudaGetDeviceProperties(&properties, ordinal);
  if (status == cudaSuccess) device.name = properties.name;
  return status;
}

}  // namespace

ffi::ErrorOr<const Device*> current_device() {
  static std::array<Entry, kMaxDevices> entries;
  int ordinal = 0;
  if (auto error = to_error(cudaGetDevice(&ordinal), "cudaGetDevice"); error.failure()) return ffi::Unexpected(error);
  if (ordinal >= kMaxDevices) {
    return ffi::Unexpected(
        ffi::Error::Internal("device ordinals from 64 on are not supported, got " + std::to_string(ordinal)));
  }
  Entry& entry = entries[ordinal];
  const std::lock_guard lock(entry.mutex);
  if (!entry.device) {
    // Kept once it succeeds: what failed may have been out of order for the moment.
    Device device;
    if (auto error = to_error(ask(ordinal, device), "reading device attributes"); error.failure()) {
      return ffi::Unexpected(error);
    }
    entry.device = device;
  }
  return &*entry.device;
}

ffi::Error to_error(cudaError_t status, const char* doing, const char* what) {
  if (status == cudaSuccess) return ffi::Error::Success();
  return ffi::Error::Internal(std::string(doing) + what + ": " + cudaGetErrorName(status) + ", " +
                              cudaGetErrorString(status));
}

ffi::Error no_kernel_for(const Device& device, const char* operation) {
  return ffi::Error(ffi::ErrorCode::kFailedPrecondition,
                    std::string("jax_flash_mla has no ") + operation + " kernel for " + device.name +
                        " (compute capability " + std::to_string(device.major) + "." + std::to_string(device.minor) +
                        "); pass implementation=\"xla\"");
}

}  // namespace jax_flash_mla
