// Dense decode: what a call holds → checked → the kernel of the device's architecture.
#include "bindings/dense_decode.h"

#include <cstdint>
#include <limits>
#include <string>

#include "bindings/device.h"
#include "cuda/sm90/dense_decode/params.h"
#ifdef JAX_FLASH_MLA_TESTING
#include "bindings/testing/host_dense_decode.h"
#endif
#ifdef JAX_FLASH_MLA_EMULATED
#include "bindings/testing/lent_buffers.h"
#endif

namespace jax_flash_mla {
namespace {

namespace ffi = xla::ffi;

// One instance for each architecture and element type; absent where this build has none.
using Launch = cudaError_t (*)(const DenseDecodeParams&, int num_sms, cudaStream_t);
using Initialize = cudaError_t (*)();

struct Kernel {
  Launch launch = nullptr;
  Initialize initialize = nullptr;
};

Kernel kernel_for(const Device& device, ffi::DataType type) {
#ifdef JAX_FLASH_MLA_SM90
  if (device.major == 9) {
    return type == ffi::BF16 ? Kernel{launch_dense_decode_sm90_bf16, initialize_dense_decode_sm90_bf16}
                             : Kernel{launch_dense_decode_sm90_fp16, initialize_dense_decode_sm90_fp16};
  }
#endif
  return {};
}

ffi::Error refuse(const std::string& why) { return ffi::Error::InvalidArgument("dense_decode: " + why); }

// What a call holds.
struct Call {
  DenseDecodeParams params;
  ffi::DataType type;
  int64_t d_qk, d_v;
  size_t partial_outs, partial_lses, plan_entries;  // elements of scratch
};

bool fits_int32(ffi::Span<const int64_t> sizes) {
  for (int64_t size : sizes) {
    if (size < 1 || size > std::numeric_limits<int32_t>::max()) return false;
  }
  return true;
}

// Reads the operands and results of a call. The Python side passes shapes that fit together; another caller might not.
ffi::ErrorOr<Call> read_call(float scale, bool causal, ffi::AnyBuffer q, ffi::AnyBuffer k_cache,
                             ffi::Buffer<ffi::S32, 2> block_table, ffi::Buffer<ffi::S32, 1> cache_seqlens,
                             ffi::Buffer<ffi::F32, 2> attn_sink, ffi::Result<ffi::AnyBuffer> out,
                             ffi::ResultBuffer<ffi::F32, 3> lse, ffi::ResultBuffer<ffi::F32, 3> partial_out,
                             ffi::ResultBuffer<ffi::F32, 2> partial_lse, ffi::ResultBuffer<ffi::S32, 2> plan) {
  const auto refused = [](const char* why) { return ffi::Unexpected(refuse(why)); };
  const auto q_sizes = q.dimensions(), k_sizes = k_cache.dimensions(), out_sizes = out->dimensions();
  const auto table_sizes = block_table.dimensions(), sink_sizes = attn_sink.dimensions();
  const auto lse_sizes = lse->dimensions();
  if (q_sizes.size() != 4 || k_sizes.size() != 4 || out_sizes.size() != 4) {
    return refused("q, k_cache and out must have four dimensions");
  }
  if (k_cache.element_type() != q.element_type() || out->element_type() != q.element_type()) {
    return refused("k_cache and out must have q's element type");
  }
  if (!fits_int32(q_sizes) || !fits_int32(k_sizes) || !fits_int32(table_sizes) || !fits_int32(sink_sizes)) {
    return refused("every dimension must be from 1 to 2147483647");
  }
  const int64_t b = q_sizes[0], s_q = q_sizes[1], h_q = q_sizes[2], h_kv = k_sizes[2];
  const bool fits = k_sizes[3] == q_sizes[3] && out_sizes[0] == b && out_sizes[1] == s_q && out_sizes[2] == h_q &&
                    out_sizes[3] <= q_sizes[3] && lse_sizes[0] == b && lse_sizes[1] == h_q && lse_sizes[2] == s_q &&
                    table_sizes[0] == b && cache_seqlens.dimensions()[0] == b && sink_sizes[1] == h_q &&
                    b % sink_sizes[0] == 0 && h_q % h_kv == 0;
  if (!fits) return refused("the shapes do not fit together");

  Call call;
  call.type = q.element_type();
  call.d_qk = q_sizes[3];
  call.d_v = out_sizes[3];
  call.partial_outs = partial_out->element_count();
  call.partial_lses = partial_lse->element_count();
  call.plan_entries = plan->element_count();
  DenseDecodeParams& params = call.params;
  params.q = q.untyped_data();
  params.k_cache = k_cache.untyped_data();
  params.block_table = block_table.typed_data();
  params.cache_seqlens = cache_seqlens.typed_data();
  params.attn_sink = attn_sink.typed_data();
  params.out = out->untyped_data();
  params.lse = lse->typed_data();
  params.partial_out = partial_out->typed_data();
  params.partial_lse = partial_lse->typed_data();
  params.plan = plan->typed_data();
  params.b = int32_t(b);
  params.s_q = int32_t(s_q);
  params.h_q = int32_t(h_q);
  params.h_kv = int32_t(h_kv);
  params.num_pages = int32_t(k_sizes[0]);
  params.page_size = int32_t(k_sizes[1]);
  params.max_pages = int32_t(table_sizes[1]);
  params.sink_rows = int32_t(sink_sizes[0]);
  params.scale = scale;
  params.causal = causal;
  return call;
}

// The limits of the kernels. They stand in the Python table too, which refuses in time and in better words.
ffi::Error check_limits(const Call& call) {
  const DenseDecodeParams& params = call.params;
  if (call.type != ffi::BF16 && call.type != ffi::F16) return refuse("q must be bfloat16 or float16");
  if (call.d_qk != kDenseDecodeDimQK || call.d_v != kDenseDecodeDimV) {
    return refuse("keys must have 576 dimensions and values 512");
  }
  if (params.page_size % 16 != 0) return refuse("the page size must be a multiple of 16");
  if (int64_t(params.s_q) * params.h_q > (int64_t(1) << 31) - kDenseDecodeTileRows) {
    return refuse("query tokens times heads must stay below 2^31 - 64");
  }
  constexpr size_t kRows = size_t(kDenseDecodePartialTiles) * kDenseDecodeTileRows;
  if (call.partial_outs != kRows * kDenseDecodeDimV || call.partial_lses != kRows ||
      call.plan_entries != size_t(kDenseDecodeMaxCtas) * kDenseDecodePlanEntry) {
    return refuse("scratch has another size than this extension works with");
  }
  return ffi::Error::Success();
}

// The handler's body.
const auto run = [](cudaStream_t stream, auto... arguments) -> ffi::Error {
  const auto call = read_call(arguments...);
  if (call.has_error()) return call.error();
  if (auto error = check_limits(*call); error.failure()) return error;
  const auto device = current_device();
  if (device.has_error()) return device.error();
  const Kernel kernel = kernel_for(**device, call->type);
  if (!kernel.launch) return no_kernel_for(**device, "dense_decode");
  return to_error(kernel.launch(call->params, (*device)->num_sms, stream), "launching dense_decode");
};

// Loads the kernels on this device and sets their attributes, which must not happen while a graph is captured.
ffi::Error initialize() {
  const auto device = current_device();
  if (device.has_error()) return device.error();
  for (const auto type : {ffi::BF16, ffi::F16}) {
    const Kernel kernel = kernel_for(**device, type);
    if (!kernel.initialize) return no_kernel_for(**device, "dense_decode");
    if (auto error = to_error(kernel.initialize(), "loading dense_decode"); error.failure()) return error;
  }
  return ffi::Error::Success();
}

template <typename Binding>
auto with_signature(Binding binding) {
  return std::move(binding)
      .template Attr<float>("scale")
      .template Attr<bool>("causal")
      .template Arg<ffi::AnyBuffer>()             // q
      .template Arg<ffi::AnyBuffer>()             // k_cache
      .template Arg<ffi::Buffer<ffi::S32, 2>>()   // block_table
      .template Arg<ffi::Buffer<ffi::S32, 1>>()   // cache_seqlens
      .template Arg<ffi::Buffer<ffi::F32, 2>>()   // attn_sink
      .template Ret<ffi::AnyBuffer>()             // out
      .template Ret<ffi::Buffer<ffi::F32, 3>>()   // lse
      .template Ret<ffi::Buffer<ffi::F32, 3>>()   // partial_out
      .template Ret<ffi::Buffer<ffi::F32, 2>>()   // partial_lse
      .template Ret<ffi::Buffer<ffi::S32, 2>>();  // plan
}

#ifdef JAX_FLASH_MLA_TESTING
// The same call on the CPU, at any size and element type, in double precision.
const auto run_on_host = [](auto... arguments) -> ffi::Error {
  const auto call = read_call(arguments...);
  if (call.has_error()) return call.error();
  return host_dense_decode(call->params, call->type, int(call->d_qk), int(call->d_v));
};
#endif

#ifdef JAX_FLASH_MLA_EMULATED
// The handler's body as on a GPU, on buffers of the CPU.
const auto run_emulated = [](auto... arguments) -> ffi::Error {
  const LentBuffers lent(arguments...);
  if (auto error = initialize(); error.failure()) return error;
  return run(nullptr, arguments...);
};
#endif

}  // namespace
}  // namespace jax_flash_mla

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_flash_mla_dense_decode_initialize, jax_flash_mla::initialize,
                              xla::ffi::Ffi::BindInitialize());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    jax_flash_mla_dense_decode, jax_flash_mla::run,
    jax_flash_mla::with_signature(xla::ffi::Ffi::Bind().Ctx<xla::ffi::PlatformStream<cudaStream_t>>()),
    {xla::ffi::Traits::kCmdBufferCompatible});

#ifdef JAX_FLASH_MLA_TESTING
XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_flash_mla_dense_decode_host, jax_flash_mla::run_on_host,
                              jax_flash_mla::with_signature(xla::ffi::Ffi::Bind()));
#endif

#ifdef JAX_FLASH_MLA_EMULATED
XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_flash_mla_dense_decode_emulated, jax_flash_mla::run_emulated,
                              jax_flash_mla::with_signature(xla::ffi::Ffi::Bind()));
#endif
