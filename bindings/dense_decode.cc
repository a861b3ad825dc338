// Dense decode: what a call holds → checked → the kernel of the device's architecture.
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include "bindings/checks.h"
#include "bindings/define_handlers.h"
#include "bindings/kernel.h"
#include "cuda/sm90/dense_decode/params.h"
#ifdef JAX_FLASH_MLA_TESTING
#include "bindings/testing/host_dense_decode.h"
#endif

namespace jax_flash_mla {
namespace {

namespace ffi = xla::ffi;

constexpr char kOperation[] = "dense_decode";

// By the element type.
Kernel<DenseDecodeParams> kernel_for(const Device& device, ffi::DataType type) {
#ifdef JAX_FLASH_MLA_SM90
  if (device.major == 9) {
    if (type == ffi::BF16) return {launch_dense_decode_sm90_bf16, initialize_dense_decode_sm90_bf16};
    return {launch_dense_decode_sm90_fp16, initialize_dense_decode_sm90_fp16};
  }
#endif
  return {};
}

// What a call holds.
struct Call {
  DenseDecodeParams params;
  ffi::DataType type;
  int64_t d_qk, d_v;
  size_t partial_outs, partial_lses;  // elements of scratch

  // Whether there is no element to compute.
  bool is_empty() const { return params.b == 0 || params.s_q == 0; }
};

// Reads the operands and results of a call. The Python side passes shapes that fit together; another caller might not.
ffi::ErrorOr<Call> read_call(float scale, bool causal, ffi::AnyBuffer q, ffi::AnyBuffer k_cache,
                             ffi::Buffer<ffi::S32, 2> block_table, ffi::Buffer<ffi::S32, 1> cache_seqlens,
                             ffi::Buffer<ffi::F32, 2> attn_sink, ffi::Result<ffi::AnyBuffer> out,
                             ffi::ResultBuffer<ffi::F32, 3> lse, ffi::ResultBuffer<ffi::F32, 3> partial_out,
                             ffi::ResultBuffer<ffi::F32, 2> partial_lse) {
  const auto refused = [](const auto&... parts) { return ffi::Unexpected(refuse(kOperation, parts...)); };
  const Sizes q_sizes = q.dimensions(), k_sizes = k_cache.dimensions(), out_sizes = out->dimensions();
  const Sizes table_sizes = block_table.dimensions(), sink_sizes = attn_sink.dimensions();
  const Sizes length_sizes = cache_seqlens.dimensions(), lse_sizes = lse->dimensions();
  if (q_sizes.size() != 4 || k_sizes.size() != 4 || out_sizes.size() != 4) {
    return refused("q, k_cache and out must have four dimensions, got ", listed(q_sizes), ", ", listed(k_sizes),
                   " and ", listed(out_sizes));
  }
  if (k_cache.element_type() != q.element_type() || out->element_type() != q.element_type()) {
    return refused("k_cache and out must have q's element type, ", q.element_type(), ", got ", k_cache.element_type(),
                   " and ", out->element_type());
  }
  const auto operands = [&] {
    return "q " + listed(q_sizes) + ", k_cache " + listed(k_sizes) + ", block_table " + listed(table_sizes) +
           ", cache_seqlens " + listed(length_sizes) + ", attn_sink " + listed(sink_sizes);
  };
  const int64_t b = q_sizes[0], s_q = q_sizes[1], h_q = q_sizes[2], h_kv = k_sizes[2];
  if (!all_between(0, q_sizes) || !all_between(0, k_sizes) || !all_between(0, table_sizes) ||
      !all_between(0, sink_sizes)) {
    return refused("no dimension may pass 2147483647, got ", operands());
  }
  if (!all_between(1, q_sizes.last(2)) || !all_between(1, k_sizes.last(3))) {
    return refused("heads, their dimensions and the slots of a page must be at least 1, got ", operands());
  }
  const bool fits = k_sizes[3] == q_sizes[3] && out_sizes[0] == b && out_sizes[1] == s_q && out_sizes[2] == h_q &&
                    out_sizes[3] <= q_sizes[3] && lse_sizes[0] == b && lse_sizes[1] == h_q && lse_sizes[2] == s_q &&
                    table_sizes[0] == b && length_sizes[0] == b && sink_sizes[1] == h_q &&
                    (sink_sizes[0] == 0 || b % sink_sizes[0] == 0) && h_q % h_kv == 0;
  if (!fits) {
    return refused("the shapes do not fit together, got ", operands(), ", out ", listed(out_sizes), ", lse ",
                   listed(lse_sizes));
  }

  Call call;
  call.type = q.element_type();
  call.d_qk = q_sizes[3];
  call.d_v = out_sizes[3];
  call.partial_outs = partial_out->element_count();
  call.partial_lses = partial_lse->element_count();
  DenseDecodeParams& params = call.params;
  params.q = q.untyped_data();
  params.k_cache = k_cache.untyped_data();
  params.block_table = block_table.typed_data();
  params.cache_seqlens = cache_seqlens.typed_data();
  params.attn_sink = sink_sizes[0] == 0 ? nullptr : attn_sink.typed_data();
  params.out = out->untyped_data();
  params.lse = lse->typed_data();
  params.partial_out = partial_out->typed_data();
  params.partial_lse = partial_lse->typed_data();
  params.b = int32_t(b);
  params.s_q = int32_t(s_q);
  params.h_q = int32_t(h_q);
  params.h_kv = int32_t(h_kv);
  params.num_pages = int32_t(k_sizes[0]);
  params.page_size = int32_t(k_sizes[1]);
  params.max_pages = int32_t(table_sizes[1]);
  params.sink_rows = sink_sizes[0] == 0 ? 1 : int32_t(sink_sizes[0]);
  params.scale = scale;
  params.causal = causal;
  if (params.num_pages == 0) {
    // A pool without pages covers no length but 0, as a table without columns does. What is never read must still lie
    // somewhere for the copy engine to know it.
    params.max_pages = 0;
    params.num_pages = 1;
    params.k_cache = params.q;
  }
  return call;
}

// Scratch must be of the sizes that the kernels know, for whatever dimension of values.
ffi::Error check_scratch(const Call& call) {
  constexpr size_t kRows = size_t(kDenseDecodePartialTiles) * kDenseDecodeTileRows;
  if (call.partial_outs == kRows * call.d_v && call.partial_lses == kRows) return ffi::Error::Success();
  return refuse(kOperation, "scratch must have ", kRows * call.d_v, " and ", kRows, " elements, got ",
                call.partial_outs, " and ", call.partial_lses);
}

// The limits of the kernels. They stand in the Python table too, which refuses in time and in better words.
ffi::Error check_limits(const Call& call) {
  const DenseDecodeParams& params = call.params;
  if (call.type != ffi::BF16 && call.type != ffi::F16)
    return refuse(kOperation, "q must be BF16 or F16, got ", call.type);
  if (call.d_qk != kDenseDecodeDimQK || call.d_v != kDenseDecodeDimV) {
    return refuse(kOperation, "keys must have ", kDenseDecodeDimQK, " dimensions and values ", kDenseDecodeDimV,
                  ", got ", call.d_qk, " and ", call.d_v);
  }
  if (params.page_size % 16 != 0)
    return refuse(kOperation, "the page size must be a multiple of 16, got ", params.page_size);
  // The copy engine counts the pool's slots in int32.
  constexpr int64_t kMaxSlots = (int64_t(1) << 31) - 1;
  const int64_t slots = int64_t(params.num_pages) * params.page_size;
  if (slots > kMaxSlots) return refuse(kOperation, "the pool must have at most ", kMaxSlots, " slots, got ", slots);
  constexpr int64_t kMaxRows = (int64_t(1) << 31) - kDenseDecodeTileRows;
  const int64_t rows = int64_t(params.s_q) * params.h_q;
  if (rows > kMaxRows) return refuse(kOperation, "query tokens times heads must be at most ", kMaxRows, ", got ", rows);
  return check_scratch(call);
}

// The handler's body.
const auto run = [](cudaStream_t stream, auto... arguments) -> ffi::Error {
  const auto call = read_call(arguments...);
  if (call.has_error()) return call.error();
  if (auto error = check_limits(*call); error.failure()) return error;
  const DenseDecodeParams& params = call->params;
  if (call->is_empty()) return clear_scratch(kOperation, params.partial_lse, call->partial_lses, stream);
  const auto kernel = [&](const Device& device) { return kernel_for(device, call->type); };
  return launch_kernel(kOperation, kernel, params, stream);
};

ffi::Error initialize() { return initialize_kernels(kOperation, kernel_for, {ffi::BF16, ffi::F16}); }

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
      .template Ret<ffi::Buffer<ffi::F32, 2>>();  // partial_lse
}

#ifdef JAX_FLASH_MLA_TESTING
// The same call on the CPU, at any size and element type, in double precision: within no limits but those of memory.
const auto run_on_host = [](auto... arguments) -> ffi::Error {
  const auto call = read_call(arguments...);
  if (call.has_error()) return call.error();
  if (auto error = check_scratch(*call); error.failure()) return error;
  return host_dense_decode(call->params, call->type, int(call->d_qk), int(call->d_v));
};
#endif

}  // namespace
}  // namespace jax_flash_mla

JAX_FLASH_MLA_DEFINE_HANDLERS(dense_decode)
