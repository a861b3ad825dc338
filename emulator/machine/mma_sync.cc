// Matrix products of one warp, of 16 rows and 8 columns. Registers hold tiles as they do for the warps of a WGMMA.
#include "emulator/machine/instruction_set.h"
#include "emulator/machine/matrix_operands.h"
#include "emulator/machine/numerics.h"
#include "emulator/machine/warp.h"

namespace emulator {

namespace {

// Two of every four elements along K: the first two, or the last two.
void take_pairs(const PanelA& a, const PanelB& b, int k, bool last, PanelA& some_a, PanelB& some_b) {
  for (int i = 0; i < k / 2; ++i) {
    const int from = i / 2 * 4 + 2 * last + i % 2;
    for (int row = 0; row < kPanelRows; ++row) some_a.values[row][i] = a.values[row][from];
    for (int column = 0; column < kPanelColumns; ++column) some_b.values[i][column] = b.values[from][column];
  }
}

// Hopper has no such instruction. ptxas widens the elements to halves, multiplies what the lower halves of words held
// and then the rest, beginning at zero, and adds that to the accumulator as any two numbers.
void multiply_add_fp8(const PanelA& a, const PanelB& b, int k, bool to_halves, PanelD& d) {
  PanelD sum = {};
  for (const bool last : {false, true}) {
    PanelA some_a;
    PanelB some_b;
    take_pairs(a, b, k, last, some_a, some_b);
    find_powers(smallest_of(Element::kF16), k / 2, some_a);
    find_powers(smallest_of(Element::kF16), k / 2, some_b);
    multiply_add(some_a, some_b, k / 2, {kAdderWidth, to_halves ? Sum::kHalf : Sum::kFloat}, sum);
  }
  for (int row = 0; row < kPanelRows; ++row) {
    for (int column = 0; column < kPanelColumns; ++column) {
      double& to = d[row][column];
      const double added = sum[row][column];
      to = to_halves ? to_double(to_half(to + added)) : float(to) + float(added);
    }
  }
}

enum Mode { kAccumulator, kElementA, kElementB, kChunks };  // chunks: of 16 bytes, along k

Step mma(Warp& warp, const Instruction& instruction, Mask mask) {
  if (mask != kAllLanes) {
    throw Fault(FaultCode::kIllegalInstruction, "A warp's matrix product is executed by " +
                                                    std::to_string(__builtin_popcount(mask)) + " of its 32 lanes.");
  }
  const auto accumulator = Accumulator(instruction.modes[kAccumulator]);
  const auto element_a = Element(instruction.modes[kElementA]), element_b = Element(instruction.modes[kElementB]);
  const int chunks = instruction.modes[kChunks];
  const int d_registers = accumulator_registers(accumulator), a_registers = 2 * chunks;

  const Operand* operands = instruction.operands;
  uint32_t* d_slots[4];
  for (int i = 0; i < d_registers; ++i) d_slots[i] = warp.target32(*operands++);
  Slots sources[4 + 2 + 4];
  for (int i = 0; i < a_registers + chunks + d_registers; ++i) sources[i] = warp.slots32(*operands++);

  PanelA a;
  PanelB b;
  PanelD d;
  load_a(element_a, sources, a_registers, a);
  load_b(element_b, sources + a_registers, chunks, b);
  load_d(accumulator, sources + a_registers + chunks, d);
  const int k = chunks * 16 / bytes_of(element_a);
  const bool to_halves = accumulator == Accumulator::kF16;
  if (is_integer(element_a)) {
    multiply_add_integers(a, b, k, d);
  } else if (is_fp8(element_a)) {
    multiply_add_fp8(a, b, k, to_halves, d);
  } else {
    find_powers(smallest_of(element_a), k, a);
    find_powers(smallest_of(element_b), k, b);
    multiply_add(a, b, k, {kAdderWidth, to_halves ? Sum::kHalf : Sum::kFloat}, d);
  }
  store_d(accumulator, d, d_slots);
  return Step::kNext;
}

void lower_mma(Lowering& lowering) {
  for (const char* modifier : {"sync", "aligned", "row", "col"}) {
    if (!lowering.take(modifier)) lowering.unknown("it is not ." + std::string(modifier));
  }
  const int k = std::stoi(std::string(lowering.need_one_of({"m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32"}).substr(6)));
  const bool saturated = lowering.take("satfinite");
  const Type d = lowering.need_type();
  const auto a = element_of(lowering.need_type()), b = element_of(lowering.need_type());
  if (lowering.need_type() != d) lowering.unknown("its accumulators are of two types");
  if (!a || !b) lowering.unknown("it has no such operands");
  const auto accumulator = accumulator_of(*a, *b, d, saturated);
  if (!accumulator) lowering.unknown("its types do not go together");
  const int k_bytes = k * bytes_of(*a);
  if (k_bytes != 16 && k_bytes != 32) lowering.unknown("its shape does not go with its types");
  const int chunks = k_bytes / 16;
  if (lowering.count() != 4) lowering.unknown("it has another number of operands than expected");

  size_t of_d = 0, of_a = 0, of_b = 0, of_c = 0;
  lowering.destinations(0, 32, &of_d);
  lowering.sources(1, 32, &of_a);
  lowering.sources(2, 32, &of_b);
  lowering.sources(3, 32, &of_c);
  if (int(of_d) != accumulator_registers(*accumulator) || of_c != of_d || int(of_a) != 2 * chunks ||
      int(of_b) != chunks) {
    lowering.unknown("its operands have another number of registers than expected");
  }
  lowering.out.is_aligned = true;
  lowering.out.modes = {int32_t(*accumulator), int32_t(*a), int32_t(*b), chunks, 0, 0};
  lowering.out.run = mma;
}

}  // namespace

void add_mma(InstructionSet& instructions) { instructions["mma"] = lower_mma; }

}  // namespace emulator
