// What a dense decode launch takes. Plain data: no JAX, XLA or Python type enters here.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace jax_flash_mla {

// Dimensions of a key; values are the first kDenseDecodeDimV of a key's dimensions.
inline constexpr int kDenseDecodeDimQK = 576;
inline constexpr int kDenseDecodeDimV = 512;
// Query rows of one tile. A row is one query head of one query token.
inline constexpr int kDenseDecodeTileRows = 64;
// Most thread blocks of a launch. Scratch is sized by it, never by the device.
inline constexpr int kDenseDecodeMaxCtas = 160;
// A thread block leaves at most two partial tiles: of the first and of the last item it works on.
inline constexpr int kDenseDecodePartialTiles = 2 * kDenseDecodeMaxCtas;

struct DenseDecodeParams {
  // Operands.
  const void* q;                 // [b, s_q, h_q, 576]
  const void* k_cache;           // [num_pages, page_size, h_kv, 576], 16-byte aligned
  const int32_t* block_table;    // [b, max_pages]
  const int32_t* cache_seqlens;  // [b]
  const float* attn_sink;        // [sink_rows, h_q]; sink_rows divides b; null where there is none
  // Results.
  void* out;   // [b, s_q, h_q, 512]
  float* lse;  // [b, h_q, s_q]
  // Scratch; may hold anything at launch.
  float* partial_out;  // [kDenseDecodePartialTiles, 64, 512]
  float* partial_lse;  // [kDenseDecodePartialTiles, 64]
  // Sizes, all at least 1, but for max_pages: without a page no length but 0 is sound.
  int32_t b, s_q, h_q, h_kv;
  int32_t num_pages, page_size, max_pages, sink_rows;
  float scale;
  bool causal;
};

// Each instance: a launch, and what makes its kernels ready on the current device. The latter must have run there
// before the former is captured in a graph.
cudaError_t launch_dense_decode_sm90_bf16(const DenseDecodeParams& params, int num_sms, cudaStream_t stream);
cudaError_t launch_dense_decode_sm90_fp16(const DenseDecodeParams& params, int num_sms, cudaStream_t stream);
cudaError_t initialize_dense_decode_sm90_bf16();
cudaError_t initialize_dense_decode_sm90_fp16();

}  // namespace jax_flash_mla
