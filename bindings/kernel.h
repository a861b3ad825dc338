// The kernels of an operation, and what their handlers do with them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <initializer_list>

#include "bindings/device.h"
#include "xla/ffi/api/ffi.h"

namespace jax_flash_mla {

// One instance, for an architecture and whatever else it is compiled for; absent where this build has none.
template <typename Params>
struct Kernel {
  cudaError_t (*launch)(const Params&, int num_sms, cudaStream_t) = nullptr;
  cudaError_t (*initialize)() = nullptr;
};

// Launches the instance `kernel_for(device)` for the current device.
template <typename KernelFor, typename Params>
xla::ffi::Error launch_kernel(const char* operation, const KernelFor& kernel_for, const Params& params,
                              cudaStream_t stream) {
  const auto device = current_device();
  if (device.has_error()) return device.error();
  const Kernel<Params> kernel = kernel_for(**device);
  if (!kernel.launch) return no_kernel_for(**device, operation);
  return to_error(kernel.launch(params, (*device)->num_sms, stream), "launching ", operation);
}

// What a call without an element to compute does: some work, since there are versions of XLA that refuse to capture a call
// that does none.
inline xla::ffi::Error clear_scratch(const char* operation, float* scratch, size_t elements, cudaStream_t stream) {
  return to_error(cudaMemsetAsync(scratch, 0, elements * sizeof(float), stream), "clearing scratch of ", operation);
}

// Loads instances on the current device and sets their attributes, which must not happen while a graph is captured.
// `kernel_for(device, kind)` for each kind; an architecture may have kernels for some of them.
template <typename KernelFor, typename Kind>
xla::ffi::Error initialize_kernels(const char* operation, const KernelFor& kernel_for,
                                   std::initializer_list<Kind> kinds) {
  const auto device = current_device();
  if (device.has_error()) return device.error();
  bool has_kernel = false;
  for (const Kind& kind : kinds) {
    const auto kernel = kernel_for(**device, kind);
    if (!kernel.initialize) continue;
    has_kernel = true;
    if (auto error = to_error(kernel.initialize(), "loading ", operation); error.failure()) return error;
  }
  return has_kernel ? xla::ffi::Error::Success() : no_kernel_for(**device, operation);
}

}  // namespace jax_flash_mla
