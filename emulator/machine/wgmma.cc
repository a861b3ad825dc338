// Matrix products of warpgroups.
//
// Each of the four warps computes its sixteen rows of D as soon as it comes to the instruction: what hardware may do
// until wgmma.wait_group returns, happens at the earliest possible time. A kernel that forgets a wait is found out by
// Races, which is told of all this.
//
// Hardware multiplies for all four warps together: what each of them wrote before is seen by all, and what one has
// waited for is over for the others. So they wait for each other at wgmma.fence, which stands before the first product,
// and at wgmma.wait_group until all have come to the same product.
#include <charconv>
#include <cstring>

#include "emulator/machine/cta.h"
#include "emulator/machine/instruction_set.h"
#include "emulator/machine/matrix_operands.h"
#include "emulator/machine/warp.h"
#include "emulator/machine/wgmma_layout.h"

namespace emulator {
namespace {

constexpr int kWarpsOfGroup = 4;
constexpr int kBytesOfK = 32;  // whatever the element
constexpr int kRegistersOfA = 4;

// What the lowering leaves in `modes`, up to the last one.
struct Form {
  int32_t columns;
  Accumulator accumulator;
  Element a, b;
  bool a_in_registers, a_is_transposed, b_is_transposed, is_negated;

  void put(std::array<int32_t, 6>& modes) const {
    modes = {columns,
             int32_t(accumulator),
             int32_t(a),
             int32_t(b),
             a_in_registers | a_is_transposed << 1 | b_is_transposed << 2 | is_negated << 3,
             0};
  }
  static Form of(const std::array<int32_t, 6>& modes) {
    const int32_t flags = modes[4];
    return {modes[0],        Accumulator(modes[1]), Element(modes[2]), Element(modes[3]),
            bool(flags & 1), bool(flags & 2),       bool(flags & 4),   bool(flags & 8)};
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// Execution

[[noreturn]] void illegal(const std::string& message) { throw Fault(FaultCode::kIllegalInstruction, message); }

void require_warpgroup(Warp& warp, Mask mask) {
  if (mask != kAllLanes) {
    illegal("A warpgroup's instruction is executed by " + std::to_string(__builtin_popcount(mask)) +
            " of the 32 lanes of a warp.");
  }
  if (warp.cta().warps().size() < size_t(warp.index() / kWarpsOfGroup + 1) * kWarpsOfGroup) {
    illegal("A warpgroup's instruction is executed by a warp whose group has fewer than four warps.");
  }
}

// An operand in shared memory, by its descriptor.
class SharedOperand {
 public:
  SharedOperand(Warp& warp, const Operand& descriptor, Element element, bool is_transposed)
      : cluster_(warp.cta().cluster()),
        rank_(uint64_t(warp.cta().rank()) << kRankShift),
        element_(element),
        is_transposed_(is_transposed) {
    const uint64_t* slots = warp.slots64(descriptor);
    for (int lane = 1; lane < kLanes; ++lane) {
      if (slots[lane] != slots[0]) illegal("The lanes of a warp disagree about a matrix descriptor.");
    }
    layout_ = OperandLayout::of(slots[0]);
  }

  // Rows (of A) or columns (of B) first … first + 7 for all of k: put(row, k, value) takes them.
  template <typename Put>
  void read(int first, Put&& put) const {
    const int per_chunk = 16 / bytes_of(element_);
    float values[kMostPerChunk];
    if (is_transposed_) {
      // Only elements of 16 bits are ever transposed: eight of them are a chunk.
      for (int k = 0; k < kBytesOfK / 2; ++k) {
        read_chunk(uint32_t(k), uint32_t(first / 8), values);
        for (int row = 0; row < 8; ++row) put(row, k, values[row]);
      }
    } else {
      for (int row = 0; row < 8; ++row) {
        for (int chunk = 0; chunk < kBytesOfK / 16; ++chunk) {
          read_chunk(uint32_t(first + row), uint32_t(chunk), values);
          for (int k = 0; k < per_chunk; ++k) put(row, chunk * per_chunk + k, values[k]);
        }
      }
    }
  }

 private:
  void read_chunk(uint32_t line, uint32_t column, float (&values)[kMostPerChunk]) const {
    const uint32_t address = layout_.chunk(!is_transposed_, line, column);
    decode(element_, cluster_.shared(rank_ | address, 16, Access::kRead, 16), values);
  }

  Cluster& cluster_;
  uint64_t rank_;
  Element element_;
  bool is_transposed_;
  OperandLayout layout_;
};

Adder adder_of(const Form& form) {
  const bool to_half = form.accumulator == Accumulator::kF16;
  if (is_fp8(form.a)) return {kFp8AdderWidth, to_half ? Sum::kHalf : Sum::kShortFloat};
  return {kAdderWidth, to_half ? Sum::kHalf : Sum::kFloat};
}

Step mma_async(Warp& warp, const Instruction& instruction, Mask mask) {
  ++warp.wgmma_products;
  warp.cta().cluster().note_event();
  require_warpgroup(warp, mask);
  const Form form = Form::of(instruction.modes);
  const int group_registers = accumulator_registers(form.accumulator);  // of eight columns
  const Operand* d_operands = instruction.operands;
  const Operand* a_operands = d_operands + form.columns / kPanelColumns * group_registers;
  const Operand* b_operand = a_operands + (form.a_in_registers ? kRegistersOfA : 1);
  const Mask scale = warp.predicate(b_operand[1]);
  if (scale != 0 && scale != kAllLanes) illegal("The lanes of a warp disagree about scale-d.");
  const int k = kBytesOfK / bytes_of(form.a);
  if (Races* races = warp.cta().cluster().races()) {
    races->begin_product(warp, int(a_operands - d_operands), form.a_in_registers ? kRegistersOfA : 0);
  }

  PanelA a;
  if (form.a_in_registers) {
    Slots slots[kRegistersOfA];
    for (int i = 0; i < kRegistersOfA; ++i) slots[i] = warp.slots32(a_operands[i]);
    load_a(form.a, slots, kRegistersOfA, a);
  } else {
    const SharedOperand shared(warp, *a_operands, form.a, form.a_is_transposed);
    for (int half = 0; half < kPanelRows; half += 8) {
      shared.read(warp.index() % kWarpsOfGroup * kPanelRows + half,
                  [&](int row, int at, float value) { a.values[half + row][at] = value; });
    }
  }
  if (form.is_negated) {
    for (auto& row : a.values) {
      for (int at = 0; at < k; ++at) row[at] = -row[at];
    }
  }
  find_powers(smallest_of(form.a), k, a);

  const SharedOperand shared(warp, *b_operand, form.b, form.b_is_transposed);
  for (int first = 0; first < form.columns; first += kPanelColumns, d_operands += group_registers) {
    Slots before[4];
    uint32_t* after[4];
    for (int i = 0; i < group_registers; ++i) {
      before[i] = warp.slots32(d_operands[i]);
      after[i] = warp.target32(d_operands[i]);
    }
    PanelB b;
    shared.read(first, [&](int column, int at, float value) { b.values[at][panel_column(column)] = value; });
    PanelD d;
    if (scale) {
      load_d(form.accumulator, before, d);
    } else {
      std::memset(d, 0, sizeof(d));
    }
    if (is_integer(form.a)) {
      multiply_add_integers(a, b, k, d);
    } else {
      find_powers(smallest_of(form.b), k, b);
      multiply_add(a, b, k, adder_of(form), d);
    }
    store_d(form.accumulator, d, after);
  }
  return Step::kNext;
}

// Whether all four warps have come as far as this one.
bool are_together(Warp& warp, uint64_t Warp::*count) {
  const auto& warps = warp.cta().warps();
  const size_t first = size_t(warp.index() / kWarpsOfGroup * kWarpsOfGroup);
  for (size_t i = first; i < first + kWarpsOfGroup; ++i) {
    if ((*warps[i]).*count < warp.*count) return false;
  }
  return true;
}

Step fence(Warp& warp, const Instruction&, Mask mask) {
  require_warpgroup(warp, mask);
  if (warp.fragment().wait.kind != Wait::Kind::kWarpgroup) {
    ++warp.wgmma_fences;
    warp.cta().cluster().note_event();
    if (Races* races = warp.cta().cluster().races()) races->fence_products(warp);
  }
  return are_together(warp, &Warp::wgmma_fences) ? Step::kNext : warp.wait_for(Wait::Kind::kWarpgroup);
}

// modes[0]: how many groups may be pending.
Step wait_for_products(Warp& warp, const Instruction& instruction, Mask mask) {
  require_warpgroup(warp, mask);
  if (!are_together(warp, &Warp::wgmma_products)) return warp.wait_for(Wait::Kind::kWarpgroup);
  if (Races* races = warp.cta().cluster().races()) races->wait_for_products(warp, uint32_t(instruction.modes[0]));
  return Step::kNext;
}

Step commit(Warp& warp, const Instruction&, Mask mask) {
  require_warpgroup(warp, mask);
  if (Races* races = warp.cta().cluster().races()) races->commit_products(warp);
  return Step::kNext;
}

// ---------------------------------------------------------------------------------------------------------------------
// Lowering

// A number that follows a letter in a shape; moves `shape` beyond it.
int shape_number(Lowering& lowering, std::string_view& shape, char letter) {
  int value = 0;
  if (shape.empty() || shape[0] != letter) lowering.unknown("its shape is unknown");
  const auto [end, error] = std::from_chars(shape.data() + 1, shape.data() + shape.size(), value);
  if (error != std::errc{}) lowering.unknown("its shape is unknown");
  shape.remove_prefix(size_t(end - shape.data()));
  return value;
}

void check_shape(Lowering& lowering, std::string_view shape, Form& form) {
  const int m = shape_number(lowering, shape, 'm');
  form.columns = shape_number(lowering, shape, 'n');
  const int k = shape_number(lowering, shape, 'k');
  const bool fits = shape.empty() && m == 64 && form.columns >= 8 && form.columns <= 256 && form.columns % 8 == 0 &&
                    k == kBytesOfK / bytes_of(form.a);
  // Integers have fewer widths.
  const bool has_width = !is_integer(form.a) || form.columns <= 24 || form.columns % 16 == 0;
  if (!fits || !has_width) lowering.unknown("its shape is unknown");
}

// A constant operand that says yes or no.
bool flag(Lowering& lowering, size_t operand, int64_t off, int64_t on) {
  if (operand >= lowering.count()) lowering.unknown("operands are missing");
  const auto value = lowering.constant(int(operand));
  if (!value || (*value != off && *value != on)) lowering.unknown("an operand is none of the constants it may be");
  return *value == on;
}

void lower_mma_async(Lowering& lowering) {
  Form form = {};
  const std::string_view shape = lowering.take_next();
  const bool saturated = lowering.take("satfinite");
  const Type d = lowering.need_type();
  const auto a = element_of(lowering.need_type()), b = element_of(lowering.need_type());
  if (!a || !b) lowering.unknown("it has no such operands");
  const auto accumulator = accumulator_of(*a, *b, d, saturated);
  if (!accumulator) lowering.unknown("its types do not go together");
  form.a = *a;
  form.b = *b;
  form.accumulator = *accumulator;
  check_shape(lowering, shape, form);

  if (lowering.count() < 4) lowering.unknown("operands are missing");
  form.a_in_registers = lowering.operand(1).kind == ptx::Operand::Kind::kVector;
  const bool has_signs = !is_integer(form.a);
  const bool has_transposes = bytes_of(form.a) == 2;
  size_t next = 4;
  if (has_signs) {
    form.is_negated = flag(lowering, next, 1, -1) != flag(lowering, next + 1, 1, -1);
    next += 2;
  }
  if (has_transposes) {
    if (!form.a_in_registers) form.a_is_transposed = flag(lowering, next++, 0, 1);
    form.b_is_transposed = flag(lowering, next++, 0, 1);
  }
  if (lowering.count() != next) lowering.unknown("it has another number of operands than expected");

  // D is also a source: no element may be left out.
  size_t count = 0;
  lowering.sources(0, 32, &count);
  if (int(count) != form.columns / kPanelColumns * accumulator_registers(form.accumulator)) {
    lowering.unknown("its accumulator has another number of registers than expected");
  }
  for (const ptx::Operand& element : lowering.operand(0).elements) {
    if (element.kind != ptx::Operand::Kind::kRegister) lowering.unknown("its accumulator is no register");
  }
  if (form.a_in_registers) {
    lowering.sources(1, 32, &count);
    if (count != kRegistersOfA) lowering.unknown("its operand has another number of registers than expected");
  } else {
    lowering.source(1, 64);
  }
  lowering.source(2, 64);
  lowering.predicate(3);
  form.put(lowering.out.modes);
  lowering.out.run = mma_async;
}

void lower_wgmma(Lowering& lowering) {
  lowering.need_family(9);
  const std::string_view what = lowering.need_one_of({"fence", "commit_group", "wait_group", "mma_async"});
  if (!lowering.take("sync") || !lowering.take("aligned")) lowering.unknown("it is not .sync.aligned");
  lowering.out.is_aligned = true;
  lowering.out.modes = {};
  if (what == "mma_async") return lower_mma_async(lowering);
  const bool is_wait = what == "wait_group";
  if (lowering.count() != (is_wait ? 1 : 0) || (is_wait && lowering.constant(0).value_or(-1) < 0)) {
    lowering.unknown("its operands are other than expected");
  }
  if (is_wait) lowering.out.modes[0] = int32_t(*lowering.constant(0));
  lowering.out.run = what == "fence" ? fence : is_wait ? wait_for_products : commit;
}

}  // namespace

void add_wgmma(InstructionSet& instructions) { instructions["wgmma"] = lower_wgmma; }

}  // namespace emulator
