// The bodies of Lowering: modifiers and operands.
#include <algorithm>
#include <cstring>

#include "emulator/machine/instruction_set.h"
#include "emulator/machine/memory.h"
#include "emulator/machine/warp.h"

namespace emulator {
namespace {

struct NamedType {
  std::string_view name;
  Type type;
  int bits;
};

constexpr NamedType kTypes[] = {
    {"pred", Type::kPred, 1},      {"b8", Type::kB8, 8},          {"b16", Type::kB16, 16},
    {"b32", Type::kB32, 32},       {"b64", Type::kB64, 64},       {"b128", Type::kB128, 128},
    {"u8", Type::kU8, 8},          {"u16", Type::kU16, 16},       {"u32", Type::kU32, 32},
    {"u64", Type::kU64, 64},       {"s8", Type::kS8, 8},          {"s16", Type::kS16, 16},
    {"s32", Type::kS32, 32},       {"s64", Type::kS64, 64},       {"f16", Type::kF16, 16},
    {"f16x2", Type::kF16x2, 32},   {"bf16", Type::kBF16, 16},     {"bf16x2", Type::kBF16x2, 32},
    {"f32", Type::kF32, 32},       {"f32x2", Type::kF32x2, 64},   {"f64", Type::kF64, 64},
    {"tf32", Type::kTF32, 32},     {"e4m3", Type::kE4M3, 8},      {"e5m2", Type::kE5M2, 8},
    {"e4m3x2", Type::kE4M3x2, 16}, {"e5m2x2", Type::kE5M2x2, 16}, {"e4m3x4", Type::kE4M3x4, 32},
    {"e5m2x4", Type::kE5M2x4, 32},
};

// 32 copies of a constant.
template <typename Slot>
std::vector<std::byte> broadcast(Slot value) {
  std::vector<std::byte> bank(kLanes * sizeof(Slot));
  for (int lane = 0; lane < kLanes; ++lane) std::memcpy(&bank[lane * sizeof(Slot)], &value, sizeof(Slot));
  return bank;
}

// Of a special register where an instruction wants so many.
int special_bits(const std::string& name, int wanted) {
  if (name == "%is_explicit_cluster") return 1;
  if (name == "%gridid") return wanted;
  return name == "%current_graph_exec" ? 64 : 32;
}

// The one that fits, or a new one; where it is in the frame's registers.
uint32_t hidden_register(Function& function, Hidden::Kind kind, uint64_t value, const std::string& name, int16_t bits) {
  for (const Hidden& known : function.hidden) {
    if (known.kind == kind && known.value == value && known.name == name && known.bits == bits) return known.offset;
  }
  const uint32_t offset = function.register_bytes;
  function.register_bytes += kLanes * (bits > 32 ? 8 : 4);
  function.hidden.push_back({kind, offset, bits, name, value});
  return offset;
}

}  // namespace

int bits_of(Type type) {
  for (const NamedType& known : kTypes) {
    if (known.type == type) return known.bits;
  }
  return 0;
}

std::optional<Type> type_named(std::string_view name) {
  for (const NamedType& known : kTypes) {
    if (known.name == name) return known.type;
  }
  return std::nullopt;
}

Lowering::Lowering(const ptx::Instruction& text, Instruction& out, Function& function)
    : text(text), out(out), function_(function), taken_(text.parts.size()) {
  taken_[0] = true;
}

// ---------------------------------------------------------------------------------------------------------------------
// Modifiers

bool Lowering::take(std::string_view modifier) {
  for (size_t i = 1; i < text.parts.size(); ++i) {
    if (!taken_[i] && text.parts[i] == modifier) return taken_[i] = true;
  }
  return false;
}

std::string_view Lowering::take_one_of(std::initializer_list<std::string_view> some) {
  for (size_t i = 1; i < text.parts.size(); ++i) {
    if (!taken_[i] && std::find(some.begin(), some.end(), text.parts[i]) != some.end()) {
      taken_[i] = true;
      return text.parts[i];
    }
  }
  return {};
}

std::string_view Lowering::need_one_of(std::initializer_list<std::string_view> some) {
  const std::string_view found = take_one_of(some);
  if (found.empty()) unknown("a modifier is missing");
  return found;
}

std::optional<Type> Lowering::take_type() {
  for (size_t i = 1; i < text.parts.size(); ++i) {
    if (taken_[i]) continue;
    if (const auto type = type_named(text.parts[i])) {
      taken_[i] = true;
      return type;
    }
  }
  return std::nullopt;
}

Type Lowering::need_type() {
  const auto type = take_type();
  if (!type) unknown("it has no type");
  return *type;
}

std::string_view Lowering::take_next() {
  for (size_t i = 1; i < text.parts.size(); ++i) {
    if (!taken_[i]) {
      taken_[i] = true;
      return text.parts[i];
    }
  }
  return {};
}

void Lowering::take_order() {
  const std::string_view order = take_one_of({"weak", "relaxed", "volatile", "acquire", "release", "acq_rel"});
  take_one_of({"cta", "cluster", "gpu", "sys"});
  out.order = Instruction::kStrong;
  if (order.empty() || order == "weak") out.order = Instruction::kWeak;
  if (order == "acquire" || order == "acq_rel") out.order |= Instruction::kAcquire;
  if (order == "release" || order == "acq_rel") out.order |= Instruction::kRelease;
}

void Lowering::unknown(const std::string& why) const { throw UnknownForm(why); }

void Lowering::need_architecture(int least) const {
  const ptx::Target target = function_.module->text->target_parts();
  if (target.architecture < least) {
    unknown("it needs sm_" + std::to_string(least) + " or later, and this is PTX for " +
            function_.module->text->target);
  }
}

void Lowering::need_family(int major) const {
  const ptx::Target target = function_.module->text->target_parts();
  if (target.architecture / 10 != major || target.variant == 0) {
    unknown("it needs sm_" + std::to_string(major) + "0a or its like, and this is PTX for " +
            function_.module->text->target);
  }
}

void Lowering::need_exact_architecture() const {
  if (function_.module->text->target_parts().variant != 'a') {
    unknown("it needs PTX for one architecture alone, and this is for " + function_.module->text->target);
  }
}

void Lowering::finish() {
  for (size_t i = 1; i < text.parts.size(); ++i) {
    if (!taken_[i]) unknown("." + text.parts[i]);
  }
  function_.operand_lists.push_back(std::move(operands_));
  out.operands = function_.operand_lists.back().data();
  out.operand_count = int16_t(function_.operand_lists.back().size());
}

// ---------------------------------------------------------------------------------------------------------------------
// Operands

int Lowering::append(const Operand& operand) {
  operands_.push_back(operand);
  return int(operands_.size()) - 1;
}

Operand Lowering::lower(const ptx::Operand& operand, int bits) {
  Operand out;
  out.negated = operand.negated;
  const auto constant = [&](uint64_t value) {
    if (bits > 64) unknown("it has a constant of 128 bits");
    out.bits = int16_t(bits);
    const uint64_t low = bits == 64 ? value : value & ((uint64_t{1} << bits) - 1);
    function_.constants.push_back(bits > 32 ? broadcast<uint64_t>(low) : broadcast<uint32_t>(uint32_t(low)));
    out.constant = function_.constants.back().data();
  };
  const auto hidden = [&](Hidden::Kind kind, uint64_t value, const std::string& name) {
    int width = 64;
    if (kind == Hidden::Kind::kShared || kind == Hidden::Kind::kLocal) width = bits == 32 ? 32 : 64;
    if (kind == Hidden::Kind::kSpecial) width = special_bits(name, bits);
    out.bits = int16_t(width);
    out.offset = hidden_register(function_, kind, value, name, out.bits);
  };

  using Kind = ptx::Operand::Kind;
  switch (operand.kind) {
    case Kind::kRegister: {
      out.bits = int16_t(function_.text->registers[operand.reg].bits);
      out.offset = function_.register_places[operand.reg];
      return out;
    }
    case Kind::kInteger:
    case Kind::kFloat32:
      constant(operand.bits);
      return out;
    case Kind::kFloat64: {
      // A decimal constant is a double, whatever the instruction's type.
      if (bits == 32) {
        double value;
        std::memcpy(&value, &operand.bits, sizeof(value));
        const float narrow = float(value);
        uint32_t low;
        std::memcpy(&low, &narrow, sizeof(low));
        constant(low);
      } else {
        constant(operand.bits);
      }
      return out;
    }
    case Kind::kSpecial:
      if (!is_constant_special(operand.name)) unknown("it reads " + operand.name);
      hidden(Hidden::Kind::kSpecial, 0, operand.name);
      return out;
    case Kind::kVariable: {
      const ptx::Variable* variable = operand.variable;
      const auto place = function_.places.find(variable);
      const uint64_t offset = uint64_t(operand.offset);
      if (variable->space == ptx::Space::kGlobal || variable->space == ptx::Space::kConst) {
        const auto global = function_.module->globals.find(variable);
        if (global == function_.module->globals.end()) unknown("it names " + variable->name + ", which is not defined");
        hidden(Hidden::Kind::kGlobal, reinterpret_cast<uint64_t>(global->second) + offset, {});
      } else if (place == function_.places.end()) {
        unknown("it names " + variable->name + ", which has no place");
      } else if (variable->space == ptx::Space::kShared) {
        hidden(Hidden::Kind::kShared, place->second + offset, {});
      } else if (variable->space == ptx::Space::kParam && function_.text->is_kernel &&
                 function_.is_parameter(variable)) {
        hidden(Hidden::Kind::kParameter, place->second + offset, {});
      } else {
        // Parameters of calls lie in local memory, those of the kernel do not: .param does not tell them apart.
        const uint64_t window = variable->space == ptx::Space::kParam ? kLocalWindow : 0;
        hidden(Hidden::Kind::kLocal, place->second + offset + window, {});
      }
      return out;
    }
    case Kind::kSink:
      return out;
    default:
      unknown("an operand is of another kind than expected");
  }
}

int Lowering::source(const ptx::Operand& operand, int bits) {
  const Operand lowered = lower(operand, bits);
  const int slot = bits <= 32 ? 32 : bits;
  const int has = lowered.bits <= 32 && lowered.bits > 1 ? 32 : lowered.bits;
  if (has != slot) unknown("a source has " + std::to_string(lowered.bits) + " bits, not " + std::to_string(bits));
  return append(lowered);
}

int Lowering::source(int i, int bits) { return source(operand(i), bits); }

int Lowering::source_any(int i) { return append(lower(operand(i), 64)); }

int Lowering::destination(const ptx::Operand& operand, int bits) {
  if (operand.kind == ptx::Operand::Kind::kSink) return append({});
  if (operand.kind != ptx::Operand::Kind::kRegister) unknown("its destination is no register");
  const int place = source(operand, bits);
  operands_.back().is_target = true;
  return place;
}

int Lowering::destination(int i, int bits) { return destination(operand(i), bits); }

int Lowering::destination_any(int i) {
  const auto kind = operand(i).kind;
  if (kind != ptx::Operand::Kind::kRegister && kind != ptx::Operand::Kind::kSink) {
    unknown("its destination is no register");
  }
  const int place = append(lower(operand(i), 64));
  operands_.back().is_target = true;
  return place;
}

int Lowering::predicate(int i) {
  const ptx::Operand& given = operand(i);
  if (given.kind == ptx::Operand::Kind::kInteger) {
    function_.constants.push_back(broadcast<uint32_t>(given.bits ? kAllLanes : 0));
    Operand out;
    out.bits = 1;
    out.constant = function_.constants.back().data();
    out.negated = given.negated;
    return append(out);
  }
  const Operand lowered = lower(given, 32);
  if (lowered.bits != 1) unknown("it wants a predicate");
  return append(lowered);
}

int Lowering::predicate_destination(const ptx::Operand& operand) {
  const Operand lowered = lower(operand, 32);
  if (lowered.bits > 1) unknown("its destination is no predicate");
  return append(lowered);
}

int Lowering::predicate_destination(int i) { return predicate_destination(operand(i)); }

int Lowering::carry() {
  Operand out;
  out.bits = 1;
  // Of a kind whose values are what they are: it begins as zero.
  out.offset = hidden_register(function_, Hidden::Kind::kGlobal, 0, "CC.CF", out.bits);
  return append(out);
}

int Lowering::address(int i) {
  const ptx::Operand& given = operand(i);
  if (given.kind != ptx::Operand::Kind::kAddress) unknown("it wants an address");
  Operand out;
  if (given.reg >= 0) {
    ptx::Operand base;
    base.kind = ptx::Operand::Kind::kRegister;
    base.reg = given.reg;
    out = lower(base, 64);
  } else if (given.variable) {
    ptx::Operand base;
    base.kind = ptx::Operand::Kind::kVariable;
    base.variable = given.variable;
    base.name = given.name;
    out = lower(base, 64);
  }
  out.displacement = given.offset;
  return append(out);
}

int Lowering::sources(int i, int bits, size_t* count) {
  const ptx::Operand& given = operand(i);
  const int first = int(operands_.size());
  if (given.kind == ptx::Operand::Kind::kVector) {
    for (const ptx::Operand& element : given.elements) source(element, bits);
  } else {
    source(given, bits);
  }
  if (count) *count = operands_.size() - first;
  return first;
}

int Lowering::destinations(int i, int bits, size_t* count) {
  const ptx::Operand& given = operand(i);
  const int first = int(operands_.size());
  if (given.kind == ptx::Operand::Kind::kVector) {
    for (const ptx::Operand& element : given.elements) destination(element, bits);
  } else {
    destination(given, bits);
  }
  if (count) *count = operands_.size() - first;
  return first;
}

std::optional<int64_t> Lowering::constant(int i) const {
  const ptx::Operand& given = operand(i);
  if (given.kind != ptx::Operand::Kind::kInteger) return std::nullopt;
  return int64_t(given.bits);
}

}  // namespace emulator
