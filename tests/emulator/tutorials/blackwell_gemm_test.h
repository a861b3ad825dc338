// Checks a tutorial of CUTLASS for SM100, whose source the including file has just included with another name for its
// main: its gemm on small integers, of which every sum is exact.
#pragma once

#include <iostream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "tests/emulator/tutorials/check.h"

template <typename T>
std::vector<T> small_integers(int count, std::mt19937& random) {
  std::vector<T> values(count);
  for (T& x : values) x = T(float(int(random() % 5) - 2));
  return values;
}

template <typename T>
T* on_device(const std::vector<T>& values) {
  T* place;
  CHECK(cudaMalloc(&place, values.size() * sizeof(T)) == cudaSuccess);
  CHECK(cudaMemcpy(place, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice) == cudaSuccess);
  return place;
}

// D = alpha A Bᵀ + beta C, with A [m, k], B [n, k], C and D [m, n], each of them contiguous in its last dimension.
inline int check_tutorial() {
  constexpr int m = 512, n = 1024, k = 320;  // five tiles along k, for a barrier's phases to come round
  constexpr float alpha = 2, beta = -1;
  CHECK(setenv("JAX_FLASH_MLA_EMULATOR_CAPABILITY", "10.0", 1) == 0);
  // There would be reports: 01_mma has no proxy fence between what threads write and the products that read it, and in
  // the others the copy engine uses barriers without any fence since they were initialised.
  CHECK(setenv("JAX_FLASH_MLA_EMULATOR_RACES", "0", 1) == 0);
  std::mt19937 random(k);
  const auto a = small_integers<cutlass::half_t>(m * k, random), b = small_integers<cutlass::half_t>(n * k, random);
  const auto c = small_integers<float>(m * n, random);
  std::vector<float> d(m * n);
  auto *const device_a = on_device(a), *const device_b = on_device(b);
  auto *const device_c = on_device(c), *const device_d = on_device(d);
  const auto layout = [](int rows, int columns) {
    return cute::make_layout(cute::make_shape(rows, columns), cute::make_stride(columns, cute::Int<1>{}));
  };
  gemm_host_f16xf16_f32_f32_tnt(device_a, layout(m, k), device_b, layout(n, k), device_c, layout(m, n), device_d,
                                layout(m, n), alpha, beta);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(cudaMemcpy(d.data(), device_d, d.size() * sizeof(float), cudaMemcpyDeviceToHost) == cudaSuccess);

  std::vector<float> wide_a(a.begin(), a.end()), wide_b(b.begin(), b.end());
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      float sum = 0;
      for (int l = 0; l < k; ++l) sum += wide_a[i * k + l] * wide_b[j * k + l];
      const float want = alpha * sum + beta * c[i * n + j];
      if (d[i * n + j] != want) {
        std::fprintf(stderr, "D[%d, %d] is %g, should be %g\n", i, j, d[i * n + j], want);
        std::exit(1);
      }
    }
  }
  for (const void* place : {(void*)device_a, (void*)device_b, (void*)device_c, (void*)device_d}) {
    CHECK(cudaFree(const_cast<void*>(place)) == cudaSuccess);
  }

  // What the tutorial says of itself, which fills and copies by kernels of Thrust.
  std::ostringstream said;
  std::streambuf* const usual = std::cout.rdbuf(said.rdbuf());
  char name[] = "tutorial";
  char* arguments[] = {name, nullptr};
  const int status = tutorial_main(1, arguments);
  std::cout.rdbuf(usual);
  std::cout << said.str();
  CHECK(status == 0);
  CHECK(said.str().find("Execution is successful.") != std::string::npos);
  std::puts("all right");
  return 0;
}
