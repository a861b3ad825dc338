// How the copy engine sees the operands of multi-head attention.
#pragma once

#include <cuda_bf16.h>

#include <type_traits>

#include "cuda/device/tensor_map.h"

namespace jax_flash_mla::mha {

inline constexpr int kBoxColumns = 64;  // of two-byte elements: the 128 bytes of the swizzle

// Tokens of all packs × columns of all heads, in boxes of 64 columns. Where there are no tokens nothing is copied.
template <typename Element>
cudaError_t make_token_map(CUtensorMap* map, const void* base, int packs, int tokens, int heads, int dims,
                           int box_tokens) {
  constexpr bool kIsBf16 = std::is_same_v<Element, __nv_bfloat16>;
  constexpr auto kType = kIsBf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  const uint64_t rows = uint64_t(packs) * tokens, columns = uint64_t(heads) * dims;
  *map = {};
  if (rows == 0) return cudaSuccess;
  return device::make_tensor_map(map, kType, base, columns, rows, columns * sizeof(Element), kBoxColumns, box_tokens);
}

}  // namespace jax_flash_mla::mha
