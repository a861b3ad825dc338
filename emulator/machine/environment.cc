#include "emulator/machine/environment.h"

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace emulator {

int64_t environment_number(const char* name, int64_t otherwise, int64_t low, int64_t high) {
  const char* said = std::getenv(name);
  if (!said || !*said) return otherwise;
  const std::string_view text(said);
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc{} && end == text.data() + text.size() && number >= low && number <= high) return number;
  std::fprintf(stderr, "%s=%s: not a number from %lld to %lld, ignored\n", name, said, static_cast<long long>(low),
               static_cast<long long>(high));
  return otherwise;
}

}  // namespace emulator
