// Attributes of kernels, and how many of their blocks fit.
#include <algorithm>
#include <cstring>

#include "emulator/runtime/launch.h"
#include "emulator/runtime/state.h"

namespace emulator::runtime {
namespace {

static_assert(kReservedSharedPerBlock == kReservedShared);

size_t align(size_t value, size_t alignment) { return (value + alignment - 1) / alignment * alignment; }

// The product of a directive's numbers; 0 where the directive is absent.
int threads(const int (&dims)[3]) { return dims[0] == 0 ? 0 : dims[0] * std::max(dims[1], 1) * std::max(dims[2], 1); }

cudaError_t set_max_dynamic_shared(Kernel& kernel, int bytes) {
  const size_t fixed = kernel.function->static_shared;
  if (bytes < 0 || size_t(bytes) + fixed > kMaxSharedPerBlock) {
    return fail(cudaErrorInvalidValue, "kernel " + kernel.name + ": " + std::to_string(bytes) +
                                           " bytes of dynamic shared memory and " + std::to_string(fixed) +
                                           " static ones are not within the device's " +
                                           std::to_string(kMaxSharedPerBlock));
  }
  kernel.max_dynamic_shared = bytes;
  return cudaSuccess;
}

cudaError_t set_required_cluster(Kernel& kernel, int dimension, int blocks) {
  // What stands in the text cannot be changed.
  if (kernel.function->text->required_cluster[0] != 0 || blocks < 0) return fail(cudaErrorInvalidValue);
  kernel.required_cluster[dimension] = uint32_t(blocks);
  return cudaSuccess;
}

}  // namespace

size_t Kernel::dynamic_shared_limit() const {
  const int said = max_dynamic_shared;
  if (said >= 0) return size_t(said);
  return kDefaultSharedPerBlock - std::min<size_t>(kDefaultSharedPerBlock, function->static_shared);
}

Dim3 Kernel::cluster() const {
  const int(&written)[3] = function->text->required_cluster;
  if (written[0] != 0) {
    return {uint32_t(written[0]), uint32_t(std::max(written[1], 1)), uint32_t(std::max(written[2], 1))};
  }
  return {required_cluster[0], required_cluster[1], required_cluster[2]};
}

uint32_t blocks_per_sm(const Kernel& kernel, uint64_t threads, size_t dynamic_shared) {
  if (threads == 0 || threads > kMaxThreadsPerBlock || dynamic_shared > kernel.dynamic_shared_limit()) return 0;
  const size_t shared = align(kernel.function->static_shared + dynamic_shared + kReservedSharedPerBlock, 128);
  const uint64_t fitting = std::min(kMaxThreadsPerSm / align(threads, kLanes), kSharedPerSm / shared);
  return uint32_t(std::min<uint64_t>(fitting, kMaxBlocksPerSm));
}

}  // namespace emulator::runtime

using namespace emulator::runtime;

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* symbol) {
  Kernel* kernel;
  if (!attributes) return fail(cudaErrorInvalidValue);
  if (const cudaError_t error = find_kernel(symbol, &kernel); error != cudaSuccess) return error;
  const emulator::Function& function = *kernel->function;
  const emulator::Dim3 cluster = kernel->cluster();
  const int most = threads(function.text->max_threads);
  cudaFuncAttributes a = {};
  a.sharedSizeBytes = function.static_shared;
  a.localSizeBytes = function.local_bytes;
  a.maxThreadsPerBlock = most > 0 ? std::min<int>(most, kMaxThreadsPerBlock) : int(kMaxThreadsPerBlock);
  a.numRegs = 0;  // nobody allocates registers here
  a.ptxVersion = a.binaryVersion = code_architecture();
  a.maxDynamicSharedSizeBytes = int(kernel->dynamic_shared_limit());
  a.preferredShmemCarveout = kernel->carveout;
  a.clusterDimMustBeSet = function.text->explicit_cluster;
  a.requiredClusterWidth = int(cluster.x);
  a.requiredClusterHeight = int(cluster.y);
  a.requiredClusterDepth = int(cluster.z);
  a.clusterSchedulingPolicyPreference = kernel->cluster_policy;
  a.nonPortableClusterSizeAllowed = kernel->non_portable_cluster;
  *attributes = a;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* symbol, cudaFuncAttribute attribute, int value) {
  Kernel* kernel;
  if (const cudaError_t error = find_kernel(symbol, &kernel); error != cudaSuccess) return error;
  switch (attribute) {
    case cudaFuncAttributeMaxDynamicSharedMemorySize:
      return set_max_dynamic_shared(*kernel, value);
    case cudaFuncAttributePreferredSharedMemoryCarveout:
      if (value < -1 || value > 100) return fail(cudaErrorInvalidValue);
      kernel->carveout = value;
      return cudaSuccess;
    case cudaFuncAttributeRequiredClusterWidth:
    case cudaFuncAttributeRequiredClusterHeight:
    case cudaFuncAttributeRequiredClusterDepth:
      return set_required_cluster(*kernel, attribute - cudaFuncAttributeRequiredClusterWidth, value);
    case cudaFuncAttributeNonPortableClusterSizeAllowed:
      kernel->non_portable_cluster = value != 0;
      return cudaSuccess;
    case cudaFuncAttributeClusterSchedulingPolicyPreference:
      if (value < cudaClusterSchedulingPolicyDefault || value > cudaClusterSchedulingPolicyLoadBalancing) {
        return fail(cudaErrorInvalidValue);
      }
      kernel->cluster_policy = value;
      return cudaSuccess;
    default:  // others are there to be read
      return fail(cudaErrorInvalidValue);
  }
}

