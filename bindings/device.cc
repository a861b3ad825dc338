#include "bindings/device.h"

#include <array>
#include <mutex>

namespace jax_flash_mla {

namespace ffi = xla::ffi;

namespace {

constexpr int kMaxDevices = 64;

struct Entry {
  std::once_flag once;
  cudaError_t status = cudaSuccess;
  Device device;
};

void ask(int ordinal, Entry& entry) {
  const auto attribute = [&](int& value, cudaDeviceAttr which) {
    if (entry.status == cudaSuccess) entry.status = cudaDeviceGetAttribute(&value, which, ordinal);
  };
  attribute(entry.device.major, cudaDevAttrComputeCapabilityMajor);
  attribute(entry.device.minor, cudaDevAttrComputeCapabilityMinor);
  attribute(entry.device.num_sms, cudaDevAttrMultiProcessorCount);
  cudaDeviceProp properties;
  if (entry.status == cudaSuccess) entry.status = cudaGetDeviceProperties(&properties, ordinal);
  if (entry.status == cudaSuccess) entry.device.name = properties.name;
}

}  // namespace

ffi::ErrorOr<const Device*> current_device() {
  static std::array<Entry, kMaxDevices> entries;
  int ordinal = 0;
  if (auto error = to_error(cudaGetDevice(&ordinal), "cudaGetDevice"); error.failure()) return ffi::Unexpected(error);
  if (ordinal >= kMaxDevices) {
    return ffi::Unexpected(ffi::Error::Internal("device ordinals from 64 on are not supported"));
  }
  Entry& entry = entries[ordinal];
  std::call_once(entry.once, ask, ordinal, std::ref(entry));
  if (auto error = to_error(entry.status, "reading device attributes"); error.failure()) return ffi::Unexpected(error);
  return &entry.device;
}

ffi::Error to_error(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return ffi::Error::Success();
  return ffi::Error::Internal(std::string(what) + ": " + cudaGetErrorName(status) + ", " + cudaGetErrorString(status));
}

ffi::Error no_kernel_for(const Device& device, const char* operation) {
  return ffi::Error(ffi::ErrorCode::kFailedPrecondition,
                    std::string("jax_flash_mla has no ") + operation + " kernel for " + device.name +
                        " (compute capability " + std::to_string(device.major) + "." + std::to_string(device.minor) +
                        "); pass implementation=\"xla\"");
}

}  // namespace jax_flash_mla
