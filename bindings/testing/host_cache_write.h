// Writing an FP8 cache on the CPU: what the tests of everything around the kernels run where there is no GPU.
#pragma once

#include <cstdint>

#include "cuda/sm90/cache_write/params.h"
#include "xla/ffi/api/ffi.h"

namespace jax_flash_mla {

// The semantics of the kernels, written plainly: token after token. All pointers are to host memory.
xla::ffi::Error host_cache_write(const CacheWriteParams& params, int64_t token_bytes);

}  // namespace jax_flash_mla
