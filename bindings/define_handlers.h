// Defines the handlers of an operation (handlers.h), in a file that has in namespace jax_flash_mla
//   run             the body: takes the stream, then what the call holds
//   initialize      loads the kernels on the current device
//   with_signature  a binding → the same with attributes, operands and results
//   run_on_host     in test builds: as run, on the CPU and without a stream
#pragma once

#include <cuda_runtime_api.h>

#include "bindings/handlers.h"
#ifdef JAX_FLASH_MLA_EMULATED
#include "bindings/testing/lent_buffers.h"
#endif

#ifdef JAX_FLASH_MLA_TESTING
#define JAX_FLASH_MLA_DEFINE_HOST(operation)                                                  \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_flash_mla_##operation##_host, jax_flash_mla::run_on_host, \
                                jax_flash_mla::with_signature(xla::ffi::Ffi::Bind()));
#else
#define JAX_FLASH_MLA_DEFINE_HOST(operation)
#endif

// In the emulator the handler's body is the same as on a GPU, on buffers of the CPU.
#ifdef JAX_FLASH_MLA_EMULATED
#define JAX_FLASH_MLA_DEFINE_EMULATED(operation)                                     \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                                     \
      jax_flash_mla_##operation##_emulated,                                          \
      [](auto... arguments) -> xla::ffi::Error {                                     \
        const jax_flash_mla::LentBuffers lent(arguments...);                         \
        if (auto error = jax_flash_mla::initialize(); error.failure()) return error; \
        return jax_flash_mla::run(nullptr, arguments...);                            \
      },                                                                             \
      jax_flash_mla::with_signature(xla::ffi::Ffi::Bind()));
#else
#define JAX_FLASH_MLA_DEFINE_EMULATED(operation)
#endif

#define JAX_FLASH_MLA_DEFINE_HANDLERS(operation)                                                          \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_flash_mla_##operation##_initialize, jax_flash_mla::initialize,        \
                                xla::ffi::Ffi::BindInitialize());                                         \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                                                          \
      jax_flash_mla_##operation, jax_flash_mla::run,                                                      \
      jax_flash_mla::with_signature(xla::ffi::Ffi::Bind().Ctx<xla::ffi::PlatformStream<cudaStream_t>>()), \
      {xla::ffi::Traits::kCmdBufferCompatible});                                                          \
  JAX_FLASH_MLA_DEFINE_HOST(operation)                                                                    \
  JAX_FLASH_MLA_DEFINE_EMULATED(operation)
