// Checks a tutorial of CUTLASS, whose source the including file has just included with another name for its main: its
// gemm on small integers, of which every sum is exact.
#pragma once

#include <random>
#include <vector>

#include "tests/emulator/tutorials/check.h"

// C = A Bᵀ with A [m, k] and B [n, k], each of them contiguous in k ('T' and 'N') or in the other ('N' and 'T').
inline void check_gemm(bool k_is_contiguous, int m, int n, int k) {
  using Half = cute::half_t;
  std::mt19937 random(m + n + k);
  std::vector<Half> a(m * k), b(n * k), c(m * n);
  for (Half& x : a) x = Half(float(int(random() % 5) - 2));
  for (Half& x : b) x = Half(float(int(random() % 5) - 2));

  Half *device_a, *device_b, *device_c;
  CHECK(cudaMalloc(&device_a, a.size() * sizeof(Half)) == cudaSuccess);
  CHECK(cudaMalloc(&device_b, b.size() * sizeof(Half)) == cudaSuccess);
  CHECK(cudaMalloc(&device_c, c.size() * sizeof(Half)) == cudaSuccess);
  CHECK(cudaMemcpy(device_a, a.data(), a.size() * sizeof(Half), cudaMemcpyHostToDevice) == cudaSuccess);
  CHECK(cudaMemcpy(device_b, b.data(), b.size() * sizeof(Half), cudaMemcpyHostToDevice) == cudaSuccess);
  CHECK(cudaMemset(device_c, 0, c.size() * sizeof(Half)) == cudaSuccess);
  if (k_is_contiguous) {
    gemm('T', 'N', m, n, k, Half(1.0f), device_a, k, device_b, k, Half(0.0f), device_c, m);
  } else {
    gemm('N', 'T', m, n, k, Half(1.0f), device_a, m, device_b, n, Half(0.0f), device_c, m);
  }
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(cudaMemcpy(c.data(), device_c, c.size() * sizeof(Half), cudaMemcpyDeviceToHost) == cudaSuccess);

  const auto at = [&](const std::vector<Half>& x, int rows, int row, int column) {
    return float(k_is_contiguous ? x[row * k + column] : x[column * rows + row]);
  };
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      float want = 0;
      for (int l = 0; l < k; ++l) want += at(a, m, i, l) * at(b, n, j, l);
      if (float(c[i + j * m]) != want) {
        std::fprintf(stderr, "C[%d, %d] is %g, should be %g\n", i, j, float(c[i + j * m]), want);
        std::exit(1);
      }
    }
  }
  CHECK(cudaFree(device_a) == cudaSuccess);
  CHECK(cudaFree(device_b) == cudaSuccess);
  CHECK(cudaFree(device_c) == cudaSuccess);
}

inline int check_tutorial() {
  // There would be reports: wgmma_sm90 has no barrier between a thread's wait for its own cp.async and the products that
  // read what all threads have copied; wgmma_tma_sm90 has the copy engine use barriers without any fence since they were
  // initialised.
  setenv("JAX_FLASH_MLA_EMULATOR_RACES", "0", 1);
  // More tiles along k than the pipeline has stages.
  for (const bool k_is_contiguous : {false, true}) check_gemm(k_is_contiguous, 256, 128, 320);
  std::puts("all right");
  return 0;
}
