// What CUTLASS's examples use of cuRAND, whose headers come with no package that this library needs: numbers to fill
// their tensors with. Any good ones will do, since results are compared with a reference that is given the same.
#pragma once

#include <cstdint>

struct curandState {
  uint64_t counter;
};
using curandState_t = curandState;

// SplitMix64: a counter whose bits are mixed.
__device__ inline uint64_t random_bits(curandState* state) {
  uint64_t x = state->counter += 0x9E3779B97F4A7C15;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
  x = (x ^ x >> 27) * 0x94D049BB133111EB;
  return x ^ x >> 31;
}

__device__ inline void curand_init(uint64_t seed, uint64_t sequence, uint64_t offset, curandState* state) {
  state->counter = seed;
  state->counter = random_bits(state) + sequence;
  state->counter = random_bits(state) + offset;
}

// In (0, 1].
__device__ inline double curand_uniform_double(curandState* state) {
  return double((random_bits(state) >> 11) + 1) * 0x1p-53;
}
__device__ inline float curand_uniform(curandState* state) { return float((random_bits(state) >> 40) + 1) * 0x1p-24f; }

// Of mean 0 and variance 1, by Box and Muller.
__device__ inline double curand_normal_double(curandState* state) {
  const double radius = sqrt(-2 * log(curand_uniform_double(state)));
  return radius * cospi(2 * curand_uniform_double(state));
}
__device__ inline float curand_normal(curandState* state) {
  const float radius = sqrtf(-2 * logf(curand_uniform(state)));
  return radius * cospif(2 * curand_uniform(state));
}
