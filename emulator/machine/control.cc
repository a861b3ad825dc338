// Where to go on: branches, calls, exits; and what concerns the running of a warp.
#include <cstdio>
#include <cstring>

#include "emulator/machine/instruction_set.h"
#include "emulator/machine/machine.h"

namespace emulator {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Branches

Step branch(Warp& warp, const Instruction& instruction, Mask mask) {
  warp.jump(mask, uint32_t(instruction.target));
  return Step::kBranch;
}

void lower_bra(Lowering& lowering) {
  lowering.take("uni");
  const ptx::Operand& label = lowering.operand(0);
  if (label.kind != ptx::Operand::Kind::kLabel) lowering.unknown("its target is no label");
  lowering.out.target = label.target;
  lowering.out.run = branch;
}

// Each lane to a label of its own, by its number in a table.
Step branch_by_index(Warp& warp, const Instruction& instruction, Mask mask) {
  const auto& labels = instruction.text->operands[1].elements;
  const uint32_t next = warp.fragment().pc + 1;
  const bool all = warp.fragment().lanes == mask;
  for (Mask left = mask; left;) {
    const uint32_t index = warp.get<uint32_t>(instruction.operands[0], first_lane(left));
    if (index >= labels.size()) {
      throw Fault(FaultCode::kIllegalInstruction, "A branch takes entry " + std::to_string(index) +
                                                      " of a table that has " + std::to_string(labels.size()) + ".");
    }
    Mask together = 0;
    for_lanes(left, [&](int lane) {
      if (warp.get<uint32_t>(instruction.operands[0], lane) == index) together |= Mask{1} << lane;
    });
    left &= ~together;
    warp.jump(together, uint32_t(labels[index].target));
  }
  if (!all) warp.fragment().pc = next;
  return Step::kBranch;
}

void lower_brx(Lowering& lowering) {
  if (!lowering.take("idx")) lowering.unknown("it has no index");
  lowering.take("uni");
  lowering.source(0, 32);
  if (lowering.operand(1).kind != ptx::Operand::Kind::kVector) lowering.unknown("its targets are no table");
  lowering.out.run = branch_by_index;
}

Step return_or_exit(Warp& warp, const Instruction&, Mask mask) {
  warp.return_from_function(mask);
  return Step::kBranch;
}

void lower_ret(Lowering& lowering) {
  lowering.take("uni");
  lowering.out.run = return_or_exit;
}

Step leave(Warp& warp, const Instruction&, Mask mask) {
  warp.exit(mask);
  return Step::kBranch;
}

void lower_exit(Lowering& lowering) { lowering.out.run = leave; }

Step trap(Warp&, const Instruction&, Mask) { throw Fault(FaultCode::kTrap, "The kernel trapped."); }

void lower_trap(Lowering& lowering) { lowering.out.run = trap; }

// ---------------------------------------------------------------------------------------------------------------------
// Calls

// A string in global memory, as far as it belongs to an allocation.
std::string string_at(Warp& warp, uint64_t address, int lane) {
  std::string text;
  while (char next = char(*warp.resolve(Space::kGeneric, address + text.size(), 1, Access::kRead, lane))) text += next;
  return text;
}

uint64_t argument(Warp& warp, const Call& call, size_t i, int lane) {
  uint64_t value = 0;
  const Call::Copy& copy = call.arguments.at(i);
  std::memcpy(&value, warp.local(lane) + warp.fragment().frame->local_base + copy.caller, copy.bytes);
  return value;
}

// printf's conversions, each given what follows in the buffer; the arguments lie there as in a struct. Counts them.
std::string formatted(Warp& warp, const std::string& format, uint64_t buffer, int lane, int32_t& count) {
  std::string out;
  const auto next = [&](size_t bytes) {
    ++count;
    buffer = (buffer + bytes - 1) / bytes * bytes;
    uint64_t value = 0;
    std::memcpy(&value, warp.resolve(Space::kGeneric, buffer, bytes, Access::kRead, lane), bytes);
    buffer += bytes;
    return value;
  };
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    const size_t begin = i++;
    while (i < format.size() && std::strchr("-+ #0123456789.hljzt", format[i])) ++i;
    if (i == format.size()) break;
    std::string spec = format.substr(begin, i - begin + 1);
    const bool is_long = spec.find_first_of("lzjt") != std::string::npos;
    char text[512];
    switch (format[i]) {
      case '%':
        out += '%';
        continue;
      case 's':
        out += string_at(warp, next(8), lane);
        continue;
      case 'p':
        std::snprintf(text, sizeof(text), spec.c_str(), reinterpret_cast<void*>(next(8)));
        break;
      case 'c':
        std::snprintf(text, sizeof(text), spec.c_str(), int(next(4)));
        break;
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
      case 'a':
      case 'A': {
        const uint64_t bits = next(8);
        double value;
        std::memcpy(&value, &bits, sizeof(value));
        std::snprintf(text, sizeof(text), spec.c_str(), value);
        break;
      }
      default:
        if (is_long)
          std::snprintf(text, sizeof(text), spec.c_str(), static_cast<unsigned long long>(next(8)));
        else
          std::snprintf(text, sizeof(text), spec.c_str(), unsigned(next(4)));
    }
    out += text;
  }
  return out;
}

