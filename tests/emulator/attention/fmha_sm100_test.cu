#include "tests/emulator/attention/left_out.h"

using namespace cutlass::fmha::collective;

// Kernels of 128 dimensions, with and without a mask that ends where the last query does, are enough.
LEFT_OUT(run_fwd_32, NoMask)
LEFT_OUT(run_fwd_32, CausalMask<true>)
LEFT_OUT(run_fwd_32, CausalMask<false>)
LEFT_OUT(run_fwd_32, ResidualMask)
LEFT_OUT(run_fwd_64, NoMask)
LEFT_OUT(run_fwd_64, CausalMask<true>)
LEFT_OUT(run_fwd_64, CausalMask<false>)
LEFT_OUT(run_fwd_64, ResidualMask)
LEFT_OUT(run_fwd_128, NoMask)
LEFT_OUT(run_fwd_128, CausalMask<true>)

#define FP16 1
#define main example_main
#include "examples/77_blackwell_fmha/77_blackwell_fmha.cu"
#undef main
#include "tests/emulator/attention/run_example.h"

int main() {
  return run_example({
      {1, {"--b=1", "--h=4", "--h_k=2", "--q=256", "--k=512", "--d=128", "--mask=residual"}},
      {1, {"--b=1", "--h=2", "--q=300", "--k=300", "--d=128", "--mask=causal", "--causal-type=qend"}},
  });
}
