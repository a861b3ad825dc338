#include "emulator/ptx/body.h"

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "emulator/ptx/names.h"
#include "emulator/ptx/variables.h"

namespace emulator::ptx {
namespace {

using Kind = Operand::Kind;

class BodyParser {
 public:
  BodyParser(Lexer& lexer, const ModuleNames& names, Function& function)
      : lexer_(lexer), names_(names), function_(function), scopes_(function) {}

  void parse();

 private:
  // What .loc names.
  struct Place {
    int file, line, column;
    bool operator<(const Place& other) const {
      return std::tie(file, line, column) < std::tie(other.file, other.line, other.column);
    }
  };

  const Token& token() const { return lexer_.token(); }
  Token expect_word(const char* what) { return lexer_.expect(Token::Kind::kWord, what); }
  // A name, and not the constant that looks like one.
  bool is_name() const { return token().kind == Token::Kind::kWord && !token().is("WARP_SZ"); }

  void parse_statement();
  void parse_directive();
  void parse_loc();
  Place parse_place();
  int add_call(const Place& place, int inlined_at);
  void parse_registers();
  void parse_variables(Space space, bool is_extern);
  void parse_label(const Token& name);
  void parse_instruction(const Token& opcode, int guard, bool guard_negated);

  Operand parse_operand();
  Operand parse_named();
  Operand parse_pair(const Token& name, Operand first);
  Operand parse_address();
  Operand parse_constant_operand();
  std::vector<Operand> parse_list(std::string_view close);
  int parse_register();
  Operand resolve(const Token& name) const;

