// The device that this runtime poses as, and the functions that ask about it.
//
// The numbers are those an H200 gives, save for what this runtime cannot do: textures, surfaces, memory pools, devices
// that share memory. What is known of a B200 from public listings stands in kB200; the rest is taken to be the same.
#include "emulator/runtime/device.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "emulator/machine/environment.h"
#include "emulator/runtime/state.h"

namespace emulator::runtime {
namespace {

struct Attribute {
  cudaDeviceAttr which;
  int value;
};

// Also those that are zero here: their names are known.
constexpr Attribute kAttributes[] = {
    {cudaDevAttrMaxThreadsPerBlock, kMaxThreadsPerBlock},
    {cudaDevAttrMaxBlockDimX, kMaxBlockDim[0]},
    {cudaDevAttrMaxBlockDimY, kMaxBlockDim[1]},
    {cudaDevAttrMaxBlockDimZ, kMaxBlockDim[2]},
    {cudaDevAttrMaxGridDimX, kMaxGridDim[0]},
    {cudaDevAttrMaxGridDimY, kMaxGridDim[1]},
    {cudaDevAttrMaxGridDimZ, kMaxGridDim[2]},
    {cudaDevAttrMaxSharedMemoryPerBlock, kDefaultSharedPerBlock},
    {cudaDevAttrTotalConstantMemory, 65536},
    {cudaDevAttrWarpSize, 32},
    {cudaDevAttrMaxPitch, 2147483647},
    {cudaDevAttrMaxRegistersPerBlock, 65536},
    {cudaDevAttrClockRate, 1980000},
    {cudaDevAttrGpuOverlap, 1},
    {cudaDevAttrKernelExecTimeout, 0},
    {cudaDevAttrIntegrated, 0},
    {cudaDevAttrCanMapHostMemory, 1},
    {cudaDevAttrComputeMode, 0},
    {cudaDevAttrConcurrentKernels, 1},
    {cudaDevAttrEccEnabled, 1},
    {cudaDevAttrPciBusId, 0},
    {cudaDevAttrPciDeviceId, 6},
    {cudaDevAttrPciDomainId, 0},
    {cudaDevAttrTccDriver, 0},
    {cudaDevAttrMemoryClockRate, 3201000},
    {cudaDevAttrGlobalMemoryBusWidth, 6016},
    {cudaDevAttrL2CacheSize, 62914560},
    {cudaDevAttrMaxThreadsPerMultiProcessor, kMaxThreadsPerSm},
    {cudaDevAttrAsyncEngineCount, 3},
    {cudaDevAttrUnifiedAddressing, 1},
    {cudaDevAttrStreamPrioritiesSupported, 1},
    {cudaDevAttrGlobalL1CacheSupported, 1},
    {cudaDevAttrLocalL1CacheSupported, 1},
    {cudaDevAttrMaxSharedMemoryPerMultiprocessor, kSharedPerSm},
    {cudaDevAttrMaxRegistersPerMultiprocessor, 65536},
    {cudaDevAttrManagedMemory, 1},
    {cudaDevAttrIsMultiGpuBoard, 0},
    {cudaDevAttrMultiGpuBoardGroupID, 0},
    {cudaDevAttrHostNativeAtomicSupported, 0},
    {cudaDevAttrSingleToDoublePrecisionPerfRatio, 2},
    {cudaDevAttrPageableMemoryAccess, 0},
    {cudaDevAttrConcurrentManagedAccess, 1},
    {cudaDevAttrComputePreemptionSupported, 1},
    {cudaDevAttrCanUseHostPointerForRegisteredMem, 1},
    {cudaDevAttrCooperativeLaunch, 1},
    {cudaDevAttrMaxSharedMemoryPerBlockOptin, kMaxSharedPerBlock},
    {cudaDevAttrCanFlushRemoteWrites, 0},
    {cudaDevAttrHostRegisterSupported, 1},
    {cudaDevAttrPageableMemoryAccessUsesHostPageTables, 0},
    {cudaDevAttrDirectManagedMemAccessFromHost, 0},
    {cudaDevAttrMaxBlocksPerMultiprocessor, kMaxBlocksPerSm},
    {cudaDevAttrMaxPersistingL2CacheSize, 39321600},
    {cudaDevAttrMaxAccessPolicyWindowSize, 134217728},
    {cudaDevAttrReservedSharedMemoryPerBlock, kReservedSharedPerBlock},
    {cudaDevAttrSparseCudaArraySupported, 0},
    {cudaDevAttrHostRegisterReadOnlySupported, 0},
    {cudaDevAttrTimelineSemaphoreInteropSupported, 0},
    {cudaDevAttrMemoryPoolsSupported, 0},
    {cudaDevAttrGPUDirectRDMASupported, 0},
    {cudaDevAttrClusterLaunch, 1},
    {cudaDevAttrIpcEventSupport, 0},
    {cudaDevAttrMemSyncDomainCount, 4},
    {cudaDevAttrMpsEnabled, 0},
};

constexpr Attribute kB200[] = {
    {cudaDevAttrClockRate, 1965000},
    {cudaDevAttrMemoryClockRate, 3996000},
    {cudaDevAttrL2CacheSize, 126 << 20},
    {cudaDevAttrMaxPersistingL2CacheSize, 126 * 5 / 8 << 20},
};

bool is_b200() { return code_architecture() >= 100; }

const Attribute* find_attribute(cudaDeviceAttr which) {
  for (const Attribute& attribute : kB200) {
    if (is_b200() && attribute.which == which) return &attribute;
  }
  const auto* end = std::end(kAttributes);
  const auto* found = std::find_if(std::begin(kAttributes), end, [=](auto& entry) { return entry.which == which; });
  return found == end ? nullptr : found;
}

int value(cudaDeviceAttr which) { return find_attribute(which)->value; }

}  // namespace

int num_sms() {
  constexpr int kOfAnH200 = 132, kOfAB200 = 148, kMost = 1024;
  return int(environment_number("JAX_FLASH_MLA_EMULATOR_SMS", is_b200() ? kOfAB200 : kOfAnH200, 1, kMost));
}

int resident_clusters(uint32_t cluster_size, uint32_t blocks_per_sm) {
  // A cluster stays within a group of multiprocessors. An H200's groups differ; these sizes agree with what it says of
  // its clusters of 2, 8 and 16, and come close for other sizes.
  // Of a B200's nothing is known here but how many multiprocessors they have together.
  constexpr uint32_t kOfAnH200[] = {18, 18, 18, 18, 18, 16, 16, 10}, kOfAB200[] = {20, 18, 18, 18, 20, 18, 18, 18};
  const auto& groups = is_b200() ? kOfAB200 : kOfAnH200;
  uint32_t clusters = 0;
  for (uint32_t sms = uint32_t(num_sms()), i = 0; sms > 0; ++i) {
    const uint32_t group = std::min(sms, groups[i % std::size(groups)]);
    clusters += group / cluster_size * blocks_per_sm;
    sms -= group;
  }
  return int(clusters);
}

int compute_capability() {
  const char* name = "JAX_FLASH_MLA_EMULATOR_CAPABILITY";
  const char* said = std::getenv(name);
  constexpr int kOfAnH200 = 90;
  if (!said || !*said) return kOfAnH200;
  int major = 0, minor = 0, end = 0;
  if (std::sscanf(said, "%d.%d%n", &major, &minor, &end) == 2 && !said[end] && major >= 1 && minor >= 0 && minor <= 9) {
    return major * 10 + minor;
  }
  std::fprintf(stderr, "%s=%s: not like 9.0, ignored\n", name, said);
  return kOfAnH200;
}

int code_architecture() {
  const int capability = compute_capability();
  return capability / 10 == 10 ? capability : 90;
}

size_t global_memory() {
  constexpr size_t kOfAnH200 = 150109880320, kOfAB200 = size_t{182642} << 20;
  // Whether a byte was written takes another byte.
  static const size_t fits = size_t(sysconf(_SC_PHYS_PAGES)) * size_t(sysconf(_SC_PAGE_SIZE)) / 2;
  return std::min(is_b200() ? kOfAB200 : kOfAnH200, fits);
}

}  // namespace emulator::runtime

