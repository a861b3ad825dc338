#include "cuda/sm90/mha_backward/launch.cuh"

namespace jax_flash_mla {

cudaError_t initialize_mha_backward_sm90_bf16_192() {
  return mha_backward_sm90::initialize<mha_backward_sm90::Config<__nv_bfloat16, 192>>();
}

cudaError_t launch_mha_backward_sm90_bf16_192(const MhaBackwardParams& params, int num_sms, cudaStream_t stream) {
  return mha_backward_sm90::launch<mha_backward_sm90::Config<__nv_bfloat16, 192>>(params, num_sms, stream);
}

}  // namespace jax_flash_mla