Step print(Warp& warp, const Instruction& instruction, Mask mask) {
  const Call& call = warp.fragment().frame->function->calls[size_t(instruction.modes[0])];
  for_lanes(mask, [&](int lane) {
    const std::string format = string_at(warp, argument(warp, call, 0, lane), lane);
    int32_t count = 0;
    std::fputs(formatted(warp, format, argument(warp, call, 1, lane), lane, count).c_str(), stdout);
    for (const Call::Copy& result : call.results) {
      std::byte* const place = result.operand >= 0
                                   ? warp.target_bytes(instruction.operands[result.operand], lane)
                                   : warp.passed(lane, warp.fragment().frame->local_base + result.caller, result.bytes);
      std::memcpy(place, &count, std::min<size_t>(result.bytes, sizeof(count)));
    }
  });
  std::fflush(stdout);
  return Step::kNext;
}

Step fail_assertion(Warp& warp, const Instruction& instruction, Mask mask) {
  const Call& call = warp.fragment().frame->function->calls[size_t(instruction.modes[0])];
  const int lane = first_lane(mask);
  throw Fault(FaultCode::kAssert, "Assertion failed: " + string_at(warp, argument(warp, call, 0, lane), lane) + " (" +
                                      string_at(warp, argument(warp, call, 1, lane), lane) + ":" +
                                      std::to_string(argument(warp, call, 2, lane)) + ").");
}

Step call_function(Warp& warp, const Instruction& instruction, Mask mask) {
  const Frame& caller = *warp.fragment().frame;
  const Call& call = caller.function->calls[size_t(instruction.modes[0])];
  const Function& callee = caller.function->module->function(*call.callee);
  // Arguments are read before the callee's registers take the place of the caller's.
  std::vector<std::byte> values;
  for (const Call::Copy& copy : call.arguments) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const std::byte* from = copy.operand >= 0 ? warp.bytes(instruction.operands[copy.operand], lane)
                                                : warp.local(lane) + caller.local_base + copy.caller;
      values.insert(values.end(), from, from + copy.bytes);
    }
  }
  warp.call(mask, callee, warp.fragment().pc + 1);
  const Frame& frame = *warp.fragment().frame;
  const std::byte* value = values.data();
  for (const Call::Copy& copy : call.arguments) {
    for (int lane = 0; lane < kLanes; ++lane, value += copy.bytes) {
      if (mask >> lane & 1) std::memcpy(warp.parameter(frame, copy, lane), value, copy.bytes);
    }
  }
  return Step::kBranch;
}

void lower_call(Lowering& lowering) {
  using Kind = ptx::Operand::Kind;
  lowering.take("uni");
  Function& caller = lowering.function();
  Call call;
  const ptx::Operand *results = nullptr, *arguments = nullptr;
  for (const ptx::Operand& operand : lowering.text.operands) {
    if (operand.kind == Kind::kFunction) call.callee = caller.module->text->find(operand.name);
    if (operand.kind == Kind::kArguments) (call.callee ? arguments : results) = &operand;
  }
  if (!call.callee) lowering.unknown("what it calls is not known before it runs");
  // Where the callee has its parameters follows from their order, as when it is lowered.
  uint64_t end = 0;
  int registers = 0;  // those that are results come first, then parameters
  for (const auto& result : call.callee->results) registers += result->space == ptx::Space::kRegister;
  const auto match = [&](const auto& variables, const ptx::Operand* given, std::vector<Call::Copy>& copies) {
    for (size_t i = 0; i < variables.size(); ++i) {
      const ptx::Variable& variable = *variables[i];
      const uint64_t offset = (end + variable.alignment - 1) / variable.alignment * variable.alignment;
      end = offset + variable.size;
      if (!given || i >= given->elements.size()) lowering.unknown("arguments are missing");
      const ptx::Operand& element = given->elements[i];
      Call::Copy copy{0, uint32_t(offset), uint32_t(variable.size)};
      if (element.kind == Kind::kVariable)
        copy.caller = uint32_t(caller.places.at(element.variable));
      else
        copy.operand = lowering.source(element, int(variable.size) * 8);
      if (variable.space == ptx::Space::kRegister) copy.callee_register = registers++;
      copies.push_back(copy);
    }
  };
  match(call.callee->parameters, arguments, call.arguments);
  registers = 0;
  match(call.callee->results, results, call.results);
  if (call.callee->is_defined) {
    lowering.out.run = call_function;
  } else if (call.callee->name == "vprintf") {
    lowering.out.run = print;
  } else if (call.callee->name == "__assertfail") {
    lowering.out.run = fail_assertion;
  } else {
    lowering.unknown("it calls " + call.callee->name + ", which has no body");
  }
  lowering.out.modes[0] = int32_t(caller.calls.size());
  caller.calls.push_back(std::move(call));
}

