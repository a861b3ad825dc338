// The formats of FP8 caches, as handlers know them.
#pragma once

#include <cstdint>

#include "bindings/checks.h"

namespace jax_flash_mla {

// Bytes of a token, by which a cache's format is known; quantised dimensions, and dimensions of keys.
struct CacheFormat {
  int64_t token_bytes, latent, d_qk;
};
inline constexpr CacheFormat kV32 = {656, 512, 576}, kModel1 = {584, 448, 512};

inline xla::ffi::Error refuse_token_bytes(const char* operation, int64_t got) {
  return refuse(operation, "a token must have ", kV32.token_bytes, " or ", kModel1.token_bytes, " bytes, got ", got);
}

}  // namespace jax_flash_mla
