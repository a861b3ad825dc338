#include "bindings/testing/host_sparse_backward.h"

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
class HostSparseBackward {
 public:
  HostSparseBackward(const SparseBackwardParams& params, int d_qk, int d_v) : p_(params), d_qk_(d_qk), d_v_(d_v) {}

  void run() {
    d_kv_.assign(size_t(p_.s_kv) * d_qk_, 0.0);
    for (int query = 0; query < p_.s_q; ++query) {
      const int length = p_.topk_length ? p_.topk_length[query] : p_.topk;
      const bool sound = length >= 0 && length <= p_.topk;
      for (int head = 0; head < p_.h_q; ++head) differentiate(query, head, sound, sound ? length : 0);
    }
    for (size_t i = 0; i < d_kv_.size(); ++i) p_.d_kv[i] = float(d_kv_[i]);
  }

 private:
  const SparseBackwardParams& p_;
  const int d_qk_, d_v_;
  std::vector<double> d_kv_;

  static double dot(const Element* x, const Element* y, int dims) {
    double sum = 0;
    for (int d = 0; d < dims; ++d) sum += to_double(x[d]) * to_double(y[d]);
    return sum;
  }

  // The gradient of one head of a query token, and what it adds to those of its keys.
  void differentiate(int query, int head, bool sound, int length) {
    const int64_t row = int64_t(query) * p_.h_q + head;
    const auto* q = static_cast<const Element*>(p_.q) + row * d_qk_;
    const auto* d_out = static_cast<const Element*>(p_.d_out) + row * d_v_;
    std::vector<double> d_q(d_qk_, sound ? 0.0 : kNaN);
    for (int i = 0; i < length; ++i) {
      const int64_t token = p_.indices[int64_t(query) * p_.topk + i];
      if (token < 0 || token >= p_.s_kv) continue;
      const auto* key = static_cast<const Element*>(p_.kv) + token * d_qk_;
      const double probability = std::exp(dot(q, key, d_qk_) * p_.scale - p_.lse[row]);
      const double gradient = probability * (p_.share[row] * dot(d_out, key, d_v_) - p_.delta[row]) * p_.scale;
      double* d_key = d_kv_.data() + token * d_qk_;
      for (int d = 0; d < d_qk_; ++d) {
        d_q[d] += gradient * to_double(key[d]);
        d_key[d] += gradient * to_double(q[d]);
      }
      for (int d = 0; d < d_v_; ++d) d_key[d] += probability * p_.share[row] * to_double(d_out[d]);
    }
    for (int d = 0; d < d_qk_; ++d) assign(static_cast<Element*>(p_.d_q)[row * d_qk_ + d], d_q[d]);
  }
};

}  // namespace

ffi::Error host_sparse_backward(const SparseBackwardParams& params, ffi::DataType type, int d_qk, int d_v) {
  switch (type) {
    case ffi::F32:
      HostSparseBackward<float>(params, d_qk, d_v).run();
      break;
    case ffi::BF16:
      HostSparseBackward<__nv_bfloat16>(params, d_qk, d_v).run();
      break;
    case ffi::F16:
      HostSparseBackward<__half>(params, d_qk, d_v).run();
      break;
    default:
      return ffi::Error::InvalidArgument("sparse_backward: q must be bfloat16, float16 or float32");
  }
  return ffi::Error::Success();
}

}  // namespace jax_flash_mla
