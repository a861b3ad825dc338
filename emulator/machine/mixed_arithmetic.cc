// add, sub and fma of floats with halves, which are widened: what SM100 brought.
#include "emulator/machine/arithmetic_internal.h"
#include "emulator/machine/lanewise.h"

namespace emulator {
namespace {

constexpr int kRounding = 0, kSaturate = 1;

float evaluate(Operation operation, const Modes& modes, float a, float b, float c) {
  const float value = rounded(operation, Rounding(modes[kRounding]), a, b, c);
  return modes[kSaturate] ? saturated(value) : value;
}

template <Operation kOperation, typename T>
Handler mixed() {
  if constexpr (kOperation == Operation::kFma) {
    return lanewise_costly(
        [](const Modes& modes, T a, T b, float c) { return evaluate(kOperation, modes, to_float(a), to_float(b), c); });
  } else {
    return lanewise_costly(
        [](const Modes& modes, T a, float b) { return evaluate(kOperation, modes, to_float(a), b, 0); });
  }
}

template <Operation kOperation>
Handler of_type(Type type) {
  return type == Type::kF16 ? mixed<kOperation, Half>() : mixed<kOperation, Bfloat>();
}

}  // namespace

bool lower_mixed_float(Lowering& l, Operation operation, Rounding rounding) {
  const std::string_view name = l.take_one_of({"f16", "bf16"});
  if (name.empty()) return false;
  l.need_architecture(100);
  const Type type = name == "f16" ? Type::kF16 : Type::kBF16;
  const int factors = operation == Operation::kFma ? 2 : 1;
  if (int(l.count()) != factors + 2) l.unknown("another number of operands");
  l.out.modes = {int32_t(rounding), l.take("sat")};
  l.destination(0, 32);
  for (int i = 1; i <= factors; ++i) l.source(i, 16);
  l.source(factors + 1, 32);
  switch (operation) {
    case Operation::kAdd:
      l.out.run = of_type<Operation::kAdd>(type);
      break;
    case Operation::kSubtract:
      l.out.run = of_type<Operation::kSubtract>(type);
      break;
    case Operation::kFma:
      l.out.run = of_type<Operation::kFma>(type);
      break;
    default:
      l.unknown("not of these types");
  }
  return true;
}

}  // namespace emulator
