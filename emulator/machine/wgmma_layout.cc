#include "emulator/machine/wgmma_layout.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace emulator {

OperandLayout OperandLayout::of(uint64_t descriptor) {
  const auto field = [&](int from) { return uint32_t(descriptor >> from & 0x3FFF) << 4; };
  constexpr int kSwizzleBits[4] = {0, 3, 2, 1};
  OperandLayout layout;
  layout.start = field(0);
  layout.leading = field(16);
  layout.stride = field(32);
  layout.base_offset = uint32_t(descriptor >> 49 & 7);
  layout.swizzle_bits = kSwizzleBits[descriptor >> 62];
  return layout;
}

// ---------------------------------------------------------------------------------------------------------------------
// Elements

namespace {

// 1, 4, 3 (bias 7; no infinities, one NaN) or 1, 5, 2 (bias 15, as IEEE) bits.
template <int kExponentBits>
constexpr std::array<float, 256> make_small_floats() {
  constexpr int kMantissaBits = 7 - kExponentBits;
  constexpr int kBias = (1 << (kExponentBits - 1)) - 1;
  constexpr int kTop = (1 << kExponentBits) - 1;
  std::array<float, 256> values{};
  for (int bits = 0; bits < 256; ++bits) {
    const int exponent = bits >> kMantissaBits & kTop, mantissa = bits & ((1 << kMantissaBits) - 1);
    // In units of the smallest subnormal, 2^(1 - bias - mantissa bits).
    float value = float(exponent ? (mantissa + (1 << kMantissaBits)) : mantissa);
    const int scale = (exponent ? exponent - 1 : 0) + 1 - kBias - kMantissaBits;
    for (int i = 0; i < scale; ++i) value *= 2;
    for (int i = 0; i > scale; --i) value /= 2;
    if (kExponentBits == 4 ? (bits & 0x7F) == 0x7F : exponent == kTop && mantissa) {
      value = std::numeric_limits<float>::quiet_NaN();
    } else if (kExponentBits == 5 && exponent == kTop) {
      value = std::numeric_limits<float>::infinity();
    }
    values[bits] = bits & 0x80 ? -value : value;
  }
  return values;
}

constexpr std::array<float, 256> kE4M3Values = make_small_floats<4>();
constexpr std::array<float, 256> kE5M2Values = make_small_floats<5>();

inline float half_from(uint32_t bits) {
  const uint32_t magnitude = bits & 0x7FFF, sign = (bits & 0x8000) << 16;
  // Subnormals as integers times 2^-24: no subnormal floats occur, which the host may be flushing.
  const float subnormal = float(int32_t(magnitude)) * 0x1p-24f;
  const uint32_t rebias = magnitude >= 0x7C00 ? 0x70000000u : 0x38000000u;
  const uint32_t normal = (magnitude << 13) + rebias;
  return std::bit_cast<float>((magnitude < 0x400 ? std::bit_cast<uint32_t>(subnormal) : normal) | sign);
}

template <typename T, typename Value>
inline void decode_each(const void* from, float (&values)[kMostPerChunk], Value&& value) {
  constexpr int kPerChunk = 16 / int(sizeof(T));
  T raw[kPerChunk];
  std::memcpy(raw, from, sizeof(raw));
  for (int i = 0; i < kPerChunk; ++i) values[i] = value(raw[i]);
}

}  // namespace

std::optional<Element> element_of(Type type) {
  switch (type) {
    case Type::kF16:
      return Element::kF16;
    case Type::kBF16:
      return Element::kBF16;
    case Type::kTF32:
      return Element::kTF32;
    case Type::kE4M3:
      return Element::kE4M3;
    case Type::kE5M2:
      return Element::kE5M2;
    case Type::kS8:
      return Element::kS8;
    case Type::kU8:
      return Element::kU8;
    default:
      return std::nullopt;
  }
}

std::optional<Accumulator> accumulator_of(Element a, Element b, Type d, bool saturated) {
  if (is_integer(a) && is_integer(b)) {
    if (d != Type::kS32) return std::nullopt;
    return saturated ? Accumulator::kS32Saturated : Accumulator::kS32;
  }
  const bool both_fp8 = is_fp8(a) && is_fp8(b);
  if (saturated || (a != b && !both_fp8)) return std::nullopt;
  if (d == Type::kF32) return Accumulator::kF32;
  if (d == Type::kF16 && (a == Element::kF16 || both_fp8)) return Accumulator::kF16;
  return std::nullopt;
}

