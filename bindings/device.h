// The device of the calling thread, and errors as values.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "xla/ffi/api/ffi.h"

namespace jax_flash_mla {

// What a dispatch needs to know of a device.
struct Device {
  int major = 0, minor = 0;  // compute capability
  int num_sms = 0;
  std::string name;
};

// Facts of the current device, asked for once for each device. XLA makes a handler's device current.
xla::ffi::ErrorOr<const Device*> current_device();

// kInternal naming the call, what it was doing and to what, or success.
xla::ffi::Error to_error(cudaError_t status, const char* doing, const char* what = "");

// kFailedPrecondition for a device that an operation has no kernel for.
xla::ffi::Error no_kernel_for(const Device& device, const char* operation);

}  // namespace jax_flash_mla
