#include "bindings/testing/host_sparse_decode.h"

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

constexpr int kRotary = 64;

double e4m3(uint8_t code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return kNaN;
  const double size = exponent ? std::ldexp(8 + mantissa, exponent - 10) : std::ldexp(mantissa, -9);
  return code & 0x80 ? -size : size;
}

double e8m0(uint8_t code) { return code == 255 ? kNaN : std::ldexp(1, code - 127); }

template <typename T>
T read(const uint8_t* place) {
  T value;
  std::memcpy(&value, place, sizeof(value));
  return value;
}

using Key = std::vector<double>;

// Token after token: 512 codes, four float32 scales, rotary dimensions.
Key v32_key(const SparseDecodeList& list, int64_t index) {
  constexpr int kCodes = 512, kGroup = 128, kTokenBytes = 656;
  const uint8_t* token = static_cast<const uint8_t*>(list.cache) + index * kTokenBytes;
  Key key;
  for (int d = 0; d < kCodes; ++d) key.push_back(e4m3(token[d]) * double(read<float>(token + kCodes + d / kGroup * 4)));
  for (int d = 0; d < kRotary; ++d)
    key.push_back(to_double(read<__nv_bfloat16>(token + kTokenBytes - 2 * kRotary + 2 * d)));
  return key;
}

// Page after page: 448 codes and rotary dimensions of all its tokens, then seven e8m0 scales and a byte of each.
Key model1_key(const SparseDecodeList& list, int64_t index) {
  constexpr int kCodes = 448, kGroup = 64, kTokenBytes = 584, kScaleBytes = 8;
  const int64_t page = index / list.page_size, slot = index % list.page_size;
  const uint8_t* first = static_cast<const uint8_t*>(list.cache) + page * list.page_size * kTokenBytes;
  const uint8_t* token = first + slot * (kTokenBytes - kScaleBytes);
  const uint8_t* scales = first + list.page_size * (kTokenBytes - kScaleBytes) + slot * kScaleBytes;
  Key key;
  for (int d = 0; d < kCodes; ++d) key.push_back(e4m3(token[d]) * e8m0(scales[d / kGroup]));
  for (int d = 0; d < kRotary; ++d) key.push_back(to_double(read<__nv_bfloat16>(token + kCodes + 2 * d)));
  return key;
}

template <typename Element>
class HostSparseDecode {
 public:
  HostSparseDecode(const SparseDecodeParams& params, int d_qk) : p_(params), d_qk_(d_qk) {}

  void run() {
    for (int64_t token = 0; token < int64_t(p_.b) * p_.s_q; ++token) {
      keys_.clear();
      bool sound = true;
      for (const SparseDecodeList& list : p_.lists) sound &= find_keys(list, token);
      for (int head = 0; head < p_.h_q; ++head) attend(token, head, sound);
    }
  }

 private:
  const SparseDecodeParams& p_;
  const int d_qk_;
  std::vector<Key> keys_;  // of the query token

  // Adds the keys that the query token's indices name; false where its length is out of range.
  bool find_keys(const SparseDecodeList& list, int64_t token) {
    const int length = list.lengths ? list.lengths[token] : list.topk;
    if (length < 0 || length > list.topk) return false;
    const int64_t slots = int64_t(list.num_pages) * list.page_size;
    for (int i = 0; i < length; ++i) {
      const int64_t index = list.indices[token * list.topk + i];
      if (index >= 0 && index < slots) keys_.push_back(d_qk_ == 576 ? v32_key(list, index) : model1_key(list, index));
    }
    return true;
  }

  void attend(int64_t token, int head, bool sound) {
    const auto* q = static_cast<const Element*>(p_.q) + (token * p_.h_q + head) * d_qk_;
    std::vector<double> scores;
    double largest = -kInfinity;
    for (const Key& key : keys_) {
      double product = 0;
      for (int d = 0; d < d_qk_; ++d) product += to_double(q[d]) * key[d];
      scores.push_back(product * p_.scale);
      largest = std::fmax(largest, scores.back());
    }
    double sum = 0;
    std::vector<double> weighted(kSparseDecodeDimV, 0.0);
    for (size_t i = 0; i < keys_.size(); ++i) {
      const double weight = std::exp(scores[i] - (largest == -kInfinity ? 0 : largest));
      sum += weight;
      for (int d = 0; d < kSparseDecodeDimV; ++d) weighted[d] += weight * keys_[i][d];
    }
    if (!sound) sum = kNaN;
    const double lse = sum == 0 ? -kInfinity : largest + std::log(sum);
    const int64_t request = token / p_.s_q;
    double sink = -kInfinity;
    if (p_.attn_sink) sink = p_.attn_sink[request * p_.sink_rows / p_.b * p_.h_q + head];
    const double share = sum == 0 ? 0 : 1 / (1 + std::exp(sink - lse));
    p_.lse[(request * p_.h_q + head) * p_.s_q + token % p_.s_q] = float(lse);
    auto* out = static_cast<Element*>(p_.out) + (token * p_.h_q + head) * kSparseDecodeDimV;
    for (int d = 0; d < kSparseDecodeDimV; ++d) assign(out[d], sum == 0 ? 0 : share * weighted[d] / sum);
  }
};

}  // namespace

ffi::Error host_sparse_decode(const SparseDecodeParams& params, ffi::DataType type, int d_qk) {
  switch (type) {
    case ffi::F32:
      HostSparseDecode<float>(params, d_qk).run();
      break;
    case ffi::BF16:
      HostSparseDecode<__nv_bfloat16>(params, d_qk).run();
      break;
    case ffi::F16:
      HostSparseDecode<__half>(params, d_qk).run();
      break;
    default:
      return ffi::Error::InvalidArgument("sparse_decode: q must be bfloat16, float16 or float32");
  }
  return ffi::Error::Success();
}

}  // namespace jax_flash_mla
