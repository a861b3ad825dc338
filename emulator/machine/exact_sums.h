// Sums of products that are exact until they are rounded.
#pragma once

#include <cstddef>

namespace emulator {

inline constexpr int kSumsAtOnce = 8;

// d[j] += a[0] · b[0][j] + … + a[k - 1] · b[k - 1][j] for eight columns, whose rows are `stride` apart. The products must
// be exact in double, as those of tensor cores are. Results are as add_to_odd has them: rounding them once more, to float
// or half, gives the exact sum rounded once. A sum of infinities and NaNs is what IEEE makes of them.
void add_products(const double* a, const double* b, size_t stride, int k, double (&d)[kSumsAtOnce]);

}  // namespace emulator
