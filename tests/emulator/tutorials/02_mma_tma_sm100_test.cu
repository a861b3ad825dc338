#define main tutorial_main
#include "examples/cute/tutorial/blackwell/02_mma_tma_sm100.cu"
#undef main
#include "tests/emulator/tutorials/blackwell_gemm_test.h"

int main() { return check_tutorial(); }
