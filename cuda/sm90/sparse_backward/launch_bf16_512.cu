#include "cuda/sm90/sparse_backward/launch.cuh"

namespace jax_flash_mla {

cudaError_t initialize_sparse_backward_sm90_bf16_512() {
  return sparse_backward_sm90::initialize<__nv_bfloat16, 512>();
}

cudaError_t launch_sparse_backward_sm90_bf16_512(const SparseBackwardParams& params, int num_sms, cudaStream_t stream) {
  return sparse_backward_sm90::launch<__nv_bfloat16, 512>(params, num_sms, stream);
}

}  // namespace jax_flash_mla
