#define main tutorial_main
#include "examples/cute/tutorial/blackwell/04_mma_tma_2sm_sm100.cu"
#undef main
#include "tests/emulator/tutorials/blackwell_gemm_test.h"

int main() { return check_tutorial(); }
