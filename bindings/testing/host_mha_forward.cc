#include "bindings/testing/host_mha_forward.h"

#include <algorithm>
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
class HostMhaForward {
 public:
  HostMhaForward(const MhaForwardParams& params, int d_qk, int d_v) : p_(params), d_qk_(d_qk), d_v_(d_v) {}

  void run() {
    for (int pack = 0; pack < p_.queries.packs; ++pack) {
      for (int i = 0; i <= p_.queries.sequences; ++i) {
        const MhaRange& range = ranges(pack)[i];
        for (int head = 0; head < p_.h_q; ++head) {
          for (int query = 0; query < range.length; ++query) attend(pack, range, head, query);
          for (int j = 0; j < range.gap; ++j) fill(pack, range.first + range.length + j, head);
        }
      }
    }
  }

 private:
  const MhaForwardParams& p_;
  const int d_qk_, d_v_;

  const MhaRange* ranges(int pack) const { return p_.queries.ranges + int64_t(pack) * (p_.queries.sequences + 1); }
  int64_t place(int pack, int token, int head) const {
    return (int64_t(pack) * p_.queries.tokens + token) * p_.h_q + head;
  }

  void attend(int pack, const MhaRange& range, int head, int query) {
    const int64_t row = place(pack, range.first + query, head);
    const auto* q = static_cast<const Element*>(p_.q) + row * d_qk_;
    const int64_t seen = p_.causal ? int64_t(query) + 1 + range.other_length - range.length : range.other_length;
    const int keys = int(std::clamp<int64_t>(seen, 0, range.other_length));
    const auto key_row = [&](int key) {
      return (int64_t(pack) * p_.tokens_kv + range.other_first + key) * p_.h_kv + head / (p_.h_q / p_.h_kv);
    };
    std::vector<double> scores(keys);
    double largest = -kInfinity;
    for (int key = 0; key < keys; ++key) {
      const auto* k = static_cast<const Element*>(p_.k) + key_row(key) * d_qk_;
      double product = 0;
      for (int d = 0; d < d_qk_; ++d) product += to_double(q[d]) * to_double(k[d]);
      scores[key] = product * p_.scale;
      largest = std::fmax(largest, scores[key]);
    }
    double sum = 0;
    std::vector<double> weighted(d_v_, 0.0);
    for (int key = 0; key < keys; ++key) {
      const auto* v = static_cast<const Element*>(p_.v) + key_row(key) * d_v_;
      const double weight = std::exp(scores[key] - (largest == -kInfinity ? 0 : largest));
      sum += weight;
      for (int d = 0; d < d_v_; ++d) weighted[d] += weight * to_double(v[d]);
    }
    p_.lse[row] = float(sum == 0 ? -kInfinity : largest + std::log(sum));
    auto* out = static_cast<Element*>(p_.out) + row * d_v_;
    for (int d = 0; d < d_v_; ++d) assign(out[d], sum == 0 ? 0 : weighted[d] / sum);
  }

  // A token that no sequence owns: NaN where an unsound one claims it, before the last bound.
  void fill(int pack, int token, int head) {
    const int32_t* bounds = p_.queries.bounds + int64_t(pack) * (p_.queries.sequences + 1);
    bool is_claimed = false;
    for (int i = 0; i < p_.queries.sequences; ++i) {
      is_claimed |= !ranges(pack)[i + 1].sound && bounds[i] <= token && token < bounds[i + 1];
    }
    is_claimed &= token < bounds[p_.queries.sequences];
    const int64_t row = place(pack, token, head);
    p_.lse[row] = is_claimed ? float(kNaN) : -float(kInfinity);
    auto* out = static_cast<Element*>(p_.out) + row * d_v_;
    for (int d = 0; d < d_v_; ++d) assign(out[d], is_claimed ? kNaN : 0);
  }
};

}  // namespace

ffi::Error host_mha_forward(const MhaForwardParams& params, ffi::DataType type, int d_qk, int d_v) {
  switch (type) {
    case ffi::F32:
      HostMhaForward<float>(params, d_qk, d_v).run();
      break;
    case ffi::BF16:
      HostMhaForward<__nv_bfloat16>(params, d_qk, d_v).run();
      break;
    case ffi::F16:
      HostMhaForward<__half>(params, d_qk, d_v).run();
      break;
    default:
      return ffi::Error::InvalidArgument("mha_forward: q must be bfloat16, float16 or float32");
  }
  return ffi::Error::Success();
}

}  // namespace jax_flash_mla
