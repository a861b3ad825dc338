// Refusals of calls whose operands no kernel takes, or that do not fit together.
#pragma once

#include <cstdint>
#include <limits>
#include <sstream>
#include <string>

#include "xla/ffi/api/ffi.h"

namespace jax_flash_mla {

using Sizes = xla::ffi::Span<const int64_t>;

// The operation, the limit, and what was got.
template <typename... Parts>
xla::ffi::Error refuse(const char* operation, const Parts&... parts) {
  std::ostringstream text;
  text << operation << ": ";
  (text << ... << parts);
  return xla::ffi::Error::InvalidArgument(text.str());
}

inline std::string listed(Sizes sizes) {
  std::string text;
  for (int64_t size : sizes) text += (text.empty() ? "[" : ", ") + std::to_string(size);
  return text.empty() ? "[]" : text + "]";
}

// Whether all sizes are at least that, and fit int32.
inline bool all_between(int64_t least, Sizes sizes) {
  for (int64_t size : sizes) {
    if (size < least || size > std::numeric_limits<int32_t>::max()) return false;
  }
  return true;
}

// The limits of kernels over a pool of latent tokens. They stand in the Python table too, which refuses in time and in better
// words.
inline xla::ffi::Error check_latent_tokens(const char* operation, xla::ffi::DataType type, int64_t d_qk, int64_t d_v,
                                           int dim_v) {
  if (type != xla::ffi::BF16) return refuse(operation, "q must be BF16, got ", type);
  if ((d_qk != 576 && d_qk != 512) || d_v != dim_v) {
    return refuse(operation, "keys must have 576 or 512 dimensions and values ", dim_v, ", got ", d_qk, " and ", d_v);
  }
  return xla::ffi::Error::Success();
}

}  // namespace jax_flash_mla
