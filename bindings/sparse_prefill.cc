// Sparse prefill: what a call holds → checked → the kernel of the device's architecture.
#include <cstdint>
#include <utility>

#include "bindings/checks.h"
#include "bindings/define_handlers.h"
#include "bindings/kernel.h"
#include "cuda/sm90/sparse_prefill/params.h"
#ifdef JAX_FLASH_MLA_TESTING
#include "bindings/testing/host_sparse_prefill.h"
#endif

namespace jax_flash_mla {
namespace {

namespace ffi = xla::ffi;

constexpr char kOperation[] = "sparse_prefill";

// By the dimensions of a key.
Kernel<SparsePrefillParams> kernel_for(const Device& device, int64_t d_qk) {
#ifdef JAX_FLASH_MLA_SM90
  if (device.major == 9) {
    if (d_qk == 576) return {launch_sparse_prefill_sm90_bf16_576, initialize_sparse_prefill_sm90_bf16_576};
    return {launch_sparse_prefill_sm90_bf16_512, initialize_sparse_prefill_sm90_bf16_512};
  }
#endif
  return {};
}

// What a call holds.
struct Call {
  SparsePrefillParams params;
  ffi::DataType type;
  int64_t d_qk, d_v;
};

// Reads the operands and results of a call. The Python side passes shapes that fit together; another caller might not.
ffi::ErrorOr<Call> read_call(float scale, bool base2, ffi::AnyBuffer q, ffi::AnyBuffer kv,
                             ffi::Buffer<ffi::S32, 2> indices, ffi::Buffer<ffi::S32, 1> topk_length,
                             ffi::Buffer<ffi::F32, 2> attn_sink, ffi::Result<ffi::AnyBuffer> out,
                             ffi::ResultBuffer<ffi::F32, 2> max_logits, ffi::ResultBuffer<ffi::F32, 2> lse) {
  const auto refused = [](const auto&... parts) { return ffi::Unexpected(refuse(kOperation, parts...)); };
  const Sizes q_sizes = q.dimensions(), kv_sizes = kv.dimensions(), out_sizes = out->dimensions();
  const Sizes index_sizes = indices.dimensions(), sink_sizes = attn_sink.dimensions();
  const Sizes length_sizes = topk_length.dimensions(), lse_sizes = lse->dimensions(),
              max_sizes = max_logits->dimensions();
  if (q_sizes.size() != 3 || kv_sizes.size() != 2 || out_sizes.size() != 3) {
    return refused("q and out must have three dimensions and kv two, got ", listed(q_sizes), ", ", listed(out_sizes),
                   " and ", listed(kv_sizes));
  }
  if (kv.element_type() != q.element_type() || out->element_type() != q.element_type()) {
    return refused("kv and out must have q's element type, ", q.element_type(), ", got ", kv.element_type(), " and ",
                   out->element_type());
  }
  const auto operands = [&] {
    return "q " + listed(q_sizes) + ", kv " + listed(kv_sizes) + ", indices " + listed(index_sizes) + ", topk_length " +
           listed(length_sizes) + ", attn_sink " + listed(sink_sizes);
  };
  const int64_t s_q = q_sizes[0], h_q = q_sizes[1];
  if (!all_between(0, q_sizes) || !all_between(0, kv_sizes) || !all_between(0, index_sizes) ||
      !all_between(0, sink_sizes)) {
    return refused("no dimension may pass 2147483647, got ", operands());
  }
  if (!all_between(1, q_sizes.last(2))) {
    return refused("heads and their dimensions must be at least 1, got ", operands());
  }
  const auto fits_rows = [&](Sizes sizes) { return sizes[0] == s_q && sizes[1] == h_q; };
  const bool fits = kv_sizes[1] == q_sizes[2] && fits_rows(out_sizes) && out_sizes[2] <= q_sizes[2] &&
                    fits_rows(lse_sizes) && fits_rows(max_sizes) && index_sizes[0] == s_q &&
                    (length_sizes[0] == 0 || length_sizes[0] == s_q) && sink_sizes[1] == h_q &&
                    (sink_sizes[0] == 0 || s_q % sink_sizes[0] == 0);
  if (!fits) {
    return refused("the shapes do not fit together, got ", operands(), ", out ", listed(out_sizes), ", max_logits ",
                   listed(max_sizes), ", lse ", listed(lse_sizes));
  }

  Call call;
  call.type = q.element_type();
  call.d_qk = q_sizes[2];
  call.d_v = out_sizes[2];
  SparsePrefillParams& params = call.params;
  params.q = q.untyped_data();
  params.kv = kv.untyped_data();
  params.indices = indices.typed_data();
  params.topk_length = length_sizes[0] == 0 ? nullptr : topk_length.typed_data();
  params.attn_sink = sink_sizes[0] == 0 ? nullptr : attn_sink.typed_data();
  params.out = out->untyped_data();
  params.max_logits = max_logits->typed_data();
  params.lse = lse->typed_data();
  params.s_q = int32_t(s_q);
  params.h_q = int32_t(h_q);
  params.s_kv = int32_t(kv_sizes[0]);
  params.topk = int32_t(index_sizes[1]);
  params.sink_rows = sink_sizes[0] == 0 ? 1 : int32_t(sink_sizes[0]);
  params.scale = scale;
  params.base2 = base2;
  return call;
}

// The handler's body. A call without query tokens launches all the same: there are versions of XLA that refuse to capture
// a call that does no work.
const auto run = [](cudaStream_t stream, auto... arguments) -> ffi::Error {
  const auto call = read_call(arguments...);
  if (call.has_error()) return call.error();
  const auto unfit = check_latent_tokens(kOperation, call->type, call->d_qk, call->d_v, kSparsePrefillDimV);
  if (unfit.failure()) return unfit;
  const auto kernel = [&](const Device& device) { return kernel_for(device, call->d_qk); };
  return launch_kernel(kOperation, kernel, call->params, stream);
};

ffi::Error initialize() { return initialize_kernels(kOperation, kernel_for, {int64_t(576), int64_t(512)}); }

template <typename Binding>
auto with_signature(Binding binding) {
  return std::move(binding)
      .template Attr<float>("scale")
      .template Attr<bool>("base2")
      .template Arg<ffi::AnyBuffer>()             // q
      .template Arg<ffi::AnyBuffer>()             // kv
      .template Arg<ffi::Buffer<ffi::S32, 2>>()   // indices
      .template Arg<ffi::Buffer<ffi::S32, 1>>()   // topk_length
      .template Arg<ffi::Buffer<ffi::F32, 2>>()   // attn_sink
      .template Ret<ffi::AnyBuffer>()             // out
      .template Ret<ffi::Buffer<ffi::F32, 2>>()   // max_logits
      .template Ret<ffi::Buffer<ffi::F32, 2>>();  // lse
}

#ifdef JAX_FLASH_MLA_TESTING
// The same call on the CPU, at any size and element type, in double precision: within no limits but those of memory.
const auto run_on_host = [](auto... arguments) -> ffi::Error {
  const auto call = read_call(arguments...);
  if (call.has_error()) return call.error();
  return host_sparse_prefill(call->params, call->type, int(call->d_qk), int(call->d_v));
};
#endif

}  // namespace
}  // namespace jax_flash_mla

JAX_FLASH_MLA_DEFINE_HANDLERS(sparse_prefill)