using namespace emulator::runtime;

cudaError_t cudaGetDeviceCount(int* count) {
  if (!count) return fail(cudaErrorInvalidValue);
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  if (!device) return fail(cudaErrorInvalidValue);
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : fail(cudaErrorInvalidDevice); }

cudaError_t cudaInitDevice(int device, unsigned int, unsigned int) { return cudaSetDevice(device); }

cudaError_t cudaSetDeviceFlags(unsigned int) { return cudaSuccess; }

cudaError_t cudaGetDeviceFlags(unsigned int* flags) {
  if (!flags) return fail(cudaErrorInvalidValue);
  *flags = cudaDeviceScheduleAuto;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device) {
  if (!value) return fail(cudaErrorInvalidValue);
  if (device != 0) return fail(cudaErrorInvalidDevice);
  switch (which) {
    case cudaDevAttrMultiProcessorCount:
      *value = num_sms();
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = compute_capability() / 10;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = compute_capability() % 10;
      return cudaSuccess;
    default:
      break;
  }
  const Attribute* attribute = find_attribute(which);
  if (!attribute) {
    return fail(cudaErrorInvalidValue, "the emulator knows no device attribute " + std::to_string(int(which)));
  }
  *value = attribute->value;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!properties) return fail(cudaErrorInvalidValue);
  if (device != 0) return fail(cudaErrorInvalidDevice);
  cudaDeviceProp p = {};
  std::strcpy(p.name, is_b200() ? "NVIDIA B200 (emulated)" : "NVIDIA H200 (emulated)");
  p.totalGlobalMem = global_memory();
  p.sharedMemPerBlock = kDefaultSharedPerBlock;
  p.regsPerBlock = value(cudaDevAttrMaxRegistersPerBlock);
  p.warpSize = value(cudaDevAttrWarpSize);
  p.memPitch = size_t(value(cudaDevAttrMaxPitch));
  p.maxThreadsPerBlock = kMaxThreadsPerBlock;
  std::copy_n(kMaxBlockDim, 3, p.maxThreadsDim);
  std::copy_n(kMaxGridDim, 3, p.maxGridSize);
  p.totalConstMem = size_t(value(cudaDevAttrTotalConstantMemory));
  p.major = compute_capability() / 10;
  p.minor = compute_capability() % 10;
  p.multiProcessorCount = num_sms();
  p.canMapHostMemory = 1;
  p.concurrentKernels = 1;
  p.ECCEnabled = 1;
  p.pciDeviceID = value(cudaDevAttrPciDeviceId);
  p.asyncEngineCount = value(cudaDevAttrAsyncEngineCount);
  p.unifiedAddressing = 1;
  p.memoryBusWidth = value(cudaDevAttrGlobalMemoryBusWidth);
  p.l2CacheSize = value(cudaDevAttrL2CacheSize);
  p.persistingL2CacheMaxSize = value(cudaDevAttrMaxPersistingL2CacheSize);
  p.maxThreadsPerMultiProcessor = kMaxThreadsPerSm;
  p.streamPrioritiesSupported = 1;
  p.globalL1CacheSupported = p.localL1CacheSupported = 1;
  p.sharedMemPerMultiprocessor = kSharedPerSm;
  p.regsPerMultiprocessor = value(cudaDevAttrMaxRegistersPerMultiprocessor);
  p.managedMemory = 1;
  p.concurrentManagedAccess = 1;
  p.computePreemptionSupported = 1;
  p.canUseHostPointerForRegisteredMem = 1;
  p.cooperativeLaunch = 1;
  p.sharedMemPerBlockOptin = kMaxSharedPerBlock;
  p.maxBlocksPerMultiProcessor = kMaxBlocksPerSm;
  p.accessPolicyMaxWindowSize = value(cudaDevAttrMaxAccessPolicyWindowSize);
  p.reservedSharedMemPerBlock = kReservedSharedPerBlock;
  p.hostRegisterSupported = 1;
  p.clusterLaunch = 1;
