// Tokens and constant expressions of PTX.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "emulator/ptx/ptx.h"

namespace emulator::ptx {

struct Token {
  enum class Kind {
    kEnd,
    kWord,       // a name or an opcode, with its dots: "%tid.x", "ld.global.b32", "$L__BB0_1"
    kDirective,  // ".reg"; not further than to the next dot
    kNumber,     // anything that starts with a digit
    kString,     // without its quotes
    kPunctuation,
  };
  Kind kind = Kind::kEnd;
  std::string_view text;
  int line = 1;

  bool is(std::string_view what) const { return kind != Kind::kString && text == what; }
};

[[noreturn]] void fail(int line, const std::string& what);

// A token as an error message names it.
std::string quoted(const Token& token);

// Goes through a text, one token at a time. Tokens point into the text.
class Lexer {
 public:
  explicit Lexer(std::string_view text);

  // The token that is to be read next.
  const Token& token() const { return token_; }

  Token take();
  bool accept(std::string_view text);
  Token expect(std::string_view text);
  Token expect(Token::Kind kind, const std::string& what);

  // Goes on behind the end of what begins here with `open`.
  void skip_group(std::string_view open, std::string_view close);
  // Goes on behind the next semicolon.
  void skip_statement();

  // Fails for another token having been expected here.
  [[noreturn]] void fail_expecting(const std::string& what) const;

 private:
  void skip_blank();
  Token read();
  Token token_of(Token::Kind kind, size_t length);
  char at(size_t offset) const { return position_ + offset < text_.size() ? text_[position_ + offset] : '\0'; }

  std::string_view text_;
  size_t position_ = 0;
  int line_ = 1;
  Token token_;
};

struct Constant {
  enum class Kind { kInteger, kFloat32, kFloat64 };
  Kind kind = Kind::kInteger;
  uint64_t bits = 0;
  bool is_unsigned = false;  // of kInteger: decides what /, % and >> do
};

// The lowest precedence of an operator that parse_constant takes.
constexpr int kAnyOperator = 1, kMultiplication = 6;

// Reads a constant expression; of floating-point numbers, only one with its sign.
Constant parse_constant(Lexer& lexer, int lowest = kAnyOperator);

// The same where only an integer will do.
uint64_t parse_integer(Lexer& lexer, int lowest = kAnyOperator);
uint64_t parse_integer_up_to(Lexer& lexer, uint64_t limit);
int parse_int(Lexer& lexer);  // not negative

// Reads what may follow a name: any number of "+ n" and "- n", added up.
int64_t parse_offset(Lexer& lexer);

}  // namespace emulator::ptx
