// Declarations of variables and parameters, with their initial values.
#pragma once

#include <memory>
#include <vector>

#include "emulator/ptx/lexer.h"
#include "emulator/ptx/ptx.h"

namespace emulator::ptx {

struct Type {
  enum class Initial { kIntegers, kFloats, kNone };  // what initial values of it are supported
  std::string_view name;
  int bits;
  Initial initial;
};

// What stands before the names of variables: ".align 8 .v2 .b32".
struct Declaration {
  Space space = Space::kGlobal;
  bool is_extern = false;
  const Type* type = nullptr;
  int lanes = 1;  // of a vector
  uint64_t alignment = 0;
};

// Reads it from after the space on.
Declaration parse_declaration(Lexer& lexer, Space space, bool is_extern);

// Reads a name, the lengths of an array, initial values. Appends to `symbols` the names that occur in the latter.
std::unique_ptr<Variable> parse_variable(Lexer& lexer, const Declaration& declaration, std::vector<Token>& symbols);

}  // namespace emulator::ptx
