// What the 128 bytes of a CUtensorMap hold here, and where the elements of a box lie in global and in shared memory.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace emulator {

inline constexpr int kTensorRank = 5;  // at most
inline constexpr size_t kTensorMapBytes = 128;
inline constexpr size_t kTensorMapAlignment = 64;

// Values as in the driver API's enumerations.
enum class TensorType : uint8_t {
  kU8,
  kU16,
  kU32,
  kS32,
  kU64,
  kS64,
  kF16,
  kF32,
  kF64,
  kBF16,
  kF32Ftz,
  kTF32,
  kTF32Ftz,
  k16U4Align8,
  k16U4Align16,
  k16U6Align16,  // of sm_100
};
enum class TensorInterleave : uint8_t { kNone, k16Bytes, k32Bytes };
enum class TensorSwizzle : uint8_t { kNone, k32, k64, k128, k128Atom32, k128Atom32Flip8, k128Atom64 };
enum class TensorFill : uint8_t { kZeros, kNan };

struct TensorMap {
  static constexpr uint64_t kMagic = 0x70616d726f736e65;

  uint64_t magic = 0;
  uint64_t address = 0;
  uint64_t sizes[kTensorRank] = {};        // elements; dimension 0 is contiguous
  uint64_t strides[kTensorRank - 1] = {};  // bytes, of dimensions 1, 2, …
  uint16_t box[kTensorRank] = {};
  uint8_t element_strides[kTensorRank] = {};
  uint8_t rank = 0;
  TensorType type = TensorType::kU8;
  TensorInterleave interleave = TensorInterleave::kNone;
  TensorSwizzle swizzle = TensorSwizzle::kNone;
  TensorFill fill = TensorFill::kZeros;

  uint32_t element_bytes() const;
  // How many elements of a dimension a box has. Dimension 0 knows no stride, for lack of interleaving.
  uint32_t count(int dimension) const {
    if (dimension == 0) return box[0];
    return (box[dimension] + element_strides[dimension] - 1) / element_strides[dimension];
  }
  uint32_t row_bytes() const { return box[0] * element_bytes(); }
  uint32_t rows() const;
  uint32_t box_bytes() const { return rows() * row_bytes(); }  // what a barrier is told of
  // Bytes over which chunks are exchanged; 0 where they are not.
  uint32_t span() const {
    switch (swizzle) {
      case TensorSwizzle::kNone:
        return 0;
      case TensorSwizzle::k32:
        return 32;
      case TensorSwizzle::k64:
        return 64;
      default:
        return 128;
    }
  }
  // From a row to the next in shared memory. Rows narrower than what is swizzled have it for themselves all the same.
  uint32_t pitch() const { return std::max(row_bytes(), span()); }
};
static_assert(sizeof(TensorMap) <= kTensorMapBytes);

// As cuTensorMapEncodeTiled: false is its CUDA_ERROR_INVALID_VALUE; `why` then says what is wrong. Arrays have `rank`
// elements, that of strides one less. Nothing is written to the map where the result is false.
bool encode_tensor_map(void* map, uint32_t type, uint32_t rank, uint64_t address, const uint64_t* sizes,
                       const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides,
                       uint32_t interleave, uint32_t swizzle, uint32_t l2_promotion, uint32_t fill,
                       std::string* why = nullptr);

// A map as a copy needs it: a Fault unless the bytes are a map that satisfies the rules of encoding.
TensorMap read_tensor_map(const void* bytes);

// The map at a place, to be changed and put back: only its presence is checked.
TensorMap peek_tensor_map(const void* bytes);

// The address of a byte in shared memory after swizzling: bits 4… ^= bits 7…, so that the chunks of 16 bytes within a
// span change places from one line of 128 bytes to the next.
inline uint32_t swizzled(TensorSwizzle swizzle, uint32_t address) {
  switch (swizzle) {
    case TensorSwizzle::k32:
      return address ^ (address >> 3 & 0x10);
    case TensorSwizzle::k64:
      return address ^ (address >> 3 & 0x30);
    case TensorSwizzle::k128:
      return address ^ (address >> 3 & 0x70);
    default:
      return address;
  }
}

using TensorCoordinates = std::array<int32_t, kTensorRank>;

// The elements of a box that differ in dimension 0 alone.
struct BoxRow {
  uint64_t global = 0;          // address of its first byte inside of the tensor
  uint32_t shared = 0;          // address of its first byte, not yet swizzled
  uint32_t begin = 0, end = 0;  // the bytes of the row that are inside of the tensor
};

// Calls f(BoxRow) for each row of the box at `origin` that lies, or is to lie, at an address of shared memory.
template <typename F>
void for_rows(const TensorMap& map, const TensorCoordinates& origin, uint32_t shared, F&& f) {
  const int64_t element = map.element_bytes();
  const int64_t first = origin[0];
  const int64_t begin = std::clamp<int64_t>(-first, 0, map.box[0]);
  const int64_t end = std::clamp<int64_t>(int64_t(map.sizes[0]) - first, begin, map.box[0]);
  const uint32_t pitch = map.pitch();
  const uint32_t rows = map.rows();
  uint32_t at[kTensorRank] = {};  // indices within the box
  for (uint32_t row = 0; row < rows; ++row) {
    BoxRow out;
    out.shared = shared + row * pitch;
    out.global = map.address + uint64_t((first + begin) * element);
    bool inside = begin < end;
    for (int d = 1; d < map.rank; ++d) {
      const int64_t coordinate = int64_t(origin[d]) + int64_t(at[d]) * map.element_strides[d];
      inside &= coordinate >= 0 && coordinate < int64_t(map.sizes[d]);
      out.global += uint64_t(coordinate) * map.strides[d - 1];
    }
    if (inside) {
      out.begin = uint32_t(begin * element);
      out.end = uint32_t(end * element);
    }
    f(out);
    for (int d = 1; d < map.rank && ++at[d] == map.count(d); ++d) at[d] = 0;
  }
}

// Calls f(byte within the row, address in shared memory, bytes) for pieces of [begin, end) of a row that are contiguous.
template <typename F>
void for_pieces(const TensorMap& map, const BoxRow& row, uint32_t begin, uint32_t end, F&& f) {
  if (map.swizzle == TensorSwizzle::kNone) {
    if (begin < end) f(begin, row.shared + begin, end - begin);
    return;
  }
  while (begin < end) {
    const uint32_t address = row.shared + begin;
    const uint32_t bytes = std::min(end - begin, 16 - address % 16);
    f(begin, swizzled(map.swizzle, address), bytes);
    begin += bytes;
  }
}

}  // namespace emulator
