// The launches of one instance of SM90 multi-head attention, backward.
#pragma once

#include "cuda/device/launch.h"
#include "cuda/mha/tensor_map.h"
#include "cuda/sm90/mha_backward/kernel.cuh"
#include "cuda/sm90/mha_backward/query_gradient.cuh"

namespace jax_flash_mla::mha_backward_sm90 {

template <typename Config>
cudaError_t make_maps(Maps* maps, const MhaBackwardParams& p) {
  const auto make = [](CUtensorMap* map, const void* base, const MhaSide& side, int heads, int dims, int box) {
    return mha::make_token_map<typename Config::Element>(map, base, side.packs, side.tokens, heads, dims, box);
  };
  constexpr int kTile = Config::kTileTokens, kBlock = Config::kBlockTokens;
  for (const cudaError_t error : {make(&maps->keys, p.k, p.keys, p.h_kv, Config::kDimQK, kTile),
                                  make(&maps->values, p.v, p.keys, p.h_kv, Config::kDimV, kTile),
                                  make(&maps->queries, p.q, p.queries, p.h_q, Config::kDimQK, kBlock),
                                  make(&maps->d_out, p.d_out, p.queries, p.h_q, Config::kDimV, kBlock)}) {
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

template <typename Config>
cudaError_t initialize() {
  constexpr size_t kBytes = sizeof(typename Config::SharedStorage);
  if (auto error = device::prepare(mha_backward_kernel<Config>, kBytes); error != cudaSuccess) return error;
  return device::prepare(mha_query_gradient_kernel<Config>, 0);
}

// What the kernels add to.
template <typename Config>
cudaError_t clear_scratch(const MhaBackwardParams& params, cudaStream_t stream) {
  const int64_t rows = int64_t(params.queries.packs) * params.queries.tokens * params.h_q;
  const size_t sums = size_t(rows) * Config::kDimQK * sizeof(float);
  if (sums == 0) return cudaSuccess;
  if (auto error = cudaMemsetAsync(params.sums, 0, sums, stream); error != cudaSuccess) return error;
  if (!params.counters) return cudaSuccess;
  const size_t counters = size_t(counters_of(params.queries)) * params.h_q * Config::kWarpgroups * sizeof(int32_t);
  return cudaMemsetAsync(params.counters, 0, counters, stream);
}

template <typename Config>
cudaError_t launch(const MhaBackwardParams& params, int num_sms, cudaStream_t stream) {
  Maps maps;
  if (auto error = make_maps<Config>(&maps, params); error != cudaSuccess) return error;
  if (auto error = clear_scratch<Config>(params, stream); error != cudaSuccess) return error;
  const bool in_order = params.counters != nullptr;
  const device::Blocks blocks = {num_sms, Config::kThreads, sizeof(typename Config::SharedStorage), in_order};
  if (auto error = device::launch(mha_backward_kernel<Config>, blocks, stream, params, maps); error != cudaSuccess) {
    return error;
  }
  constexpr int kThreads = QueryGradient<Config>::kThreads, kBlocksOfMultiprocessor = 2048 / kThreads;
  const device::Blocks writers = {num_sms * kBlocksOfMultiprocessor, kThreads, 0, false};
  return device::launch(mha_query_gradient_kernel<Config>, writers, stream, params);
}

}  // namespace jax_flash_mla::mha_backward_sm90
