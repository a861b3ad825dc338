// d_q: tiles of 128 queries of a head over blocks of 64 keys.
//
//   warpgroup w   q · kᵀ | d_out · vᵀ, weights | gradients of scores | d_q += those · k, q · kᵀ of the next | ...
//
// Weights come from the log-sum-exp; those of a query are relative to its own, so that nothing is rescaled. One warpgroup's
// exponentials fall under the other one's products, and under its own second one.
#pragma once

#include "cuda/sm90/mha_backward/loader.cuh"
#include "cuda/sm90/mha_backward/warpgroup.cuh"

namespace jax_flash_mla::mha_backward_sm90 {

template <typename Config>
class QueryGradient : public Warpgroup<Config, QueryGradient<Config>> {
  using Base = Warpgroup<Config, QueryGradient<Config>>;

 public:
  using Base::Base;

 private:
  friend Base;
  using Base::params_, Base::shared_, Base::lane_, Base::scale_log2_, Base::item, Base::stage, Base::row, Base::round_;

  float d_q_[Config::kDimQK / 2];
  float lse_[2], delta_[2];  // of both of this thread's rows; the former base 2
  uint32_t pairs_[Config::kPairs];

  __device__ __forceinline__ void start() {
    for (float& x : d_q_) x = 0.0f;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = this->row() + 8 * r;
      const bool exists = row < item().rows && item().first_block < item().last_block;
      const int64_t place = (item().first_row + (exists ? row : 0)) * params_.h_q + item().head;
      const float lse = exists ? params_.lse[place] : 0.0f;
      lse_[r] = lse == -device::kInfinity ? 0.0f : lse * device::kLog2E;
      delta_[r] = exists ? params_.delta[place] : 0.0f;
    }
  }

  __device__ __forceinline__ void add_block(int, int block) {
    float scores[Config::kScores], d_weights[Config::kScores];
    this->template wait_for_block<false>(block);
    this->template multiply<Config::kKeyPanels>(shared_.own_keys, shared_.other_keys[stage()], scores);
    this->template multiply<Config::kValuePanels>(shared_.own_values, shared_.other_values[stage()], d_weights);
    device::wgmma_wait<1>();
    device::pin_registers(scores);
    device::pin_registers(d_q_);
    device::pin_registers(pairs_);
    if (block > item().first_block) device::arrive(shared_.empty[(round_ - 1) % Config::kStages]);
    const int first_key = block * Config::kBlockTokens, keys = item().other_length;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      // Of this thread's columns, as many are seen.
      const int visible = params_.causal ? item().first_visible + row() + 8 * r : keys;
      const int columns = min(visible, keys) - first_key - lane_ % 4 * 2;
#pragma unroll
      for (int i = 2 * r; i < Config::kScores; i += 4) {
#pragma unroll
        for (int j = i; j < i + 2; ++j) {
          const float weight = device::exp2_fast(fmaf(scores[j], scale_log2_, -lse_[r]));
          scores[j] = i / 4 * 8 + j - i < columns ? weight : 0.0f;
        }
      }
    }
    device::wgmma_wait<0>();
    device::pin_registers(d_weights);
#pragma unroll
    for (int i = 0; i < Config::kScores; ++i) {
      // What is not seen has no gradient, whatever its value is.
      d_weights[i] = scores[i] == 0.0f ? 0.0f : scores[i] * (d_weights[i] - delta_[i / 2 % 2]);
    }
    this->pack(d_weights, pairs_);
    this->template add<Config::kDimQK>(pairs_, shared_.other_keys[stage()], d_q_);
  }

  __device__ __forceinline__ void write() {
    device::pin_registers(d_q_);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      this->template store<Config::kDimQK>(d_q_, r, params_.d_q, params_.h_q, params_.queries, params_.scale);
    }
  }
};

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    mha_query_gradient_kernel(const __grid_constant__ MhaBackwardParams params, const __grid_constant__ Maps maps) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<typename Config::SharedStorage*>(memory);
  if (threadIdx.x == 0) init_barriers<Config>(shared, Loader<Config, true>::kBlockArrivals);
  __syncthreads();

  const int warpgroup = device::uniform(threadIdx.x / 128);
  if (warpgroup == Config::kWarpgroups) {
    device::release_registers<Config::kLoaderRegisters>();
    if (threadIdx.x / 32 % 4 == 0) Loader<Config, true>(params, maps, shared).run();
  } else {
    device::claim_registers<Config::kMathRegisters>();
    QueryGradient<Config>(params, shared, warpgroup).run();
  }
}

}  // namespace jax_flash_mla::mha_backward_sm90
