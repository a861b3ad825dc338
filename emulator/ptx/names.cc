#include "emulator/ptx/names.h"

#include <utility>

namespace emulator::ptx {

int Scopes::Range::number_in(std::string_view name) const {
  if (!name.starts_with(prefix)) return -1;
  const std::string_view digits = name.substr(prefix.size());
  if (digits.empty() || digits.size() > 9 || (digits[0] == '0' && digits.size() > 1)) return -1;
  int number = 0;
  for (const char c : digits) {
    if (c < '0' || c > '9') return -1;
    number = 10 * number + (c - '0');
  }
  return number;
}

std::optional<Name> Scopes::Scope::find(std::string_view name) const {
  for (const Range& range : ranges) {
    const int number = range.number_in(name);
    if (number >= 0 && number < range.count) return Name{.reg = range.first + number};
  }
  if (const auto found = names.find(name); found != names.end()) return found->second;
  return std::nullopt;
}

std::optional<Name> Scopes::find(std::string_view name) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    if (const auto found = scope->find(name)) return found;
  }
  return std::nullopt;
}

void Scopes::refuse_undeclared_register(const Token& name) const {
  const std::string_view before_dot = name.text.substr(0, name.text.find('.'));
  if (before_dot != name.text && find(before_dot)) {
    fail(name.line, quoted(name) + ": parts of registers are not supported");
  }
  for (const Scope& scope : scopes_) {
    for (const Range& range : scope.ranges) {
      if (range.number_in(name.text) >= 0) fail(name.line, "register " + quoted(name) + " is not declared");
    }
  }
}

// Declarations --------------------------------------------------------------------------------------------------------

Name& Scopes::declare(const Token& name) {
  if (scopes_.back().find(name.text)) fail(name.line, quoted(name) + " is declared twice");
  return scopes_.back().names[name.text];
}

void Scopes::declare_register(const Token& name, int bits) {
  declare(name).reg = int(function_.registers.size());
  function_.registers.push_back({std::string(name.text), bits});
}

void Scopes::declare_registers(const Token& prefix, int count, int bits) {
  Scope& scope = scopes_.back();
  const Range range{prefix.text, int(function_.registers.size()), count};
  for (const Range& other : scope.ranges) {
    if (other.prefix == range.prefix) fail(prefix.line, "registers " + quoted(prefix) + " are declared twice");
  }
  for (const auto& [name, unused] : scope.names) {
    const int number = range.number_in(name);
    if (number >= 0 && number < count) fail(prefix.line, "'" + std::string(name) + "' is declared twice");
  }
  scope.ranges.push_back(range);
  for (int i = 0; i < count; i++) {
    function_.registers.push_back({std::string(prefix.text) + std::to_string(i), bits});
  }
}

void Scopes::declare_variable(const Token& name, const Variable* variable) { declare(name).variable = variable; }

void Scopes::declare_label(const Token& name, Label label) {
  const bool is_new = scopes_.back().labels.emplace(name.text, std::move(label)).second;
  if (!is_new) fail(name.line, "label " + quoted(name) + " is defined twice");
}

// Labels --------------------------------------------------------------------------------------------------------------

Scopes::FoundLabel Scopes::find_label(std::string_view name, Label::Kind kind) const {
  for (int i = int(scopes_.size()) - 1; i >= 0; i--) {
    const auto found = scopes_[i].labels.find(name);
    if (found != scopes_[i].labels.end() && found->second.kind == kind) return {i, &found->second};
  }
  return {-1, nullptr};
}

Scopes::LabelUse Scopes::use_of(const Token& label, int element) const {
  return {label, int(function_.body.size()) - 1, int(function_.body.back().operands.size()), element};
}

Operand Scopes::use_label(const Token& label) {
  scopes_.back().uses.push_back(use_of(label, -1));
  return {.kind = Operand::Kind::kLabel, .name = std::string(label.text)};
}

Operand Scopes::use_branch_targets(const Token& label) {
  const FoundLabel found = find_label(label.text, Label::Kind::kBranchTargets);
  if (!found.label) fail(label.line, "no .branchtargets " + quoted(label) + " before this");
  Operand table{.kind = Operand::Kind::kVector, .name = std::string(label.text)};
  for (const Token& target : found.label->targets) {
    // The labels are those seen from where the table is, which may be further out.
    scopes_[found.scope].uses.push_back(use_of(target, int(table.elements.size())));
    table.elements.push_back({.kind = Operand::Kind::kLabel, .name = std::string(target.text)});
  }
  return table;
}

void Scopes::close() {
  const Scope scope = std::move(scopes_.back());
  scopes_.pop_back();
  for (const LabelUse& use : scope.uses) {
    const auto found = scope.labels.find(use.label.text);
    if (found != scope.labels.end()) {
      const Label& label = found->second;
      if (label.kind != Label::Kind::kPlace) fail(use.label.line, quoted(use.label) + " is no place to branch to");
      Operand& operand = function_.body[use.instruction].operands[use.operand];
      (use.element < 0 ? operand : operand.elements[use.element]).target = label.target;
    } else if (scopes_.empty()) {
      fail(use.label.line, "unknown label " + quoted(use.label));
    } else {
      scopes_.back().uses.push_back(use);
    }
  }
}

}  // namespace emulator::ptx
