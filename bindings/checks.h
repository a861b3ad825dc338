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

}  // namespace jax_flash_mla