// ---------------------------------------------------------------------------------------------------------------------
// Running

Step next(Warp&, const Instruction&, Mask) { return Step::kNext; }

Step yield(Warp&, const Instruction&, Mask) { return Step::kYield; }

void lower_nanosleep(Lowering& lowering) {
  if (lowering.need_type() != Type::kU32) lowering.unknown("its type is not u32");
  lowering.source(0, 32);
  lowering.out.run = yield;
}

// A grid that depends on another begins when that one has ended, so there is nothing to wait for.
Step wait_for_primary(Warp& warp, const Instruction&, Mask mask) {
  if (Races* races = warp.cta().cluster().races()) races->wait_for_primary(warp, mask);
  return Step::kNext;
}

void lower_griddepcontrol(Lowering& lowering) {
  const bool waits = lowering.need_one_of({"launch_dependents", "wait"}) == "wait";
  lowering.out.run = waits ? wait_for_primary : next;
}

// The registers that a thread has at the launch: as many as fit, in steps of 8.
int registers_at_launch(const Launch& launch) {
  constexpr int kRegisters = 65536, kMost = 255;
  const int threads = int((launch.block.count() + kLanes - 1) / kLanes * kLanes);
  const int ctas = std::max(launch.kernel->text->min_ctas, 1);
  return std::min(kMost + 1, kRegisters / (threads * ctas)) / 8 * 8;
}

Step set_registers(Warp& warp, const Instruction& instruction, Mask) {
  const bool increases = instruction.modes[0];
  const int count = instruction.modes[1];
  Cta& cta = warp.cta();
  Races* const races = cta.cluster().races();
  int& own = warp.registers_per_thread;
  if (own == 0) own = registers_at_launch(cta.grid().launch);
  const int64_t more = int64_t(count - own) * kLanes;
  if ((increases && more < 0) || (!increases && more > 0)) {
    throw Fault(FaultCode::kIllegalInstruction, "setmaxnreg cannot " + std::string(increases ? "raise " : "lower ") +
                                                    std::to_string(own) + " registers to " + std::to_string(count) +
                                                    ".");
  }
  if (more > cta.register_pool) return warp.wait_for(Wait::Kind::kRegisters, uint32_t(more));
  if (races) races->set_registers(warp, count);
  cta.register_pool -= more;
  own = count;
  cta.cluster().note_event();
  return Step::kNext;
}

void lower_setmaxnreg(Lowering& lowering) {
  lowering.out.modes[0] = lowering.need_one_of({"inc", "dec"}) == "inc";
  lowering.take("sync");
  if (!lowering.take("aligned") || lowering.need_type() != Type::kU32) lowering.unknown("it is not aligned");
  const auto count = lowering.constant(0);
  if (!count || *count < 24 || *count > 256 || *count % 8 != 0) {
    lowering.unknown("the number of registers is no multiple of 8 from 24 to 256");
  }
  lowering.out.modes[1] = int32_t(*count);
  lowering.out.is_aligned = true;
  lowering.out.run = set_registers;
}

}  // namespace

void add_control(InstructionSet& set) {
  set["bra"] = lower_bra;
  set["brx"] = lower_brx;
  set["ret"] = lower_ret;
  set["exit"] = lower_exit;
  set["trap"] = lower_trap;
  set["call"] = lower_call;
  set["nanosleep"] = lower_nanosleep;
  set["griddepcontrol"] = lower_griddepcontrol;
  set["setmaxnreg"] = lower_setmaxnreg;
}

}  // namespace emulator
