// The functions of the driver that callers look up instead of linking to it.
#include <cuda.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "emulator/machine/fault.h"
#include "emulator/machine/tensor_map.h"
#include "emulator/runtime/state.h"

using namespace emulator::runtime;

// --- Errors: the driver's codes are the runtime's

CUresult cuGetErrorName(CUresult error, const char** name) {
  if (!name) return CUDA_ERROR_INVALID_VALUE;
  switch (error) {
    case CUDA_SUCCESS:
      *name = "CUDA_SUCCESS";
      return CUDA_SUCCESS;
    case CUDA_ERROR_INVALID_VALUE:
      *name = "CUDA_ERROR_INVALID_VALUE";
      return CUDA_SUCCESS;
    case CUDA_ERROR_OUT_OF_MEMORY:
      *name = "CUDA_ERROR_OUT_OF_MEMORY";
      return CUDA_SUCCESS;
    case CUDA_ERROR_NOT_SUPPORTED:
      *name = "CUDA_ERROR_NOT_SUPPORTED";
      return CUDA_SUCCESS;
    default:
      *name = nullptr;
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult cuGetErrorString(CUresult error, const char** text) {
  if (!text) return CUDA_ERROR_INVALID_VALUE;
  *text = cudaGetErrorString(static_cast<cudaError_t>(error));
  return CUDA_SUCCESS;
}

CUresult cuInit(unsigned int flags) { return flags == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; }

CUresult cuDriverGetVersion(int* version) { return static_cast<CUresult>(cudaDriverGetVersion(version)); }

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice device) {
  return static_cast<CUresult>(cudaDeviceGetAttribute(value, static_cast<cudaDeviceAttr>(which), device));
}

// --- Tensor maps

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                                const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* element_strides, CUtensorMapInterleave interleave,
                                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                                CUtensorMapFloatOOBfill fill) {
  static_assert(sizeof(CUtensorMap) == emulator::kTensorMapBytes);
  std::string why;
  if (!map || !sizes || !box || !element_strides || (!strides && rank > 1)) why = "a pointer is null";
  if (why.empty() && emulator::encode_tensor_map(map, type, rank, reinterpret_cast<uint64_t>(address), sizes, strides,
                                                 box, element_strides, interleave, swizzle, promotion, fill, &why)) {
    return CUDA_SUCCESS;
  }
  // The runtime's last error is not the driver's business, but callers make it theirs with its text.
  explain(cudaErrorInvalidValue, "cuTensorMapEncodeTiled: " + why);
  return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuTensorMapEncodeIm2col(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                 const cuuint64_t*, const int*, const int*, cuuint32_t, cuuint32_t, const cuuint32_t*,
                                 CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                                 CUtensorMapFloatOOBfill) {
  return CUDA_ERROR_NOT_SUPPORTED;
}

CUresult cuTensorMapReplaceAddress(CUtensorMap* map, void* address) {
  if (!map) return CUDA_ERROR_INVALID_VALUE;
  try {
    CUtensorMap changed = *map;
    emulator::TensorMap fields = emulator::peek_tensor_map(map);
    fields.address = reinterpret_cast<uint64_t>(address);
    std::memcpy(&changed, &fields, sizeof(fields));
    emulator::read_tensor_map(&changed);  // throws if this is none
    *map = changed;
    return CUDA_SUCCESS;
  } catch (const emulator::Fault&) {
    return CUDA_ERROR_INVALID_VALUE;
  }
}

// --- Filling memory, as CUTLASS does it

namespace {

template <typename T>
CUresult fill(CUdeviceptr begin, T value, size_t count) {
  auto* place = reinterpret_cast<T*>(begin);
  // Checks the place, and marks it as written.
  const cudaError_t error = cudaMemset(place, 0, count * sizeof(T));
  if (error == cudaSuccess) std::fill_n(place, count, value);
  return static_cast<CUresult>(error);
}

}  // namespace

CUresult cuMemsetD8Async(CUdeviceptr begin, unsigned char value, size_t count, CUstream) {
  return fill<uint8_t>(begin, value, count);
}

CUresult cuMemsetD16Async(CUdeviceptr begin, unsigned short value, size_t count, CUstream) {
  return fill<uint16_t>(begin, value, count);
}

CUresult cuMemsetD32Async(CUdeviceptr begin, unsigned int value, size_t count, CUstream) {
  return fill<uint32_t>(begin, value, count);
}

// --- Looking them up

namespace {

struct EntryPoint {
  std::string_view name;
  unsigned since;  // the version of CUDA
  void* function;
};

#define ENTRY(name, since) \
  { #name, since, reinterpret_cast < void*>(&name) }
const EntryPoint kEntryPoints[] = {
    ENTRY(cuGetErrorName, 6000),
    ENTRY(cuGetErrorString, 6000),
    ENTRY(cuInit, 2000),
    ENTRY(cuDriverGetVersion, 2020),
    ENTRY(cuDeviceGetAttribute, 2000),
    ENTRY(cuTensorMapEncodeTiled, 12000),
    ENTRY(cuTensorMapEncodeIm2col, 12000),
    ENTRY(cuTensorMapReplaceAddress, 12000),
    {"cuMemsetD8Async", 3020, reinterpret_cast<void*>(&cuMemsetD8Async)},
    {"cuMemsetD16Async", 3020, reinterpret_cast<void*>(&cuMemsetD16Async)},
    {"cuMemsetD32Async", 3020, reinterpret_cast<void*>(&cuMemsetD32Async)},
};
#undef ENTRY

}  // namespace

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned int version,
                                             unsigned long long flags, cudaDriverEntryPointQueryResult* found) {
  constexpr unsigned long long kFlags = cudaEnableLegacyStream | cudaEnablePerThreadDefaultStream;
  if (!symbol || !function || (flags & ~kFlags) != 0 || version > CUDART_VERSION) return fail(cudaErrorInvalidValue);
  *function = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  for (const EntryPoint& entry : kEntryPoints) {
    if (entry.name != symbol) continue;
    result = entry.since <= version ? cudaDriverEntryPointSuccess : cudaDriverEntryPointVersionNotSufficent;
    if (result == cudaDriverEntryPointSuccess) *function = entry.function;
  }
  if (found) *found = result;
  return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPoint(const char* symbol, void** function, unsigned long long flags,
                                    cudaDriverEntryPointQueryResult* found) {
  return cudaGetDriverEntryPointByVersion(symbol, function, CUDART_VERSION, flags, found);
}
