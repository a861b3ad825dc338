// Writing an FP8 cache on SM90: the formats and the sizes of the launch.
#pragma once

#include "cuda/sm90/cache_write/params.h"

namespace jax_flash_mla::cache_write_sm90 {

// One warp writes one token.
inline constexpr int kWarps = 8, kThreads = kWarps * 32;
// Values of the latent vector that a lane quantises; the lanes of a scale's group are neighbours.
inline constexpr int kLaneValues = 16;
// Up to so many tokens each warp looks itself for later ones in its slot. More claim their slots beforehand.
inline constexpr int kMostSearched = 2048;

// Bytes of a page of P tokens.
struct V32 {
  static constexpr int kLatent = 512, kScaleGroup = 128;
  static constexpr bool kPowerOfTwoScales = false;
  // Token after token: codes, float32 scales, rotary dimensions.
  static constexpr int kBodyBytes = 656, kTokenBytes = kBodyBytes;
  static constexpr int kScalesAt = kLatent, kRotaryAt = kScalesAt + kLatent / kScaleGroup * 4;
  static_assert(kRotaryAt + 2 * kCacheWriteRotary == kBodyBytes);
};

struct Model1 {
  static constexpr int kLatent = 448, kScaleGroup = 64;
  static constexpr bool kPowerOfTwoScales = true;
  // All tokens' codes and rotary dimensions, then eight bytes of each: e8m0 scales, and a zero.
  static constexpr int kBodyBytes = 576, kScaleBytes = 8, kTokenBytes = kBodyBytes + kScaleBytes;
  static constexpr int kRotaryAt = kLatent;
  static_assert(kRotaryAt + 2 * kCacheWriteRotary == kBodyBytes);
  static_assert(kLatent / kScaleGroup + 1 == kScaleBytes);
};

}  // namespace jax_flash_mla::cache_write_sm90
