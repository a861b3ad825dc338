// What the tests of the parser check with.
#pragma once

#include <iostream>
#include <string>

#include "emulator/ptx/ptx.h"

namespace emulator::ptx {

inline int failures = 0;

inline void report(const char* file, int line, const char* what, const std::string& found,
                   const std::string& expected) {
  std::cout << file << ":" << line << ": " << what << "\n  is       " << found << "\n  expected " << expected << "\n";
  failures++;
}

inline std::string text_of(const std::string& value) { return value; }
inline std::string text_of(const char* value) { return value; }
template <typename T>
std::string text_of(T value) {
  return std::to_string(value);
}

#define CHECK(condition)                                                       \
  do {                                                                         \
    if (!(condition)) report(__FILE__, __LINE__, #condition, "false", "true"); \
  } while (0)

#define CHECK_EQUAL(found, expected)                                                                \
  do {                                                                                              \
    const std::string found_text = text_of(found), expected_text = text_of(expected);               \
    if (found_text != expected_text) report(__FILE__, __LINE__, #found, found_text, expected_text); \
  } while (0)

// Lines 1 to 3.
inline const std::string kHeader = ".version 9.0\n.target sm_90a\n.address_size 64\n";

inline std::string in_kernel(const std::string& statements) {  // from line 4 on
  return kHeader + ".visible .entry k(.param .u64 p, .param .align 4 .b8 q[12]) {\n" + statements + "\n}\n";
}

inline std::string error_of(const std::string& text) {
  try {
    parse(text);
  } catch (const ParseError& error) {
    return error.what();
  }
  return "no error";
}

inline std::string error_in_kernel(const std::string& statements) { return error_of(in_kernel(statements)); }

inline int verdict() {
  std::cout << (failures ? "failures: " + std::to_string(failures) : "all passed") << "\n";
  return failures != 0;
}

}  // namespace emulator::ptx
