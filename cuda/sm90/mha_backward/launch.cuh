// The launches of one instance of SM90 multi-head attention, backward.
#pragma once

#include <utility>

#include "cuda/device/launch.h"
#include "cuda/mha/tensor_map.h"
#include "cuda/sm90/mha_backward/key_gradients.cuh"
#include "cuda/sm90/mha_backward/query_gradient.cuh"

namespace jax_flash_mla::mha_backward_sm90 {

// Maps of queries and their cotangents, and of keys and values: tiles of the one, and blocks of the other.
template <typename Config>
cudaError_t make_maps(Maps* maps, const MhaBackwardParams& p, bool tiles_of_queries) {
  constexpr int kTile = Config::kTileTokens, kBlock = Config::kBlockTokens;
  const int q_box = tiles_of_queries ? kTile : kBlock, k_box = tiles_of_queries ? kBlock : kTile;
  CUtensorMap *q = &maps->own_keys, *d_out = &maps->own_values, *k = &maps->other_keys, *v = &maps->other_values;
  if (!tiles_of_queries) {
    std::swap(q, k);
    std::swap(d_out, v);
  }
  const auto make = [](CUtensorMap* map, const void* base, const MhaSide& side, int heads, int dims, int box) {
    return mha::make_token_map<typename Config::Element>(map, base, side.packs, side.tokens, heads, dims, box);
  };
  for (const cudaError_t error :
       {make(q, p.q, p.queries, p.h_q, Config::kDimQK, q_box),
        make(d_out, p.d_out, p.queries, p.h_q, Config::kDimV, q_box),
        make(k, p.k, p.keys, p.h_kv, Config::kDimQK, k_box), make(v, p.v, p.keys, p.h_kv, Config::kDimV, k_box)}) {
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

template <typename Config>
cudaError_t initialize() {
  constexpr size_t kBytes = sizeof(typename Config::SharedStorage);
  if (auto error = device::prepare(mha_query_gradient_kernel<Config>, kBytes); error != cudaSuccess) return error;
  return device::prepare(mha_key_gradients_kernel<Config>, kBytes);
}

template <typename Config>
cudaError_t launch(const MhaBackwardParams& params, int num_sms, cudaStream_t stream) {
  Maps of_queries, of_keys;
  if (auto error = make_maps<Config>(&of_queries, params, true); error != cudaSuccess) return error;
  if (auto error = make_maps<Config>(&of_keys, params, false); error != cudaSuccess) return error;
  const device::Blocks blocks = {num_sms, Config::kThreads, sizeof(typename Config::SharedStorage), false};
  if (auto error = device::launch(mha_query_gradient_kernel<Config>, blocks, stream, params, of_queries);
      error != cudaSuccess) {
    return error;
  }
  return device::launch(mha_key_gradients_kernel<Config>, blocks, stream, params, of_keys);
}

}  // namespace jax_flash_mla::mha_backward_sm90
