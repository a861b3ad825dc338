// Modules: their directives, variables and functions.
#include <algorithm>
#include <charconv>
#include <iterator>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "emulator/ptx/body.h"
#include "emulator/ptx/lexer.h"
#include "emulator/ptx/ptx.h"
#include "emulator/ptx/variables.h"

namespace emulator::ptx {
namespace {

class ModuleParser {
 public:
  explicit ModuleParser(std::string_view text) : lexer_(text) {}

  std::unique_ptr<Module> parse();

 private:
  const Token& token() const { return lexer_.token(); }
  Token expect_word(const char* what) { return lexer_.expect(Token::Kind::kWord, what); }

  void parse_statement();
  void parse_version();
  void parse_file();
  void parse_alias();
  void parse_variables(Space space, bool is_extern);
  void add_variable(const Token& name, std::unique_ptr<Variable> variable);

  void parse_function(bool is_kernel);
  Function& add_function(const Token& name, std::unique_ptr<Function> header, bool is_defined);
  std::vector<std::unique_ptr<Variable>> parse_parameters();
  void parse_function_directives(Function& function);
  void parse_dimensions(int (&dimensions)[3]);

  void check_symbols() const;
  void resolve_aliases();

  Lexer lexer_;
  std::unique_ptr<Module> module_ = std::make_unique<Module>();
  ModuleNames names_;
  std::vector<Token> symbols_;  // in initial values: they may come before what they name
  std::unordered_map<std::string, std::string> aliases_;
};

std::unique_ptr<Module> ModuleParser::parse() {
  while (token().kind != Token::Kind::kEnd) parse_statement();
  check_symbols();
  if (!aliases_.empty()) resolve_aliases();
  return std::move(module_);
}

void ModuleParser::parse_statement() {
  bool is_extern = false;
  Token directive;
  do {
    directive = lexer_.expect(Token::Kind::kDirective, "a directive");
    is_extern |= directive.is(".extern");
  } while (directive.is(".extern") || directive.is(".visible") || directive.is(".weak") || directive.is(".common"));

  if (directive.is(".version")) {
    parse_version();
  } else if (directive.is(".target")) {
    module_->target = expect_word("a target").text;
    while (lexer_.accept(",")) expect_word("an option of .target");
  } else if (directive.is(".address_size")) {
    if (parse_integer(lexer_) != 64) fail(directive.line, "no other .address_size than 64 is supported");
  } else if (directive.is(".file")) {
    parse_file();
  } else if (directive.is(".section")) {
    lexer_.expect(Token::Kind::kDirective, "the name of a section");
    lexer_.skip_group("{", "}");
  } else if (directive.is(".pragma")) {
    lexer_.skip_statement();
  } else if (directive.is(".alias")) {
    parse_alias();
  } else if (directive.is(".global")) {
    parse_variables(Space::kGlobal, is_extern);
  } else if (directive.is(".const")) {
    parse_variables(Space::kConst, is_extern);
  } else if (directive.is(".shared")) {
    parse_variables(Space::kShared, is_extern);
  } else if (directive.is(".entry") || directive.is(".func")) {
    parse_function(directive.is(".entry"));
  } else {
    fail(directive.line, "unknown directive " + quoted(directive));
  }
}

void ModuleParser::parse_version() {
  const Token version = lexer_.expect(Token::Kind::kNumber, "a version");
  int* part = &module_->version_major;
  for (const char c : version.text) {
    if (c == '.' && part == &module_->version_major) {
      part = &module_->version_minor;
    } else if (c >= '0' && c <= '9' && *part < 1000) {
      *part = 10 * *part + (c - '0');
    } else {
      fail(version.line, "malformed version " + quoted(version));
    }
  }
}

// .file N "path" [, time, size]
void ModuleParser::parse_file() {
  const int number = parse_int(lexer_);
  module_->files[number] = lexer_.expect(Token::Kind::kString, "a path").text;
  while (lexer_.accept(",")) parse_integer(lexer_);
}

// Variables -----------------------------------------------------------------------------------------------------------

void ModuleParser::parse_variables(Space space, bool is_extern) {
  const Declaration declaration = parse_declaration(lexer_, space, is_extern);
  do {
    const Token name = token();
    add_variable(name, parse_variable(lexer_, declaration, symbols_));
  } while (lexer_.accept(","));
  lexer_.expect(";");
}

void ModuleParser::add_variable(const Token& name, std::unique_ptr<Variable> variable) {
  Variable*& known = names_.variables[name.text];
  const bool is_first = !known && !names_.functions.contains(name.text);
  const bool is_same = known && known->space == variable->space && (known->is_extern || variable->is_extern);
  if (is_first) {
    known = variable.get();
    module_->variables.push_back(std::move(variable));
  } else if (!is_same) {
    fail(name.line, quoted(name) + " is declared twice");
  } else if (!variable->is_extern) {
    *known = std::move(*variable);  // in its place: operands may point to it
  }
}

void ModuleParser::check_symbols() const {
  for (const Token& symbol : symbols_) {
    if (!names_.contains(symbol.text)) fail(symbol.line, "unknown name " + quoted(symbol));
  }
}

// Functions -----------------------------------------------------------------------------------------------------------

void ModuleParser::parse_function(bool is_kernel) {
  auto header = std::make_unique<Function>();
  header->is_kernel = is_kernel;
  parse_function_directives(*header);
  if (token().is("(")) header->results = parse_parameters();
  parse_function_directives(*header);
  const Token name = expect_word("the name of a function");
  header->name = name.text;
  if (token().is("(")) header->parameters = parse_parameters();
  parse_function_directives(*header);

  const bool is_defined = !lexer_.accept(";");
  Function& function = add_function(name, std::move(header), is_defined);
  if (is_defined) parse_body(lexer_, names_, function);
}

// The function of that name, with the header of its definition, or of a declaration if there is none.
Function& ModuleParser::add_function(const Token& name, std::unique_ptr<Function> header, bool is_defined) {
  if (names_.variables.contains(name.text)) fail(name.line, quoted(name) + " is declared twice");
  header->is_defined = is_defined;
  Function*& function = names_.functions[name.text];
  if (!function) {
    function = header.get();
    module_->functions.push_back(std::move(header));
  } else if (function->is_kernel != header->is_kernel) {
    fail(name.line, quoted(name) + " is both a kernel and a function");
  } else if (is_defined) {
    if (function->is_defined) fail(name.line, quoted(name) + " is defined twice");
    *function = std::move(*header);
  }
  return *function;
}

std::vector<std::unique_ptr<Variable>> ModuleParser::parse_parameters() {
  std::vector<std::unique_ptr<Variable>> parameters;
  lexer_.expect("(");
  if (lexer_.accept(")")) return parameters;
  do {
    const bool is_register = lexer_.accept(".reg");
    if (!is_register) lexer_.expect(".param");
    const Declaration declaration =
        parse_declaration(lexer_, is_register ? Space::kRegister : Space::kParam, /*is_extern=*/false);
    parameters.push_back(parse_variable(lexer_, declaration, symbols_));
  } while (lexer_.accept(","));
  lexer_.expect(")");
  return parameters;
}

void ModuleParser::parse_function_directives(Function& function) {
  while (token().kind == Token::Kind::kDirective) {
    const Token directive = lexer_.take();
    if (directive.is(".maxntid")) {
      parse_dimensions(function.max_threads);
    } else if (directive.is(".reqntid")) {
      parse_dimensions(function.required_threads);
    } else if (directive.is(".minnctapersm")) {
      function.min_ctas = parse_int(lexer_);
    } else if (directive.is(".maxnctapersm") || directive.is(".maxnreg")) {
      parse_int(lexer_);  // concerns who allocates registers
    } else if (directive.is(".explicitcluster")) {
      function.explicit_cluster = true;
    } else if (directive.is(".reqnctapercluster")) {
      parse_dimensions(function.required_cluster);
    } else if (directive.is(".maxclusterrank")) {
      function.max_cluster_rank = parse_int(lexer_);
    } else if (directive.is(".blocksareclusters")) {
      function.blocks_are_clusters = true;
    } else if (directive.is(".pragma")) {
      lexer_.skip_statement();
    } else if (directive.is(".attribute")) {
      lexer_.skip_group("(", ")");
    } else if (directive.is(".unified")) {
      if (token().is("(")) lexer_.skip_group("(", ")");
    } else if (!directive.is(".noreturn")) {
      fail(directive.line, "unknown directive " + quoted(directive) + " of a function");
    }
  }
}

void ModuleParser::parse_dimensions(int (&dimensions)[3]) {
  std::fill(std::begin(dimensions), std::end(dimensions), 1);
  int i = 0;
  do {
    if (i == 3) fail(token().line, "more than three dimensions");
    dimensions[i++] = parse_int(lexer_);
  } while (lexer_.accept(","));
}

// Aliases -------------------------------------------------------------------------------------------------------------

void ModuleParser::parse_alias() {
  const Token alias = expect_word("a function");
  lexer_.expect(",");
  const Token function = expect_word("a function");
  lexer_.expect(";");
  for (const Token& name : {alias, function}) {
    if (!names_.functions.contains(name.text)) fail(name.line, "unknown function " + quoted(name));
  }
  aliases_[std::string(alias.text)] = function.text;
}

// An alias is replaced where it is used. This comes last, as its directive may.
void ModuleParser::resolve_aliases() {
  const auto replace = [&](std::string& name) {
    // At most as many steps as there are aliases, lest they go round in a circle.
    for (size_t steps = 0; steps < aliases_.size(); steps++) {
      const auto found = aliases_.find(name);
      if (found == aliases_.end()) return;
      name = found->second;
    }
  };
  const auto replace_all = [&](const auto& self, std::vector<Operand>& operands) -> void {
    for (Operand& operand : operands) {
      if (operand.kind == Operand::Kind::kFunction) replace(operand.name);
      self(self, operand.elements);
    }
  };
  for (const auto& function : module_->functions) {
    for (Instruction& instruction : function->body) replace_all(replace_all, instruction.operands);
  }
  for (const auto& variable : module_->variables) {
    for (Variable::Relocation& relocation : variable->relocations) replace(relocation.symbol);
  }
}

}  // namespace

const Function* Module::find(std::string_view name) const {
  const auto found = std::find_if(functions.begin(), functions.end(), [&](auto& f) { return f->name == name; });
  return found == functions.end() ? nullptr : found->get();
}

Target read_target(std::string_view name) {
  Target target;
  const size_t begin = name.find('_') + 1;  // the beginning where there is none
  const char* const end = name.data() + name.size();
  const auto [behind, error] = std::from_chars(name.data() + begin, end, target.architecture);
  if (error != std::errc()) return {};
  if (behind != end && (*behind == 'a' || *behind == 'f')) target.variant = *behind;
  return target;
}

std::unique_ptr<Module> parse(std::string_view text) { return ModuleParser(text).parse(); }

}  // namespace emulator::ptx
