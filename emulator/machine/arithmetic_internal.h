// What the files of arithmetic share.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <optional>

#include "emulator/machine/instruction_set.h"
#include "emulator/machine/numerics.h"

namespace emulator {

// Instructions of integers only.
void add_integer_arithmetic(InstructionSet& set);

// Opcodes that floating-point numbers have as well, with the type already taken.
bool is_integer(Type type);
void lower_integer_add(Lowering& lower, Type type);
void lower_integer_subtract(Lowering& lower, Type type);
void lower_integer_multiply(Lowering& lower, Type type);
void lower_integer_multiply_add(Lowering& lower, Type type);
void lower_integer_divide(Lowering& lower, Type type);
void lower_integer_absolute(Lowering& lower, Type type);
void lower_integer_negate(Lowering& lower, Type type);
void lower_integer_minimum(Lowering& lower, Type type);
void lower_integer_maximum(Lowering& lower, Type type);
// .u16x2 and .s16x2, already taken
enum class PairOperation { kAdd, kMinimum, kMaximum };
void lower_integer_pair(Lowering& lower, bool is_signed, PairOperation operation);

// .f32.f16 and .f32.bf16, of which the first and the rounding have been taken; false: it has no second type.
bool lower_mixed_float(Lowering& lower, Operation operation, Rounding rounding);

// Operand 0 a destination, the others sources, all of the same width.
inline void take_operands(Lowering& lower, int bits, size_t sources) {
  if (lower.count() != sources + 1) lower.unknown("another number of operands");
  lower.destination(0, bits);
  for (size_t i = 1; i <= sources; ++i) lower.source(int(i), bits);
}

// Nothing if there is none.
inline std::optional<Rounding> take_rounding(Lowering& lower) {
  const std::string_view name = lower.take_one_of({"rn", "rz", "rm", "rp"});
  if (name == "rn") return Rounding::kNearestEven;
  if (name == "rz") return Rounding::kZero;
  if (name == "rm") return Rounding::kDown;
  if (name == "rp") return Rounding::kUp;
  return std::nullopt;
}

inline Rounding need_rounding(Lowering& lower) {
  const std::optional<Rounding> rounding = take_rounding(lower);
  if (!rounding) lower.unknown("without a rounding");
  return *rounding;
}

// --- Floating-point types as bits

template <typename T>
struct FloatBits;
template <>
struct FloatBits<float> {
  using Bits = uint32_t;
  static constexpr Bits kSign = 0x80000000, kExponent = 0x7F800000, kNan = kNan32, kOne = 0x3F800000;
  static constexpr double kLeast = 0x1p-126;  // normal number
};
template <>
struct FloatBits<double> {
  using Bits = uint64_t;
  static constexpr Bits kSign = uint64_t{1} << 63, kExponent = uint64_t{0x7FF} << 52, kNan = kNan64,
                        kOne = uint64_t{0x3FF} << 52;
};
template <>
struct FloatBits<Half> {
  using Bits = uint16_t;
  static constexpr Bits kSign = 0x8000, kExponent = 0x7C00, kNan = kNan16, kOne = 0x3C00;
  static constexpr double kLeast = 0x1p-14;
};
template <>
struct FloatBits<Bfloat> {
  using Bits = uint16_t;
  static constexpr Bits kSign = 0x8000, kExponent = 0x7F80, kNan = kNan16, kOne = 0x3F80;
  static constexpr double kLeast = 0x1p-126;
};

template <typename T>
typename FloatBits<T>::Bits to_bits(T value) {
  return std::bit_cast<typename FloatBits<T>::Bits>(value);
}
template <typename T>
T from_bits(uint64_t bits) {
  return std::bit_cast<T>(typename FloatBits<T>::Bits(bits));
}

// Subnormal numbers become zeros of their sign.
template <typename T>
T flush_if(bool flush, T value) {
  using Traits = FloatBits<T>;
  const auto bits = to_bits(value);
  return flush && (bits & Traits::kExponent) == 0 ? from_bits<T>(bits & Traits::kSign) : value;
}

// What rounding made of a number. Whether it is subnormal is known before that: one that was rounded up to the least
// normal number becomes zero, too. `exact`: the number, or add_to_odd's instead of it.
template <typename T>
T flush_rounded(double exact, T result) {
  using Traits = FloatBits<T>;
  return std::fabs(exact) < Traits::kLeast ? from_bits<T>(to_bits(result) & Traits::kSign) : result;
}

inline const Format& format_of(Half) { return kHalfFormat; }
inline const Format& format_of(Bfloat) { return kBfloatFormat; }

inline double to_double(float value) { return value; }
inline double to_double(double value) { return value; }

// Calls make(T{}) with the C++ type of f32, f64, f16, bf16 or a pair of the last two.
template <typename F>
Handler for_float(const Lowering& lower, Type type, F&& make) {
  switch (type) {
    case Type::kF32:
      return make(float{});
    case Type::kF64:
      return make(double{});
    case Type::kF16:
      return make(Half{});
    case Type::kF16x2:
      return make(Pair<Half>{});
    case Type::kBF16:
      return make(Bfloat{});
    case Type::kBF16x2:
      return make(Pair<Bfloat>{});
    default:
      lower.unknown("not with this type");
  }
}

template <typename T>
inline constexpr bool kIsPair = false;
template <typename T>
inline constexpr bool kIsPair<Pair<T>> = true;

}  // namespace emulator
