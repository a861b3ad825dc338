// Sparse decode: what a call holds → checked → the kernel of the device's architecture.
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>

#include "bindings/cache_format.h"
#include "bindings/checks.h"
#include "bindings/define_handlers.h"
#include "bindings/kernel.h"
#include "cuda/sm90/sparse_decode/params.h"
#ifdef JAX_FLASH_MLA_TESTING
#include "bindings/testing/host_sparse_decode.h"
#endif

namespace jax_flash_mla {
namespace {

namespace ffi = xla::ffi;

constexpr char kOperation[] = "sparse_decode";

// What an instance is compiled for.
struct Kind {
  int64_t token_bytes;  // the format
  bool pairs;           // of thread blocks
};

Kernel<SparseDecodeParams> kernel_for(const Device& device, const Kind& kind) {
#ifdef JAX_FLASH_MLA_SM90
  if (device.major == 9 && kind.token_bytes == kV32.token_bytes) {
    if (!kind.pairs) return {launch_sparse_decode_sm90_v32, initialize_sparse_decode_sm90_v32};
    return {launch_sparse_decode_sm90_v32_pairs, initialize_sparse_decode_sm90_v32_pairs};
  }
  if (device.major == 9) {
    if (!kind.pairs) return {launch_sparse_decode_sm90_model1, initialize_sparse_decode_sm90_model1};
    return {launch_sparse_decode_sm90_model1_pairs, initialize_sparse_decode_sm90_model1_pairs};
  }
#endif
  return {};
}

// What a call holds.
struct Call {
  SparseDecodeParams params;
  ffi::DataType type;
  int64_t token_bytes, d_qk, d_v;
  size_t partial_outs, partial_lses;  // elements of scratch

