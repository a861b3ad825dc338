// What a sparse decode launch takes. Plain data: no JAX, XLA or Python type enters here.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace jax_flash_mla {

// Dimensions of values, which are the first of a key's.
inline constexpr int kSparseDecodeDimV = 512;
// Query rows of one tile. A row is one query head of one query token.
inline constexpr int kSparseDecodeTileRows = 64;
// Most thread blocks of a launch. Scratch is sized by it, never by the device.
inline constexpr int kSparseDecodeMaxCtas = 160;
// A thread block leaves at most two partial tiles: of the first and of the last item it works on.
inline constexpr int kSparseDecodePartialTiles = 2 * kSparseDecodeMaxCtas;

// A paged cache, and the tokens of it that each query token attends to.
struct SparseDecodeList {
  const void* cache;       // [num_pages, page_size] tokens in the instance's format, 16-byte aligned
  const int32_t* indices;  // [b, s_q, topk]
  const int32_t* lengths;  // [b, s_q]; null where all indices count
  int32_t num_pages, page_size, topk;
};

struct SparseDecodeParams {
  // Operands.
  const void* q;              // [b, s_q, h_q, d_qk], 16-byte aligned
  SparseDecodeList lists[2];  // the second has topk 0 where there is none
  const float* attn_sink;     // [sink_rows, h_q]; sink_rows divides b; null where there is none
  // Results.
  void* out;   // [b, s_q, h_q, 512]
  float* lse;  // [b, h_q, s_q]
  // Scratch; may hold anything at launch.
  float* partial_out;  // [kSparseDecodePartialTiles, 64, 512]
  float* partial_lse;  // [kSparseDecodePartialTiles, 64]
  // Sizes, all at least 1.
  int32_t b, s_q, h_q, sink_rows;
  float scale;
};

// Whether a query token's tiles of heads can be shared out to pairs of thread blocks: two or four side by side, and none left
// over.
inline bool sparse_decode_makes_pairs(int h_q) {
  const int tiles = (h_q + kSparseDecodeTileRows - 1) / kSparseDecodeTileRows;
  return tiles == 2 || tiles % 4 == 0;
}

// Each instance, by the format of the caches, and whether thread blocks make pairs: a launch, and what makes its kernel ready
// on the current device. The latter must have run there before the former is captured in a graph.
cudaError_t launch_sparse_decode_sm90_v32(const SparseDecodeParams& params, int num_sms, cudaStream_t stream);
cudaError_t launch_sparse_decode_sm90_v32_pairs(const SparseDecodeParams& params, int num_sms, cudaStream_t stream);
cudaError_t launch_sparse_decode_sm90_model1(const SparseDecodeParams& params, int num_sms, cudaStream_t stream);
cudaError_t launch_sparse_decode_sm90_model1_pairs(const SparseDecodeParams& params, int num_sms, cudaStream_t stream);
cudaError_t initialize_sparse_decode_sm90_v32();
cudaError_t initialize_sparse_decode_sm90_v32_pairs();
cudaError_t initialize_sparse_decode_sm90_model1();
cudaError_t initialize_sparse_decode_sm90_model1_pairs();

}  // namespace jax_flash_mla
