#include "bindings/testing/host_mha_backward.h"

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
class HostMhaBackward {
 public:
  HostMhaBackward(const MhaBackwardParams& params, int d_qk, int d_v)
      : p_(params), d_qk_(d_qk), d_v_(d_v), group_(params.h_q / params.h_kv) {}

  void run() {
    const auto zeros = [](const MhaSide& side, int heads, int dims) {
      return std::vector<double>(size_t(side.packs) * side.tokens * heads * dims, 0.0);
    };
    d_q_ = zeros(p_.queries, p_.h_q, d_qk_);
    d_k_ = zeros(p_.keys, p_.h_kv, d_qk_);
    d_v_sums_ = zeros(p_.keys, p_.h_kv, d_v_);
    for (int pack = 0; pack < p_.queries.packs; ++pack) {
      for (int i = 1; i <= p_.queries.sequences; ++i) {
        const MhaRange& range = p_.queries.ranges[int64_t(pack) * (p_.queries.sequences + 1) + i];
        for (int head = 0; head < p_.h_q; ++head) {
          for (int query = 0; query < range.length; ++query) differentiate(pack, range, head, query);
        }
      }
    }
    write(p_.queries, p_.h_q, d_qk_, d_q_, p_.d_q);
    write(p_.keys, p_.h_kv, d_qk_, d_k_, p_.d_k);
    write(p_.keys, p_.h_kv, d_v_, d_v_sums_, p_.d_v);
  }

 private:
  const MhaBackwardParams& p_;
  const int d_qk_, d_v_, group_;
  std::vector<double> d_q_, d_k_, d_v_sums_;

  static double dot(const Element* x, const Element* y, int dims) {
    double sum = 0;
    for (int d = 0; d < dims; ++d) sum += to_double(x[d]) * to_double(y[d]);
    return sum;
  }

  // Adds what a query and the keys that it sees contribute.
  void differentiate(int pack, const MhaRange& range, int head, int query) {
    const int64_t row = (int64_t(pack) * p_.queries.tokens + range.first + query) * p_.h_q + head;
    const auto* q = static_cast<const Element*>(p_.q) + row * d_qk_;
    const auto* d_out = static_cast<const Element*>(p_.d_out) + row * d_v_;
    for (int key = 0; key < range.other_length; ++key) {
      if (p_.causal && key > int64_t(query) + range.other_length - range.length) break;
      const int64_t key_row = (int64_t(pack) * p_.keys.tokens + range.other_first + key) * p_.h_kv + head / group_;
      const auto* k = static_cast<const Element*>(p_.k) + key_row * d_qk_;
      const auto* v = static_cast<const Element*>(p_.v) + key_row * d_v_;
      const double weight = std::exp(dot(q, k, d_qk_) * p_.scale - p_.lse[row]);
      const double gradient = weight * (dot(d_out, v, d_v_) - p_.delta[row]) * p_.scale;
      for (int d = 0; d < d_qk_; ++d) {
        d_q_[row * d_qk_ + d] += gradient * to_double(k[d]);
        d_k_[key_row * d_qk_ + d] += gradient * to_double(q[d]);
      }
      for (int d = 0; d < d_v_; ++d) d_v_sums_[key_row * d_v_ + d] += weight * to_double(d_out[d]);
    }
  }

  // Sums as results, with NaN in tokens that no sequence owns and an unsound one claims, before the last bound.
  static void write(const MhaSide& side, int heads, int dims, std::vector<double>& sums, void* results) {
    const int64_t per_token = int64_t(heads) * dims;
    for (int pack = 0; pack < side.packs; ++pack) {
      const MhaRange* ranges = side.ranges + int64_t(pack) * (side.sequences + 1);
      const int32_t* bounds = side.bounds + int64_t(pack) * (side.sequences + 1);
      for (int i = 0; i <= side.sequences; ++i) {
        const int begin = ranges[i].first + ranges[i].length;
        for (int token = begin; token < begin + ranges[i].gap; ++token) {
          bool is_claimed = false;
          for (int j = 0; j < side.sequences; ++j) {
            is_claimed |= !ranges[j + 1].sound && bounds[j] <= token && token < bounds[j + 1];
          }
          if (!is_claimed || token >= bounds[side.sequences]) continue;
          for (int64_t d = 0; d < per_token; ++d) sums[(int64_t(pack) * side.tokens + token) * per_token + d] = kNaN;
        }
      }
    }
    for (size_t i = 0; i < sums.size(); ++i) assign(static_cast<Element*>(results)[i], sums[i]);
  }
};

}  // namespace

ffi::Error host_mha_backward(const MhaBackwardParams& params, ffi::DataType type, int d_qk, int d_v) {
  switch (type) {
    case ffi::F32:
      HostMhaBackward<float>(params, d_qk, d_v).run();
      break;
    case ffi::BF16:
      HostMhaBackward<__nv_bfloat16>(params, d_qk, d_v).run();
      break;
    case ffi::F16:
      HostMhaBackward<__half>(params, d_qk, d_v).run();
      break;
    default:
      return ffi::Error::InvalidArgument("mha_backward: q must be bfloat16, float16 or float32");
  }
  return ffi::Error::Success();
}

}  // namespace jax_flash_mla
