// Launches of kernels that keep a whole multiprocessor to themselves.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace jax_flash_mla::device {

// Makes a kernel ready: setting attributes loads it, which must not happen while a graph is captured.
template <typename... Parameters>
cudaError_t prepare(void (*kernel)(Parameters...), size_t shared_bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
}

struct Blocks {
  int count, threads;
  size_t shared_bytes;
  bool may_wait_for_each_other;
};

template <typename... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), const Blocks& blocks, cudaStream_t stream,
                   const Parameters&... parameters) {
  cudaLaunchConfig_t config = {};
  config.stream = stream;
  config.gridDim = dim3(blocks.count);
  config.blockDim = dim3(blocks.threads);
  config.dynamicSmemBytes = blocks.shared_bytes;
  cudaLaunchAttribute cooperative;
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  config.attrs = &cooperative;
  config.numAttrs = blocks.may_wait_for_each_other ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, parameters...);
}

}  // namespace jax_flash_mla::device
