// Whole pages into an FP8 cache: what a call holds → checked → the kernel of the device's architecture.
#include <utility>

#include "bindings/cache_write.h"
#include "bindings/define_handlers.h"
#ifdef JAX_FLASH_MLA_TESTING
#include "bindings/testing/host_cache_write.h"
#endif

namespace jax_flash_mla {
namespace {

namespace ffi = xla::ffi;

constexpr char kOperation[] = "quantize";

ffi::ErrorOr<CacheWriteCall> read_call(bool power_of_two_scales, ffi::AnyBuffer latent, ffi::AnyBuffer rope,
                                       ffi::ResultBuffer<ffi::U8, 4> cache) {
  const Sizes sizes = cache->dimensions();
  auto params = read_cache_write(kOperation, latent, rope, cache->untyped_data(), sizes);
  if (params.has_error()) return ffi::Unexpected(params.error());
  if (int64_t(params->tokens) != sizes[0] * sizes[1]) {
    return ffi::Unexpected(
        refuse(kOperation, "cache must have a slot for each token, got ", listed(sizes), " for ", params->tokens));
  }
  params->power_of_two_scales = power_of_two_scales;
  return CacheWriteCall{*params, sizes[3]};
}

// The handler's body.
const auto run = [](cudaStream_t stream, auto... arguments) -> ffi::Error {
  const auto call = read_call(arguments...);
  return call.has_error() ? call.error() : launch_cache_write(kOperation, *call, stream);
};

ffi::Error initialize() { return initialize_cache_write(kOperation); }

template <typename Binding>
auto with_signature(Binding binding) {
  return std::move(binding)
      .template Attr<bool>("power_of_two_scales")
      .template Arg<ffi::AnyBuffer>()            // latent
      .template Arg<ffi::AnyBuffer>()            // rope
      .template Ret<ffi::Buffer<ffi::U8, 4>>();  // cache
}

#ifdef JAX_FLASH_MLA_TESTING
const auto run_on_host = [](auto... arguments) -> ffi::Error {
  const auto call = read_call(arguments...);
  return call.has_error() ? call.error() : host_cache_write(call->params, call->token_bytes);
};
#endif

}  // namespace
}  // namespace jax_flash_mla

JAX_FLASH_MLA_DEFINE_HANDLERS(quantize)
