#include "bindings/testing/host_sparse_prefill.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "bindings/testing/host_numbers.h"

namespace jax_flash_mla {

namespace ffi = xla::ffi;

namespace {

using namespace host;

template <typename Element>
class HostSparsePrefill {
 public:
  HostSparsePrefill(const SparsePrefillParams& params, int d_qk, int d_v) : p_(params), d_qk_(d_qk), d_v_(d_v) {}

  void run() {
    for (int query = 0; query < p_.s_q; ++query) {
      const bool sound = find_keys(query);
      for (int head = 0; head < p_.h_q; ++head) attend(query, head, sound);
    }
  }

 private:
  const SparsePrefillParams& p_;
  const int d_qk_, d_v_;
  std::vector<const Element*> keys_;  // of the query token

  // The keys that the query token's indices name; false where its length is out of range.
  bool find_keys(int query) {
    const int length = p_.topk_length ? p_.topk_length[query] : p_.topk;
    keys_.clear();
    if (length < 0 || length > p_.topk) return false;
    for (int i = 0; i < length; ++i) {
      const int64_t index = p_.indices[int64_t(query) * p_.topk + i];
      if (index >= 0 && index < p_.s_kv) keys_.push_back(static_cast<const Element*>(p_.kv) + index * d_qk_);
    }
    return true;
  }

  void attend(int query, int head, bool sound) {
    const int64_t row = int64_t(query) * p_.h_q + head;
    const auto* q = static_cast<const Element*>(p_.q) + row * d_qk_;
    auto* out = static_cast<Element*>(p_.out) + row * d_v_;

    std::vector<double> scores(keys_.size());
    double largest = -kInfinity;
    for (size_t i = 0; i < keys_.size(); ++i) {
      double product = 0;
      for (int d = 0; d < d_qk_; ++d) product += to_double(q[d]) * to_double(keys_[i][d]);
      scores[i] = product * p_.scale;
      largest = std::fmax(largest, scores[i]);
    }
    double sum = 0;
    std::vector<double> weighted(d_v_, 0.0);
    for (size_t i = 0; i < keys_.size(); ++i) {
      const double weight = std::exp(scores[i] - (largest == -kInfinity ? 0 : largest));
      sum += weight;
      for (int d = 0; d < d_v_; ++d) weighted[d] += weight * to_double(keys_[i][d]);
    }
    if (!sound) sum = largest = kNaN;
    const double lse = sum == 0 ? -kInfinity : largest + std::log(sum);
    const double share = sum == 0 ? 0 : 1 / (1 + std::exp(sink(query, head) - lse));
    const double unit = p_.base2 ? 1 / std::log(2.0) : 1;
    p_.max_logits[row] = float(largest * unit);
    p_.lse[row] = float(lse * unit);
    for (int d = 0; d < d_v_; ++d) assign(out[d], sum == 0 ? 0 : share * weighted[d] / sum);
  }

  double sink(int query, int head) const {
    if (!p_.attn_sink) return -kInfinity;
    return p_.attn_sink[int64_t(query) * p_.sink_rows / p_.s_q * p_.h_q + head];
  }
};

}  // namespace

ffi::Error host_sparse_prefill(const SparsePrefillParams& params, ffi::DataType type, int d_qk, int d_v) {
  switch (type) {
    case ffi::F32:
      HostSparsePrefill<float>(params, d_qk, d_v).run();
      break;
    case ffi::BF16:
      HostSparsePrefill<__nv_bfloat16>(params, d_qk, d_v).run();
      break;
    case ffi::F16:
      HostSparsePrefill<__half>(params, d_qk, d_v).run();
      break;
    default:
      return ffi::Error::InvalidArgument("sparse_prefill: q must be bfloat16, float16 or float32");
  }
  return ffi::Error::Success();
}

}  // namespace jax_flash_mla
