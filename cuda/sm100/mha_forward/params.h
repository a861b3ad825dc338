// The launches of multi-head attention on SM100, forward.
#pragma once

#include "cuda/mha/forward_params.h"

namespace jax_flash_mla {

// Each instance, by dimensions of a key: a launch, and what makes its kernel ready on the current device. The latter
// must have run there before the former is captured in a graph.
cudaError_t launch_mha_forward_sm100_bf16_192(const MhaForwardParams& params, int num_sms, cudaStream_t stream);
cudaError_t launch_mha_forward_sm100_bf16_128(const MhaForwardParams& params, int num_sms, cudaStream_t stream);
cudaError_t initialize_mha_forward_sm100_bf16_192();
cudaError_t initialize_mha_forward_sm100_bf16_128();

}  // namespace jax_flash_mla
