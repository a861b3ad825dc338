#include "emulator/ptx/variables.h"

#include <algorithm>
#include <bit>
#include <span>
#include <string>

namespace emulator::ptx {
namespace {

using Initial = Type::Initial;

constexpr Type kTypes[] = {
    {".b32", 32, Initial::kIntegers}, {".b64", 64, Initial::kIntegers}, {".pred", 1, Initial::kNone},
    {".b16", 16, Initial::kIntegers}, {".b8", 8, Initial::kIntegers},   {".u32", 32, Initial::kIntegers},
    {".u64", 64, Initial::kIntegers}, {".u16", 16, Initial::kIntegers}, {".u8", 8, Initial::kIntegers},
    {".s32", 32, Initial::kIntegers}, {".s64", 64, Initial::kIntegers}, {".s16", 16, Initial::kIntegers},
    {".s8", 8, Initial::kIntegers},   {".f32", 32, Initial::kFloats},   {".f64", 64, Initial::kFloats},
    {".f16", 16, Initial::kNone},     {".f16x2", 32, Initial::kNone},   {".bf16", 16, Initial::kNone},
    {".bf16x2", 32, Initial::kNone},  {".b128", 128, Initial::kNone},
};

// Bytes of a variable, so also elements of an array.
constexpr uint64_t kLargest = uint64_t(1) << 40;

const Type* find_type(const Token& token) {
  const auto type = std::find_if(std::begin(kTypes), std::end(kTypes), [&](auto& t) { return token.is(t.name); });
  return type == std::end(kTypes) ? nullptr : type;
}

// Reads the initial values of one variable.
class InitialValues {
 public:
  InitialValues(Lexer& lexer, const Type& type, Variable& variable, std::vector<Token>& symbols)
      : lexer_(lexer), type_(type), size_(type.bits / 8), variable_(variable), symbols_(symbols) {}

  // Of an array of so many elements, each of them an array of the remaining counts. Only the outermost array may have
  // fewer: within others, ptxas does not leave a gap as C does.
  void parse(std::span<const uint64_t> counts, uint64_t offset, bool is_outermost) {
    if (counts.empty()) return parse_element(offset);
    uint64_t stride = size_;
    for (const uint64_t count : counts.subspan(1)) stride *= count;
    lexer_.expect("{");
    uint64_t index = 0;
    do {
      if (index == counts[0]) fail(lexer_.token().line, "too many initial values for '" + variable_.name + "'");
      parse(counts.subspan(1), offset + index++ * stride, /*is_outermost=*/false);
    } while (lexer_.accept(","));
    if (!is_outermost && index < counts[0]) fail(lexer_.token().line, "too few initial values in an inner array");
    lexer_.expect("}");
  }

 private:
  void parse_element(uint64_t offset) {
    const Token first = lexer_.token();
    if (type_.initial == Initial::kNone) {
      fail(first.line, "initial values of type " + std::string(type_.name) + " are not supported");
    }
    const bool is_address = first.kind == Token::Kind::kWord && !first.is("WARP_SZ");
    const uint64_t bits = is_address ? parse_address(offset) : parse_number();
    // Grows as values come, since an array may have been given no length.
    if (variable_.initial.size() < offset + size_) variable_.initial.resize(offset + size_);
    for (uint64_t i = 0; i < size_; i++) variable_.initial[offset + i] = uint8_t(bits >> 8 * i);
  }

  // symbol + n, generic(symbol) + n
  uint64_t parse_address(uint64_t offset) {
    Token symbol = lexer_.take();
    const bool is_generic = symbol.is("generic") && lexer_.accept("(");
    if (is_generic) {
      symbol = lexer_.expect(Token::Kind::kWord, "a name");
      lexer_.expect(")");
    }
    if (size_ != 8 || type_.initial != Initial::kIntegers) {
      fail(symbol.line, "the address of " + quoted(symbol) + " needs an integer of 64 bits");
    }
    symbols_.push_back(symbol);
    variable_.relocations.push_back({offset, std::string(symbol.text), parse_offset(lexer_), is_generic, symbol.line});
    return 0;
  }

