// Handlers of the target jax_flash_mla.dense_decode.v1.
#pragma once

#include "xla/ffi/api/ffi.h"

XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_flash_mla_dense_decode_initialize);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_flash_mla_dense_decode);
#ifdef JAX_FLASH_MLA_TESTING
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_flash_mla_dense_decode_host);
#endif
#ifdef JAX_FLASH_MLA_EMULATED
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_flash_mla_dense_decode_emulated);
#endif
