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
  int cluster_size = 1;
};

// The same as the runtime has it.
class LaunchConfig {
 public:
  explicit LaunchConfig(const Blocks& blocks, cudaStream_t stream = nullptr) {
    config_.stream = stream;
    config_.gridDim = dim3(blocks.count);
    config_.blockDim = dim3(blocks.threads);
    config_.dynamicSmemBytes = blocks.shared_bytes;
    config_.attrs = attributes_;
    if (blocks.may_wait_for_each_other) {
      cudaLaunchAttribute& cooperative = attributes_[config_.numAttrs++];
      cooperative.id = cudaLaunchAttributeCooperative;
      cooperative.val.cooperative = 1;
    }
    if (blocks.cluster_size > 1) {
      cudaLaunchAttribute& cluster = attributes_[config_.numAttrs++];
      cluster.id = cudaLaunchAttributeClusterDimension;
      cluster.val.clusterDim.x = blocks.cluster_size;
      cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    }
  }
  LaunchConfig(const LaunchConfig&) = delete;
  LaunchConfig& operator=(const LaunchConfig&) = delete;

  const cudaLaunchConfig_t* get() const { return &config_; }

 private:
  cudaLaunchConfig_t config_ = {};
  cudaLaunchAttribute attributes_[2];
};

template <typename... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), const Blocks& blocks, cudaStream_t stream,
                   const Parameters&... parameters) {
  const LaunchConfig config(blocks, stream);
  return cudaLaunchKernelEx(config.get(), kernel, parameters...);
}

// How many clusters the device holds at a time: fewer than there is room for, where multiprocessors next to each other are
// missing.
template <typename... Parameters>
cudaError_t most_clusters(int* clusters, void (*kernel)(Parameters...), const Blocks& blocks) {
  return cudaOccupancyMaxActiveClusters(clusters, kernel, LaunchConfig(blocks).get());
}

}  // namespace jax_flash_mla::device
