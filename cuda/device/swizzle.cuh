// The 128-byte swizzle: how a tile of 64 two-byte columns lies in shared memory.
//
// A row is 128 bytes, eight chunks of 16. Chunk c of row r lies where chunk c ^ (r % 8) would: the same column of eight
// consecutive rows falls into eight different groups of banks. Tensor copies write this pattern, and WGMMA reads it, in
// atoms of 8 rows, whose start is a multiple of 1024 bytes.
#pragma once

namespace jax_flash_mla::device {

inline constexpr int kSwizzleRowBytes = 128;
inline constexpr int kSwizzleAtomBytes = 8 * kSwizzleRowBytes;

// Byte offset of a 16-byte chunk within a swizzled tile.
__host__ __device__ constexpr int swizzled_chunk(int row, int chunk) {
  return row * kSwizzleRowBytes + ((chunk ^ (row % 8)) * 16);
}

// The same chunk some rows further down: from the offset of one whose row shares no bit with that number.
__host__ __device__ constexpr int swizzled_rows_below(int offset, int rows) {
  return (offset ^ (rows % 8 * 16)) + rows * kSwizzleRowBytes;
}

}  // namespace jax_flash_mla::device
