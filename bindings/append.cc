// New tokens into an FP8 cache: what a call holds → checked → the kernel of the device's architecture.
#include <cstdint>
#include <utility>

#include "bindings/cache_write.h"
#include "bindings/define_handlers.h"
#ifdef JAX_FLASH_MLA_TESTING
#include "bindings/testing/host_cache_write.h"
#endif

namespace jax_flash_mla {
namespace {

namespace ffi = xla::ffi;

constexpr char kOperation[] = "append";

// The cache is changed in place: the result is the operand.
ffi::ErrorOr<CacheWriteCall> read_call(ffi::AnyBuffer cache, ffi::AnyBuffer latent, ffi::AnyBuffer rope,
                                       ffi::Buffer<ffi::S32, 1> slots, ffi::Result<ffi::AnyBuffer> new_cache,
                                       ffi::ResultBuffer<ffi::S32, 2> claims) {
  const auto refused = [](const auto&... parts) { return ffi::Unexpected(refuse(kOperation, parts...)); };
  const auto type = cache.element_type();
  if (type != ffi::U8 && type != ffi::S8 && type != ffi::F8E4M3FN) {
    return refused("cache must be U8, S8 or F8E4M3FN, got ", type);
  }
  const bool is_one = cache.size_bytes() == 0 || cache.untyped_data() == new_cache->untyped_data();
  if (!is_one || cache.size_bytes() != new_cache->size_bytes()) {
    return refused("the result must be the cache itself");
  }
  auto params = read_cache_write(kOperation, latent, rope, cache.untyped_data(), cache.dimensions());
  if (params.has_error()) return ffi::Unexpected(params.error());
  if (latent.dimensions().size() != 2 || slots.dimensions()[0] != params->tokens) {
    return refused("there must be a slot for each token, got latent ", listed(latent.dimensions()), ", slots ",
                   listed(slots.dimensions()));
  }
  if (params->tokens > kCacheWriteMaxPlaced) {
    return refused("there must be at most ", kCacheWriteMaxPlaced, " tokens, got ", params->tokens);
  }
  const Sizes claim_sizes = claims->dimensions();
  const int64_t places = int64_t(kCacheWriteClaimPlaces) * params->tokens;
  if (claim_sizes[0] != 2 || claim_sizes[1] != places) {
    return refused("scratch must be [2, ", places, "], got ", listed(claim_sizes));
  }
  params->slots = slots.typed_data();
  params->claims.places = uint32_t(places);
  params->claims.slots = claims->typed_data();
  params->claims.last = claims->typed_data() + places;
  return CacheWriteCall{*params, cache.dimensions()[3]};
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
      .template Arg<ffi::AnyBuffer>()             // cache
      .template Arg<ffi::AnyBuffer>()             // latent
      .template Arg<ffi::AnyBuffer>()             // rope
      .template Arg<ffi::Buffer<ffi::S32, 1>>()   // slots
      .template Ret<ffi::AnyBuffer>()             // the cache
      .template Ret<ffi::Buffer<ffi::S32, 2>>();  // claims
}

#ifdef JAX_FLASH_MLA_TESTING
const auto run_on_host = [](auto... arguments) -> ffi::Error {
  const auto call = read_call(arguments...);
  return call.has_error() ? call.error() : host_cache_write(call->params, call->token_bytes);
};
#endif

}  // namespace
}  // namespace jax_flash_mla

JAX_FLASH_MLA_DEFINE_HANDLERS(append)
