// Multi-head attention, forward, on the CPU: what the tests of everything around the kernels run where there is no GPU.
#pragma once

#include "cuda/mha/forward_params.h"
#include "xla/ffi/api/ffi.h"

namespace jax_flash_mla {

// The semantics of the kernels, written plainly: any dimensions, bfloat16, float16 or float32, summed in double. All
// pointers are to host memory.
xla::ffi::Error host_mha_forward(const MhaForwardParams& params, xla::ffi::DataType type, int d_qk, int d_v);

}  // namespace jax_flash_mla
