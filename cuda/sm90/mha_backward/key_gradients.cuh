// d_k and d_v: tiles of 128 keys of a head over blocks of 64 queries, of all query heads that share the key head.
//
//   warpgroup w   k · qᵀ | weights | v · d_outᵀ, d_v += weights · d_out | gradients of scores | d_k += those · q | ...
//
// Rows are keys here, so that weights and gradients, as they come, are left operands of the sums. No two tiles write the same
// row: sums have a fixed order.
#pragma once

#include "cuda/sm90/mha_backward/loader.cuh"
#include "cuda/sm90/mha_backward/warpgroup.cuh"

namespace jax_flash_mla::mha_backward_sm90 {

template <typename Config>
class KeyGradients : public Warpgroup<Config, KeyGradients<Config>> {
  using Base = Warpgroup<Config, KeyGradients<Config>>;

 public:
  using Base::Base;

 private:
  friend Base;
  using Base::params_, Base::shared_, Base::lane_, Base::scale_log2_, Base::item, Base::stage, Base::row, Base::round_;

  float d_k_[Config::kDimQK / 2], d_v_[Config::kDimV / 2];
  uint32_t weights_[Config::kPairs], gradients_[Config::kPairs];

  __device__ __forceinline__ void start() {
    for (float& x : d_k_) x = 0.0f;
    for (float& x : d_v_) x = 0.0f;
  }

  __device__ __forceinline__ void add_block(int i, int block) {
    this->template wait_for_block<true>(block);
    float scores[Config::kScores];
    this->template multiply<Config::kKeyPanels>(shared_.own_keys, shared_.other_keys[stage()], scores);
    device::wgmma_wait<0>();
    device::pin_registers(scores);
    device::pin_registers(d_k_);
    device::pin_registers(gradients_);
    if (i > 0 || block > item().first_block) device::arrive(shared_.empty[(round_ - 1) % Config::kStages]);
    weigh(scores, block);
    this->pack(scores, weights_);
    float d_weights[Config::kScores];
    this->template add<Config::kDimV>(weights_, shared_.other_values[stage()], d_v_);
    this->template multiply<Config::kValuePanels>(shared_.own_values, shared_.other_values[stage()], d_weights);
    device::wgmma_wait<0>();
    device::pin_registers(d_v_);
    device::pin_registers(weights_);
    device::pin_registers(d_weights);
    differentiate(d_weights);
    this->pack(d_weights, gradients_);
    this->template add<Config::kDimQK>(gradients_, shared_.other_keys[stage()], d_k_);
  }

  // Scores become weights; zero where the query does not see the key.
  __device__ __forceinline__ void weigh(float (&scores)[Config::kScores], int block) const {
    const float2* lse = reinterpret_cast<const float2*>(shared_.lse[stage()]) + lane_ % 4;
    const int first_query = block * Config::kBlockTokens + lane_ % 4 * 2;
    const int queries = item().other_length - first_query;  // behind this thread's first column
#pragma unroll
    for (int i = 0; i < Config::kScores; i += 4) {
      const float2 of_columns = lse[i];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int seen_from = params_.causal ? item().first_visible + row() + 8 * r - first_query : 0;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          float& x = scores[i + 2 * r + j];
          const int column = i * 2 + j;
          const float weight = device::exp2_fast(fmaf(x, scale_log2_, -(j ? of_columns.y : of_columns.x)));
          x = column >= seen_from && column < queries ? weight : 0.0f;
        }
      }
    }
  }

  // Gradients of weights become those of scores. What is not seen has none, whatever its value is.
  __device__ __forceinline__ void differentiate(float (&d_weights)[Config::kScores]) const {
    const float2* delta = reinterpret_cast<const float2*>(shared_.delta[stage()]) + lane_ % 4;
#pragma unroll
    for (int i = 0; i < Config::kScores; i += 4) {
      const float2 of_columns = delta[i];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float2 weights = device::unpack<Element>(weights_[i / 2 + r]);
        float &x = d_weights[i + 2 * r], &y = d_weights[i + 2 * r + 1];
        x = weights.x == 0.0f ? 0.0f : weights.x * (x - of_columns.x);
        y = weights.y == 0.0f ? 0.0f : weights.y * (y - of_columns.y);
      }
    }
  }

  using typename Base::Element;

  __device__ __forceinline__ void write() {
    device::pin_registers(d_k_);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      this->template store<Config::kDimQK>(d_k_, r, params_.d_k, params_.h_kv, params_.keys, params_.scale);
      this->template store<Config::kDimV>(d_v_, r, params_.d_v, params_.h_kv, params_.keys, 1.0f);
    }
  }
};

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    mha_key_gradients_kernel(const __grid_constant__ MhaBackwardParams params, const __grid_constant__ Maps maps) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<typename Config::SharedStorage*>(memory);
  if (threadIdx.x == 0) init_barriers<Config>(shared, Loader<Config, false>::kBlockArrivals);
  __syncthreads();

  const int warpgroup = device::uniform(threadIdx.x / 128);
  if (warpgroup == Config::kWarpgroups) {
    device::release_registers<Config::kLoaderRegisters>();
    if (threadIdx.x / 32 % 4 == 0) Loader<Config, false>(params, maps, shared).run();
  } else {
    device::claim_registers<Config::kMathRegisters>();
    KeyGradients<Config>(params, shared, warpgroup).run();
  }
}

}  // namespace jax_flash_mla::mha_backward_sm90