cudaError_t cudaFuncSetCacheConfig(const void* symbol, cudaFuncCache config) {
  Kernel* kernel;
  if (config < cudaFuncCachePreferNone || config > cudaFuncCachePreferEqual) return fail(cudaErrorInvalidValue);
  return find_kernel(symbol, &kernel);
}

cudaError_t cudaFuncGetParamInfo(const void* symbol, size_t index, size_t* offset, size_t* size) {
  Kernel* kernel;
  if (!offset || !size) return fail(cudaErrorInvalidValue);
  if (const cudaError_t error = find_kernel(symbol, &kernel); error != cudaSuccess) return error;
  const auto& parameters = kernel->function->text->parameters;
  if (index >= parameters.size()) return fail(cudaErrorInvalidValue);
  *offset = parameter_offsets(*kernel->function)[index];
  *size = parameters[index]->size;
  return cudaSuccess;
}

// --- Occupancy

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* symbol, int threads,
                                                                   size_t dynamic_shared, unsigned int) {
  Kernel* kernel;
  if (!blocks || threads <= 0) return fail(cudaErrorInvalidValue);
  if (const cudaError_t error = find_kernel(symbol, &kernel); error != cudaSuccess) return error;
  *blocks = int(blocks_per_sm(*kernel, uint64_t(threads), dynamic_shared));
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* symbol, int threads,
                                                          size_t dynamic_shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, symbol, threads, dynamic_shared, 0);
}

cudaError_t cudaOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, const void* symbol, int blocks, int threads) {
  Kernel* kernel;
  if (!bytes || blocks <= 0 || threads <= 0) return fail(cudaErrorInvalidValue);
  if (const cudaError_t error = find_kernel(symbol, &kernel); error != cudaSuccess) return error;
  const size_t each = kSharedPerSm / size_t(blocks) / 128 * 128;
  const size_t taken = kernel->function->static_shared + kReservedSharedPerBlock;
  *bytes = std::min(each - std::min(each, taken), kMaxSharedPerBlock - kernel->function->static_shared);
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* symbol, const cudaLaunchConfig_t* config) {
  Kernel* kernel;
  if (!clusters || !config) return fail(cudaErrorInvalidValue);
  if (const cudaError_t error = find_kernel(symbol, &kernel); error != cudaSuccess) return error;
  Shape shape;
  if (const cudaError_t error = read_config(*config, &shape); error != cudaSuccess) return error;
  if (!shape.has_cluster && kernel->cluster().count() == 0) {
    *clusters = 0;
    return cudaSuccess;
  }
  if (const cudaError_t error = settle_cluster(*kernel, &shape); error != cudaSuccess) return error;
  const uint32_t blocks = blocks_per_sm(*kernel, shape.block.count(), shape.dynamic_shared);
  *clusters = resident_clusters(uint32_t(shape.cluster.count()), blocks);
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxPotentialClusterSize(int* size, const void* symbol, const cudaLaunchConfig_t* config) {
  Kernel* kernel;
  if (!size || !config) return fail(cudaErrorInvalidValue);
  if (const cudaError_t error = find_kernel(symbol, &kernel); error != cudaSuccess) return error;
  Shape shape;
  if (const cudaError_t error = read_config(*config, &shape); error != cudaSuccess) return error;
  if (const cudaError_t error = settle_cluster(*kernel, &shape); error != cudaSuccess) return error;
  *size = int(kernel->non_portable_cluster ? kMaxClusterSize : kPortableClusterSize);
  return cudaSuccess;
}
