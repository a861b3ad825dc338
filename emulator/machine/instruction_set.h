// How an instruction's text becomes a handler with operands.
#pragma once

#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "emulator/machine/program.h"

namespace emulator {

enum class Type : int16_t {
  kPred,
  kB8,
  kB16,
  kB32,
  kB64,
  kB128,
  kU8,
  kU16,
  kU32,
  kU64,
  kS8,
  kS16,
  kS32,
  kS64,
  kF16,
  kF16x2,
  kBF16,
  kBF16x2,
  kF32,
  kF32x2,
  kF64,
  kTF32,
  kE4M3,
  kE5M2,
  kE4M3x2,
  kE5M2x2,
  kE4M3x4,
  kE5M2x4,
};

int bits_of(Type type);
std::optional<Type> type_named(std::string_view name);  // "f32", "bf16x2", "pred", …

// Thrown by a lowering for a form that nobody taught it.
struct UnknownForm : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// One instruction on its way from text to handler. A modifier is a part of the opcode after the first. Each must be taken
// by the lowering: what is left over makes the form unknown, so that nothing is ever guessed.
class Lowering {
 public:
  Lowering(const ptx::Instruction& text, Instruction& out, Function& function);

  const ptx::Instruction& text;
  Instruction& out;

  // --- Modifiers
  bool take(std::string_view modifier);                                        // true if it is there
  std::string_view take_one_of(std::initializer_list<std::string_view> some);  // "" if none of them is there
  std::string_view need_one_of(std::initializer_list<std::string_view> some);
  Type need_type();                 // the first untaken modifier that names a type
  std::optional<Type> take_type();  // the same; none left: nothing
  std::string_view take_next();     // the first untaken modifier, "" if none is left
  void take_order();                // the semantics of an access: what they mean goes to out.order; and the scope
  [[noreturn]] void unknown(const std::string& why) const;
  // Unknown unless the PTX is for this architecture (90, 100) or a newer one.
  void need_architecture(int least) const;
  // Unknown unless the PTX is for this family of architectures and no other: sm_90a is of 9; sm_100a, sm_103f are of 10.
  void need_family(int major) const;
  // Unknown unless the PTX is for one architecture alone, as sm_100a is, and not for its family, as sm_100f is.
  void need_exact_architecture() const;

  // --- Operands, by their number in the text. Each call appends to out.operands and returns the place there.
  size_t count() const { return text.operands.size(); }
  int source(int i, int bits);       // register of that width or constant of it; 16 bits lie in slots of 4 bytes
  int source_any(int i);             // a register of any width; a constant becomes one of 64 bits
  int destination(int i, int bits);  // or a sink
  int destination_any(int i);
  int predicate(int i);              // may be negated
  int predicate_destination(int i);  // or a sink
  int address(int i);                // [register + displacement]
  int carry();                       // not in the text: the carry flag, a predicate of the function
  // The elements of a vector operand (of a plain operand: itself); returns the place of the first.
  int sources(int i, int bits, size_t* count = nullptr);
  int destinations(int i, int bits, size_t* count = nullptr);
  const ptx::Operand& operand(int i) const {
    if (size_t(i) >= count()) unknown("an operand is missing");
    return text.operands[size_t(i)];
  }
  int source(const ptx::Operand& operand, int bits);
  int destination(const ptx::Operand& operand, int bits);
  int predicate_destination(const ptx::Operand& operand);
  std::optional<int64_t> constant(int i) const;  // where it is an integer constant
  Function& function() { return function_; }

  // --- To be called by who calls the lowering
  void finish();  // unknown if modifiers are left

 private:
  int append(const Operand& operand);
  Operand lower(const ptx::Operand& operand, int bits);
  Function& function_;
  std::vector<Operand> operands_;
  std::vector<bool> taken_;
};

using Lower = void (*)(Lowering&);
using InstructionSet = std::unordered_map<std::string_view, Lower>;

// By the first part of the opcode.
const InstructionSet& instruction_set();

// Those of cvt, whose rounding has been taken, that have a type of 4 or 6 bits or a scale; false: it has none of them.
bool lower_small_conversion(Lowering& l, std::string_view rounding);

// Each file of handlers adds what it has.
void add_arithmetic(InstructionSet&);
void add_conversions(InstructionSet&);
void add_logic(InstructionSet&);
void add_control(InstructionSet&);
void add_moves(InstructionSet&);
void add_loads_and_stores(InstructionSet&);
void add_atomics(InstructionSet&);
void add_warp_wide(InstructionSet&);
void add_matrix_moves(InstructionSet&);
void add_mma(InstructionSet&);
void add_barriers(InstructionSet&);
void add_mbarriers(InstructionSet&);
void add_copies(InstructionSet&);
void add_tensor_copies(InstructionSet&);
void add_video(InstructionSet&);
void add_wgmma(InstructionSet&);
void add_tcgen05(InstructionSet&);
void add_cluster_launch_control(InstructionSet&);

}  // namespace emulator
