#define main tutorial_main
#include "examples/cute/tutorial/hopper/wgmma_sm90.cu"
#undef main
#include "tests/emulator/tutorials/gemm_test.h"

int main() { return check_tutorial(); }
