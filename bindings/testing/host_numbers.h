// Numbers of every element type as double, for operations on the CPU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <limits>

namespace jax_flash_mla::host {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();
inline constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

inline double to_double(float x) { return x; }
inline double to_double(__half x) { return __half2float(x); }
inline double to_double(__nv_bfloat16 x) { return __bfloat162float(x); }

inline void assign(float& x, double value) { x = float(value); }
inline void assign(__half& x, double value) { x = __double2half(value); }
inline void assign(__nv_bfloat16& x, double value) { x = __double2bfloat16(value); }

}  // namespace jax_flash_mla::host