void decode(Element element, const void* from, float (&values)[kMostPerChunk]) {
  switch (element) {
    case Element::kF16:
      return decode_each<uint16_t>(from, values, [](uint16_t bits) { return half_from(bits); });
    case Element::kBF16:
      return decode_each<uint16_t>(from, values,
                                   [](uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); });
    case Element::kTF32:
      // Hardware does not see the lower bits; a NaN that has no others becomes infinity.
      return decode_each<uint32_t>(from, values, [](uint32_t bits) { return std::bit_cast<float>(bits & 0xFFFFE000); });
    case Element::kE4M3:
      return decode_each<uint8_t>(from, values, [](uint8_t bits) { return kE4M3Values[bits]; });
    case Element::kE5M2:
      return decode_each<uint8_t>(from, values, [](uint8_t bits) { return kE5M2Values[bits]; });
    case Element::kS8:
      return decode_each<int8_t>(from, values, [](int8_t bits) { return float(bits); });
    case Element::kU8:
      return decode_each<uint8_t>(from, values, [](uint8_t bits) { return float(bits); });
  }
}

uint16_t nearest_half(double value) {
  if (std::isnan(value)) return 0x7FFF;
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(value);
  if (magnitude >= 65520) return sign | 0x7C00;
  // A subnormal in units of 2^-24: what that addition leaves of it.
  if (magnitude < 0x1p-14) return sign | uint16_t(std::bit_cast<uint64_t>(magnitude + 0x1p28));
  // The carry of a rounding up runs into the exponent, as it should.
  constexpr int kDropped = 52 - 10;
  uint64_t bits = std::bit_cast<uint64_t>(magnitude);
  bits += (uint64_t{1} << (kDropped - 1)) - 1 + (bits >> kDropped & 1);
  return sign | uint16_t((bits >> kDropped) - ((1023 - 15) << 10));
}

// ---------------------------------------------------------------------------------------------------------------------
// Products

namespace {

typedef double Quad __attribute__((vector_size(32)));
typedef float FloatQuad __attribute__((vector_size(16)));
typedef int32_t IntQuad __attribute__((vector_size(16)));

template <typename Vector>
[[gnu::always_inline]] inline void load(Vector& to, const void* from) {
  std::memcpy(&to, from, sizeof(to));
}
template <typename Vector>
[[gnu::always_inline]] inline void store(void* to, const Vector& from) {
  std::memcpy(to, &from, sizeof(from));
}

// Four rows at a time: their sums stay in registers while k runs.
[[gnu::always_inline]] inline void multiply_add_rows(const PanelA& a, const PanelB& b, int k, PanelD& d) {
  constexpr int kRows = 4;
  for (int first = 0; first < kPanelRows; first += kRows) {
    Quad even[kRows], odd[kRows];
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row) {
      load(even[row], &d[first + row][0]);
      load(odd[row], &d[first + row][4]);
    }
    for (int i = 0; i < k; ++i) {
      Quad even_line, odd_line;
      load(even_line, &b[i][0]);
      load(odd_line, &b[i][4]);
#pragma GCC unroll 4
      for (int row = 0; row < kRows; ++row) {
        even[row] += a[first + row][i] * even_line;
        odd[row] += a[first + row][i] * odd_line;
      }
    }
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row) {
      store(&d[first + row][0], even[row]);
      store(&d[first + row][4], odd[row]);
    }
  }
}

using MultiplyAdd = void (*)(const PanelA&, const PanelB&, int, PanelD&);

#if defined(__x86_64__)
[[gnu::target("avx2,fma")]] void multiply_add_avx2(const PanelA& a, const PanelB& b, int k, PanelD& d) {
  multiply_add_rows(a, b, k, d);
}
#endif

void multiply_add_plain(const PanelA& a, const PanelB& b, int k, PanelD& d) { multiply_add_rows(a, b, k, d); }

MultiplyAdd best_multiply_add() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return multiply_add_avx2;
#endif
  return multiply_add_plain;
}

}  // namespace

