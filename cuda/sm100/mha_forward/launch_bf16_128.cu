#include "cuda/sm100/mha_forward/launch.cuh"

namespace jax_flash_mla {

cudaError_t initialize_mha_forward_sm100_bf16_128() {
  return mha_forward_sm100::initialize<mha_forward_sm100::Config<128>>();
}

cudaError_t launch_mha_forward_sm100_bf16_128(const MhaForwardParams& params, int num_sms, cudaStream_t stream) {
  return mha_forward_sm100::launch<mha_forward_sm100::Config<128>>(params, num_sms, stream);
}

}  // namespace jax_flash_mla
