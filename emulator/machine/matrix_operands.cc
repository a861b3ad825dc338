#include "emulator/machine/matrix_operands.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "emulator/machine/numerics.h"

namespace emulator {

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

template <typename T, typename Value>
inline void decode_each(const void* from, float (&values)[kMostPerChunk], Value&& value) {
  constexpr int kPerChunk = 16 / int(sizeof(T));
  T raw[kPerChunk];
  std::memcpy(raw, from, sizeof(raw));
  for (int i = 0; i < kPerChunk; ++i) values[i] = value(raw[i]);
}

// Sixteen codes side by side, the first in the lowest bits.
inline void decode_narrow(const Format& format, const void* from, float (&values)[kMostPerChunk]) {
  const int bits = 1 + format.exponent_bits + format.fraction_bits;
  uint8_t raw[16];
  std::memcpy(raw, from, sizeof(raw));
  for (int i = 0; i < kMostPerChunk; ++i) {
    const int at = i * bits;
    const uint32_t two_bytes = raw[at / 8] | raw[at / 8 + 1] << 8;
    values[i] = float(decode(format, two_bytes >> at % 8 & ((1u << bits) - 1)));
  }
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
      return decode_each<uint16_t>(from, values, [](uint16_t bits) { return to_float(Half{bits}); });
    case Element::kBF16:
      return decode_each<uint16_t>(from, values, [](uint16_t bits) { return to_float(Bfloat{bits}); });
    case Element::kTF32:
      // Hardware does not see the lower bits; a NaN that has no others becomes infinity.
      return decode_each<uint32_t>(from, values, [](uint32_t bits) { return std::bit_cast<float>(bits & 0xFFFFE000); });
    case Element::kE4M3:
      return decode_each<uint8_t>(from, values, [](uint8_t bits) { return kE4M3Values[bits]; });
    case Element::kE5M2:
      return decode_each<uint8_t>(from, values, [](uint8_t bits) { return kE5M2Values[bits]; });
    case Element::kE2M3:
      return decode_narrow(kE2M3Format, from, values);
    case Element::kE3M2:
      return decode_narrow(kE3M2Format, from, values);
    case Element::kE2M1:
      return decode_narrow(kE2M1Format, from, values);
    case Element::kS8:
      return decode_each<int8_t>(from, values, [](int8_t bits) { return float(bits); });
    case Element::kU8:
      return decode_each<uint8_t>(from, values, [](uint8_t bits) { return float(bits); });
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Registers

void load_a(Element element, const Slots* registers, int count, PanelA& a) {
  const int per_chunk = 16 / bytes_of(element);
  for (int i = 0; i < count; ++i) {
    for (int row = 0; row < 8; ++row) {
      float values[kMostPerChunk];
      decode(element, registers[i] + 4 * row, values);
      std::copy_n(values, per_chunk, &a.values[row + i % 2 * 8][i / 2 * per_chunk]);
    }
  }
}

void load_b(Element element, const Slots* registers, int count, PanelB& b) {
  const int per_chunk = 16 / bytes_of(element);
  for (int i = 0; i < count; ++i) {
    for (int column = 0; column < 8; ++column) {
      float values[kMostPerChunk];
      decode(element, registers[i] + 4 * column, values);
      for (int k = 0; k < per_chunk; ++k) b.values[i * per_chunk + k][panel_column(column)] = values[k];
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

uint32_t to_int(double value, bool saturated) {
  if (saturated) value = std::clamp(value, -0x1p31, 0x1p31 - 1);
  return uint32_t(int64_t(value));
}

}  // namespace

void load_d(Accumulator kind, const Slots* registers, PanelD& d) {
  for (int half = 0; half < 4; ++half) {
    const int row = half / 2 * 8, odd = half % 2;
    switch (kind) {
      case Accumulator::kF16:
        load_half_panel(registers[half / 2], row, odd, d,
                        [&](uint32_t bits) { return to_float(Half{uint16_t(bits >> 16 * odd)}); });
        break;
      case Accumulator::kF32:
        load_half_panel(registers[half], row, odd, d, [](uint32_t bits) { return std::bit_cast<float>(bits); });
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
          const uint32_t bits = to_half(value).bits;
          return odd ? before | bits << 16 : bits;
        });
        break;
      case Accumulator::kF32:
        store_half_panel(d, row, odd, registers[half], [](double value, uint32_t) {
          return std::bit_cast<uint32_t>(canonical(float(value)));  // matrix units know one NaN
        });
        break;
      case Accumulator::kS32:
      case Accumulator::kS32Saturated:
        store_half_panel(d, row, odd, registers[half],
                         [&](double value, uint32_t) { return to_int(value, kind == Accumulator::kS32Saturated); });
        break;
    }
  }
}

}  // namespace emulator
