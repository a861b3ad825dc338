// Tensor maps for the copy engine, made on the host.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace jax_flash_mla::device {

// A tensor with five dimensions, the first of them contiguous, copied in boxes whose rows of the first dimension are 128
// bytes, swizzled. Strides, of the second dimension on, are in bytes.
inline cudaError_t make_tensor_map(CUtensorMap* map, CUtensorMapDataType type, const void* base,
                                   const uint64_t (&sizes)[5], const uint64_t (&strides)[4], const uint32_t (&box)[5]) {
  // The driver's function is looked up: nothing links to the driver.
  using Encode = decltype(&cuTensorMapEncodeTiled);
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
  if (error != cudaSuccess) return error;
  if (found != cudaDriverEntryPointSuccess) return cudaErrorSymbolNotFound;
  const uint32_t element_strides[5] = {1, 1, 1, 1, 1};
  const CUresult result = reinterpret_cast<Encode>(function)(
      map, type, 5, const_cast<void*>(base), sizes, strides, box, element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace jax_flash_mla::device