  // Whether there is no element to compute.
  bool is_empty() const { return params.b == 0 || params.s_q == 0; }
};

// Reads the operands and results of a call. The Python side passes shapes that fit together; another caller might not.
ffi::ErrorOr<Call> read_call(float scale, ffi::AnyBuffer q, ffi::Buffer<ffi::U8, 4> k_cache,
                             ffi::Buffer<ffi::S32, 3> indices, ffi::Buffer<ffi::S32, 2> topk_length,
                             ffi::Buffer<ffi::U8, 4> extra_k_cache, ffi::Buffer<ffi::S32, 3> extra_indices,
                             ffi::Buffer<ffi::S32, 2> extra_topk_length, ffi::Buffer<ffi::F32, 2> attn_sink,
                             ffi::Result<ffi::AnyBuffer> out, ffi::ResultBuffer<ffi::F32, 3> lse,
                             ffi::ResultBuffer<ffi::F32, 3> partial_out, ffi::ResultBuffer<ffi::F32, 2> partial_lse) {
  const auto refused = [](const auto&... parts) { return ffi::Unexpected(refuse(kOperation, parts...)); };
  const Sizes q_sizes = q.dimensions(), out_sizes = out->dimensions(), lse_sizes = lse->dimensions();
  const Sizes cache_sizes = k_cache.dimensions(), extra_sizes = extra_k_cache.dimensions();
  const Sizes index_sizes = indices.dimensions(), extra_index_sizes = extra_indices.dimensions();
  const Sizes length_sizes = topk_length.dimensions(), extra_length_sizes = extra_topk_length.dimensions();
  const Sizes sink_sizes = attn_sink.dimensions();
  if (q_sizes.size() != 4 || out_sizes.size() != 4) {
    return refused("q and out must have four dimensions, got ", listed(q_sizes), " and ", listed(out_sizes));
  }
  if (out->element_type() != q.element_type()) {
    return refused("out must have q's element type, ", q.element_type(), ", got ", out->element_type());
  }
  const auto operands = [&] {
    return "q " + listed(q_sizes) + ", k_cache " + listed(cache_sizes) + ", indices " + listed(index_sizes) +
           ", topk_length " + listed(length_sizes) + ", extra_k_cache " + listed(extra_sizes) + ", extra_indices " +
           listed(extra_index_sizes) + ", extra_topk_length " + listed(extra_length_sizes) + ", attn_sink " +
           listed(sink_sizes);
  };
  const int64_t b = q_sizes[0], s_q = q_sizes[1], h_q = q_sizes[2];
  for (const Sizes& sizes : {q_sizes, cache_sizes, extra_sizes, index_sizes, extra_index_sizes, sink_sizes}) {
    if (!all_between(0, sizes)) return refused("no dimension may pass 2147483647, got ", operands());
  }
  if (!all_between(1, q_sizes.last(2)) || !all_between(1, cache_sizes.last(3)) ||
      !all_between(1, extra_sizes.last(3))) {
    return refused("heads, their dimensions and the slots of a page must be at least 1, got ", operands());
  }
  const auto fits_tokens = [&](Sizes sizes) { return sizes[0] == b && sizes[1] == s_q; };
  const auto is_none = [](Sizes sizes) { return sizes[0] == 0 && sizes[1] == 0; };
  const bool fits = fits_tokens(out_sizes) && out_sizes[2] == h_q && lse_sizes[0] == b && lse_sizes[1] == h_q &&
                    lse_sizes[2] == s_q && cache_sizes[2] == 1 && extra_sizes[2] == 1 &&
                    cache_sizes[3] == extra_sizes[3] && fits_tokens(index_sizes) && fits_tokens(extra_index_sizes) &&
                    (is_none(length_sizes) || fits_tokens(length_sizes)) &&
                    (is_none(extra_length_sizes) || fits_tokens(extra_length_sizes)) && sink_sizes[1] == h_q &&
                    (sink_sizes[0] == 0 || b % sink_sizes[0] == 0);
  if (!fits) {
    return refused("the shapes do not fit together, got ", operands(), ", out ", listed(out_sizes), ", lse ",
                   listed(lse_sizes));
  }

  Call call;
  call.type = q.element_type();
  call.token_bytes = cache_sizes[3];
  call.d_qk = q_sizes[3];
  call.d_v = out_sizes[3];
  call.partial_outs = partial_out->element_count();
  call.partial_lses = partial_lse->element_count();
  const auto list = [&](const auto& cache, const auto& indices, const auto& lengths) {
    SparseDecodeList list;
    list.cache = cache.untyped_data();
    list.indices = indices.typed_data();
    list.lengths = lengths.element_count() == 0 ? nullptr : lengths.typed_data();
    list.num_pages = int32_t(cache.dimensions()[0]);
    list.page_size = int32_t(cache.dimensions()[1]);
    list.topk = int32_t(indices.dimensions()[2]);
    return list;
  };
  SparseDecodeParams& params = call.params;
  params.q = q.untyped_data();
  params.lists[0] = list(k_cache, indices, topk_length);
  params.lists[1] = list(extra_k_cache, extra_indices, extra_topk_length);
  params.attn_sink = sink_sizes[0] == 0 ? nullptr : attn_sink.typed_data();
  params.out = out->untyped_data();
  params.lse = lse->typed_data();
  params.partial_out = partial_out->typed_data();
  params.partial_lse = partial_lse->typed_data();
  params.b = int32_t(b);
  params.s_q = int32_t(s_q);
  params.h_q = int32_t(h_q);
  params.sink_rows = sink_sizes[0] == 0 ? 1 : int32_t(sink_sizes[0]);
  params.scale = scale;
  return call;
}

// What any implementation needs: a known format, and queries for it.
ffi::Error check_format(const Call& call) {
  for (const CacheFormat& format : {kV32, kModel1}) {
    if (call.token_bytes != format.token_bytes) continue;
    if (call.d_qk == format.d_qk && call.d_v == kSparseDecodeDimV) return ffi::Error::Success();
    return refuse(kOperation, "keys of ", format.token_bytes, " bytes have ", format.d_qk, " dimensions and values ",
                  kSparseDecodeDimV, ", got ", call.d_qk, " and ", call.d_v);
  }
  return refuse_token_bytes(kOperation, call.token_bytes);
}

// The limits of the kernels. They stand in the Python table too, which refuses in time and in better words.
ffi::Error check_limits(const Call& call) {
  if (call.type != ffi::BF16) return refuse(kOperation, "q must be BF16, got ", call.type);
  if (auto error = check_format(call); error.failure()) return error;
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  const int64_t tokens = int64_t(call.params.b) * call.params.s_q;
  if (tokens > kMost) return refuse(kOperation, "there must be at most ", kMost, " query tokens, got ", tokens);
  const int64_t keys = int64_t(call.params.lists[0].topk) + call.params.lists[1].topk;
  constexpr int64_t kMostKeys = kMost - 2 * kSparseDecodeTileRows;
  if (keys > kMostKeys) return refuse(kOperation, "there must be at most ", kMostKeys, " keys a token, got ", keys);
  constexpr size_t kRows = size_t(kSparseDecodePartialTiles) * kSparseDecodeTileRows;
  if (call.partial_outs != kRows * kSparseDecodeDimV || call.partial_lses != kRows) {
    return refuse(kOperation, "scratch must have ", kRows * kSparseDecodeDimV, " and ", kRows, " elements, got ",
                  call.partial_outs, " and ", call.partial_lses);
  }
  return ffi::Error::Success();
}

// The handler's body.
const auto run = [](cudaStream_t stream, auto... arguments) -> ffi::Error {
  const auto call = read_call(arguments...);
  if (call.has_error()) return call.error();
  if (auto error = check_limits(*call); error.failure()) return error;
  const SparseDecodeParams& params = call->params;
  if (call->is_empty()) return clear_scratch(kOperation, params.partial_lse, call->partial_lses, stream);
  const Kind kind = {call->token_bytes, sparse_decode_makes_pairs(params.h_q)};
  const auto kernel = [&](const Device& device) { return kernel_for(device, kind); };
  return launch_kernel(kOperation, kernel, params, stream);
};

ffi::Error initialize() {
  return initialize_kernels(kOperation, kernel_for,
                            {Kind{kV32.token_bytes, false}, Kind{kV32.token_bytes, true},
                             Kind{kModel1.token_bytes, false}, Kind{kModel1.token_bytes, true}});
}

template <typename Binding>
auto with_signature(Binding binding) {
  return std::move(binding)
      .template Attr<float>("scale")
      .template Arg<ffi::AnyBuffer>()             // q
      .template Arg<ffi::Buffer<ffi::U8, 4>>()    // k_cache
      .template Arg<ffi::Buffer<ffi::S32, 3>>()   // indices
      .template Arg<ffi::Buffer<ffi::S32, 2>>()   // topk_length
      .template Arg<ffi::Buffer<ffi::U8, 4>>()    // extra_k_cache
      .template Arg<ffi::Buffer<ffi::S32, 3>>()   // extra_indices
      .template Arg<ffi::Buffer<ffi::S32, 2>>()   // extra_topk_length
      .template Arg<ffi::Buffer<ffi::F32, 2>>()   // attn_sink
      .template Ret<ffi::AnyBuffer>()             // out
      .template Ret<ffi::Buffer<ffi::F32, 3>>()   // lse
      .template Ret<ffi::Buffer<ffi::F32, 3>>()   // partial_out
      .template Ret<ffi::Buffer<ffi::F32, 2>>();  // partial_lse
}

#ifdef JAX_FLASH_MLA_TESTING
// The same call on the CPU, for queries of any element type, in double precision: within no limits but those of memory.
const auto run_on_host = [](auto... arguments) -> ffi::Error {
  const auto call = read_call(arguments...);
  if (call.has_error()) return call.error();
  if (auto error = check_format(*call); error.failure()) return error;
  return host_sparse_decode(call->params, call->type, int(call->d_qk));
};
#endif

}  // namespace
}  // namespace jax_flash_mla

JAX_FLASH_MLA_DEFINE_HANDLERS(sparse_decode)
