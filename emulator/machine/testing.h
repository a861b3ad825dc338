// What the tests of the machine check with.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace emulator {

inline int failures = 0;

inline int verdict() {
  std::printf(failures ? "%d checks failed.\n" : "All checks hold.\n", failures);
  return failures != 0;
}

}  // namespace emulator

// What follows the condition goes to printf where it does not hold.
#define CHECK(condition, ...)                                           \
  do {                                                                  \
    if (!(condition)) {                                                 \
      std::printf("%s:%d: %s fails. ", __FILE__, __LINE__, #condition); \
      __VA_OPT__(std::printf(__VA_ARGS__);)                             \
      std::printf("\n");                                                \
      if (++emulator::failures > 20) std::exit(emulator::verdict());    \
    }                                                                   \
  } while (false)
