#include "cuda/sm90/mha_backward/launch.cuh"

namespace jax_flash_mla {

cudaError_t initialize_mha_backward_sm90_fp16_128() {
  return mha_backward_sm90::initialize<mha_backward_sm90::Config<__half, 128>>();
}

cudaError_t launch_mha_backward_sm90_fp16_128(const MhaBackwardParams& params, int num_sms, cudaStream_t stream) {
  return mha_backward_sm90::launch<mha_backward_sm90::Config<__half, 128>>(params, num_sms, stream);
}

}  // namespace jax_flash_mla
