#define FP16 1
#define main example_main
#include "examples/77_blackwell_fmha/77_blackwell_mla.cu"
#undef main
#include "tests/emulator/attention/run_example.h"

int main() { return run_example({{2, {"--b=1", "--k=256", "--page=128"}}}); }