#if CUDART_VERSION < 13000
  p.clockRate = value(cudaDevAttrClockRate);
  p.memoryClockRate = value(cudaDevAttrMemoryClockRate);
  p.deviceOverlap = 1;
  p.singleToDoublePrecisionPerfRatio = value(cudaDevAttrSingleToDoublePrecisionPerfRatio);
#endif
  *properties = p;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetLimit(size_t* value, cudaLimit limit) {
  if (!value) return fail(cudaErrorInvalidValue);
  switch (limit) {
    case cudaLimitStackSize:
      *value = 1024;
      return cudaSuccess;
    case cudaLimitPrintfFifoSize:
    case cudaLimitMallocHeapSize:
      *value = 8 << 20;
      return cudaSuccess;
    default:
      return fail(cudaErrorUnsupportedLimit);
  }
}

// Nothing here is limited so.
cudaError_t cudaDeviceSetLimit(cudaLimit limit, size_t) {
  size_t value;
  return cudaDeviceGetLimit(&value, limit);
}

cudaError_t cudaDeviceGetCacheConfig(cudaFuncCache* config) {
  if (!config) return fail(cudaErrorInvalidValue);
  *config = cudaFuncCachePreferNone;
  return cudaSuccess;
}

cudaError_t cudaDeviceSetCacheConfig(cudaFuncCache) { return cudaSuccess; }

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = kGreatestPriority;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() { return wait_for_device(); }

// Allocations stay: whoever made them frees them.
cudaError_t cudaDeviceReset() { return cudaDeviceSynchronize(); }

cudaError_t cudaDriverGetVersion(int* version) {
  if (!version) return fail(cudaErrorInvalidValue);
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }

cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  if (!can) return fail(cudaErrorInvalidValue);
  *can = 0;
  return cudaSuccess;
}