  uint64_t parse_number() {
    const Token first = lexer_.token();
    const Constant value = parse_constant(lexer_);
    if (lexer_.token().is("(")) fail(first.line, "parts of addresses as initial values are not supported");
    bool fits = false;
    switch (value.kind) {
      case Constant::Kind::kInteger: {
        // Either as a signed or as an unsigned number.
        const int64_t above = size_ == 8 ? 0 : int64_t(value.bits) >> (type_.bits - 1);
        fits = type_.initial == Initial::kIntegers && above >= -1 && above <= 1;
        break;
      }
      case Constant::Kind::kFloat32:
        fits = size_ == 4;
        break;
      case Constant::Kind::kFloat64:
        if (size_ == 4) return std::bit_cast<uint32_t>(float(std::bit_cast<double>(value.bits)));
        fits = size_ == 8;
    }
    if (!fits) {
      fail(first.line,
           "initial value beginning with " + quoted(first) + " does not fit type " + std::string(type_.name));
    }
    return value.bits;
  }

  Lexer& lexer_;
  const Type& type_;
  const uint64_t size_;  // of an element
  Variable& variable_;
  std::vector<Token>& symbols_;
};

}  // namespace

Declaration parse_declaration(Lexer& lexer, Space space, bool is_extern) {
  Declaration declaration{space, is_extern};
  while (lexer.token().kind == Token::Kind::kDirective) {
    const Token directive = lexer.take();
    if (const Type* type = find_type(directive)) {
      if (declaration.type) fail(directive.line, "more than one type in a declaration");
      declaration.type = type;
    } else if (directive.is(".align")) {
      declaration.alignment = parse_integer(lexer);
      if (!std::has_single_bit(declaration.alignment)) fail(directive.line, "the alignment is not a power of two");
    } else if (directive.is(".v2") || directive.is(".v4") || directive.is(".v8")) {
      declaration.lanes = directive.text[2] - '0';
    } else if (directive.is(".attribute")) {
      lexer.skip_group("(", ")");
    } else if (directive.is(".ptr") && space == Space::kParam) {
      // What the parameter points to: in which space that is, and its alignment.
      for (const char* pointed : {".global", ".const", ".shared", ".local", ".param"}) lexer.accept(pointed);
      if (lexer.accept(".align")) parse_integer(lexer);
    } else {
      fail(directive.line, "unknown directive " + quoted(directive) + " in a declaration");
    }
  }
  if (!declaration.type) lexer.fail_expecting("a type");
  const int line = lexer.token().line;
  const bool is_predicate = declaration.type->bits == 1;
  if (is_predicate && space != Space::kRegister) fail(line, "predicates are registers only");
  if (declaration.lanes > 1 && space == Space::kRegister) fail(line, "registers of vectors are not supported");
  if (!declaration.alignment) {
    declaration.alignment = is_predicate ? 1 : uint64_t(declaration.type->bits / 8) * declaration.lanes;
  }
  return declaration;
}

std::unique_ptr<Variable> parse_variable(Lexer& lexer, const Declaration& declaration, std::vector<Token>& symbols) {
  const Token name = lexer.expect(Token::Kind::kWord, "a name");
  auto variable = std::make_unique<Variable>();
  variable->name = name.text;
  variable->space = declaration.space;
  variable->alignment = declaration.alignment;
  variable->is_extern = declaration.is_extern;

  // Lengths, from the outermost; a vector is an array within.
  std::vector<uint64_t> counts;
  bool has_open_length = false;
  while (lexer.accept("[")) {
    has_open_length |= counts.empty() && lexer.token().is("]");
    const bool is_open = has_open_length && counts.empty();
    counts.push_back(is_open ? kLargest : parse_integer_up_to(lexer, kLargest));
    lexer.expect("]");
  }
  if (declaration.lanes > 1) counts.push_back(declaration.lanes);

  uint64_t size = declaration.type->bits / 8;
  for (const uint64_t count : std::span(counts).subspan(has_open_length)) {
    if (size && count > kLargest / size) fail(name.line, quoted(name) + " is too large");
    size *= count;
  }
  if (!has_open_length) variable->size = size;

  if (lexer.token().is("=")) {
    const bool has_memory = declaration.space == Space::kGlobal || declaration.space == Space::kConst;
    if (!has_memory || declaration.is_extern) fail(name.line, quoted(name) + " cannot have initial values");
    lexer.take();
    InitialValues(lexer, *declaration.type, *variable, symbols).parse(counts, 0, /*is_outermost=*/true);
    if (has_open_length) variable->size = (variable->initial.size() + size - 1) / size * size;
    variable->initial.resize(variable->size);
  }
  return variable;
}

}  // namespace emulator::ptx
