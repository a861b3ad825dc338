#include "emulator/machine/tcgen05_descriptors.h"

#include <optional>
#include <string>

#include "emulator/machine/fault.h"

namespace emulator {
namespace {

[[noreturn]] void illegal(const std::string& message) { throw Fault(FaultCode::kIllegalInstruction, message); }
[[noreturn]] void unknown(const std::string& message) { throw Fault(FaultCode::kUnknownInstruction, message); }

uint32_t field(uint64_t bits, int from, int count) { return uint32_t(bits >> from & ((uint64_t{1} << count) - 1)); }

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// Of a matrix in shared memory

SharedDescriptor SharedDescriptor::of(uint64_t descriptor) {
  enum Swizzle { kNone = 0, k128InPairs = 1, k128 = 2, k64 = 4, k32 = 6 };
  if (field(descriptor, 46, 3) != 1) {
    illegal("A descriptor of a matrix in shared memory does not have 1 in its bits 46 to 48, as those of tcgen05 do.");
  }
  if (field(descriptor, 53, 8) != 0)
    illegal("A descriptor of a matrix in shared memory has some of its bits 53 to 60 set.");
  if (field(descriptor, 52, 1)) {
    unknown("The emulator does not know descriptors of matrices whose leading offset is an address.");
  }
  SharedDescriptor out;
  out.layout.start = field(descriptor, 0, 14) << 4;
  out.layout.leading = field(descriptor, 16, 14) << 4;
  out.layout.stride = field(descriptor, 32, 14) << 4;
  out.layout.base_offset = field(descriptor, 49, 3);
  switch (field(descriptor, 61, 3)) {
    case kNone:
      break;
    case k32:
      out.layout.swizzle_bits = 1;
      break;
    case k64:
      out.layout.swizzle_bits = 2;
      break;
    case k128InPairs:
      out.layout.swaps_pairs = true;
      out.layout.swizzle_bits = 3;
      break;
    case k128:
      out.layout.swizzle_bits = 3;
      break;
    default:
      illegal("A descriptor of a matrix in shared memory names no swizzle in its bits 61 to 63.");
  }
  return out;
}

void SharedDescriptor::need_k_major() const {
  if (layout.swaps_pairs) {
    illegal(
        "A matrix whose rows are contiguous along K is said to be swizzled in chunks of 32 bytes, which it cannot be.");
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Of a product

namespace {

std::optional<Element> element_of(ProductKind kind, uint32_t code) {
  switch (kind) {
    case ProductKind::kF16:
      if (code == 0) return Element::kF16;
      if (code == 1) return Element::kBF16;
      return std::nullopt;
    case ProductKind::kTF32:
      if (code == 2) return Element::kTF32;
      return std::nullopt;
    case ProductKind::kF8F6F4:
      switch (code) {
        case 0:
          return Element::kE4M3;
        case 1:
          return Element::kE5M2;
        case 3:
          return Element::kE2M3;
        case 4:
          return Element::kE3M2;
        case 5:
          return Element::kE2M1;
        default:
          return std::nullopt;
      }
  }
  return std::nullopt;
}

bool has_shape(uint32_t m, uint32_t n, int ctas, bool is_ws) {
  if (is_ws) return (m == 32 || m == 64 || m == 128) && (n == 64 || n == 128 || n == 256);
  const uint32_t smallest = ctas == 2 ? 128 : 64, step = ctas == 2 ? 16 : 8;
  return (m == smallest || m == 2 * smallest) && n >= step && n <= 256 && n % step == 0;
}

}  // namespace

ProductDescriptor ProductDescriptor::of(uint32_t descriptor, ProductKind kind, int ctas, bool is_ws) {
  if (field(descriptor, 0, 3)) unknown("The emulator does not know products of sparse matrices.");
  if (field(descriptor, 30, 2)) unknown("The emulator does not know products whose B is shifted.");
  if (field(descriptor, 3, 1) || field(descriptor, 6, 1) || field(descriptor, 23, 1) || field(descriptor, 29, 1)) {
    illegal("The descriptor of a product has bits set that floating-point ones do not have: 3, 6, 23 or 29.");
  }
  const auto a = element_of(kind, field(descriptor, 7, 3)), b = element_of(kind, field(descriptor, 10, 3));
  if (!a || !b) illegal("The descriptor of a product names types that its kind does not have.");
  ProductDescriptor out = {};
  out.a = *a;
  out.b = *b;
  if (kind == ProductKind::kF16 && out.a != out.b) {
    unknown("The emulator does not know products of a half and a bfloat16.");
  }
  const uint32_t d = field(descriptor, 4, 2);
  out.to_half = d == 0;
  const bool may_be_half = kind == ProductKind::kF8F6F4 || out.a == Element::kF16;
  if (d > 1 || (out.to_half && !may_be_half)) {
    illegal("The descriptor of a product names a type of accumulator that does not go with those of its factors.");
  }
  out.negates_a = field(descriptor, 13, 1);
  out.negates_b = field(descriptor, 14, 1);
  out.a_is_mn_major = field(descriptor, 15, 1);
  out.b_is_mn_major = field(descriptor, 16, 1);
  if ((out.a_is_mn_major && is_narrow(out.a)) || (out.b_is_mn_major && is_narrow(out.b))) {
    illegal("Matrices of 6 and 4 bits are contiguous along K; a descriptor says otherwise.");
  }
  out.n = field(descriptor, 17, 6) * 8;
  out.m = field(descriptor, 24, 5) * 16;
  if (!has_shape(out.m, out.n, ctas, is_ws)) {
    illegal("There is no product of " + std::to_string(out.m) + " x " + std::to_string(out.n) +
            (is_ws ? " by .ws" : "") + " of .cta_group::" + std::to_string(ctas) + ".");
  }
  const uint32_t part = out.n / uint32_t(ctas), per_chunk = 16 / uint32_t(bytes_of(out.b));
  if (out.b_is_mn_major && part % per_chunk != 0) {
    illegal("The " + std::to_string(part) + " columns of B that a CTA has are contiguous along N, but no multiple of " +
            std::to_string(per_chunk) + ", the elements in 16 bytes.");
  }
  return out;
}

}  // namespace emulator
