// The body of a function: statements and their operands.
#pragma once

#include <string_view>
#include <unordered_map>
#include <vector>

#include "emulator/ptx/lexer.h"
#include "emulator/ptx/ptx.h"

namespace emulator::ptx {

// What the names of a module stand for, as far as it has been read.
struct ModuleNames {
  std::unordered_map<std::string_view, Variable*> variables;
  std::unordered_map<std::string_view, Function*> functions;

  bool contains(std::string_view name) const { return variables.contains(name) || functions.contains(name); }
};

// Reads a body from '{' to '}' into a function of which the parameters are known. Results and parameters that are
// registers become its first registers, in this order.
void parse_body(Lexer& lexer, const ModuleNames& names, Function& function);

}  // namespace emulator::ptx
