// A kernel made ready to run: instructions with the function that executes each, registers with their place.
//
// All operands of an instruction are registers: constants lie in a bank of their own, special registers and addresses of
// variables in registers that are filled when a warp enters the function.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "emulator/ptx/ptx.h"

namespace emulator {

class Warp;
struct Instruction;

inline constexpr int kLanes = 32;
using Mask = uint32_t;  // of lanes
inline constexpr Mask kAllLanes = ~Mask{0};

// What becomes of the lanes that executed an instruction.
enum class Step {
  kNext,    // on to the next instruction
  kBranch,  // the handler said where to
  kWait,    // the instruction is to be executed again when something has changed; Warp::wait_for says for what
  kYield,   // on to the next instruction, but others first
};

// Executes an instruction for the lanes of the mask, of which there is at least one.
using Handler = Step (*)(Warp&, const Instruction&, Mask);

// A register's place: 32 slots side by side. A slot has 4 bytes where the register has 16 or 32 bits (unused bits are
// zero), 8 where it has 64, 16 where it has 128. A predicate is one Mask.
struct Operand {
  const std::byte* constant = nullptr;  // where it is a constant; 4-byte or 8-byte slots as the instruction wants them
  uint32_t offset = 0;                  // else, in the frame's registers
  int16_t bits = 0;          // of the register: 1, 16, 32, 64, 128; 0 for a sink, or an address without a base
  bool negated = false;      // a predicate, to be taken negated
  bool is_target = false;    // it is written, or a part of it
  int64_t displacement = 0;  // of an address, to be added to the register
};

struct Instruction {
  Handler run = nullptr;
  Operand guard;  // bits 0: none
  // Operands in the order in which the lowering asked for them, those of vectors one after another.
  const Operand* operands = nullptr;
  int16_t operand_count = 0;
  int32_t target = -1;                // of a branch
  std::array<int32_t, 6> modes = {};  // what the lowering has to tell the handler
  // All lanes of the warp, or those of its member mask, execute it together; others wait for them here.
  bool is_aligned = false;
  bool meets_anywhere = false;  // lanes may come together at different instructions of this kind
  // Accesses of memory that are no race with each other: relaxed, volatile, atomic; and what they order.
  enum Order : int8_t { kWeak = 0, kStrong = 1, kAcquire = 2, kRelease = 4 };
  int8_t order = kWeak;
  bool touches_products = false;  // it has registers that wgmma.mma_async has, too
  bool touches_loads = false;     // or that tcgen05.ld fills
  const ptx::Instruction* text = nullptr;
};

// A register that is filled on entry into the function.
struct Hidden {
  enum class Kind { kSpecial, kShared, kLocal, kParameter, kGlobal };
  Kind kind;
  uint32_t offset;
  int16_t bits;
  std::string name;    // kSpecial
  uint64_t value = 0;  // the others: offset in its space, or the address
};

struct Module;

// A call of a function: which parameters of the callee get what is in which variables of the caller, and back.
struct Call {
  struct Copy {
    uint32_t caller, callee;  // offsets in local memory, from where the function's begins
    uint32_t bytes;
    int operand = -1;          // the caller's, where it passes a register or a constant instead
    int callee_register = -1;  // likewise, where the parameter is a register
  };
  const ptx::Function* callee = nullptr;
  std::vector<Copy> arguments, results;
};

struct Function {
  const ptx::Function* text = nullptr;
  const Module* module = nullptr;
  std::vector<Instruction> code;  // one for each of the text's
  std::deque<std::vector<Operand>> operand_lists;
  std::deque<std::vector<std::byte>> constants;
  std::vector<Hidden> hidden;
  std::vector<Call> calls;  // modes[0] of a call says which
  uint32_t register_bytes = 0;
  uint32_t local_bytes = 0;                                          // of a thread
  uint32_t parameter_bytes = 0;                                      // of a kernel
  uint32_t static_shared = 0;                                        // bytes of shared variables, from where they begin
  uint32_t dynamic_alignment = 1;                                    // of the .extern .shared array
  std::unordered_map<const ptx::Variable*, uint64_t> places;         // offsets of its variables in their spaces
  std::vector<uint32_t> register_places;                             // of the text's registers
  std::unordered_map<const ptx::Instruction*, std::string> unknown;  // why nobody knows how to execute them

  bool is_parameter(const ptx::Variable* variable) const;
};

// A module with its global variables in memory. Functions are lowered when first asked for.
struct Module {
  std::shared_ptr<const ptx::Module> text;
  std::unordered_map<const ptx::Variable*, std::byte*> globals;
  std::vector<std::unique_ptr<std::byte[]>> storage;
  mutable std::unordered_map<const ptx::Function*, std::unique_ptr<Function>> lowered;

  const Function& function(const ptx::Function& text) const;  // thread-safe
};

// Throws ptx::ParseError.
std::unique_ptr<Module> load(const std::string& ptx_text);

}  // namespace emulator
