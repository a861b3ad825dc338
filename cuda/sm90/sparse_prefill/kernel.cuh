// SM90 sparse prefill: attention of tiles of 64 heads of a query token over the keys that its indices name.
//
// Two warpgroups multiply (mla/warpgroup.cuh), a third gathers (loader.cuh). What is here: which keys are there, and where
// results go. Thread blocks take tiles in turn, so that those of one query token gather the same keys side by side.
#pragma once

#include "cuda/sm90/mla/validity.cuh"
#include "cuda/sm90/mla/warpgroup.cuh"
#include "cuda/sm90/sparse_prefill/config.h"
#include "cuda/sm90/sparse_prefill/loader.cuh"

namespace jax_flash_mla::sparse_prefill_sm90 {

template <typename Config>
class Attention : public mla_sm90::Warpgroup<Config, Attention<Config>> {
  using Base = mla_sm90::Warpgroup<Config, Attention<Config>>;

 public:
  __device__ __forceinline__ Attention(const SparsePrefillParams& params, const Grid& grid,
                                       typename Config::SharedStorage& shared, int self)
      : Base(shared, self, grid.scale_log2), params_(params) {}

 private:
  friend Base;
  using Base::row, Base::row_max_, Base::row_sum_, Base::largest_, Base::out_factor_;
  using Base::shared_, Base::self_, Base::lane_, Base::items_;
  using typename Base::Element;

  const SparsePrefillParams& params_;

  // Read anew from shared memory wherever it is wanted, since registers are few.
  __device__ __forceinline__ const Item& item() const { return shared_.items[items_ % 2]; }

  __device__ __forceinline__ bool is_end() const { return item().query < 0; }
  __device__ __forceinline__ bool is_sound() const { return item().sound; }
  __device__ __forceinline__ bool is_sound(int) const { return true; }
  __device__ __forceinline__ int begin() const { return item().blocks; }

  // -inf where an index names nothing.
  __device__ __forceinline__ void prepare(float (&scores)[Config::kScores], int) const {
    const uint2 valid = *reinterpret_cast<const uint2*>(shared_.valid[self_]);
    mla_sm90::mask_absent(scores, {valid.x, valid.y});
  }

  // The part e^lse / (e^lse + e^sink) of the probability that is the keys'.
  __device__ __forceinline__ float keys_share(int query, int head, float lse) const {
    if (!params_.attn_sink) return 1.0f;
    const int64_t sink_row = query / (params_.s_q / params_.sink_rows);
    return __fdividef(1.0f, 1.0f + __expf(params_.attn_sink[sink_row * params_.h_q + head] - lse));
  }

  __device__ __forceinline__ void write(uint32_t number) {
    const Item item = shared_.items[number % 2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int head = item.tile * Config::kBlockM + row() + 8 * r;
      const bool exists = head < params_.h_q;
      const int64_t place = int64_t(item.query) * params_.h_q + (exists ? head : 0);
      const bool attends = row_sum_[r] != 0.0f;
      const float lse_log2 = attends ? row_max_[r] + log2f(row_sum_[r]) : -device::kInfinity;
      const float lse = lse_log2 * device::kLn2;
      const float factor =
          attends ? __fdividef(keys_share(item.query, exists ? head : 0, lse) * out_factor_[r], row_sum_[r]) : 0.0f;
      if (exists && self_ == 0 && lane_ % 4 == 0) {
        params_.max_logits[place] = !item.sound     ? device::kNaN
                                    : params_.base2 ? largest_[r]
                                                    : largest_[r] * device::kLn2;
        params_.lse[place] = params_.base2 ? lse_log2 : lse;
      }
      this->store_row(r, exists, static_cast<Element*>(params_.out) + place * Config::kDimV, factor);
    }
  }
};

// ---------------------------------------------------------------------------------------------------------------------

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    sparse_prefill_kernel(const __grid_constant__ SparsePrefillParams params, const __grid_constant__ Grid grid) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<typename Config::SharedStorage*>(memory);
  if (threadIdx.x == 0) {
    mla_sm90::init_barriers<Config>(shared, Loader<Config>::kQueryArrivals,
                                    [](int, int) { return Loader<Config>::kHalfArrivals; });
  }
  __syncthreads();

  const int warpgroup = device::uniform(threadIdx.x / 128);
  if (warpgroup == Config::kWarpgroups) {
    device::release_registers<Config::kLoaderRegisters>();
    Loader<Config>(params, grid, shared).run();
  } else {
    device::claim_registers<Config::kMathRegisters>();
    Attention<Config>(params, grid, shared, warpgroup).run();
  }
}

}  // namespace jax_flash_mla::sparse_prefill_sm90
