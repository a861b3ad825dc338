#include "bindings/testing/host_cache_write.h"

#include <cuda_fp8.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>

#include "bindings/cache_format.h"
#include "bindings/testing/host_numbers.h"

namespace jax_flash_mla {

namespace ffi = xla::ffi;

namespace {

float load(const void* values, int64_t i, FloatType type) {
  switch (type) {
    case FloatType::kBf16:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(values)[i]);
    case FloatType::kFp16:
      return __half2float(static_cast<const __half*>(values)[i]);
    default:
      return static_cast<const float*>(values)[i];
  }
}

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

// Quantises a group of values; returns the bits of its scale.
uint32_t quantize_group(const CacheWriteParams& p, int64_t first, int64_t count, bool power_of_two, uint8_t* codes) {
  float largest = 0;
  bool is_finite = true;
  for (int64_t i = first; i < first + count; ++i) {
    const float x = load(p.latent, i, p.latent_type);
    is_finite &= std::isfinite(x);
    largest = std::max(largest, std::fabs(x));
  }
  float scale = std::max(largest / 448.0f, 1e-4f);
  if (power_of_two) {
    int exponent;
    const float mantissa = std::frexp(scale, &exponent);
    scale = std::ldexp(1.0f, mantissa == 0.5f ? exponent - 1 : exponent);
  }
  for (int64_t i = 0; i < count; ++i) {
    const float quotient = load(p.latent, first + i, p.latent_type) / scale;
    codes[i] = is_finite ? __nv_cvt_float_to_fp8(quotient, __NV_SATFINITE, __NV_E4M3) : uint8_t(0x7F);
  }
  return is_finite ? bits_of(scale) : bits_of(float(host::kNaN));
}

void write_token(const CacheWriteParams& p, const CacheFormat& format, int64_t token, int64_t slot) {
  const bool planar = format.token_bytes == kModel1.token_bytes;
  const int64_t group = planar ? 64 : 128, body_bytes = planar ? 576 : format.token_bytes;
  const int64_t page = slot / p.page_size, in_page = slot % p.page_size;
  auto* const first = static_cast<uint8_t*>(p.cache) + page * p.page_size * format.token_bytes;
  uint8_t* const body = first + in_page * body_bytes;
  uint8_t* scales = planar ? first + p.page_size * body_bytes + in_page * 8 : body + format.latent;
  for (int64_t i = 0; i < format.latent; i += group) {
    const uint32_t bits =
        quantize_group(p, token * format.latent + i, group, planar || p.power_of_two_scales, body + i);
    if (planar) {
      *scales++ = uint8_t(bits >> 23 & 0xFF);
    } else {
      std::memcpy(scales, &bits, sizeof(bits));
      scales += sizeof(bits);
    }
  }
  if (planar) *scales = 0;
  uint8_t* const rotary = body + body_bytes - 2 * kCacheWriteRotary;
  for (int64_t i = 0; i < kCacheWriteRotary; ++i) {
    const int64_t from = token * kCacheWriteRotary + i;
    __nv_bfloat16 x;
    if (p.rope_type == FloatType::kBf16) {
      x = static_cast<const __nv_bfloat16*>(p.rope)[from];
    } else {
      x = __float2bfloat16(load(p.rope, from, p.rope_type));
    }
    std::memcpy(rotary + 2 * i, &x, sizeof(x));
  }
}

}  // namespace

ffi::Error host_cache_write(const CacheWriteParams& params, int64_t token_bytes) {
  const CacheFormat& format = token_bytes == kV32.token_bytes ? kV32 : kModel1;
  for (int64_t token = 0; token < params.tokens; ++token) {
    const int64_t slot = params.slots ? params.slots[token] : token;
    if (slot >= 0 && slot < int64_t(params.num_pages) * params.page_size) write_token(params, format, token, slot);
  }
  return ffi::Error::Success();
}

}  // namespace jax_flash_mla
