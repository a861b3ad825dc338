#include "tests/emulator/attention/left_out.h"

using namespace cutlass::fmha::collective;

LEFT_OUT(run_bwd_64, NoMask)
LEFT_OUT(run_bwd_64, ResidualMaskForBackward)
LEFT_OUT(run_bwd_64, CausalForBackwardMask<true>)
LEFT_OUT(run_bwd_128, NoMask)
LEFT_OUT(run_bwd_128, ResidualMaskForBackward)
LEFT_OUT(run_bwd_mla_192, NoMask)
LEFT_OUT(run_bwd_mla_192, CausalForBackwardMask<true>)

#define FP16 1
#define main example_main
#include "examples/77_blackwell_fmha/77_blackwell_fmha_bwd.cu"
#undef main
#include "tests/emulator/attention/run_example.h"

int main() {
  return run_example({
      {1, {"--b=1", "--h=2", "--q=200", "--k=200", "--d=128", "--d_vo=128", "--mask=causal"}},
      {1, {"--b=1", "--h=2", "--q=200", "--k=300", "--d=192", "--d_vo=128", "--mask=residual"}},
  });
}
