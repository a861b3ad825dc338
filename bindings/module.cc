// The extension: capsules of the handlers, and facts about the build.
#include <cuda_runtime_api.h>
#include <nanobind/nanobind.h>

#include <type_traits>

#include "bindings/handlers.h"
#include "cuda/mha/forward_params.h"
#include "cuda/sm90/cache_write/params.h"
#include "cuda/sm90/dense_decode/params.h"
#include "cuda/sm90/mha_backward/params.h"
#include "cuda/sm90/sparse_backward/params.h"
#include "cuda/sm90/sparse_decode/params.h"
#include "cuda/sm90/sparse_prefill/params.h"

namespace nb = nanobind;

namespace {

template <typename Handler>
nb::capsule handler(Handler* function) {
  static_assert(std::is_invocable_r_v<XLA_FFI_Error*, Handler, XLA_FFI_CallFrame*>);
  return nb::capsule(reinterpret_cast<void*>(function), "xla._CUSTOM_CALL_TARGET");
}

// What a target has: {stage: capsule}.
template <typename Handler, typename... Initialize>
nb::dict stages(Handler* execute, Initialize*... initialize) {
  nb::dict stages;
  ((stages["initialize"] = handler(initialize)), ...);
  stages["execute"] = handler(execute);
  return stages;
}

// {platform: {target: {stage: capsule}}}. A target's name ends in the version of its contract: operands, results,
// attributes and their meaning never change under one name.
nb::dict targets() {
  nb::dict cuda;
  cuda["jax_flash_mla.append.v1"] = stages(jax_flash_mla_append, jax_flash_mla_append_initialize);
  cuda["jax_flash_mla.dense_decode.v1"] = stages(jax_flash_mla_dense_decode, jax_flash_mla_dense_decode_initialize);
  cuda["jax_flash_mla.mha_backward.v1"] = stages(jax_flash_mla_mha_backward, jax_flash_mla_mha_backward_initialize);
  cuda["jax_flash_mla.mha.v1"] = stages(jax_flash_mla_mha_forward, jax_flash_mla_mha_forward_initialize);
  cuda["jax_flash_mla.quantize.v1"] = stages(jax_flash_mla_quantize, jax_flash_mla_quantize_initialize);
  cuda["jax_flash_mla.sparse_backward.v1"] =
      stages(jax_flash_mla_sparse_backward, jax_flash_mla_sparse_backward_initialize);
  cuda["jax_flash_mla.sparse_decode.v1"] = stages(jax_flash_mla_sparse_decode, jax_flash_mla_sparse_decode_initialize);
  cuda["jax_flash_mla.sparse_prefill.v1"] =
      stages(jax_flash_mla_sparse_prefill, jax_flash_mla_sparse_prefill_initialize);
  nb::dict all;
  all["CUDA"] = cuda;
#ifdef JAX_FLASH_MLA_TESTING
  nb::dict cpu;
  cpu["jax_flash_mla.append.v1"] = stages(jax_flash_mla_append_host);
  cpu["jax_flash_mla.dense_decode.v1"] = stages(jax_flash_mla_dense_decode_host);
  cpu["jax_flash_mla.mha_backward.v1"] = stages(jax_flash_mla_mha_backward_host);
  cpu["jax_flash_mla.mha.v1"] = stages(jax_flash_mla_mha_forward_host);
  cpu["jax_flash_mla.quantize.v1"] = stages(jax_flash_mla_quantize_host);
  cpu["jax_flash_mla.sparse_backward.v1"] = stages(jax_flash_mla_sparse_backward_host);
  cpu["jax_flash_mla.sparse_decode.v1"] = stages(jax_flash_mla_sparse_decode_host);
  cpu["jax_flash_mla.sparse_prefill.v1"] = stages(jax_flash_mla_sparse_prefill_host);
  all["cpu"] = cpu;
#endif
  return all;
}

// {operation: {name: number}}: the sizes that kernels are compiled with, as the Python table has them too.
nb::dict constants() {
  using namespace jax_flash_mla;
  nb::dict append;
  append["claim_places"] = kCacheWriteClaimPlaces;
  nb::dict dense_decode;
  dense_decode["dim_qk"] = kDenseDecodeDimQK;
  dense_decode["dim_v"] = kDenseDecodeDimV;
  dense_decode["tile_rows"] = kDenseDecodeTileRows;
  dense_decode["max_ctas"] = kDenseDecodeMaxCtas;
  dense_decode["partial_tiles"] = kDenseDecodePartialTiles;
  nb::dict mha;
  mha["dim_v"] = kMhaDimV;
  mha["backward_block_tokens"] = kMhaBackwardBlockTokens;
  mha["range_fields"] = sizeof(MhaRange) / sizeof(int32_t);
  nb::dict sparse_decode;
  sparse_decode["dim_v"] = kSparseDecodeDimV;
  sparse_decode["tile_rows"] = kSparseDecodeTileRows;
  sparse_decode["max_ctas"] = kSparseDecodeMaxCtas;
  sparse_decode["partial_tiles"] = kSparseDecodePartialTiles;
  nb::dict sparse_prefill;
  sparse_prefill["dim_v"] = kSparsePrefillDimV;
  sparse_prefill["tile_rows"] = kSparsePrefillTileRows;
  static_assert(kSparseBackwardDimV == kSparsePrefillDimV && kSparseBackwardTileRows == kSparsePrefillTileRows);
  nb::dict all;
  all["append"] = append;
  all["dense_decode"] = dense_decode;
  all["mha"] = mha;
  all["sparse_decode"] = sparse_decode;
  all["sparse_prefill"] = sparse_prefill;
  return all;
}

// The CUDA version that the installed driver supports, e.g. 13000; 0 without a driver.
int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

}  // namespace

NB_MODULE(_C, m) {
  m.doc() = "CUDA kernels of jax_flash_mla as XLA FFI handlers.";
  m.def("targets", &targets);
  m.def("driver_version", &driver_version);
  m.attr("constants") = constants();
  m.attr("cuda_version") = CUDART_VERSION;
  m.attr("xla_ffi_version") = nb::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
  nb::list architectures;
#ifdef JAX_FLASH_MLA_SM90
  architectures.append("sm90");
#endif
#ifdef JAX_FLASH_MLA_SM100
  architectures.append("sm100");
#endif
  m.attr("architectures") = nb::tuple(architectures);
}
