#include "tests/emulator/attention/left_out.h"

using namespace cutlass::fmha::collective;

LEFT_OUT(run_prefill_mla_fwd, NoMask)
LEFT_OUT(run_prefill_mla_fwd, ResidualMask)
LEFT_OUT(run_prefill_mla_fwd, CausalMask<true>)

#define FP16 1
#define main example_main
#include "examples/77_blackwell_fmha/77_blackwell_mla_fwd.cu"
#undef main
#include "tests/emulator/attention/run_example.h"

int main() {
  return run_example({
      {1,
       {"--b=1", "--h=4", "--h_k=2", "--q=200", "--k=300", "--dl=128", "--dr=64", "--mask=causal",
        "--causal-type=qend"}},
  });
}
