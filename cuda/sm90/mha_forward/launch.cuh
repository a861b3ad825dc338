// The launch of one instance of SM90 multi-head attention, forward.
#pragma once

#include "cuda/device/launch.h"
#include "cuda/device/math.cuh"
#include "cuda/mha/tensor_map.h"
#include "cuda/sm90/mha_forward/kernel.cuh"

namespace jax_flash_mla::mha_forward_sm90 {

template <typename Config>
cudaError_t initialize() {
  return device::prepare(mha_forward_kernel<Config>, sizeof(typename Config::SharedStorage));
}

template <typename Config>
cudaError_t launch(const MhaForwardParams& params, int num_sms, cudaStream_t stream) {
  const MhaForwardParams& p = params;
  const Grid grid = {device::scale_log2(p.scale)};
  Maps maps;
  using Element = typename Config::Element;
  const int packs = p.queries.packs, box = Config::kBlockN;
  for (const cudaError_t error :
       {mha::make_token_map<Element>(&maps.q, p.q, packs, p.queries.tokens, p.h_q, Config::kDimQK, box),
        mha::make_token_map<Element>(&maps.k, p.k, packs, p.tokens_kv, p.h_kv, Config::kDimQK, box),
        mha::make_token_map<Element>(&maps.v, p.v, packs, p.tokens_kv, p.h_kv, Config::kDimV, box)}) {
    if (error != cudaSuccess) return error;
  }
  const device::Blocks blocks = {num_sms, Config::kThreads, sizeof(typename Config::SharedStorage), false};
  return device::launch(mha_forward_kernel<Config>, blocks, stream, params, grid, maps);
}

}  // namespace jax_flash_mla::mha_forward_sm90
