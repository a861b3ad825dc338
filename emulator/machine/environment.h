// Environment variables that are numbers.
#pragma once

#include <cstdint>

namespace emulator {

// The variable's value, or `otherwise` where it is not set, or none of low … high: then stderr says so.
int64_t environment_number(const char* name, int64_t otherwise, int64_t low, int64_t high);

}  // namespace emulator
