// Sparse decode on the CPU: what the tests of everything around the kernels run where there is no GPU.
#pragma once

#include "cuda/sm90/sparse_decode/params.h"
#include "xla/ffi/api/ffi.h"

namespace jax_flash_mla {

// The semantics of the kernels, written plainly: queries in bfloat16, float16 or float32, whose dimensions tell the format of
// the caches; summed in double. All pointers are to host memory.
xla::ffi::Error host_sparse_decode(const SparseDecodeParams& params, xla::ffi::DataType type, int d_qk);

}  // namespace jax_flash_mla
