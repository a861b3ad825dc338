#include "cuda/sm90/sparse_decode/launch.cuh"

namespace jax_flash_mla {

namespace {
using Config = sparse_decode_sm90::Config<sparse_decode_sm90::Model1, true>;
}

cudaError_t initialize_sparse_decode_sm90_model1_pairs() { return sparse_decode_sm90::initialize<Config>(); }

cudaError_t launch_sparse_decode_sm90_model1_pairs(const SparseDecodeParams& params, int num_sms, cudaStream_t stream) {
  return sparse_decode_sm90::launch<Config>(params, num_sms, stream);
}

}  // namespace jax_flash_mla
