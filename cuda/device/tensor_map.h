// Describes tensors to the copy engine.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace jax_flash_mla::device {

// A matrix of two-byte elements, row by row, copied in boxes whose rows are 128 bytes, swizzled.
inline cudaError_t make_tensor_map(CUtensorMap* map, CUtensorMapDataType type, const void* base, uint64_t columns,
                                   uint64_t rows, uint64_t row_bytes, uint32_t box_columns, uint32_t box_rows) {
  // The driver's function is looked up: nothing links to the driver.
  using Encode = decltype(&cuTensorMapEncodeTiled);
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  if (auto error =
          cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
      error != cudaSuccess) {
    return error;
  }
  const uint64_t sizes[2] = {columns, rows}, strides[1] = {row_bytes};
  const uint32_t box[2] = {box_columns, box_rows}, element_strides[2] = {1, 1};
  const CUresult result = reinterpret_cast<Encode>(function)(
      map, type, 2, const_cast<void*>(base), sizes, strides, box, element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace jax_flash_mla::device
