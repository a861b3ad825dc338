// The buffers of a call, known to the emulator while it lasts.
#pragma once

#include <cstddef>
#include <type_traits>

#include "emulator/runtime/runtime.h"
#include "xla/ffi/api/ffi.h"

namespace jax_flash_mla {

// Takes the arguments of a handler as they come: operands are memory that is written, results are not yet; attributes
// are not memory.
class LentBuffers {
 public:
  template <typename... Arguments>
  explicit LentBuffers(const Arguments&... arguments) {
    (lend(arguments), ...);
  }

 private:
  void lend(const xla::ffi::AnyBuffer& buffer) { buffers_.operand(buffer.untyped_data(), buffer.size_bytes()); }
  template <xla::ffi::DataType kType, size_t kRank>
  void lend(const xla::ffi::Buffer<kType, kRank>& buffer) {
    buffers_.operand(buffer.untyped_data(), buffer.size_bytes());
  }
  template <typename Buffer>
  void lend(xla::ffi::Result<Buffer> result) {
    buffers_.result(result->untyped_data(), result->size_bytes());
  }
  template <typename Attribute, std::enable_if_t<std::is_arithmetic_v<Attribute>, int> = 0>
  void lend(Attribute) {}

  emulator::runtime::BorrowedBuffers buffers_;
};

}  // namespace jax_flash_mla
