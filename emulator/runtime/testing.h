// What the tests of the runtime check with.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdio>

namespace emulator::runtime {

inline int failures = 0;

inline void check(bool holds, const char* what, const char* file, int line) {
  if (holds) return;
  std::fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
  ++failures;
}

// The code of a call, and of cudaGetLastError afterwards.
inline void check_error(cudaError_t expected, cudaError_t error, const char* what, const char* file, int line) {
  const cudaError_t last = cudaGetLastError();
  if (error == expected && last == expected) return;
  std::fprintf(stderr, "%s:%d: %s returns %s and leaves %s, not %s\n", file, line, what, cudaGetErrorName(error),
               cudaGetErrorName(last), cudaGetErrorName(expected));
  ++failures;
}

inline int verdict() {
  std::printf(failures ? "%d checks failed.\n" : "All checks hold.\n", failures);
  return failures != 0;
}

}  // namespace emulator::runtime

#define CHECK(...) emulator::runtime::check((__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)
#define EXPECT(code, ...) emulator::runtime::check_error(code, (__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)
#define OK(...) EXPECT(cudaSuccess, __VA_ARGS__)
