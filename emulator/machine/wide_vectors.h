// For functions that are compiled twice: for processors that have wide vectors, and for those that have none.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#define EMULATOR_AVX2_IF_THERE [[gnu::target_clones("avx2", "default")]]
#else
#define EMULATOR_AVX2_IF_THERE
#endif
