#include "cuda/sm90/dense_decode/launch.cuh"

namespace jax_flash_mla {

cudaError_t initialize_dense_decode_sm90_fp16() {
  return dense_decode_sm90::initialize<dense_decode_sm90::Config<__half>>();
}

cudaError_t launch_dense_decode_sm90_fp16(const DenseDecodeParams& params, int num_sms, cudaStream_t stream) {
  return dense_decode_sm90::launch<dense_decode_sm90::Config<__half>>(params, num_sms, stream);
}

}  // namespace jax_flash_mla
