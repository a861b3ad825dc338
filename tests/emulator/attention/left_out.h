// Overloads of the functions by which CUTLASS's attention examples choose a kernel. An overload that is no template is
// preferred to theirs, which is then not instantiated: a test needs some kernels, and each takes seconds to compile.
#pragma once

#include "cutlass/kernel_hardware_info.h"
#include "examples/77_blackwell_fmha/collective/fmha_fusion.hpp"

struct Options;  // the example's

#define LEFT_OUT(function, ...) \
  inline void function(__VA_ARGS__, const Options&, const cutlass::KernelHardwareInfo&) { std::abort(); }
