// Multi-head attention, backward: what a call holds → checked → the kernels of the device's architecture.
#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <utility>

#include "bindings/checks.h"
#include "bindings/define_handlers.h"
#include "bindings/kernel.h"
#include "cuda/sm90/mha_backward/params.h"
#ifdef JAX_FLASH_MLA_TESTING
#include "bindings/testing/host_mha_backward.h"
#endif

namespace jax_flash_mla {
namespace {

namespace ffi = xla::ffi;

constexpr char kOperation[] = "mha_backward";
constexpr int64_t kRangeFields = sizeof(MhaRange) / sizeof(int32_t);

// What an instance is compiled for.
struct Kind {
  ffi::DataType type;
  int64_t d_qk;
};

Kernel<MhaBackwardParams> kernel_for(const Device& device, const Kind& kind) {
#ifdef JAX_FLASH_MLA_SM90
  if (device.major == 9) {
    if (kind.type == ffi::BF16) {
      if (kind.d_qk == 192) return {launch_mha_backward_sm90_bf16_192, initialize_mha_backward_sm90_bf16_192};
      return {launch_mha_backward_sm90_bf16_128, initialize_mha_backward_sm90_bf16_128};
    }
    if (kind.d_qk == 192) return {launch_mha_backward_sm90_fp16_192, initialize_mha_backward_sm90_fp16_192};
    return {launch_mha_backward_sm90_fp16_128, initialize_mha_backward_sm90_fp16_128};
  }
#endif
  return {};
}

// What a call holds.
struct Call {
  MhaBackwardParams params;
  Kind kind;
  int64_t d_v;
};

// Reads the operands and results of a call. The Python side passes shapes that fit together; another caller might not.
ffi::ErrorOr<Call> read_call(float scale, bool causal, ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                             ffi::AnyBuffer d_out, ffi::Buffer<ffi::F32, 3> lse, ffi::Buffer<ffi::F32, 3> delta,
                             ffi::Buffer<ffi::S32, 3> q_ranges, ffi::Buffer<ffi::S32, 2> cu_q,
                             ffi::Buffer<ffi::S32, 3> kv_ranges, ffi::Buffer<ffi::S32, 2> cu_kv,
                             ffi::Result<ffi::AnyBuffer> d_q, ffi::Result<ffi::AnyBuffer> d_k,
                             ffi::Result<ffi::AnyBuffer> d_v, ffi::Result<ffi::Buffer<ffi::F32, 3>> sums,
                             ffi::Result<ffi::Buffer<ffi::S32, 3>> counters) {
  const auto refused = [](const auto&... parts) { return ffi::Unexpected(refuse(kOperation, parts...)); };
  const Sizes q_sizes = q.dimensions(), k_sizes = k.dimensions(), v_sizes = v.dimensions();
  const Sizes d_out_sizes = d_out.dimensions(), lse_sizes = lse.dimensions();
  const Sizes cu_sizes = cu_q.dimensions();
  const auto operands = [&] {
    return "q " + listed(q_sizes) + ", k " + listed(k_sizes) + ", v " + listed(v_sizes) + ", d_out " +
           listed(d_out_sizes) + ", lse " + listed(lse_sizes) + ", delta " + listed(delta.dimensions()) +
           ", q_ranges " + listed(q_ranges.dimensions()) + ", cu_q " + listed(cu_sizes) + ", kv_ranges " +
           listed(kv_ranges.dimensions()) + ", cu_kv " + listed(cu_kv.dimensions());
  };
  if (q_sizes.size() != 4 || k_sizes.size() != 4 || v_sizes.size() != 4 || d_out_sizes.size() != 4) {
    return refused("q, k, v and d_out must have four dimensions, got ", operands());
  }
  for (const ffi::DataType type : {k.element_type(), v.element_type(), d_out.element_type(), d_q->element_type(),
                                   d_k->element_type(), d_v->element_type()}) {
    if (type == q.element_type()) continue;
    return refused("all but lse and delta must have q's element type, ", q.element_type(), ", got ", type);
  }
  for (const Sizes& sizes : {q_sizes, k_sizes, v_sizes, q_ranges.dimensions(), cu_sizes}) {
    if (!all_between(0, sizes)) return refused("no dimension may pass 2147483647, got ", operands());
  }
  if (!all_between(1, q_sizes.last(2)) || !all_between(1, k_sizes.last(2)) || !all_between(1, v_sizes.last(2))) {
    return refused("heads and their dimensions must be at least 1, got ", operands());
  }
  const int64_t packs = q_sizes[0], tokens_q = q_sizes[1], h_q = q_sizes[2], h_kv = k_sizes[2];
  const auto are = [](Sizes sizes, std::initializer_list<int64_t> wanted) {
    return std::equal(sizes.begin(), sizes.end(), wanted.begin(), wanted.end());
  };
  const auto same = [&](Sizes one, Sizes other) {
    return std::equal(one.begin(), one.end(), other.begin(), other.end());
  };
  const bool fits = k_sizes[0] == packs && k_sizes[3] == q_sizes[3] && h_q % h_kv == 0 &&
                    are(v_sizes, {packs, k_sizes[1], h_kv, v_sizes[3]}) &&
                    are(d_out_sizes, {packs, tokens_q, h_q, v_sizes[3]}) && are(lse_sizes, {packs, tokens_q, h_q}) &&
                    same(delta.dimensions(), lse_sizes) && cu_sizes[0] == packs && cu_sizes[1] >= 1 &&
                    same(cu_kv.dimensions(), cu_sizes) &&
                    are(q_ranges.dimensions(), {packs, cu_sizes[1], kRangeFields}) &&
                    same(kv_ranges.dimensions(), q_ranges.dimensions()) && same(d_q->dimensions(), q_sizes) &&
                    same(d_k->dimensions(), k_sizes) && same(d_v->dimensions(), v_sizes);
  if (!fits) return refused("the shapes do not fit together, got ", operands());

  const auto side = [&](const auto& ranges, const auto& bounds, int64_t tokens) {
    return MhaSide{reinterpret_cast<const MhaRange*>(ranges.typed_data()), bounds.typed_data(), int32_t(packs),
                   int32_t(cu_sizes[1] - 1), int32_t(tokens)};
  };
  Call call;
  call.kind = {q.element_type(), q_sizes[3]};
  call.d_v = v_sizes[3];
  MhaBackwardParams& params = call.params;
  params.queries = side(q_ranges, cu_q, tokens_q);
  params.keys = side(kv_ranges, cu_kv, k_sizes[1]);
  const int64_t sum_count = packs * tokens_q * h_q * q_sizes[3];
  const int64_t counter_count = h_q * counters_of(params.queries) * kMhaBackwardHalves;
  const bool is_ordered = counters->element_count() > 0;
  if (int64_t(sums->element_count()) != sum_count ||
      (is_ordered && int64_t(counters->element_count()) != counter_count)) {
    return refused("sums and counters must have ", sum_count, " and ", counter_count, " or no elements, got ",
                   sums->element_count(), " and ", counters->element_count());
  }
  params.q = q.untyped_data();
  params.k = k.untyped_data();
  params.v = v.untyped_data();
  params.d_out = d_out.untyped_data();
  params.lse = lse.typed_data();
  params.delta = delta.typed_data();
  params.d_q = d_q->untyped_data();
  params.d_k = d_k->untyped_data();
  params.d_v = d_v->untyped_data();
  params.h_q = int32_t(h_q);
  params.h_kv = int32_t(h_kv);
  params.scale = scale;
  params.causal = causal;
  params.sums = sums->typed_data();
  params.counters = is_ordered ? counters->typed_data() : nullptr;
  return call;
}

// The limits of the kernels. They stand in the Python table too, which refuses in time and in better words.
ffi::Error check_limits(const Call& call) {
  const MhaBackwardParams& params = call.params;
  if (call.kind.type != ffi::BF16 && call.kind.type != ffi::F16) {
    return refuse(kOperation, "q must be BF16 or F16, got ", call.kind.type);
  }
  if ((call.kind.d_qk != 192 && call.kind.d_qk != 128) || call.d_v != kMhaDimV) {
    return refuse(kOperation, "keys must have 192 or 128 dimensions and values ", kMhaDimV, ", got ", call.kind.d_qk,
                  " and ", call.d_v);
  }
  // The copy engine counts tokens in int32, and so does the schedule ranges, and tiles of one of them for all heads.
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() - 256;
  for (const MhaSide& side : {params.queries, params.keys}) {
    for (const int64_t count : {int64_t(side.packs) * side.tokens, int64_t(side.packs) * (int64_t(side.sequences) + 1),
                                (int64_t(side.tokens) / 64 + 2) * params.h_q}) {
      if (count > kMost) {
        return refuse(kOperation, "tokens, sequences, and tokens / 64 of a pack times heads must be at most ", kMost,
                      ", got ", count);
      }
    }
  }
  // Counters of a head are counted in int32.
  if (counters_of(params.queries) > kMost) {
    return refuse(kOperation, "query tokens / 64 and sequences together must be at most ", kMost, ", got ",
                  counters_of(params.queries));
  }
  return ffi::Error::Success();
}

// The handler's body. A call without tokens launches all the same: there are versions of XLA that refuse to capture a call
// that does no work.
const auto run = [](cudaStream_t stream, auto... arguments) -> ffi::Error {
  const auto call = read_call(arguments...);
  if (call.has_error()) return call.error();
  if (auto error = check_limits(*call); error.failure()) return error;
  const auto kernel = [&](const Device& device) { return kernel_for(device, call->kind); };
  return launch_kernel(kOperation, kernel, call->params, stream);
};

ffi::Error initialize() {
  return initialize_kernels(kOperation, kernel_for,
                            {Kind{ffi::BF16, 192}, Kind{ffi::BF16, 128}, Kind{ffi::F16, 192}, Kind{ffi::F16, 128}});
}

template <typename Binding>
auto with_signature(Binding binding) {
  return std::move(binding)
      .template Attr<float>("scale")
      .template Attr<bool>("causal")
      .template Arg<ffi::AnyBuffer>()             // q
      .template Arg<ffi::AnyBuffer>()             // k
      .template Arg<ffi::AnyBuffer>()             // v
      .template Arg<ffi::AnyBuffer>()             // d_out
      .template Arg<ffi::Buffer<ffi::F32, 3>>()   // lse
      .template Arg<ffi::Buffer<ffi::F32, 3>>()   // delta
      .template Arg<ffi::Buffer<ffi::S32, 3>>()   // q_ranges
      .template Arg<ffi::Buffer<ffi::S32, 2>>()   // cu_q
      .template Arg<ffi::Buffer<ffi::S32, 3>>()   // kv_ranges
      .template Arg<ffi::Buffer<ffi::S32, 2>>()   // cu_kv
      .template Ret<ffi::AnyBuffer>()             // d_q
      .template Ret<ffi::AnyBuffer>()             // d_k
      .template Ret<ffi::AnyBuffer>()             // d_v
      .template Ret<ffi::Buffer<ffi::F32, 3>>()   // sums
      .template Ret<ffi::Buffer<ffi::S32, 3>>();  // counters
}

#ifdef JAX_FLASH_MLA_TESTING
// The same call on the CPU, at any size and element type, in double precision: within no limits but those of memory.
const auto run_on_host = [](auto... arguments) -> ffi::Error {
  const auto call = read_call(arguments...);
  if (call.has_error()) return call.error();
  return host_mha_backward(call->params, call->kind.type, int(call->kind.d_qk), int(call->d_v));
};
#endif

}  // namespace
}  // namespace jax_flash_mla

JAX_FLASH_MLA_DEFINE_HANDLERS(mha_backward)