void multiply_add(const PanelA& a, const PanelB& b, int k, PanelD& d) {
  static const MultiplyAdd best = best_multiply_add();
  best(a, b, k, d);
}

// ---------------------------------------------------------------------------------------------------------------------
// Registers

void load_a(Element element, const Slots* registers, int count, PanelA& a) {
  const int per_chunk = 16 / bytes_of(element);
  for (int i = 0; i < count; ++i) {
    for (int row = 0; row < 8; ++row) {
      float values[kMostPerChunk];
      decode(element, registers[i] + 4 * row, values);
      std::copy_n(values, per_chunk, &a[row + i % 2 * 8][i / 2 * per_chunk]);
    }
  }
}

void load_b(Element element, const Slots* registers, int count, PanelB& b) {
  const int per_chunk = 16 / bytes_of(element);
  for (int i = 0; i < count; ++i) {
    for (int column = 0; column < 8; ++column) {
      float values[kMostPerChunk];
      decode(element, registers[i] + 4 * column, values);
      for (int k = 0; k < per_chunk; ++k) b[i * per_chunk + k][panel_column(column)] = values[k];
    }
  }
}

namespace {

// Rows row … row + 7 and the even or odd columns: 32 values as they lie in a register.
template <typename Value>
inline void load_half_panel(Slots slots, int row, int odd, PanelD& d, Value&& value) {
  for (int r = 0; r < 8; ++r) {
    for (int c = 0; c < 4; ++c) d[row + r][4 * odd + c] = value(slots[4 * r + c]);
  }
}

template <typename Bits>
inline void store_half_panel(const PanelD& d, int row, int odd, uint32_t* slots, Bits&& bits) {
  for (int r = 0; r < 8; ++r) {
    for (int c = 0; c < 4; ++c) slots[4 * r + c] = bits(d[row + r][4 * odd + c], slots[4 * r + c]);
  }
}

uint32_t nearest_int(double value, bool saturated) {
  if (saturated) value = std::clamp(value, -0x1p31, 0x1p31 - 1);
  return uint32_t(int64_t(value));
}

}  // namespace

void load_d(Accumulator kind, const Slots* registers, PanelD& d) {
  for (int half = 0; half < 4; ++half) {
    const int row = half / 2 * 8, odd = half % 2;
    switch (kind) {
      case Accumulator::kF16:
        load_half_panel(registers[half / 2], row, odd, d, [&](uint32_t bits) { return half_from(bits >> 16 * odd); });
        break;
      case Accumulator::kF32:
        for (int r = 0; r < 8; ++r) {
          FloatQuad floats;
          load(floats, registers[half] + 4 * r);
          store(&d[row + r][4 * odd], __builtin_convertvector(floats, Quad));
        }
        break;
      case Accumulator::kS32:
      case Accumulator::kS32Saturated:
        load_half_panel(registers[half], row, odd, d, [](uint32_t bits) { return int32_t(bits); });
        break;
    }
  }
}

void store_d(Accumulator kind, const PanelD& d, uint32_t* const* registers) {
  for (int half = 0; half < 4; ++half) {
    const int row = half / 2 * 8, odd = half % 2;
    switch (kind) {
      case Accumulator::kF16:
        store_half_panel(d, row, odd, registers[half / 2], [&](double value, uint32_t before) {
          return odd ? before | uint32_t(nearest_half(value)) << 16 : nearest_half(value);
        });
        break;
      case Accumulator::kF32:
        for (int r = 0; r < 8; ++r) {
          Quad sums;
          load(sums, &d[row + r][4 * odd]);
          const FloatQuad floats = __builtin_convertvector(sums, FloatQuad);
          const auto is_nan = floats != floats;  // lanes of all ones
          // Matrix units know one NaN.
          store(registers[half] + 4 * r, (std::bit_cast<IntQuad>(floats) & ~is_nan) | (is_nan & 0x7FFFFFFF));
        }
        break;
      case Accumulator::kS32:
      case Accumulator::kS32Saturated:
        store_half_panel(d, row, odd, registers[half], [&](double value, uint32_t) {
          return nearest_int(value, kind == Accumulator::kS32Saturated);
        });
        break;
    }
  }
}

}  // namespace emulator