  Lexer& lexer_;
  const ModuleNames& names_;
  Function& function_;
  Scopes scopes_;
  SourceLine source_;
  std::map<Place, int> calls_;  // the function's inlined calls; of namesakes, the last
  bool is_call_ = false;        // the instruction that is being read
};

void BodyParser::parse() {
  scopes_.open();
  for (const auto* list : {&function_.results, &function_.parameters}) {
    for (const auto& variable : *list) {
      const Token name{Token::Kind::kWord, variable->name, token().line};
      if (variable->name == "_") continue;
      if (variable->space == Space::kRegister) {
        scopes_.declare_register(name, variable->size ? int(8 * variable->size) : 1);
      } else {
        scopes_.declare_variable(name, variable.get());
      }
    }
  }
  lexer_.expect("{");
  while (!scopes_.empty()) parse_statement();
}

// Statements ----------------------------------------------------------------------------------------------------------

void BodyParser::parse_statement() {
  if (lexer_.accept(";")) return;
  if (lexer_.accept("{")) return scopes_.open();
  if (lexer_.accept("}")) return scopes_.close();
  if (token().kind == Token::Kind::kDirective) return parse_directive();

  int guard = -1;
  bool guard_negated = false;
  if (lexer_.accept("@")) {
    guard_negated = lexer_.accept("!");
    const Token name = token();
    guard = parse_register();
    if (function_.registers[guard].bits != 1) fail(name.line, "the guard " + quoted(name) + " is not a predicate");
  }
  const Token word = expect_word(guard < 0 ? "a statement or '}'" : "an instruction");
  if (guard < 0 && token().is(":")) return parse_label(word);
  parse_instruction(word, guard, guard_negated);
}

void BodyParser::parse_directive() {
  const Token directive = lexer_.take();
  if (directive.is(".loc")) {
    parse_loc();
  } else if (directive.is(".pragma")) {
    lexer_.skip_statement();
  } else if (directive.is(".reg")) {
    parse_registers();
  } else if (directive.is(".local")) {
    parse_variables(Space::kLocal, false);
  } else if (directive.is(".shared")) {
    parse_variables(Space::kShared, false);
  } else if (directive.is(".param")) {
    parse_variables(Space::kParam, false);
  } else if (directive.is(".extern")) {
    lexer_.expect(".shared");
    parse_variables(Space::kShared, true);
  } else {
    fail(directive.line, "unknown directive " + quoted(directive) + " in the body of a function");
  }
}

// .loc file line column [, function_name label [+ n], inlined_at file line column]
//
// The compiler says of a call that is inlined where it is inlined itself before it comes to what is called.
void BodyParser::parse_loc() {
  const Place place = parse_place();
  int inlined_at = -1;
  while (lexer_.accept(",")) {
    if (lexer_.accept("function_name")) {
      const bool is_section = token().kind == Token::Kind::kDirective;  // .debug_str + n
      if (is_section) lexer_.take();
      if (!is_section) expect_word("a label");
      parse_offset(lexer_);
    } else {
      lexer_.expect("inlined_at");
      const Place call = parse_place();
      const auto known = calls_.find(call);
      inlined_at = known != calls_.end() ? known->second : add_call(call, -1);
    }
  }
  // Line 0 is code of no line of its own: it is counted with what comes before it.
  if (place.line == 0) return;
  source_ = {place.file, place.line, inlined_at};
  // This may be a call, too.
  const auto namesake = calls_.find(place);
  if (namesake == calls_.end()) {
    add_call(place, inlined_at);
  } else if (InlinedCall& before = function_.inlined_calls[size_t(namesake->second)]; before.inlined_at != inlined_at) {
    before.has_namesakes = true;
    function_.inlined_calls[size_t(add_call(place, inlined_at))].has_namesakes = true;
  }
}

BodyParser::Place BodyParser::parse_place() {
  Place place;
  for (int* part : {&place.file, &place.line, &place.column}) *part = parse_int(lexer_);
  return place;
}

int BodyParser::add_call(const Place& place, int inlined_at) {
  function_.inlined_calls.push_back({place.file, place.line, inlined_at});
  return calls_[place] = int(function_.inlined_calls.size()) - 1;
}

void BodyParser::parse_registers() {
  constexpr uint64_t kMostRegisters = 1 << 24;
  const int bits = parse_declaration(lexer_, Space::kRegister, false).type->bits;
  do {
    const Token name = expect_word("the name of a register");
    if (lexer_.accept("<")) {
      scopes_.declare_registers(name, int(parse_integer_up_to(lexer_, kMostRegisters)), bits);
      lexer_.expect(">");
    } else {
      scopes_.declare_register(name, bits);
    }
  } while (lexer_.accept(","));
  lexer_.expect(";");
}

void BodyParser::parse_variables(Space space, bool is_extern) {
  const Declaration declaration = parse_declaration(lexer_, space, is_extern);
  std::vector<Token> no_symbols;  // none of these spaces has initial values
  do {
    const Token name = token();
    function_.variables.push_back(parse_variable(lexer_, declaration, no_symbols));
    scopes_.declare_variable(name, function_.variables.back().get());
  } while (lexer_.accept(","));
  lexer_.expect(";");
}

void BodyParser::parse_label(const Token& name) {
  lexer_.expect(":");
  Label label;
  if (lexer_.accept(".branchtargets")) {
    label.kind = Label::Kind::kBranchTargets;
    do {
      label.targets.push_back(expect_word("a label"));
    } while (lexer_.accept(","));
    lexer_.expect(";");
  } else if (token().is(".callprototype") || token().is(".calltargets")) {
    // Whom to call is known when it comes to that; these are for the compiler.
    label.kind = Label::Kind::kPrototype;
    lexer_.skip_statement();
  } else {
    label.target = int(function_.body.size());
  }
  scopes_.declare_label(name, std::move(label));
}

void BodyParser::parse_instruction(const Token& opcode, int guard, bool guard_negated) {
  Instruction& instruction = function_.body.emplace_back();
  instruction.guard = guard;
  instruction.guard_negated = guard_negated;
  instruction.source = source_;
  instruction.line = opcode.line;
  instruction.opcode = opcode.text;
  // Written by hand, a part may stand apart from those before it.
  while (token().kind == Token::Kind::kDirective) instruction.opcode += lexer_.take().text;
  std::string_view rest = instruction.opcode;
  for (size_t dot; (dot = rest.find('.')) != std::string_view::npos; rest.remove_prefix(dot + 1)) {
    instruction.parts.emplace_back(rest.substr(0, dot));
  }
  instruction.parts.emplace_back(rest);

  if (lexer_.accept(";")) return;
  const std::string& operation = instruction.parts[0];
  is_call_ = operation == "call";
  std::vector<Operand>& operands = instruction.operands;
  do {
    if (operation == "bra") {
      operands.push_back(scopes_.use_label(expect_word("a label")));
    } else if (operation == "brx" && operands.size() == 1) {
      operands.push_back(scopes_.use_branch_targets(expect_word("the label of .branchtargets")));
    } else {
      operands.push_back(parse_operand());
    }
  } while (lexer_.accept(","));
  lexer_.expect(";");
}

// Operands ------------------------------------------------------------------------------------------------------------

Operand BodyParser::parse_operand() {
  if (lexer_.accept("[")) return parse_address();
  if (lexer_.accept("{")) return {.kind = Kind::kVector, .elements = parse_list("}")};
  if (is_call_ && lexer_.accept("(")) {
    if (lexer_.accept(")")) return {.kind = Kind::kArguments};
    return {.kind = Kind::kArguments, .elements = parse_list(")")};
  }
  if (lexer_.accept("!")) return {.kind = Kind::kRegister, .negated = true, .reg = parse_register()};
  if (!is_name()) return parse_constant_operand();

  const Token name = token();
  Operand operand = parse_named();
  return lexer_.accept("|") ? parse_pair(name, std::move(operand)) : operand;
}

Operand BodyParser::parse_named() {
  Operand operand = resolve(expect_word("a name"));
  if (operand.kind == Kind::kVariable) operand.offset = parse_offset(lexer_);
  return operand;
}

// From behind the bar on.
Operand BodyParser::parse_pair(const Token& name, Operand first) {
  Operand pair{.kind = Kind::kPair};
  pair.elements.push_back(std::move(first));
  pair.elements.push_back(parse_named());
  for (const Operand& element : pair.elements) {
    if (element.kind != Kind::kRegister && element.kind != Kind::kSink) {
      fail(name.line, "both sides of '|' must be registers, at " + quoted(name));
    }
  }
  return pair;
}

// From behind the opening bracket on.
Operand BodyParser::parse_address() {
  Operand address{.kind = Kind::kAddress};
  if (is_name()) {
    const Token name = lexer_.take();
    Operand base = resolve(name);
    if (base.kind != Kind::kRegister && base.kind != Kind::kVariable) {
      fail(name.line, quoted(name) + " is no address: neither a register nor a variable");
    }
    address.reg = base.reg;
    address.variable = base.variable;
    address.name = std::move(base.name);
    address.offset = parse_offset(lexer_);
  } else {
    address.offset = int64_t(parse_integer(lexer_));
  }
  if (lexer_.accept(",")) {
    address.elements = parse_list("]");
  } else {
    lexer_.expect("]");
  }
  return address;
}

// One operand or more, and what closes their list.
std::vector<Operand> BodyParser::parse_list(std::string_view close) {
  std::vector<Operand> operands;
  do {
    operands.push_back(parse_operand());
  } while (lexer_.accept(","));
  lexer_.expect(close);
  return operands;
}

Operand BodyParser::parse_constant_operand() {
  const bool is_constant = token().kind == Token::Kind::kNumber || token().is("-") || token().is("+") ||
                           token().is("~") || token().is("(") || token().is("WARP_SZ");
  if (!is_constant) lexer_.fail_expecting("an operand");
  const Constant constant = parse_constant(lexer_);
  constexpr Kind kKinds[] = {Kind::kInteger, Kind::kFloat32, Kind::kFloat64};  // in the order of Constant::Kind
  return {.kind = kKinds[int(constant.kind)], .bits = constant.bits};
}

int BodyParser::parse_register() {
  const Token name = expect_word("a register");
  const Operand operand = resolve(name);
  if (operand.kind != Kind::kRegister) fail(name.line, quoted(name) + " is not a register");
  return operand.reg;
}

Operand BodyParser::resolve(const Token& name) const {
  if (name.is("_")) return {.kind = Kind::kSink};
  std::optional<Name> found = scopes_.find(name.text);
  if (found && !found->variable) return {.kind = Kind::kRegister, .reg = found->reg};
  const std::string text(name.text);
  if (!found && name.text[0] == '%') {
    scopes_.refuse_undeclared_register(name);
    return {.kind = Kind::kSpecial, .name = text};
  }
  if (!found) {
    const auto variable = names_.variables.find(name.text);
    if (variable != names_.variables.end()) found = Name{.variable = variable->second};
  }
  if (found) return {.kind = Kind::kVariable, .name = text, .variable = found->variable};
  if (names_.functions.contains(name.text)) return {.kind = Kind::kFunction, .name = text};
  // The last operand of an indirect call: a label that is nowhere.
  if (is_call_ && scopes_.is_prototype(name.text)) return {.kind = Kind::kLabel, .name = text};
  fail(name.line, "unknown name " + quoted(name));
}

}  // namespace

void parse_body(Lexer& lexer, const ModuleNames& names, Function& function) {
  BodyParser(lexer, names, function).parse();
}

}  // namespace emulator::ptx
