// Arithmetic of floating-point numbers, and the opcodes that it shares with integers.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "emulator/machine/arithmetic_internal.h"
#include "emulator/machine/instruction_set.h"
#include "emulator/machine/lanewise.h"
#include "emulator/machine/numerics.h"
#include "emulator/machine/warp.h"

namespace emulator {
namespace {

// Modes of floating-point operations.
constexpr int kRounding = 0, kFlush = 1, kClamp = 2, kOutside = 3;
enum Clamp : int32_t { kNoClamp, kSaturate, kRelu };

template <typename F>
F clamped(int32_t clamp, F value) {
  if (clamp == kSaturate) return saturated(value);
  if (clamp == kRelu) return value != value || value > 0 ? value : F(0);
  return value;
}

// --- add, sub, mul, fma

// Operands are of at most 24 bits. Of no interest for roots, which are never subnormal.
template <Operation kOperation>
double exact_or_odd(double a, double b, double c) {
  switch (kOperation) {
    case Operation::kAdd:
      return add_to_odd(a, b);
    case Operation::kSubtract:
      return add_to_odd(a, -b);
    case Operation::kMultiply:
      return a * b;
    case Operation::kFma:
      return add_to_odd(a * b, c);
    case Operation::kDivide:
      return a / b;  // not exact, but between the same numbers of 24 bits
    default:
      return a;
  }
}

// Whether a number of 16 bits is the NaN that copies fill in for what is outside of a tensor.
template <typename T>
bool is_outside(T value) {
  return (value.bits & 0x7FFF) == kOutsideNan;  // of either sign
}

template <Operation kOperation, typename T>
T evaluate(const Modes& modes, T a, T b, T c) {
  if constexpr (kIsPair<T>) {
    return {evaluate<kOperation>(modes, a.low, b.low, c.low), evaluate<kOperation>(modes, a.high, b.high, c.high)};
  } else if constexpr (std::is_same_v<T, double>) {
    return rounded(kOperation, Rounding(modes[kRounding]), a, b, c);
  } else {
    const bool flush = modes[kFlush];
    a = flush_if(flush, a);
    b = flush_if(flush, b);
    c = flush_if(flush, c);
    if constexpr (std::is_same_v<T, float>) {
      const float result = rounded(kOperation, Rounding(modes[kRounding]), a, b, c);
      const double exact = exact_or_odd<kOperation>(double(a), double(b), double(c));
      return clamped(modes[kClamp], flush ? flush_rounded(exact, result) : result);
    } else {
      if (modes[kOutside] && (is_outside(a) || is_outside(b))) return T{0};
      const double exact = exact_or_odd<kOperation>(to_double(a), to_double(b), to_double(c));
      const double value = clamped(modes[kClamp], exact);
      const T result = from_bits<T>(encode(format_of(T{}), value));
      return flush ? flush_rounded(value, result) : result;
    }
  }
}

template <Operation kOperation, typename T>
Handler general() {
  if constexpr (kOperation == Operation::kFma) {
    return lanewise_costly([](const Modes& modes, T a, T b, T c) { return evaluate<kOperation, T>(modes, a, b, c); });
  } else {
    return lanewise_costly([](const Modes& modes, T a, T b) { return evaluate<kOperation, T>(modes, a, b, T{}); });
  }
}

template <bool kFlushed>
Step fused_multiply_add(Warp& warp, const Instruction& instruction, Mask mask) {
  const uint32_t* sources[3];
  alignas(64) uint32_t flushed_sources[3][kLanes];
  for (int i = 0; i < 3; ++i) {
    sources[i] = warp.slots32(instruction.operands[i + 1]);
    if constexpr (kFlushed) {
      for (int lane = 0; lane < kLanes; ++lane) {
        flushed_sources[i][lane] = to_bits(flushed(from_bits<float>(sources[i][lane])));
      }
      sources[i] = flushed_sources[i];
    }
  }
  alignas(64) uint32_t results[kLanes];
  fused_lanes(sources[0], sources[1], sources[2], results);
  if constexpr (kFlushed) {
    const auto source = [&](int i, int lane) { return double(from_bits<float>(sources[i][lane])); };
    for (int lane = 0; lane < kLanes; ++lane) {
      // Seldom, and costly: where it may have been rounded up to the least normal number.
      if ((results[lane] & 0x7FFFFFFF) == to_bits(0x1p-126f)) {
        const double exact = add_to_odd(source(0, lane) * source(1, lane), source(2, lane));
        results[lane] = to_bits(flush_rounded(exact, from_bits<float>(results[lane])));
      }
      results[lane] = to_bits(flushed(from_bits<float>(results[lane])));
    }
  }
  warp.store(instruction.operands[0], results, mask);
  return Step::kNext;
}

// Floats rounded to nearest: what kernels consist of.
template <Operation kOperation, bool kFlushed>
Handler nearest() {
  if constexpr (kOperation == Operation::kFma) {
    return fused_multiply_add<kFlushed>;
  } else {
    return lanewise([](float a, float b) {
      if constexpr (kFlushed) {
        a = flushed(a);
        b = flushed(b);
      }
      const float result = kOperation == Operation::kAdd ? a + b : kOperation == Operation::kSubtract ? a - b : a * b;
      if constexpr (kFlushed && kOperation == Operation::kMultiply) {
        return flush_rounded(double(a) * double(b), canonical(result));
      }
      return kFlushed ? flushed(canonical(result)) : canonical(result);
    });
  }
}

// Types f32, f64, f16, bf16 and pairs of them. The modifiers that are valid depend on the type.
template <Operation kOperation>
void lower_float(Lowering& lower, Type type) {
  constexpr bool kIsFma = kOperation == Operation::kFma;
  Modes& modes = lower.out.modes;
  const Rounding rounding = kIsFma ? need_rounding(lower) : take_rounding(lower).value_or(Rounding::kNearestEven);
  if (type == Type::kF32 && lower_mixed_float(lower, kOperation, rounding)) return;
  modes[kRounding] = int32_t(rounding);
  const bool is_half = type == Type::kF16 || type == Type::kF16x2;
  const bool is_bfloat = type == Type::kBF16 || type == Type::kBF16x2;
  if ((is_half || is_bfloat) && rounding != Rounding::kNearestEven) lower.unknown("not with this rounding");
  if (type == Type::kF32 || type == Type::kF32x2 || is_half) modes[kFlush] = lower.take("ftz");
  if ((type == Type::kF32 || is_half) && lower.take("sat")) modes[kClamp] = kSaturate;
  if (kIsFma && (is_half || is_bfloat) && lower.take("relu")) {
    if (modes[kClamp]) lower.unknown("both .sat and .relu");
    modes[kClamp] = kRelu;
  }
  // Nothing comes of a factor that is outside of a tensor.
  if (kIsFma && (is_half || is_bfloat) && !modes[kFlush]) modes[kOutside] = lower.take("oob");
  take_operands(lower, bits_of(type), kIsFma ? 3 : 2);
  if (type == Type::kF32 && rounding == Rounding::kNearestEven && modes[kClamp] == kNoClamp) {
    lower.out.run = modes[kFlush] ? nearest<kOperation, true>() : nearest<kOperation, false>();
  } else if (type == Type::kF32x2) {
    lower.out.run = general<kOperation, Pair<float>>();
  } else {
    lower.out.run = for_float(lower, type, []<typename T>(T) { return general<kOperation, T>(); });
  }
}

// --- div, rcp, sqrt

// The divisor's reciprocal is below the range of normal floats here and counts as zero.
float approximate_quotient(float a, float b) {
  return canonical(std::fabs(b) > 0x1p126f ? a * std::copysign(0.0f, b) : a / b);
}

void lower_divide(Lowering& lower) {
  const Type type = lower.need_type();
  if (is_integer(type)) return lower_integer_divide(lower, type);
  const std::string_view approximation = type == Type::kF32 ? lower.take_one_of({"approx", "full"}) : "";
  if (approximation.empty()) lower.out.modes[kRounding] = int32_t(need_rounding(lower));
  if (type == Type::kF32) lower.out.modes[kFlush] = lower.take("ftz");
  take_operands(lower, bits_of(type), 2);
  if (approximation == "approx") {
    lower.out.run = lanewise_costly([](const Modes& modes, float a, float b) {
      const bool flush = modes[kFlush];
      return flush_if(flush, approximate_quotient(flush_if(flush, a), flush_if(flush, b)));
    });
  } else if (type == Type::kF32) {
    lower.out.run = general<Operation::kDivide, float>();
  } else if (type == Type::kF64) {
    lower.out.run = general<Operation::kDivide, double>();
  } else {
    lower.unknown("not with this type");
  }
}

void lower_rounded_reciprocal(Lowering& lower, Type type) {
  if (type == Type::kF32) {
    lower.out.run =
        lanewise_costly([](const Modes& modes, float a) { return evaluate<Operation::kDivide>(modes, 1.0f, a, 0.0f); });
  } else {
    lower.out.run =
        lanewise_costly([](const Modes& modes, double a) { return evaluate<Operation::kDivide>(modes, 1.0, a, 0.0); });
  }
}

void lower_rounded_square_root(Lowering& lower, Type type) {
  if (type == Type::kF32) {
    lower.out.run = lanewise_costly(
        [](const Modes& modes, float a) { return evaluate<Operation::kSquareRoot>(modes, a, 0.0f, 0.0f); });
  } else {
    lower.out.run = lanewise_costly(
        [](const Modes& modes, double a) { return evaluate<Operation::kSquareRoot>(modes, a, 0.0, 0.0); });
  }
}

// --- Approximations

template <float (*kFunction)(float)>
Handler approximation(bool flush) {
  if (!flush) return lanewise_costly([](float a) { return kFunction(a); });
  return lanewise_costly([](float a) { return flushed(kFunction(flushed(a))); });
}

template <float (*kFunction)(float)>
void lower_approximation(Lowering& lower) {
  if (!lower.take("approx")) lower.unknown("only .approx");
  const bool flush = lower.take("ftz");
  if (lower.need_type() != Type::kF32) lower.unknown("not with this type");
  take_operands(lower, 32, 1);
  lower.out.run = approximation<kFunction>(flush);
}

// .approx.ftz.f64: of argument and result there are the upper halves, with 20 bits of fraction; the lower ones are zeros.
template <double (*kFunction)(double)>
Handler upper_approximation() {
  return lanewise_costly([](double a) {
    constexpr uint64_t kUpper = ~uint64_t{0} << 32;
    const double result = kFunction(flush_if(true, from_bits<double>(to_bits(a) & kUpper)));
    if (is_nan(a) || is_nan(result)) return from_bits<double>(kNan64);
    // To nearest, ties away.
    return flush_if(true, from_bits<double>((to_bits(result) + (uint64_t{1} << 31)) & kUpper));
  });
}

double reciprocal_double(double x) { return 1 / x; }
double reciprocal_square_root_double(double x) { return 1 / std::sqrt(x); }

template <float (*kApproximation)(float), void (*kRounded)(Lowering&, Type), double (*kUpper)(double)>
void lower_approximation_or_rounded(Lowering& lower) {
  const Type type = lower.need_type();
  if (type != Type::kF32 && type != Type::kF64) lower.unknown("not with this type");
  if (type == Type::kF32 && lower.take("approx")) {
    lower.out.run = approximation<kApproximation>(lower.take("ftz"));
  } else if (kUpper && lower.take("approx")) {
    lower.need_one_of({"ftz"});
    lower.out.run = upper_approximation<kUpper>();
  } else {
    lower.out.modes[kRounding] = int32_t(need_rounding(lower));
    if (type == Type::kF32) lower.out.modes[kFlush] = lower.take("ftz");
    kRounded(lower, type);
  }
  take_operands(lower, bits_of(type), 1);
}

void lower_reciprocal_square_root(Lowering& lower) {
  if (!lower.take("approx")) lower.unknown("only .approx");
  const Type type = lower.need_type();
  take_operands(lower, bits_of(type), 1);
  if (type == Type::kF32) {
    lower.out.run = approximation<reciprocal_square_root_float>(lower.take("ftz"));
  } else if (type == Type::kF64 && lower.take("ftz")) {
    lower.out.run = upper_approximation<reciprocal_square_root_double>();
  } else if (type == Type::kF64) {
    lower.out.run = lanewise_costly([](double a) {
      const double result = 1 / std::sqrt(a);
      return result != result ? quiet(a == a ? from_bits<double>(kNan64) : a) : result;
    });
  } else {
    lower.unknown("not with this type");
  }
}

template <double (*kFunction)(double), typename T>
T narrow_function(bool flush, T a) {
  if constexpr (kIsPair<T>) {
    return {narrow_function<kFunction>(flush, a.low), narrow_function<kFunction>(flush, a.high)};
  } else {
    const double value = kFunction(to_double(flush_if(flush, a)));
    return flush_if(flush, from_bits<T>(encode(format_of(T{}), value)));
  }
}

template <double (*kFunction)(double)>
void lower_narrow_function(Lowering& lower, Type type) {
  switch (type) {
    case Type::kF16:
      lower.out.run = lanewise_costly([](Half a) { return narrow_function<kFunction>(false, a); });
      break;
    case Type::kF16x2:
      lower.out.run = lanewise_costly([](Pair<Half> a) { return narrow_function<kFunction>(false, a); });
      break;
    case Type::kBF16:
      lower.out.run =
          lanewise_costly([](const Modes& modes, Bfloat a) { return narrow_function<kFunction>(modes[kFlush], a); });
      break;
    case Type::kBF16x2:
      lower.out.run = lanewise_costly(
          [](const Modes& modes, Pair<Bfloat> a) { return narrow_function<kFunction>(modes[kFlush], a); });
      break;
    default:
      lower.unknown("not with this type");
  }
}

template <bool kFlushed>
Step exp2_handler(Warp& warp, const Instruction& instruction, Mask mask) {
  alignas(64) uint32_t results[kLanes];
  exp2_lanes(warp.slots32(instruction.operands[1]), results, kFlushed);
  warp.store(instruction.operands[0], results, mask);
  return Step::kNext;
}

double exp2_double(double x) { return std::exp2(x); }
double tanh_double(double x) { return std::tanh(x); }

void lower_exp2(Lowering& lower) {
  if (!lower.take("approx")) lower.unknown("only .approx");
  const Type type = lower.need_type();
  take_operands(lower, bits_of(type), 1);
  if (type == Type::kF32) {
    lower.out.run = lower.take("ftz") ? exp2_handler<true> : exp2_handler<false>;
  } else {
    // The two other types come without .ftz only, these with it only.
    if (type == Type::kBF16 || type == Type::kBF16x2) {
      lower.need_one_of({"ftz"});
      lower.out.modes[kFlush] = true;
    }
    lower_narrow_function<exp2_double>(lower, type);
  }
}

void lower_tanh(Lowering& lower) {
  if (!lower.take("approx")) lower.unknown("only .approx");
  const Type type = lower.need_type();
  take_operands(lower, bits_of(type), 1);
  if (type == Type::kF32) {
    lower.out.run = approximation<tanh_float>(false);
  } else {
    lower_narrow_function<tanh_double>(lower, type);
  }
}

// --- min, max

constexpr int kExtremeFlush = 0, kPropagateNan = 1, kXorSign = 2, kAbsolute = 3;

template <bool kMaximum, typename T>
T extreme(const Modes& modes, T a, T b) {
  if constexpr (kIsPair<T>) {
    return {extreme<kMaximum>(modes, a.low, b.low), extreme<kMaximum>(modes, a.high, b.high)};
  } else {
    using Traits = FloatBits<T>;
    auto x = to_bits(flush_if(modes[kExtremeFlush], a));
    auto y = to_bits(flush_if(modes[kExtremeFlush], b));
    const auto xor_sign = (x ^ y) & Traits::kSign;
    if (modes[kAbsolute]) {
      x &= Traits::kSign - 1;
      y &= Traits::kSign - 1;
    }
    a = from_bits<T>(x);
    b = from_bits<T>(y);
    if constexpr (std::is_same_v<T, double>) {
      if (is_nan(a) && is_nan(b)) return quiet(b);
    }
    if (is_nan(a) && is_nan(b)) return from_bits<T>(Traits::kNan);
    if ((is_nan(a) || is_nan(b)) && modes[kPropagateNan]) return from_bits<T>(Traits::kNan);
    const double u = to_double(a), v = to_double(b);
    // Equal numbers differ in the sign of zero at most, and +0 counts as more than -0.
    uint64_t result = kMaximum ? x & y : x | y;
    if (is_nan(b) || (kMaximum ? u > v : u < v)) result = x;
    if (is_nan(a) || (kMaximum ? u < v : u > v)) result = y;
    if (modes[kXorSign]) result = (result & (Traits::kSign - 1)) | xor_sign;
    return from_bits<T>(result);
  }
}

template <bool kMaximum, bool kFlushed>
Handler plain_extreme() {
  return lanewise([](float a, float b) {
    if constexpr (kFlushed) {
      a = flushed(a);
      b = flushed(b);
    }
    const uint32_t x = to_bits(a), y = to_bits(b);
    uint32_t result = kMaximum ? x & y : x | y;
    result = (kMaximum ? a > b : a < b) | is_nan(b) ? x : result;
    result = (kMaximum ? a < b : a > b) | is_nan(a) ? y : result;
    return canonical(from_bits<float>(result));
  });
}

template <bool kMaximum, typename T>
Handler general_extreme() {
  return lanewise_costly([](const Modes& modes, T a, T b) { return extreme<kMaximum, T>(modes, a, b); });
}

template <bool kMaximum>
Handler extreme_of_three() {
  return lanewise_costly([](const Modes& modes, float a, float b, float c) {
    return extreme<kMaximum>(modes, extreme<kMaximum>(modes, a, b), c);
  });
}

template <bool kMaximum>
void lower_extreme(Lowering& lower) {
  if (const std::string_view pair = lower.take_one_of({"u16x2", "s16x2"}); !pair.empty()) {
    return lower_integer_pair(lower, pair == "s16x2", kMaximum ? PairOperation::kMaximum : PairOperation::kMinimum);
  }
  const Type type = lower.need_type();
  if (is_integer(type)) return kMaximum ? lower_integer_maximum(lower, type) : lower_integer_minimum(lower, type);
  Modes& modes = lower.out.modes;
  const bool is_half = type == Type::kF16 || type == Type::kF16x2;
  if (type == Type::kF32 || is_half) modes[kExtremeFlush] = lower.take("ftz");
  if (type != Type::kF64) {
    modes[kPropagateNan] = lower.take("NaN");
    modes[kXorSign] = lower.take("xorsign");
    const bool has_three = type == Type::kF32 && lower.count() == 4;
    if (modes[kXorSign] || has_three) modes[kAbsolute] = lower.take("abs");
    if (modes[kXorSign] && !modes[kAbsolute]) lower.unknown(".xorsign without .abs");
    if (has_three) {
      lower.need_architecture(100);
      if (modes[kXorSign]) lower.unknown(".xorsign of three");
      take_operands(lower, 32, 3);
      lower.out.run = extreme_of_three<kMaximum>();
      return;
    }
  }
  take_operands(lower, bits_of(type), 2);
  if (type == Type::kF32 && !modes[kPropagateNan] && !modes[kXorSign]) {
    lower.out.run = modes[kExtremeFlush] ? plain_extreme<kMaximum, true>() : plain_extreme<kMaximum, false>();
  } else {
    lower.out.run = for_float(lower, type, []<typename T>(T) { return general_extreme<kMaximum, T>(); });
  }
}

// --- Signs

enum class Sign { kAbsolute, kNegate };

template <Sign kSign, typename T>
T with_sign(const Modes& modes, T a) {
  if constexpr (kIsPair<T>) {
    return {with_sign<kSign>(modes, a.low), with_sign<kSign>(modes, a.high)};
  } else {
    using Traits = FloatBits<T>;
    a = flush_if(modes[0], a);
    // They pass through an adder, which knows one NaN of the shorter types, and leaves those of f64 their sign.
    if constexpr (std::is_same_v<T, double>) {
      if (is_nan(a)) return quiet(a);
    } else if (is_nan(a)) {
      return from_bits<T>(Traits::kNan);
    }
    const auto bits = to_bits(a);
    return from_bits<T>(kSign == Sign::kNegate ? bits ^ Traits::kSign : bits & (Traits::kSign - 1));
  }
}

template <Sign kSign, typename T>
Handler sign_handler() {
  return lanewise([](const Modes& modes, T a) { return with_sign<kSign, T>(modes, a); });
}

template <Sign kSign>
void lower_sign(Lowering& lower) {
  const Type type = lower.need_type();
  if (is_integer(type)) {
    return kSign == Sign::kNegate ? lower_integer_negate(lower, type) : lower_integer_absolute(lower, type);
  }
  if (type == Type::kF32 || type == Type::kF16 || type == Type::kF16x2) lower.out.modes[0] = lower.take("ftz");
  take_operands(lower, bits_of(type), 1);
  lower.out.run = for_float(lower, type, []<typename T>(T) { return sign_handler<kSign, T>(); });
}

template <typename T>
Handler copysign_handler() {
  return lanewise([](T a, T b) {
    constexpr auto kSign = FloatBits<T>::kSign;
    return from_bits<T>((to_bits(a) & kSign) | (to_bits(b) & (kSign - 1)));
  });
}

void lower_copysign(Lowering& lower) {
  const Type type = lower.need_type();
  if (type != Type::kF32 && type != Type::kF64) lower.unknown("not with this type");
  take_operands(lower, bits_of(type), 2);
  lower.out.run = type == Type::kF32 ? copysign_handler<float>() : copysign_handler<double>();
}

enum Property : int32_t { kFinite, kInfinite, kNumber, kNotANumber, kNormal, kSubnormal };

template <typename T>
Handler property_handler() {
  return lanewise([](const Modes& modes, T a) -> bool {
    using Traits = FloatBits<T>;
    const auto magnitude = to_bits(a) & (Traits::kSign - 1);
    const auto exponent = magnitude & Traits::kExponent;
    switch (modes[0]) {
      case kFinite:
        return magnitude < Traits::kExponent;
      case kInfinite:
        return magnitude == Traits::kExponent;
      case kNumber:
        return magnitude <= Traits::kExponent;
      case kNotANumber:
        return magnitude > Traits::kExponent;
      case kNormal:
        return magnitude == 0 || (exponent != 0 && exponent != Traits::kExponent);
      default:
        return magnitude != 0 && exponent == 0;
    }
  });
}

void lower_test_property(Lowering& lower) {
  constexpr std::string_view kNames[] = {"finite", "infinite", "number", "notanumber", "normal", "subnormal"};
  const std::string_view name = lower.need_one_of({kNames[0], kNames[1], kNames[2], kNames[3], kNames[4], kNames[5]});
  lower.out.modes[0] = int32_t(std::find(std::begin(kNames), std::end(kNames), name) - kNames);
  const Type type = lower.need_type();
  if (type != Type::kF32 && type != Type::kF64) lower.unknown("not with this type");
  lower.predicate_destination(0);
  lower.source(1, bits_of(type));
  lower.out.run = type == Type::kF32 ? property_handler<float>() : property_handler<double>();
}

// --- Opcodes that integers have as well

template <Operation kOperation, void (*kIntegers)(Lowering&, Type)>
void lower_either(Lowering& lower) {
  const Type type = lower.need_type();
  if (is_integer(type)) {
    kIntegers(lower, type);
  } else {
    lower_float<kOperation>(lower, type);
  }
}

void lower_add(Lowering& lower) {
  if (const std::string_view pair = lower.take_one_of({"u16x2", "s16x2"}); !pair.empty()) {
    return lower_integer_pair(lower, pair == "s16x2", PairOperation::kAdd);
  }
  lower_either<Operation::kAdd, lower_integer_add>(lower);
}

void lower_fma(Lowering& lower) { lower_float<Operation::kFma>(lower, lower.need_type()); }

}  // namespace

void add_arithmetic(InstructionSet& set) {
  set["add"] = lower_add;
  set["sub"] = lower_either<Operation::kSubtract, lower_integer_subtract>;
  set["mul"] = lower_either<Operation::kMultiply, lower_integer_multiply>;
  set["mad"] = lower_either<Operation::kFma, lower_integer_multiply_add>;
  set["fma"] = lower_fma;
  set["div"] = lower_divide;
  set["rcp"] = lower_approximation_or_rounded<reciprocal_float, lower_rounded_reciprocal, reciprocal_double>;
  set["sqrt"] = lower_approximation_or_rounded<square_root_float, lower_rounded_square_root, nullptr>;
  set["rsqrt"] = lower_reciprocal_square_root;
  set["ex2"] = lower_exp2;
  set["lg2"] = lower_approximation<log2_float>;
  set["sin"] = lower_approximation<sine_float>;
  set["cos"] = lower_approximation<cosine_float>;
  set["tanh"] = lower_tanh;
  set["min"] = lower_extreme<false>;
  set["max"] = lower_extreme<true>;
  set["abs"] = lower_sign<Sign::kAbsolute>;
  set["neg"] = lower_sign<Sign::kNegate>;
  set["copysign"] = lower_copysign;
  set["testp"] = lower_test_property;
  add_integer_arithmetic(set);
}

}  // namespace emulator
