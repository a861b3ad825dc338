#include "emulator/ptx/lexer.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <limits>

namespace emulator::ptx {
namespace {

// Not <cctype>: its answers depend on the locale.
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool begins_name(char c) { return is_letter(c) || c == '_' || c == '$'; }
bool continues_name(char c) { return begins_name(c) || is_digit(c); }

// The letter of a number's prefix 0x, 0b, 0f or 0d, in lower case; 0 if there is none.
char prefix_letter(std::string_view number) {
  if (number.size() < 2 || number[0] != '0') return '\0';
  const char letter = char(number[1] | 0x20);
  return letter == 'x' || letter == 'b' || letter == 'f' || letter == 'd' ? letter : '\0';
}

}  // namespace

void fail(int line, const std::string& what) { throw ParseError("PTX line " + std::to_string(line) + ": " + what); }

std::string quoted(const Token& token) {
  switch (token.kind) {
    case Token::Kind::kEnd:
      return "the end of the text";
    case Token::Kind::kString:
      return "the string \"" + std::string(token.text) + "\"";
    default:
      return "'" + std::string(token.text) + "'";
  }
}

Lexer::Lexer(std::string_view text) : text_(text) {
  // Images inside of executables end with zeros.
  while (!text_.empty() && text_.back() == '\0') text_.remove_suffix(1);
  token_ = read();
}

Token Lexer::take() {
  const Token taken = token_;
  token_ = read();
  return taken;
}

bool Lexer::accept(std::string_view text) {
  if (!token_.is(text)) return false;
  token_ = read();
  return true;
}

Token Lexer::expect(std::string_view text) {
  if (!token_.is(text)) fail_expecting("'" + std::string(text) + "'");
  return take();
}

Token Lexer::expect(Token::Kind kind, const std::string& what) {
  if (token_.kind != kind) fail_expecting(what);
  return take();
}

void Lexer::fail_expecting(const std::string& what) const {
  fail(token_.line, "expected " + what + ", found " + quoted(token_));
}

void Lexer::skip_group(std::string_view open, std::string_view close) {
  const Token begin = expect(open);
  for (int depth = 1; depth > 0;) {
    const Token skipped = take();
    if (skipped.kind == Token::Kind::kEnd) fail(begin.line, quoted(begin) + " without " + std::string(close));
    depth += int(skipped.is(open)) - int(skipped.is(close));
  }
}

void Lexer::skip_statement() {
  const int line = token_.line;
  for (;;) {
    const Token skipped = take();
    if (skipped.is(";")) return;
    if (skipped.kind == Token::Kind::kEnd) fail(line, "statement without ';'");
  }
}

void Lexer::skip_blank() {
  for (;;) {
    const char c = at(0);
    if (c == '\n') {
      line_++;
      position_++;
    } else if (c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f') {
      position_++;
    } else if (c == '/' && at(1) == '/') {
      position_ = std::min(text_.find('\n', position_), text_.size());
    } else if (c == '/' && at(1) == '*') {
      const size_t end = text_.find("*/", position_ + 2);
      if (end == std::string_view::npos) fail(line_, "comment without an end");
      for (; position_ < end + 2; position_++) line_ += text_[position_] == '\n';
    } else {
      return;
    }
  }
}

Token Lexer::token_of(Token::Kind kind, size_t length) {
  const Token token{kind, text_.substr(position_, length), line_};
  position_ += length;
  return token;
}

Token Lexer::read() {
  skip_blank();
  if (position_ == text_.size()) return token_of(Token::Kind::kEnd, 0);
  const char c = at(0);
  size_t n = 1;

  // A percent sign before anything but a name is the operator.
  if (begins_name(c) || (c == '%' && begins_name(at(1)))) {
    for (;;) {
      if (continues_name(at(n))) {
        n += 1;
      } else if (at(n) == '.' && continues_name(at(n + 1))) {
        n += 2;
      } else if (at(n) == ':' && at(n + 1) == ':' && continues_name(at(n + 2))) {
        n += 3;
      } else {
        return token_of(Token::Kind::kWord, n);
      }
    }
  }
  if (c == '.' && begins_name(at(1))) {
    while (continues_name(at(n)) || (at(n) == ':' && at(n + 1) == ':' && continues_name(at(n + 2)))) {
      n += at(n) == ':' ? 2 : 1;
    }
    return token_of(Token::Kind::kDirective, n);
  }
  if (is_digit(c) || (c == '.' && is_digit(at(1)))) {
    const bool is_decimal = !prefix_letter(text_.substr(position_, 2));
    const auto is_exponent_sign = [&] {
      return is_decimal && (at(n) == '+' || at(n) == '-') && (at(n - 1) == 'e' || at(n - 1) == 'E');
    };
    while (continues_name(at(n)) || at(n) == '.' || is_exponent_sign()) n++;
    return token_of(Token::Kind::kNumber, n);
  }
  if (c == '"') {
    const size_t end = text_.find_first_of("\"\n", position_ + 1);
    if (end == std::string_view::npos || text_[end] == '\n') fail(line_, "string without an end");
    position_++;
    const Token token = token_of(Token::Kind::kString, end - position_);
    position_++;
    return token;
  }
  if ((c == '<' || c == '>') && at(1) == c) return token_of(Token::Kind::kPunctuation, 2);
  static constexpr std::string_view kPunctuation = "{}()[]<>,;:@!|+-*/%&^~=";
  if (kPunctuation.find(c) == std::string_view::npos) {
    static constexpr char kDigits[] = "0123456789abcdef";
    const bool is_visible = c > ' ' && c < 0x7f;
    fail(line_, is_visible ? std::string("unknown character '") + c + "'"
                           : std::string("unknown character 0x") + kDigits[uint8_t(c) >> 4] + kDigits[c & 15]);
  }
  return token_of(Token::Kind::kPunctuation, 1);
}

// Constants -----------------------------------------------------------------------------------------------------------

namespace {

Constant parse_number(const Token& token) {
  const auto malformed = [&](const char* why) { fail(token.line, why + (" " + quoted(token))); };
  std::string_view digits = token.text;
  const char letter = prefix_letter(digits);

  if (letter == 'f' || letter == 'd') {
    Constant constant{letter == 'f' ? Constant::Kind::kFloat32 : Constant::Kind::kFloat64};
    digits.remove_prefix(2);
    const auto [end, error] = std::from_chars(digits.begin(), digits.end(), constant.bits, 16);
    if (digits.size() != (letter == 'f' ? 8 : 16) || end != digits.end() || error != std::errc()) {
      malformed("malformed number");
    }
    return constant;
  }
  if (!letter && digits.find_first_of(".eE") != std::string_view::npos) {
    double value = 0;
    const auto [end, error] = std::from_chars(digits.begin(), digits.end(), value);
    if (error == std::errc::result_out_of_range) malformed("out of the range of 64 bits:");
    if (end != digits.end() || error != std::errc()) malformed("malformed number");
    return {Constant::Kind::kFloat64, std::bit_cast<uint64_t>(value)};
  }

  Constant constant;
  if (digits.back() == 'U' || digits.back() == 'u') {
    constant.is_unsigned = true;
    digits.remove_suffix(1);
  }
  int radix = 10;
  if (letter == 'x' || letter == 'b') {
    radix = letter == 'x' ? 16 : 2;
    digits.remove_prefix(2);
  } else if (digits.size() > 1 && digits[0] == '0') {
    radix = 8;
  }
  const auto [end, error] = std::from_chars(digits.begin(), digits.end(), constant.bits, radix);
  if (error == std::errc::result_out_of_range) malformed("out of the range of 64 bits:");
  if (end != digits.end() || error != std::errc()) malformed("malformed number");
  constant.is_unsigned |= constant.bits > uint64_t(std::numeric_limits<int64_t>::max());
  return constant;
}

// 0 for a token that is no operator between two constants.
int precedence(const Token& token) {
  if (token.kind != Token::Kind::kPunctuation) return 0;
  switch (token.text[0]) {
    case '|':
      return kAnyOperator;
    case '^':
      return 2;
    case '&':
      return 3;
    case '<':
    case '>':
      return token.text.size() == 2 ? 4 : 0;
    case '+':
    case '-':
      return 5;
    case '*':
    case '/':
    case '%':
      return kMultiplication;
    default:
      return 0;
  }
}

Constant combine(const Constant& a, const Token& op, const Constant& b) {
  if (a.kind != Constant::Kind::kInteger || b.kind != Constant::Kind::kInteger) {
    fail(op.line, quoted(op) + " between floating-point constants is not supported");
  }
  Constant result;
  result.is_unsigned = a.is_unsigned || b.is_unsigned;
  const uint64_t x = a.bits, y = b.bits;
  switch (op.text[0]) {
    case '|':
      result.bits = x | y;
      break;
    case '^':
      result.bits = x ^ y;
      break;
    case '&':
      result.bits = x & y;
      break;
    case '+':
      result.bits = x + y;
      break;
    case '-':
      result.bits = x - y;
      break;
    case '*':
      result.bits = x * y;
      break;
    case '/':
    case '%': {
      if (y == 0) fail(op.line, "division by zero in a constant expression");
      const bool divides = op.text[0] == '/';
      if (result.is_unsigned) {
        result.bits = divides ? x / y : x % y;
      } else if (y == ~uint64_t(0)) {  // by -1: the one division that may overflow
        result.bits = divides ? 0 - x : 0;
      } else {
        result.bits = uint64_t(divides ? int64_t(x) / int64_t(y) : int64_t(x) % int64_t(y));
      }
      break;
    }
    default:  // shifts: the type is that of the left operand
      if (y > 63) fail(op.line, "shift by more than 63 bits in a constant expression");
      result.is_unsigned = a.is_unsigned;
      result.bits = op.text[0] == '<' ? x << y : a.is_unsigned ? x >> y : uint64_t(int64_t(x) >> y);
  }
  return result;
}

Constant parse_term(Lexer& lexer) {
  if (lexer.accept("(")) {
    const Constant inner = parse_constant(lexer);
    lexer.expect(")");
    return inner;
  }
  if (lexer.accept("WARP_SZ")) return {Constant::Kind::kInteger, 32};
  if (lexer.accept("+")) return parse_term(lexer);
  if (lexer.accept("-")) {
    Constant value = parse_term(lexer);
    if (value.kind == Constant::Kind::kInteger) {
      value.bits = 0 - value.bits;
    } else {
      value.bits ^= value.kind == Constant::Kind::kFloat32 ? uint64_t(1) << 31 : uint64_t(1) << 63;
    }
    return value;
  }
  if (lexer.token().is("~")) {
    const int line = lexer.take().line;
    Constant value = parse_term(lexer);
    if (value.kind != Constant::Kind::kInteger) fail(line, "'~' of a floating-point constant");
    value.bits = ~value.bits;
    return value;
  }
  return parse_number(lexer.expect(Token::Kind::kNumber, "a constant"));
}

}  // namespace

Constant parse_constant(Lexer& lexer, int lowest) {
  Constant left = parse_term(lexer);
  for (int found; (found = precedence(lexer.token())) >= lowest;) {
    const Token op = lexer.take();
    left = combine(left, op, parse_constant(lexer, found + 1));
  }
  return left;
}

uint64_t parse_integer(Lexer& lexer, int lowest) {
  const Token first = lexer.token();
  const Constant constant = parse_constant(lexer, lowest);
  if (constant.kind != Constant::Kind::kInteger) fail(first.line, "expected an integer, found " + quoted(first));
  return constant.bits;
}

uint64_t parse_integer_up_to(Lexer& lexer, uint64_t limit) {
  const int line = lexer.token().line;
  const uint64_t value = parse_integer(lexer);
  if (value > limit) fail(line, "expected an integer up to " + std::to_string(limit));
  return value;
}

int parse_int(Lexer& lexer) { return int(parse_integer_up_to(lexer, std::numeric_limits<int>::max())); }

int64_t parse_offset(Lexer& lexer) {
  uint64_t offset = 0;
  while (lexer.token().is("+") || lexer.token().is("-")) {
    const bool adds = lexer.take().is("+");
    const uint64_t term = parse_integer(lexer, kMultiplication);
    offset += adds ? term : 0 - term;
  }
  return int64_t(offset);
}

}  // namespace emulator::ptx
