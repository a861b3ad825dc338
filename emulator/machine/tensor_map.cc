#include "emulator/machine/tensor_map.h"

#include <cstring>

#include "emulator/machine/fault.h"

namespace emulator {
namespace {

uint32_t bytes_of(TensorType type) {
  switch (type) {
    case TensorType::kU8:
      return 1;
    case TensorType::kU16:
    case TensorType::kF16:
    case TensorType::kBF16:
      return 2;
    case TensorType::kU64:
    case TensorType::kS64:
    case TensorType::kF64:
      return 8;
    default:
      return 4;
  }
}

bool is_floating(TensorType type) { return type >= TensorType::kF16 && type <= TensorType::kTF32Ftz; }

// The rule that a map breaks, or null. Numbers of enumerations are known to exist.
const char* broken_rule(const TensorMap& map) {
  if (map.type > TensorType::kTF32Ftz) return "packed types need sm_100";
  if (map.rank < 1 || map.rank > kTensorRank) return "the rank is not in 1…5";
  const bool interleaved = map.interleave != TensorInterleave::kNone;
  if (interleaved && map.rank < 3) return "interleaved tensors need a rank of 3 at least";
  const uint64_t alignment = map.interleave == TensorInterleave::k32Bytes ? 32 : 16;
  if (map.address % alignment) return "the address is not a multiple of 16 (32 where interleaved by 32 bytes)";
  for (int d = 0; d < map.rank; ++d) {
    if (map.sizes[d] < 1 || map.sizes[d] > uint64_t{1} << 32) return "a size is not in 1…2^32";
    if (map.box[d] < 1 || map.box[d] > 256) return "the box has a size that is not in 1…256";
    if (map.element_strides[d] < 1 || map.element_strides[d] > 8) return "an element stride is not in 1…8";
  }
  // That strides grow from dimension to dimension is how the driver's documentation explains them, not what it demands:
  // tensors that overlap themselves, or are transposed, are in use.
  for (int d = 0; d + 1 < map.rank; ++d) {
    if (map.strides[d] % alignment) return "a stride is not a multiple of 16 (32 where interleaved by 32 bytes)";
    if (map.strides[d] >= uint64_t{1} << 40) return "a stride is 2^40 or more";
  }
  if (!interleaved) {
    if (map.row_bytes() % 16) return "a row of the box is not a multiple of 16 bytes";
    if (map.span() && map.row_bytes() > map.span()) return "a row of the box is longer than what is swizzled";
  }
  if (map.interleave == TensorInterleave::k32Bytes && map.swizzle != TensorSwizzle::k32) {
    return "interleaving by 32 bytes needs swizzling over 32 bytes";
  }
  if (map.fill == TensorFill::kNan && !is_floating(map.type)) return "NaNs fill floating-point tensors only";
  return nullptr;
}

}  // namespace

uint32_t TensorMap::element_bytes() const { return bytes_of(type); }

uint32_t TensorMap::rows() const {
  uint32_t product = 1;
  for (int d = 1; d < rank; ++d) product *= count(d);
  return product;
}

bool encode_tensor_map(void* map, uint32_t type, uint32_t rank, uint64_t address, const uint64_t* sizes,
                       const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides,
                       uint32_t interleave, uint32_t swizzle, uint32_t l2_promotion, uint32_t fill, std::string* why) {
  const auto refuse = [&](const char* rule) {
    if (why) *why = rule;
    return false;
  };
  if (!map || reinterpret_cast<uintptr_t>(map) % kTensorMapAlignment) return refuse("the map is not aligned to 64");
  if (type > uint32_t(TensorType::k16U6Align16)) return refuse("there is no such type");
  if (interleave > uint32_t(TensorInterleave::k32Bytes)) return refuse("there is no such interleaving");
  if (swizzle > uint32_t(TensorSwizzle::k128Atom64)) return refuse("there is no such swizzling");
  if (l2_promotion > 3) return refuse("there is no such promotion");
  if (fill > uint32_t(TensorFill::kNan)) return refuse("there is no such fill");
  if (rank < 1 || rank > kTensorRank) return refuse("the rank is not in 1…5");
  if (!sizes || !box || !element_strides || (rank > 1 && !strides)) return refuse("an array is missing");

  TensorMap out;
  out.magic = TensorMap::kMagic;
  out.address = address;
  out.rank = uint8_t(rank);
  out.type = TensorType(type);
  out.interleave = TensorInterleave(interleave);
  out.swizzle = TensorSwizzle(swizzle);
  out.fill = TensorFill(fill);
  for (uint32_t d = 0; d < rank; ++d) {
    out.sizes[d] = sizes[d];
    // Values that do not fit are as wrong as 0.
    out.box[d] = uint16_t(box[d] <= 256 ? box[d] : 0);
    out.element_strides[d] = uint8_t(element_strides[d] <= 8 ? element_strides[d] : 0);
    if (d + 1 < rank) out.strides[d] = strides[d];
  }
  if (const char* rule = broken_rule(out)) return refuse(rule);
  std::memset(map, 0, kTensorMapBytes);
  std::memcpy(map, &out, sizeof(out));
  return true;
}

TensorMap peek_tensor_map(const void* bytes) {
  TensorMap map;
  std::memcpy(&map, bytes, sizeof(map));
  if (map.magic != TensorMap::kMagic) {
    throw Fault(FaultCode::kIllegalInstruction, "There is no tensor map where the instruction wants one.");
  }
  return map;
}

TensorMap read_tensor_map(const void* bytes) {
  const TensorMap map = peek_tensor_map(bytes);
  // A kernel can have replaced any of it.
  if (const char* rule = broken_rule(map)) {
    throw Fault(FaultCode::kIllegalInstruction, std::string("The tensor map is invalid: ") + rule + ".");
  }
  return map;
}

}  // namespace emulator
