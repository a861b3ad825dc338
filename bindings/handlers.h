// The handlers of each target: jax_flash_mla_<operation>, its initialize stage and, in test builds, the same call on the CPU
// (_host) and the kernel in the emulator (_emulated).
#pragma once

#include "xla/ffi/api/ffi.h"

#ifdef JAX_FLASH_MLA_TESTING
#define JAX_FLASH_MLA_DECLARE_HOST(operation) XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_flash_mla_##operation##_host);
#else
#define JAX_FLASH_MLA_DECLARE_HOST(operation)
#endif

#ifdef JAX_FLASH_MLA_EMULATED
#define JAX_FLASH_MLA_DECLARE_EMULATED(operation) XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_flash_mla_##operation##_emulated);
#else
#define JAX_FLASH_MLA_DECLARE_EMULATED(operation)
#endif

#define JAX_FLASH_MLA_DECLARE_HANDLERS(operation)                         \
  XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_flash_mla_##operation##_initialize); \
  XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_flash_mla_##operation);              \
  JAX_FLASH_MLA_DECLARE_HOST(operation)                                   \
  JAX_FLASH_MLA_DECLARE_EMULATED(operation)

JAX_FLASH_MLA_DECLARE_HANDLERS(append)
JAX_FLASH_MLA_DECLARE_HANDLERS(dense_decode)
JAX_FLASH_MLA_DECLARE_HANDLERS(mha_backward)
JAX_FLASH_MLA_DECLARE_HANDLERS(mha_forward)
JAX_FLASH_MLA_DECLARE_HANDLERS(quantize)
JAX_FLASH_MLA_DECLARE_HANDLERS(sparse_backward)
JAX_FLASH_MLA_DECLARE_HANDLERS(sparse_decode)
JAX_FLASH_MLA_DECLARE_HANDLERS(sparse_prefill)
