#define FP8 1
#define main example_main
#include "examples/77_blackwell_fmha/77_blackwell_fmha_gen.cu"
#undef main
#include "tests/emulator/attention/run_example.h"

int main() {
  return run_example({
      {6, {"--b=2", "--h=4", "--h_k=2", "--k=300", "--d=128"}},
      {6, {"--b=2", "--h=4", "--h_k=2", "--k=300", "--d=128", "--varlen", "--remap"}},
  });
}
