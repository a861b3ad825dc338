// Sparse attention, backward: what a call holds → checked → the kernel of the device's architecture.
#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <utility>

#include "bindings/checks.h"
#include "bindings/define_handlers.h"
#include "bindings/kernel.h"
#include "cuda/sm90/sparse_backward/params.h"
#ifdef JAX_FLASH_MLA_TESTING
#include "bindings/testing/host_sparse_backward.h"
#endif

namespace jax_flash_mla {
namespace {

namespace ffi = xla::ffi;

constexpr char kOperation[] = "sparse_backward";

// By the dimensions of a key.
Kernel<SparseBackwardParams> kernel_for(const Device& device, int64_t d_qk) {
#ifdef JAX_FLASH_MLA_SM90
  if (device.major == 9) {
    if (d_qk == 576) return {launch_sparse_backward_sm90_bf16_576, initialize_sparse_backward_sm90_bf16_576};
    return {launch_sparse_backward_sm90_bf16_512, initialize_sparse_backward_sm90_bf16_512};
  }
#endif
  return {};
}

// What a call holds.
struct Call {
  SparseBackwardParams params;
  ffi::DataType type;
  int64_t d_qk, d_v;
};

// Reads the operands and results of a call. The Python side passes shapes that fit together; another caller might not.
ffi::ErrorOr<Call> read_call(float scale, ffi::AnyBuffer q, ffi::AnyBuffer kv, ffi::Buffer<ffi::S32, 2> indices,
                             ffi::Buffer<ffi::S32, 1> topk_length, ffi::AnyBuffer d_out, ffi::Buffer<ffi::F32, 2> lse,
                             ffi::Buffer<ffi::F32, 2> share, ffi::Buffer<ffi::F32, 2> delta,
                             ffi::Buffer<ffi::S32, 1> order, ffi::Buffer<ffi::S32, 1> starts,
                             ffi::Result<ffi::AnyBuffer> d_q, ffi::ResultBuffer<ffi::F32, 2> d_kv,
                             ffi::Result<ffi::AnyBuffer> rows) {
  const auto refused = [](const auto&... parts) { return ffi::Unexpected(refuse(kOperation, parts...)); };
  const Sizes q_sizes = q.dimensions(), kv_sizes = kv.dimensions(), d_out_sizes = d_out.dimensions();
  const Sizes index_sizes = indices.dimensions(), length_sizes = topk_length.dimensions();
  if (q_sizes.size() != 3 || kv_sizes.size() != 2 || d_out_sizes.size() != 3) {
    return refused("q and d_out must have three dimensions and kv two, got ", listed(q_sizes), ", ",
                   listed(d_out_sizes), " and ", listed(kv_sizes));
  }
  for (const ffi::DataType type :
       {kv.element_type(), d_out.element_type(), d_q->element_type(), rows->element_type()}) {
    if (type == q.element_type()) continue;
    return refused("kv, d_out, d_q and scratch must have q's element type, ", q.element_type(), ", got ", type);
  }
  const auto operands = [&] {
    return "q " + listed(q_sizes) + ", kv " + listed(kv_sizes) + ", indices " + listed(index_sizes) + ", topk_length " +
           listed(length_sizes) + ", d_out " + listed(d_out_sizes) + ", lse " + listed(lse.dimensions()) + ", share " +
           listed(share.dimensions()) + ", delta " + listed(delta.dimensions());
  };
  const int64_t s_q = q_sizes[0], h_q = q_sizes[1];
  for (const Sizes& sizes : {q_sizes, kv_sizes, index_sizes}) {
    if (!all_between(0, sizes)) return refused("no dimension may pass 2147483647, got ", operands());
  }
  if (!all_between(1, q_sizes.last(2)) || d_out_sizes[2] < 1) {
    return refused("heads and their dimensions must be at least 1, got ", operands());
  }
  const auto same = [](Sizes one, Sizes other) {
    return std::equal(one.begin(), one.end(), other.begin(), other.end());
  };
  const auto fits_rows = [&](Sizes sizes) { return sizes[0] == s_q && sizes[1] == h_q; };
  const bool fits = kv_sizes[1] == q_sizes[2] && fits_rows(d_out_sizes) && d_out_sizes[2] <= q_sizes[2] &&
                    fits_rows(lse.dimensions()) && fits_rows(share.dimensions()) && fits_rows(delta.dimensions()) &&
                    index_sizes[0] == s_q && (length_sizes[0] == 0 || length_sizes[0] == s_q) &&
                    same(d_q->dimensions(), q_sizes) && same(d_kv->dimensions(), kv_sizes);
  if (!fits) {
    return refused("the shapes do not fit together, got ", operands(), ", d_q ", listed(d_q->dimensions()), ", d_kv ",
                   listed(d_kv->dimensions()));
  }
  const int64_t tiles = (h_q + kSparseBackwardTileRows - 1) / kSparseBackwardTileRows;
  const int64_t query_rows = tiles * index_sizes[1], places = s_q * index_sizes[1];
  const bool is_ordered = order.element_count() > 0;
  const int64_t chunk = query_rows > 0 ? int64_t(rows->element_count()) / q_sizes[2] / query_rows : 0;
  if (is_ordered && (int64_t(order.element_count()) != places || places > std::numeric_limits<int32_t>::max() ||
                     int64_t(starts.element_count()) != kv_sizes[0] + 1 || chunk < 1)) {
    return refused("order, starts and scratch must have ", places, ", ", kv_sizes[0] + 1, " and at least ",
                   query_rows * q_sizes[2], " elements, got ", order.element_count(), ", ", starts.element_count(),
                   " and ", rows->element_count());
  }

  Call call;
  call.type = q.element_type();
  call.d_qk = q_sizes[2];
  call.d_v = d_out_sizes[2];
  SparseBackwardParams& params = call.params;
  params.q = q.untyped_data();
  params.kv = kv.untyped_data();
  params.indices = indices.typed_data();
  params.topk_length = length_sizes[0] == 0 ? nullptr : topk_length.typed_data();
  params.d_out = d_out.untyped_data();
  params.lse = lse.typed_data();
  params.share = share.typed_data();
  params.delta = delta.typed_data();
  params.d_q = d_q->untyped_data();
  params.d_kv = d_kv->typed_data();
  params.order = is_ordered ? order.typed_data() : nullptr;
  params.starts = starts.typed_data();
  params.rows = rows->untyped_data();
  params.chunk = int32_t(std::min<int64_t>(chunk, s_q));
  params.s_q = int32_t(s_q);
  params.h_q = int32_t(h_q);
  params.s_kv = int32_t(kv_sizes[0]);
  params.topk = int32_t(index_sizes[1]);
  params.scale = scale;
  return call;
}

// The handler's body. A call without query tokens launches all the same: there are versions of XLA that refuse to capture
// a call that does no work.
const auto run = [](cudaStream_t stream, auto... arguments) -> ffi::Error {
  const auto call = read_call(arguments...);
  if (call.has_error()) return call.error();
  const auto unfit = check_latent_tokens(kOperation, call->type, call->d_qk, call->d_v, kSparseBackwardDimV);
  if (unfit.failure()) return unfit;
  const auto kernel = [&](const Device& device) { return kernel_for(device, call->d_qk); };
  return launch_kernel(kOperation, kernel, call->params, stream);
};

ffi::Error initialize() { return initialize_kernels(kOperation, kernel_for, {int64_t(576), int64_t(512)}); }

template <typename Binding>
auto with_signature(Binding binding) {
  return std::move(binding)
      .template Attr<float>("scale")
      .template Arg<ffi::AnyBuffer>()            // q
      .template Arg<ffi::AnyBuffer>()            // kv
      .template Arg<ffi::Buffer<ffi::S32, 2>>()  // indices
      .template Arg<ffi::Buffer<ffi::S32, 1>>()  // topk_length
      .template Arg<ffi::AnyBuffer>()            // d_out
      .template Arg<ffi::Buffer<ffi::F32, 2>>()  // lse
      .template Arg<ffi::Buffer<ffi::F32, 2>>()  // share
      .template Arg<ffi::Buffer<ffi::F32, 2>>()  // delta
      .template Arg<ffi::Buffer<ffi::S32, 1>>()  // order
      .template Arg<ffi::Buffer<ffi::S32, 1>>()  // starts
      .template Ret<ffi::AnyBuffer>()            // d_q
      .template Ret<ffi::Buffer<ffi::F32, 2>>()  // d_kv
      .template Ret<ffi::AnyBuffer>();           // rows
}

#ifdef JAX_FLASH_MLA_TESTING
// The same call on the CPU, at any size and element type, in double precision: within no limits but those of memory.
const auto run_on_host = [](auto... arguments) -> ffi::Error {
  const auto call = read_call(arguments...);
  if (call.has_error()) return call.error();
  return host_sparse_backward(call->params, call->type, int(call->d_qk), int(call->d_v));
};
#endif

}  // namespace
}  // namespace jax_flash_mla

JAX_FLASH_MLA_DEFINE_HANDLERS(sparse_backward)
