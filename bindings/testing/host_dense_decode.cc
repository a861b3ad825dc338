#include "bindings/testing/host_dense_decode.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bindings/testing/host_numbers.h"

namespace jax_flash_mla {

namespace ffi = xla::ffi;

namespace {

using namespace host;

template <typename Element>
class HostDenseDecode {
 public:
  HostDenseDecode(const DenseDecodeParams& params, int d_qk, int d_v) : p_(params), d_qk_(d_qk), d_v_(d_v) {}

  void run() {
    for (int request = 0; request < p_.b; ++request) {
      const bool sound = find_keys(request);
      for (int token = 0; token < p_.s_q; ++token) {
        for (int head = 0; head < p_.h_q; ++head) attend(request, token, head, sound);
      }
    }
  }

 private:
  const DenseDecodeParams& p_;
  const int d_qk_, d_v_;
  std::vector<int64_t> slots_;  // of the request's keys: page · page_size + place in the page

  // Where the keys of a request lie; false where its length or a page that it needs is out of range.
  bool find_keys(int request) {
    const int length = p_.cache_seqlens[request];
    slots_.clear();
    if (length < 0 || length > int64_t(p_.max_pages) * p_.page_size) return false;
    for (int key = 0; key < length; ++key) {
      const int page = p_.block_table[int64_t(request) * p_.max_pages + key / p_.page_size];
      if (page < 0 || page >= p_.num_pages) return false;
      slots_.push_back(int64_t(page) * p_.page_size + key % p_.page_size);
    }
    return true;
  }

  const Element* key(int64_t slot, int head) const {
    const int64_t row = slot * p_.h_kv + head / (p_.h_q / p_.h_kv);
    return static_cast<const Element*>(p_.k_cache) + row * d_qk_;
  }

  void attend(int request, int token, int head, bool sound) {
    const int64_t row = (int64_t(request) * p_.s_q + token) * p_.h_q + head;
    const auto* q = static_cast<const Element*>(p_.q) + row * d_qk_;
    auto* out = static_cast<Element*>(p_.out) + row * d_v_;
    float& lse = p_.lse[(int64_t(request) * p_.h_q + head) * p_.s_q + token];
    const int64_t length = slots_.size();
    const int64_t seen = p_.causal ? std::max<int64_t>(0, length + token + 1 - p_.s_q) : length;

    std::vector<double> scores(sound ? seen : 0);
    double largest = -kInfinity;
    for (size_t i = 0; i < scores.size(); ++i) {
      const Element* k = key(slots_[i], head);
      double product = 0;
      for (int d = 0; d < d_qk_; ++d) product += to_double(q[d]) * to_double(k[d]);
      scores[i] = product * p_.scale;
      largest = std::fmax(largest, scores[i]);
    }
    double sum = 0;
    std::vector<double> weighted(d_v_, 0.0);
    for (size_t i = 0; i < scores.size(); ++i) {
      const double weight = std::exp(scores[i] - (largest == -kInfinity ? 0 : largest));
      sum += weight;
      const Element* v = key(slots_[i], head);
      for (int d = 0; d < d_v_; ++d) weighted[d] += weight * to_double(v[d]);
    }
    if (!sound) sum = kNaN;
    const double log_sum = sum == 0 ? -kInfinity : largest + std::log(sum);
    const double share = sum == 0 ? 0 : 1 / (1 + std::exp(sink(request, head) - log_sum));
    lse = float(log_sum);
    for (int d = 0; d < d_v_; ++d) assign(out[d], sum == 0 ? 0 : share * weighted[d] / sum);
  }

  double sink(int request, int head) const {
    if (!p_.attn_sink) return -kInfinity;
    return p_.attn_sink[int64_t(request) * p_.sink_rows / p_.b * p_.h_q + head];
  }
};

}  // namespace

ffi::Error host_dense_decode(const DenseDecodeParams& params, ffi::DataType type, int d_qk, int d_v) {
  constexpr size_t kRows = size_t(kDenseDecodePartialTiles) * kDenseDecodeTileRows;
  std::memset(params.partial_out, 0xFF, kRows * d_v * sizeof(float));
  std::memset(params.partial_lse, 0xFF, kRows * sizeof(float));
  switch (type) {
    case ffi::F32:
      HostDenseDecode<float>(params, d_qk, d_v).run();
      break;
    case ffi::BF16:
      HostDenseDecode<__nv_bfloat16>(params, d_qk, d_v).run();
      break;
    case ffi::F16:
      HostDenseDecode<__half>(params, d_qk, d_v).run();
      break;
    default:
      return ffi::Error::InvalidArgument("dense_decode: q must be bfloat16, float16 or float32");
  }
  return ffi::Error::Success();
}

}  // namespace jax_flash_mla
