#include "cuda/sm90/dense_decode/launch.cuh"

namespace jax_flash_mla {

using Instance = dense_decode_sm90::Config<__nv_bfloat16>;

cudaError_t initialize_dense_decode_sm90_bf16() { return dense_decode_sm90::initialize<Instance>(); }

cudaError_t launch_dense_decode_sm90_bf16(const DenseDecodeParams& params, int num_sms, cudaStream_t stream) {
  return dense_decode_sm90::launch<Instance>(params, num_sms, stream);
}

}  // namespace jax_flash_mla
