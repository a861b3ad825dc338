// The multiplying warpgroups of an operation whose tiles are split: they take pieces, and leave results or partial ones.
#pragma once

#include "cuda/device/math.cuh"
#include "cuda/sm90/mla/warpgroup.cuh"
#include "cuda/sm90/split/work.h"

namespace jax_flash_mla::split_sm90 {

// As mla_sm90::Warpgroup, of whose `Role` begin, is_sound(stage) and prepare are left to do. `SharedStorage` has items[2],
// in turn, each with a `piece`, whose request is -1 where there is no more work, and `sound`. `Problem` is as combine.cuh
// wants it, and has `params` with the scratch.
template <typename Config, typename Role, typename Problem>
class Attention : public mla_sm90::Warpgroup<Config, Role> {
  using Base = mla_sm90::Warpgroup<Config, Role>;

 public:
  __device__ __forceinline__ Attention(const Problem& problem, typename Config::SharedStorage& shared, int self)
      : Base(shared, self, problem.grid.scale_log2), problem_(problem) {}

  // Whether results are to be combined; at the end.
  __device__ __forceinline__ bool has_cuts() const { return !item().piece.whole; }

  __device__ __forceinline__ bool is_end() const { return item().piece.request < 0; }
  __device__ __forceinline__ bool is_sound() const { return item().sound; }

  // Normalises the tile's columns and writes them: as a result, or as a partial one.
  __device__ __forceinline__ void write(uint32_t number) {
    const Piece piece = shared_.items[number % 2].piece;
    const int rows = problem_.rows(piece.tile);
    const bool writes_lse = self_ == 0 && lane_ % 4 == 0;
    const int place = partial_tile(blockIdx.x, piece.first_block == 0);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = this->row() + 8 * r;
      const bool exists = row < rows;
      const bool attends = row_sum_[r] != 0.0f;
      const float lse_log2 = attends ? row_max_[r] + log2f(row_sum_[r]) : -device::kInfinity;
      if (piece.whole) {
        const int real_row = exists ? row : 0;
        const float lse = lse_log2 * device::kLn2;
        const float share = attends ? problem_.keys_share(piece.request, piece.tile, real_row, lse) : 0.0f;
        if (exists && writes_lse) problem_.put(piece.request, piece.tile, row, lse);
        this->store_row(r, exists, problem_.out(piece.request, piece.tile, real_row),
                        attends ? __fdividef(share * out_factor_[r], row_sum_[r]) : 0.0f);
      } else if (exists) {
        const float factor = __fdividef(out_factor_[r], row_sum_[r]);
        if (writes_lse) problem_.params.partial_lse[place * Config::kBlockM + row] = lse_log2;
        auto* target = reinterpret_cast<float4*>(problem_.params.partial_out) +
                       partial_vector(place, self_, this->warp(), r, 0, lane_);
#pragma unroll
        for (int i = 0; i < Config::kOutputs; i += 8) {
          const float* x = out_ + i + 2 * r;
          target[i / 8 * 32] = attends ? make_float4(x[0] * factor, x[1] * factor, x[4] * factor, x[5] * factor)
                                       : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
      }
    }
  }

 protected:
  using Base::shared_, Base::self_, Base::lane_, Base::items_, Base::out_, Base::row_max_, Base::row_sum_,
      Base::out_factor_;

  const Problem& problem_;

  // Read anew from shared memory wherever it is wanted, since registers are few.
  __device__ __forceinline__ const auto& item() const { return shared_.items[items_ % 2]; }
};

}  // namespace jax_flash_mla::split_sm90
