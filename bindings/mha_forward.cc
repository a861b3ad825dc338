// Multi-head attention, forward: what a call holds → checked → the kernel of the device's architecture.
#include <cstdint>
#include <limits>
#include <utility>

#include "bindings/checks.h"
#include "bindings/define_handlers.h"
#include "bindings/kernel.h"
#include "cuda/sm100/mha_forward/params.h"
#include "cuda/sm90/mha_forward/params.h"
#ifdef JAX_FLASH_MLA_TESTING
#include "bindings/testing/host_mha_forward.h"
#endif

namespace jax_flash_mla {
namespace {

namespace ffi = xla::ffi;

constexpr char kOperation[] = "mha_forward";
constexpr int64_t kRangeFields = sizeof(MhaRange) / sizeof(int32_t);

// What an instance is compiled for.
struct Kind {
  ffi::DataType type;
  int64_t d_qk;
};

Kernel<MhaForwardParams> kernel_for(const Device& device, const Kind& kind) {
#ifdef JAX_FLASH_MLA_SM90
  if (device.major == 9) {
    if (kind.type == ffi::BF16) {
      if (kind.d_qk == 192) return {launch_mha_forward_sm90_bf16_192, initialize_mha_forward_sm90_bf16_192};
      return {launch_mha_forward_sm90_bf16_128, initialize_mha_forward_sm90_bf16_128};
    }
    if (kind.d_qk == 192) return {launch_mha_forward_sm90_fp16_192, initialize_mha_forward_sm90_fp16_192};
    return {launch_mha_forward_sm90_fp16_128, initialize_mha_forward_sm90_fp16_128};
  }
#endif
#ifdef JAX_FLASH_MLA_SM100
  if (device.major == 10 && kind.type == ffi::BF16) {
    if (kind.d_qk == 192) return {launch_mha_forward_sm100_bf16_192, initialize_mha_forward_sm100_bf16_192};
    return {launch_mha_forward_sm100_bf16_128, initialize_mha_forward_sm100_bf16_128};
  }
#endif
  return {};
}

// What a call holds.
struct Call {
  MhaForwardParams params;
  Kind kind;
  int64_t d_v;
};

// Reads the operands and results of a call. The Python side passes shapes that fit together; another caller might not.
ffi::ErrorOr<Call> read_call(float scale, bool causal, ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                             ffi::Buffer<ffi::S32, 3> ranges, ffi::Buffer<ffi::S32, 2> cu_q,
                             ffi::Result<ffi::AnyBuffer> out, ffi::ResultBuffer<ffi::F32, 3> lse) {
  const auto refused = [](const auto&... parts) { return ffi::Unexpected(refuse(kOperation, parts...)); };
  const Sizes q_sizes = q.dimensions(), k_sizes = k.dimensions(), v_sizes = v.dimensions();
  const Sizes out_sizes = out->dimensions(), lse_sizes = lse->dimensions();
  const Sizes range_sizes = ranges.dimensions(), cu_sizes = cu_q.dimensions();
  const auto operands = [&] {
    return "q " + listed(q_sizes) + ", k " + listed(k_sizes) + ", v " + listed(v_sizes) + ", ranges " +
           listed(range_sizes) + ", cu_q " + listed(cu_sizes);
  };
  if (q_sizes.size() != 4 || k_sizes.size() != 4 || v_sizes.size() != 4 || out_sizes.size() != 4) {
    return refused("q, k, v and out must have four dimensions, got ", operands(), ", out ", listed(out_sizes));
  }
  for (const ffi::DataType type : {k.element_type(), v.element_type(), out->element_type()}) {
    if (type == q.element_type()) continue;
    return refused("k, v and out must have q's element type, ", q.element_type(), ", got ", type);
  }
  for (const Sizes& sizes : {q_sizes, k_sizes, v_sizes, range_sizes, cu_sizes}) {
    if (!all_between(0, sizes)) return refused("no dimension may pass 2147483647, got ", operands());
  }
  if (!all_between(1, q_sizes.last(2)) || !all_between(1, k_sizes.last(2)) || !all_between(1, v_sizes.last(2))) {
    return refused("heads and their dimensions must be at least 1, got ", operands());
  }
  const int64_t packs = q_sizes[0], tokens_q = q_sizes[1], h_q = q_sizes[2], h_kv = k_sizes[2];
  const bool fits = k_sizes[0] == packs && v_sizes[0] == packs && v_sizes[1] == k_sizes[1] && v_sizes[2] == h_kv &&
                    k_sizes[3] == q_sizes[3] && h_q % h_kv == 0 && range_sizes[0] == packs && range_sizes[1] >= 1 &&
                    range_sizes[2] == kRangeFields && cu_sizes[0] == packs && cu_sizes[1] == range_sizes[1] &&
                    out_sizes[0] == packs && out_sizes[1] == tokens_q && out_sizes[2] == h_q &&
                    out_sizes[3] == v_sizes[3] && lse_sizes[0] == packs && lse_sizes[1] == tokens_q &&
                    lse_sizes[2] == h_q;
  if (!fits) {
    return refused("the shapes do not fit together, got ", operands(), ", out ", listed(out_sizes), ", lse ",
                   listed(lse_sizes));
  }

  Call call;
  call.kind = {q.element_type(), q_sizes[3]};
  call.d_v = v_sizes[3];
  MhaForwardParams& params = call.params;
  params.q = q.untyped_data();
  params.k = k.untyped_data();
  params.v = v.untyped_data();
  params.queries = {reinterpret_cast<const MhaRange*>(ranges.typed_data()), cu_q.typed_data(), int32_t(packs),
                    int32_t(range_sizes[1] - 1), int32_t(tokens_q)};
  params.out = out->untyped_data();
  params.lse = lse->typed_data();
  params.tokens_kv = int32_t(k_sizes[1]);
  params.h_q = int32_t(h_q);
  params.h_kv = int32_t(h_kv);
  params.scale = scale;
  params.causal = causal;
  return call;
}

// The limits of the kernels. They stand in the Python table too, which refuses in time and in better words.
ffi::Error check_limits(const Call& call) {
  const MhaForwardParams& params = call.params;
  const MhaSide& queries = params.queries;
  if (call.kind.type != ffi::BF16 && call.kind.type != ffi::F16) {
    return refuse(kOperation, "q must be BF16 or F16, got ", call.kind.type);
  }
  if ((call.kind.d_qk != 192 && call.kind.d_qk != 128) || call.d_v != kMhaDimV) {
    return refuse(kOperation, "keys must have 192 or 128 dimensions and values ", kMhaDimV, ", got ", call.kind.d_qk,
                  " and ", call.d_v);
  }
  // The copy engine counts tokens in int32, and so does the schedule ranges, and tiles of one of them for all heads.
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() - 256;
  for (const int64_t count :
       {int64_t(queries.packs) * queries.tokens, int64_t(queries.packs) * params.tokens_kv,
        int64_t(queries.packs) * (int64_t(queries.sequences) + 1), (int64_t(queries.tokens) / 64 + 2) * params.h_q}) {
    if (count > kMost) {
      return refuse(kOperation, "tokens, sequences, and tokens / 64 of a pack times heads must be at most ", kMost,
                    ", got ", count);
    }
  }
  return ffi::Error::Success();
}

// The handler's body. A call without query tokens launches all the same: there are versions of XLA that refuse to capture
// a call that does no work.
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
      .template Arg<ffi::Buffer<ffi::S32, 3>>()   // ranges
      .template Arg<ffi::Buffer<ffi::S32, 2>>()   // cu_q
      .template Ret<ffi::AnyBuffer>()             // out
      .template Ret<ffi::Buffer<ffi::F32, 3>>();  // lse
}

#ifdef JAX_FLASH_MLA_TESTING
// The same call on the CPU, at any size and element type, in double precision: within no limits but those of memory.
const auto run_on_host = [](auto... arguments) -> ffi::Error {
  const auto call = read_call(arguments...);
  if (call.has_error()) return call.error();
  return host_mha_forward(call->params, call->kind.type, int(call->kind.d_qk), int(call->d_v));
};
#endif

}  // namespace
}  // namespace jax_flash_mla

JAX_FLASH_MLA_DEFINE_HANDLERS(mha_forward)
