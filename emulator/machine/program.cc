// From parsed PTX to functions that can run.
#include "emulator/machine/program.h"

#include <algorithm>
#include <cstring>
#include <mutex>

#include "emulator/machine/fault.h"
#include "emulator/machine/instruction_set.h"
#include "emulator/machine/loaded_registers.h"
#include "emulator/machine/product_registers.h"
#include "emulator/machine/warp.h"

namespace emulator {
namespace {

uint64_t align(uint64_t offset, uint64_t alignment) {
  return alignment > 1 ? (offset + alignment - 1) / alignment * alignment : offset;
}

std::string text_of(const ptx::Instruction& instruction) {
  return "'" + instruction.opcode + "' (line " + std::to_string(instruction.line) + " of the PTX)";
}

// What stands in the place of an instruction that has no handler: an error, but only where it is executed.
Step unknown_instruction(Warp& warp, const Instruction& instruction, Mask) {
  const auto& reasons = warp.fragment().frame->function->unknown;
  const auto reason = reasons.find(instruction.text);
  throw Fault(FaultCode::kUnknownInstruction, "The emulator does not know " + text_of(*instruction.text) +
                                                  (reason == reasons.end() ? "." : ": " + reason->second + "."));
}

void lower(const ptx::Instruction& text, Instruction& out, Function& function) {
  out.text = &text;
  if (text.guard >= 0) {
    out.guard.bits = 1;
    out.guard.offset = function.register_places[text.guard];
    out.guard.negated = text.guard_negated;
  }
  const auto found = instruction_set().find(text.parts[0]);
  out.run = unknown_instruction;
  if (found == instruction_set().end()) return;
  try {
    Lowering lowering(text, out, function);
    found->second(lowering);
    lowering.finish();
  } catch (const UnknownForm& form) {
    function.unknown[&text] = form.what();
    out.run = unknown_instruction;
    out.is_aligned = false;
  }
}

void place_registers(Function& function) {
  for (const ptx::Register& reg : function.text->registers) {
    function.register_places.push_back(function.register_bytes);
    function.register_bytes += kLanes * (reg.bits > 64 ? 16 : reg.bits > 32 ? 8 : 4);
  }
}

void place_variables(Function& function, const ptx::Module& module) {
  const ptx::Function& text = *function.text;
  uint64_t local = 0, parameters = 0, shared = 0;
  const auto put = [&](const ptx::Variable& variable, uint64_t& end) {
    const uint64_t offset = align(end, variable.alignment);
    function.places[&variable] = offset;
    end = offset + variable.size;
  };
  for (const auto& parameter : text.parameters) put(*parameter, text.is_kernel ? parameters : local);
  for (const auto& result : text.results) put(*result, local);
  const ptx::Variable* dynamic = nullptr;
  const auto put_shared = [&](const ptx::Variable& variable) {
    if (variable.size > 0 && !variable.is_extern) {
      put(variable, shared);
    } else {
      dynamic = &variable;
      function.dynamic_alignment = std::max<uint32_t>(function.dynamic_alignment, uint32_t(variable.alignment));
    }
  };
  // Shared variables of the module may belong to any of its functions, so all kernels have all of them.
  std::vector<const ptx::Variable*> shared_variables;
  for (const auto& variable : module.variables) {
    if (variable->space == ptx::Space::kShared) shared_variables.push_back(variable.get());
  }
  for (const auto& other : module.functions) {
    if (other.get() != &text && other->is_kernel) continue;
    for (const auto& variable : other->variables) {
      if (variable->space == ptx::Space::kShared) shared_variables.push_back(variable.get());
    }
  }
  for (const ptx::Variable* variable : shared_variables) put_shared(*variable);
  function.static_shared = uint32_t(shared);
  if (dynamic) {
    // All arrays of unknown length begin at the same place, behind the others.
    const uint64_t begin = align(shared, function.dynamic_alignment);
    for (const ptx::Variable* variable : shared_variables) {
      if (variable->size == 0 || variable->is_extern) function.places[variable] = begin;
    }
  }
  for (const auto& variable : text.variables) {
    if (variable->space == ptx::Space::kLocal || variable->space == ptx::Space::kParam) put(*variable, local);
  }
  function.local_bytes = uint32_t(align(local, 16));
  function.parameter_bytes = uint32_t(parameters);
}

std::unique_ptr<Function> make_function(const ptx::Function& text, const Module& module) {
  auto function = std::make_unique<Function>();
  function->text = &text;
  function->module = &module;
  place_registers(*function);
  place_variables(*function, *module.text);
  function->code.resize(text.body.size());
  for (size_t i = 0; i < text.body.size(); ++i) lower(text.body[i], function->code[i], *function);
  mark_product_registers(*function);
  mark_loaded_registers(*function);
  function->code.emplace_back();  // the end of the text is a return
  function->code.back().run = [](Warp& warp, const Instruction&, Mask mask) {
    warp.return_from_function(mask);
    return Step::kBranch;
  };
  return function;
}

// Functions have addresses for kernels to keep. Calls through them are unknown instructions, as any other use is an error.
uint64_t address_of(const Module& module, const ptx::Variable& variable, const ptx::Variable::Relocation& relocation) {
  constexpr uint64_t kFunctionBytes = 16;
  const auto is_named = [&](const auto& other) { return other->name == relocation.symbol; };
  const auto& functions = module.text->functions;
  const auto function = std::find_if(functions.begin(), functions.end(), is_named);
  if (function != functions.end()) return kFunctionWindow + kFunctionBytes * uint64_t(function - functions.begin());
  const auto& variables = module.text->variables;
  const auto named = std::find_if(variables.begin(), variables.end(), is_named);
  const auto place = named == variables.end() ? module.globals.end() : module.globals.find(named->get());
  if (place == module.globals.end()) {
    throw ptx::ParseError("PTX line " + std::to_string(relocation.line) + ": the initial value of '" + variable.name +
                          "' names '" + relocation.symbol + "', which is no variable in global memory");
  }
  return reinterpret_cast<uint64_t>(place->second) + uint64_t(relocation.addend);
}

std::mutex& lowering_lock() {
  static std::mutex lock;
  return lock;
}

}  // namespace

bool Function::is_parameter(const ptx::Variable* variable) const {
  return std::any_of(text->parameters.begin(), text->parameters.end(),
                     [&](const auto& parameter) { return parameter.get() == variable; });
}

const Function& Module::function(const ptx::Function& text) const {
  std::lock_guard lock(lowering_lock());
  auto& found = lowered[&text];
  if (!found) found = make_function(text, *this);
  return *found;
}

std::unique_ptr<Module> load(const std::string& ptx_text) {
  auto module = std::make_unique<Module>();
  module->text = ptx::parse(ptx_text);
  for (const auto& variable : module->text->variables) {
    if (variable->space != ptx::Space::kGlobal && variable->space != ptx::Space::kConst) continue;
    if (variable->is_extern) continue;
    // Room to align within.
    const uint64_t alignment = std::max<uint64_t>(variable->alignment, 16);
    auto storage = std::make_unique<std::byte[]>(variable->size + alignment);
    auto* begin = reinterpret_cast<std::byte*>(align(reinterpret_cast<uint64_t>(storage.get()), alignment));
    std::copy_n(reinterpret_cast<const std::byte*>(variable->initial.data()), variable->initial.size(), begin);
    module->globals[variable.get()] = begin;
    module->storage.push_back(std::move(storage));
  }
  for (const auto& variable : module->text->variables) {
    for (const auto& relocation : variable->relocations) {
      const uint64_t address = address_of(*module, *variable, relocation);
      std::memcpy(module->globals[variable.get()] + relocation.offset, &address, sizeof(address));
    }
  }
  return module;
}

const InstructionSet& instruction_set() {
  static const InstructionSet set = [] {
    InstructionSet all;
    for (const auto add :
         {add_arithmetic, add_conversions, add_logic, add_control, add_moves, add_loads_and_stores, add_atomics,
          add_warp_wide, add_matrix_moves, add_mma, add_barriers, add_mbarriers, add_copies, add_tensor_copies,
          add_video, add_wgmma, add_tcgen05, add_cluster_launch_control}) {
      add(all);
    }
    return all;
  }();
  return set;
}

}  // namespace emulator
