// The launch of one instance of SM100 multi-head attention, forward.
#pragma once

#include "cuda/device/launch.h"
#include "cuda/device/math.cuh"
#include "cuda/mha/tensor_map.h"
#include "cuda/sm100/mha_forward/kernel.cuh"

namespace jax_flash_mla::mha_forward_sm100 {

template <typename Config>
cudaError_t initialize() {
  return device::prepare(mha_forward_kernel<Config>, sizeof(typename Config::SharedStorage));
}

template <typename Config>
cudaError_t launch(const MhaForwardParams& params, int num_sms, cudaStream_t stream) {
  using Element = typename Config::Element;
  const MhaForwardParams& p = params;
  const Grid grid = {device::scale_log2(p.scale)};
  const int packs = p.queries.packs, tokens_q = p.queries.tokens;
  Maps maps;
  for (const cudaError_t error :
       {mha::make_token_map<Element>(&maps.q, p.q, packs, tokens_q, p.h_q, Config::kDimQK, Config::kTileRows),
        mha::make_token_map<Element>(&maps.k, p.k, packs, p.tokens_kv, p.h_kv, Config::kDimQK, Config::kBlock),
        mha::make_token_map<Element>(&maps.v, p.v, packs, p.tokens_kv, p.h_kv, Config::kDimV, Config::kValueTokens)}) {
    if (error != cudaSuccess) return error;
  }
  const device::Blocks blocks = {num_sms, Config::kThreads, sizeof(typename Config::SharedStorage), false};
  return device::launch(mha_forward_kernel<Config>, blocks, stream, params, grid, maps);
}

}  // namespace jax_flash_mla::mha_forward_sm100
