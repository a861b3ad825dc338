// Runs an example of CUTLASS for SM100, whose source the including file has just included with another name for its
// main: its own main, with arguments that have it hold its results to its own reference, which runs in the emulator, too.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "tests/emulator/tutorials/check.h"

inline int count_of(const std::string& text, const std::string& word) {
  int count = 0;
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++count;
  return count;
}

// Each call must run so many kernels, and find all of their results right.
struct ExampleCall {
  int kernels;
  std::vector<const char*> arguments;
};

inline int run_example(std::initializer_list<ExampleCall> calls) {
  CHECK(setenv("JAX_FLASH_MLA_EMULATOR_CAPABILITY", "10.0", 1) == 0);
  // There would be reports. In attention, forward, whoever stores a row's maximum to tensor memory arrives at the barrier
  // without having waited for that; backward, the columns are given back while some warps may still read them; decoding
  // multiplies rows of weights that nobody wrote, beside those of the heads. A device lets all of it pass.
  CHECK(setenv("JAX_FLASH_MLA_EMULATOR_RACES", "0", 1) == 0);
  CHECK(setenv("JAX_FLASH_MLA_EMULATOR_STRICT", "0", 1) == 0);
  for (const ExampleCall& call : calls) {
    std::vector<const char*> arguments{"example", "--verify", "--iterations=1"};
    arguments.insert(arguments.end(), call.arguments.begin(), call.arguments.end());
    std::ostringstream said;
    std::streambuf* const usual = std::cout.rdbuf(said.rdbuf());
    const int status = example_main(int(arguments.size()), arguments.data());
    std::cout.rdbuf(usual);
    std::cout << said.str();
    CHECK(status == 0);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    CHECK(count_of(said.str(), "[OK]") == call.kernels);
    CHECK(count_of(said.str(), "[--]") + count_of(said.str(), "[FAIL]") == 0);
  }
  std::puts("all right");
  return 0;
}
