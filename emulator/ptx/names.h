// Names within the body of a function: registers, variables and labels, each seen from its own braces on inwards.
#pragma once

#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "emulator/ptx/lexer.h"
#include "emulator/ptx/ptx.h"

namespace emulator::ptx {

// A register or a variable.
struct Name {
  int reg = -1;
  const Variable* variable = nullptr;  // where this is set, it is no register
};

struct Label {
  enum class Kind { kPlace, kBranchTargets, kPrototype };
  Kind kind = Kind::kPlace;
  int target = -1;             // of kPlace: an instruction
  std::vector<Token> targets;  // of kBranchTargets: other labels
};

class Scopes {
 public:
  explicit Scopes(Function& function) : function_(function) {}

  bool empty() const { return scopes_.empty(); }
  void open() { scopes_.emplace_back(); }
  // Labels used inside are resolved now, since they may have come after their use.
  void close();

  // All of these declare in the innermost scope, and fail if the name is taken there.
  void declare_register(const Token& name, int bits);
  void declare_registers(const Token& prefix, int count, int bits);
  void declare_variable(const Token& name, const Variable* variable);
  void declare_label(const Token& name, Label label);

  std::optional<Name> find(std::string_view name) const;
  bool is_prototype(std::string_view label) const { return find_label(label, Label::Kind::kPrototype).label; }

  // Fails for a name that looks like a register with a number, or like a part of a register: such a name is not to be
  // taken for a special register.
  void refuse_undeclared_register(const Token& name) const;

  // The next operand of the last instruction: a label, which may still come, or the labels that .branchtargets listed.
  Operand use_label(const Token& label);
  Operand use_branch_targets(const Token& label);

 private:
  // Registers declared together: "%r<100>".
  struct Range {
    std::string_view prefix;
    int first;  // index in the function
    int count;

    // The number in a name that is the prefix with a number, even of one too large; else -1.
    int number_in(std::string_view name) const;
  };

  struct LabelUse {
    Token label;
    int instruction;
    int operand;
    int element;  // -1: the operand itself
  };

  struct Scope {
    std::vector<Range> ranges;
    std::unordered_map<std::string_view, Name> names;
    std::unordered_map<std::string_view, Label> labels;
    std::vector<LabelUse> uses;

    std::optional<Name> find(std::string_view name) const;
  };

  struct FoundLabel {
    int scope;
    const Label* label;
  };

  Name& declare(const Token& name);
  FoundLabel find_label(std::string_view name, Label::Kind kind) const;
  LabelUse use_of(const Token& label, int element) const;

  Function& function_;
  std::vector<Scope> scopes_;  // the last is the innermost
};

}  // namespace emulator::ptx
