// Launches, and what is asked and said of kernels. The same program passes on an H200 with CUDA's own runtime (13.0),
// which is where the expectations come from:
//
//   nvcc -std=c++20 -I. -gencode arch=compute_90a,code=sm_90a emulator/runtime/launch_test.cu && ./a.out
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "emulator/runtime/testing.h"

namespace {

__global__ void plain(int* out) {
  if (out) out[blockIdx.x * blockDim.x + threadIdx.x] = int(blockIdx.x * 1000 + threadIdx.x);
}

__global__ void with_dynamic(int* out) {
  extern __shared__ int dynamic[];
  if (!out) return;
  dynamic[threadIdx.x] = int(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = dynamic[threadIdx.x ^ 1];
}

__global__ void with_both(int* out) {
  extern __shared__ int dynamic[];
  __shared__ int fixed[1000];
  if (!out) return;
  dynamic[threadIdx.x] = fixed[threadIdx.x] = int(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = dynamic[threadIdx.x ^ 1] + fixed[threadIdx.x ^ 2];
}

__global__ void __launch_bounds__(128, 2) bounded(int* out) {
  if (out) out[0] = 1;
}

__global__ void __cluster_dims__(2, 1, 1) clustered(int* out) {
  if (out) out[0] = 1;
}

__global__ void __block_size__((64, 2, 1)) sized(int* out) {
  if (out) out[0] = 1;
}

__global__ void __launch_bounds__(128, 1, 4) bounded_cluster(int* out) {
  if (out) out[0] = 1;
}

__global__ void requiring(int* out) {
  if (out) out[0] = 1;
}

__global__ void printing(int* out) {
  out[0] = printf("Nothing.\n");
  out[1] = printf("%d, %s, %.1f.\n", 7, "a text", 0.5);
}

struct Mixed {
  char small;
  double large;
  int array[3];
};

__global__ void parameters(int* out, char, Mixed, short, long long) { out[0] = 1; }

__global__ void halve(float* values) { values[threadIdx.x] *= 0.5f; }

// Rounds of sums with the block behind, in turn from one half of the numbers into the other.
__global__ void sum_in_rounds(int* numbers, int rounds) {
  const auto grid = cooperative_groups::this_grid();
  const unsigned all = unsigned(grid.size()), own = unsigned(grid.thread_rank());
  for (int round = 0; round < rounds; ++round) {
    const int* const from = numbers + (round % 2 ? all : 0);
    int* const to = numbers + (round % 2 ? 0 : all);
    to[own] = from[own] + from[(own + blockDim.x) % all];
    grid.sync();
  }
}

__global__ void may_wait_for_grid(int* out) { out[0] = cooperative_groups::this_grid().is_valid(); }

// The second may begin when all blocks of the first have said so, and waits for what they write afterwards.
__global__ void first_of_two(int* out) {
  cudaTriggerProgrammaticLaunchCompletion();
  out[blockIdx.x * blockDim.x + threadIdx.x] = int(blockIdx.x * 100 + threadIdx.x);
}

__global__ void second_of_two(int* out) {
  const unsigned all = gridDim.x * blockDim.x, own = blockIdx.x * blockDim.x + threadIdx.x;
  cudaGridDependencySynchronize();
  out[all + own] = 2 * out[all - 1 - own];
}

void no_kernel(int*) {}

using Kernel = void (*)(int*);
using Attributes = std::initializer_list<cudaLaunchAttribute>;

cudaError_t submit(Kernel kernel, int* out, dim3 grid, dim3 block, size_t dynamic_shared, Attributes attributes) {
  void* arguments[] = {&out};
  std::vector<cudaLaunchAttribute> list(attributes);
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = dynamic_shared;
  config.attrs = list.data();
  config.numAttrs = unsigned(list.size());
  return cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), arguments);
}

cudaError_t launch(Kernel kernel, dim3 grid, dim3 block, size_t dynamic_shared = 0, Attributes attributes = {}) {
  const cudaError_t error = submit(kernel, nullptr, grid, block, dynamic_shared, attributes);
  const cudaError_t later = cudaDeviceSynchronize();
  return error != cudaSuccess ? error : later;
}

cudaLaunchAttribute cluster(unsigned x, unsigned y = 1, unsigned z = 1) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = x;
  attribute.val.clusterDim.y = y;
  attribute.val.clusterDim.z = z;
  return attribute;
}

cudaLaunchAttribute attribute(int id, int value = 0) {
  cudaLaunchAttribute attribute;
  std::memset(&attribute, 0, sizeof(attribute));
  attribute.id = cudaLaunchAttributeID(id);
  std::memcpy(&attribute.val, &value, sizeof(value));
  return attribute;
}

void test_function_attributes() {
  cudaFuncAttributes a;
  OK(cudaFuncGetAttributes(&a, plain));
  CHECK(a.sharedSizeBytes == 0 && a.maxThreadsPerBlock == 1024 && a.maxDynamicSharedSizeBytes == 49152);
  CHECK(a.ptxVersion == 90 && a.preferredShmemCarveout == -1 && a.nonPortableClusterSizeAllowed == 0);
  CHECK(a.clusterDimMustBeSet == 0 && a.requiredClusterWidth == 0);
  OK(cudaFuncGetAttributes(&a, with_both));
  CHECK(a.sharedSizeBytes == 4000 && a.maxDynamicSharedSizeBytes == 45152);
  OK(cudaFuncGetAttributes(&a, bounded));
  CHECK(a.maxThreadsPerBlock == 128);
  OK(cudaFuncGetAttributes(&a, clustered));
  CHECK(a.clusterDimMustBeSet == 1);
  CHECK(a.requiredClusterWidth == 2 && a.requiredClusterHeight == 1 && a.requiredClusterDepth == 1);
  EXPECT(cudaErrorInvalidResourceHandle, cudaFuncGetAttributes(&a, no_kernel));
  EXPECT(cudaErrorInvalidDeviceFunction, cudaFuncGetAttributes(&a, static_cast<const void*>(nullptr)));
  EXPECT(cudaErrorInvalidValue, cudaFuncGetAttributes(nullptr, plain));
  const char* name = nullptr;
  OK(cudaFuncGetName(&name, reinterpret_cast<const void*>(plain)));
  CHECK(name && std::strstr(name, "plain"));
  size_t where = 0, size = 0;
  OK(cudaFuncGetParamInfo(reinterpret_cast<const void*>(parameters), 2, &where, &size));
  CHECK(where == 16 && size == sizeof(Mixed));
  EXPECT(cudaErrorInvalidValue, cudaFuncGetParamInfo(reinterpret_cast<const void*>(plain), 1, &where, &size));
  cudaFunction_t handle;
  OK(cudaGetFuncBySymbol(&handle, reinterpret_cast<const void*>(plain)));
  EXPECT(cudaErrorInvalidDeviceFunction, cudaGetFuncBySymbol(&handle, reinterpret_cast<const void*>(no_kernel)));
}

void test_shapes() {
  OK(launch(plain, 1, 32));
  for (const dim3 grid : {dim3(0), dim3(1, 0), dim3(1, 65536), dim3(1, 1, 65536), dim3(1u << 31)}) {
    EXPECT(cudaErrorInvalidValue, launch(plain, grid, 32));
  }
  for (const dim3 block : {dim3(0), dim3(1025), dim3(1, 1, 65), dim3(64, 17)}) {
    EXPECT(cudaErrorInvalidValue, launch(plain, 1, block));
  }
  OK(launch(bounded, 1, 128));
  EXPECT(cudaErrorInvalidValue, launch(bounded, 1, 129));
  OK(launch(sized, 1, dim3(64, 2)));
  EXPECT(cudaErrorInvalidValue, launch(sized, 1, 128));
  EXPECT(cudaErrorInvalidResourceHandle, launch(no_kernel, 1, 1));
  EXPECT(cudaErrorInvalidDeviceFunction, launch(nullptr, 1, 1));

  // What <<<…>>> does wrong is for cudaGetLastError alone.
  plain<<<1, 2000>>>(nullptr);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
}

void test_shared_memory() {
  const auto allow = [](Kernel kernel, int bytes) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  };
  OK(launch(with_dynamic, 1, 32, 49152));
  EXPECT(cudaErrorInvalidValue, launch(with_dynamic, 1, 32, 49153));
  EXPECT(cudaErrorInvalidValue, launch(with_dynamic, 1, 32, 1 << 30));
  OK(launch(with_both, 1, 32, 45152));
  EXPECT(cudaErrorInvalidValue, launch(with_both, 1, 32, 45153));
  OK(allow(with_dynamic, 232448));
  EXPECT(cudaErrorInvalidValue, allow(with_dynamic, 232449));
  EXPECT(cudaErrorInvalidValue, allow(with_dynamic, -1));
  OK(launch(with_dynamic, 1, 32, 232448));
  EXPECT(cudaErrorInvalidValue, launch(with_dynamic, 1, 32, 232449));
  OK(allow(with_both, 228448));
  EXPECT(cudaErrorInvalidValue, allow(with_both, 228449));
  OK(launch(with_both, 1, 32, 228448));
  OK(allow(with_dynamic, 100));
  OK(launch(with_dynamic, 1, 25, 100));
  EXPECT(cudaErrorInvalidValue, launch(with_dynamic, 1, 25, 101));
  OK(allow(with_dynamic, 232448));
}

void test_settings() {
  const auto set = [](Kernel kernel, int which, int value) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttribute(which), value);
  };
  OK(set(requiring, cudaFuncAttributePreferredSharedMemoryCarveout, 50));
  OK(set(requiring, cudaFuncAttributePreferredSharedMemoryCarveout, -1));
  EXPECT(cudaErrorInvalidValue, set(requiring, cudaFuncAttributePreferredSharedMemoryCarveout, 101));
  EXPECT(cudaErrorInvalidValue, set(requiring, cudaFuncAttributePreferredSharedMemoryCarveout, -2));
  EXPECT(cudaErrorInvalidValue, set(requiring, 3, 1));
  EXPECT(cudaErrorInvalidValue, set(requiring, 16, 1));
  EXPECT(cudaErrorInvalidResourceHandle, set(no_kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 1));
  OK(cudaFuncSetCacheConfig(requiring, cudaFuncCachePreferShared));
  EXPECT(cudaErrorInvalidValue, cudaFuncSetCacheConfig(requiring, cudaFuncCache(7)));
  EXPECT(cudaErrorInvalidValue, set(clustered, cudaFuncAttributeRequiredClusterWidth, 4));
  EXPECT(cudaErrorInvalidValue, set(requiring, cudaFuncAttributeClusterDimMustBeSet, 1));
  OK(set(requiring, cudaFuncAttributeClusterSchedulingPolicyPreference, 1));
  EXPECT(cudaErrorInvalidValue, set(requiring, cudaFuncAttributeClusterSchedulingPolicyPreference, 9));

  OK(set(requiring, cudaFuncAttributeRequiredClusterWidth, 2));
  EXPECT(cudaErrorInvalidClusterSize, launch(requiring, 4, 32));
  OK(set(requiring, cudaFuncAttributeRequiredClusterHeight, 1));
  OK(set(requiring, cudaFuncAttributeRequiredClusterDepth, 1));
  OK(launch(requiring, 4, 32));
  OK(launch(requiring, 4, 32, 0, {cluster(2)}));
  EXPECT(cudaErrorInvalidClusterSize, launch(requiring, 3, 32));
  EXPECT(cudaErrorInvalidClusterSize, launch(requiring, 4, 32, 0, {cluster(4)}));
}

// printf returns how many arguments it was given.
void test_printing() {
  int* out = nullptr;
  int host[2] = {-1, -1};
  OK(cudaMalloc(&out, sizeof(host)));
  printing<<<1, 1>>>(out);
  OK(cudaMemcpy(host, out, sizeof(host), cudaMemcpyDeviceToHost));
  CHECK(host[0] == 0 && host[1] == 3);
  OK(cudaFree(out));
}

void test_clusters() {
  OK(launch(plain, 4, 32, 0, {cluster(2)}));
  OK(launch(plain, dim3(4, 2), 32, 0, {cluster(2, 2)}));
  OK(launch(plain, 8, 32, 0, {cluster(8)}));
  OK(launch(plain, 4, 32, 0, {cluster(0, 0, 0)}));
  EXPECT(cudaErrorInvalidClusterSize, launch(plain, 4, 32, 0, {cluster(0)}));
  EXPECT(cudaErrorInvalidClusterSize, launch(plain, 4, 32, 0, {cluster(3)}));
  EXPECT(cudaErrorInvalidClusterSize, launch(plain, 9, 32, 0, {cluster(9)}));
  EXPECT(cudaErrorInvalidClusterSize, launch(plain, 16, 32, 0, {cluster(16)}));
  OK(cudaFuncSetAttribute(plain, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  OK(launch(plain, 16, 32, 0, {cluster(16)}));
  OK(launch(plain, 9, 32, 0, {cluster(9)}));
  EXPECT(cudaErrorInvalidClusterSize, launch(plain, 32, 32, 0, {cluster(32)}));
  OK(launch(clustered, 4, 32));
  OK(launch(clustered, 4, 32, 0, {cluster(2)}));
  EXPECT(cudaErrorInvalidClusterSize, launch(clustered, 3, 32));
  EXPECT(cudaErrorInvalidClusterSize, launch(clustered, 4, 32, 0, {cluster(4)}));
  EXPECT(cudaErrorInvalidClusterSize, launch(clustered, 4, 32, 0, {cluster(1)}));
  OK(launch(bounded_cluster, 4, 128));
  OK(launch(bounded_cluster, 4, 128, 0, {cluster(4)}));
  EXPECT(cudaErrorInvalidClusterSize, launch(bounded_cluster, 8, 128, 0, {cluster(8)}));
}

void test_launch_attributes() {
  for (const int id : {0, 1, 2, 5, 6, 8, 9, 10, 14}) OK(launch(plain, 4, 32, 0, {attribute(id)}));
  for (const int id : {3, 15, 17, 19}) EXPECT(cudaErrorInvalidValue, launch(plain, 4, 32, 0, {attribute(id)}));
  EXPECT(cudaErrorNotSupported, launch(plain, 4, 32, 0, {attribute(cudaLaunchAttributeDeviceUpdatableKernelNode)}));
  cudaLaunchAttribute preferred = cluster(4);
  preferred.id = cudaLaunchAttributePreferredClusterDimension;
  OK(launch(plain, 4, 32, 0, {cluster(2), preferred}));
  EXPECT(cudaErrorInvalidClusterSize, launch(plain, 4, 32, 0, {preferred}));
}

void test_cooperative() {
  int sms = 0;
  OK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
  int* nothing = nullptr;
  void* arguments[] = {&nothing};
  const auto cooperate = [&](unsigned grid, unsigned block) {
    const auto* kernel = reinterpret_cast<const void*>(bounded_cluster);
    const cudaError_t error = cudaLaunchCooperativeKernel(kernel, grid, block, arguments, 0, nullptr);
    cudaDeviceSynchronize();
    return error;
  };
  OK(cooperate(unsigned(sms), 128));
  OK(cooperate(unsigned(sms) * 16, 128));
  EXPECT(cudaErrorCooperativeLaunchTooLarge, cooperate(unsigned(sms) * 16 + 1, 128));
  EXPECT(cudaErrorInvalidValue, cooperate(0, 128));
  EXPECT(cudaErrorInvalidValue, cooperate(1, 1025));
  EXPECT(cudaErrorCooperativeLaunchTooLarge,
         launch(bounded_cluster, 100000, 128, 0, {attribute(cudaLaunchAttributeCooperative, 1), cluster(2)}));
}

void test_waiting_for_the_grid() {
  constexpr int kThreads = 64, kRounds = 5;
  int sms = 0;
  OK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
  const auto kernel = reinterpret_cast<const void*>(sum_in_rounds);
  const size_t all = size_t(sms) * 2 * kThreads;
  std::vector<int> expected(all), sums(all), got(2 * all);
  int* numbers = nullptr;
  OK(cudaMalloc(&numbers, got.size() * sizeof(int)));
  for (const unsigned blocks_of_a_cluster : {1u, 2u}) {
    for (size_t i = 0; i < all; ++i) expected[i] = int(i * i % 101);
    OK(cudaMemcpy(numbers, expected.data(), all * sizeof(int), cudaMemcpyHostToDevice));
    for (int round = 0; round < kRounds; ++round) {
      for (size_t i = 0; i < all; ++i) sums[i] = expected[i] + expected[(i + kThreads) % all];
      std::swap(expected, sums);
    }
    int rounds = kRounds;
    void* arguments[] = {&numbers, &rounds};
    cudaLaunchAttribute list[] = {attribute(cudaLaunchAttributeCooperative, 1), cluster(blocks_of_a_cluster)};
    cudaLaunchConfig_t config = {};
    config.gridDim = unsigned(sms) * 2;
    config.blockDim = kThreads;
    config.attrs = list;
    config.numAttrs = 2;
    OK(cudaLaunchKernelExC(&config, kernel, arguments));
    OK(cudaMemcpy(got.data(), numbers, got.size() * sizeof(int), cudaMemcpyDeviceToHost));
    CHECK(std::equal(expected.begin(), expected.end(), got.begin() + (kRounds % 2 ? ptrdiff_t(all) : 0)));
  }
  int valid[2] = {};
  void* arguments[] = {&numbers};
  OK(cudaLaunchCooperativeKernel(may_wait_for_grid, 1, 1, arguments, 0, nullptr));
  OK(cudaMemcpy(&valid[0], numbers, sizeof(int), cudaMemcpyDeviceToHost));
  OK(submit(may_wait_for_grid, numbers, 1, 1, 0, {}));
  OK(cudaMemcpy(&valid[1], numbers, sizeof(int), cudaMemcpyDeviceToHost));
  CHECK(valid[0] == 1 && valid[1] == 0);
  OK(cudaFree(numbers));
}

void test_dependent_launches() {
  constexpr unsigned kBlocks = 6, kThreads = 96, kAll = kBlocks * kThreads;
  std::vector<int> got(2 * kAll);
  int* numbers = nullptr;
  OK(cudaMalloc(&numbers, got.size() * sizeof(int)));
  OK(submit(first_of_two, numbers, kBlocks, kThreads, 0, {}));
  const cudaLaunchAttribute early = attribute(cudaLaunchAttributeProgrammaticStreamSerialization, 1);
  OK(submit(second_of_two, numbers, kBlocks, kThreads, 0, {early}));
  OK(cudaMemcpy(got.data(), numbers, got.size() * sizeof(int), cudaMemcpyDeviceToHost));
  const auto first = [](unsigned i) { return int(i / kThreads * 100 + i % kThreads); };
  bool right = true;
  for (unsigned i = 0; i < kAll; ++i) right &= got[i] == first(i) && got[kAll + i] == 2 * first(kAll - 1 - i);
  CHECK(right);
  OK(cudaFree(numbers));
}

void test_occupancy() {
  const auto blocks = [](Kernel kernel, int threads, size_t dynamic_shared) {
    int count = -1;
    OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&count, kernel, threads, dynamic_shared));
    return count;
  };
  CHECK(blocks(with_dynamic, 128, 0) == 16);
  CHECK(blocks(with_dynamic, 128, 10000) == 16);
  CHECK(blocks(with_dynamic, 128, 40000) == 5);
  CHECK(blocks(with_dynamic, 128, 49153) == 4);
  CHECK(blocks(with_dynamic, 128, 76800) == 3);
  CHECK(blocks(with_dynamic, 128, 115712) == 2);
  CHECK(blocks(with_dynamic, 128, 115713) == 1);
  CHECK(blocks(with_dynamic, 128, 232448) == 1);
  CHECK(blocks(with_dynamic, 128, 232449) == 0);
  CHECK(blocks(sized, 64, 0) == 32);
  CHECK(blocks(with_dynamic, 1024, 0) == 2);
  CHECK(blocks(with_dynamic, 1025, 0) == 0);
  int count = 0, sms = 0;
  EXPECT(cudaErrorInvalidValue, cudaOccupancyMaxActiveBlocksPerMultiprocessor(&count, with_dynamic, 0, 0));
  OK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
  cudaLaunchConfig_t config = {};
  config.gridDim = 2112;
  config.blockDim = 128;
  config.dynamicSmemBytes = 200000;
  OK(cudaOccupancyMaxActiveClusters(&count, with_dynamic, &config));
  CHECK(count == 0);
  cudaLaunchAttribute wanted = cluster(2);
  config.attrs = &wanted;
  config.numAttrs = 1;
  OK(cudaOccupancyMaxActiveClusters(&count, with_dynamic, &config));
  CHECK(count == sms / 2);
  wanted = cluster(16);
  EXPECT(cudaErrorInvalidClusterSize, cudaOccupancyMaxActiveClusters(&count, with_dynamic, &config));
  wanted = cluster(2);
  OK(cudaOccupancyMaxPotentialClusterSize(&count, with_dynamic, &config));
  CHECK(count == 8);
}

// XLA calls handlers on threads that flush subnormal numbers and take them for zeros.
void test_arithmetic_of_the_host() {
#if defined(__x86_64__)
  constexpr unsigned kFlushToZero = 1u << 15, kDenormalsAreZero = 1u << 6;
  float in[2] = {1.5e-38f, 3e-39f}, out[2];
  float* values = nullptr;
  OK(cudaMalloc(&values, sizeof(in)));
  OK(cudaMemcpy(values, in, sizeof(in), cudaMemcpyHostToDevice));
  constexpr unsigned kBoth = kFlushToZero | kDenormalsAreZero;
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | kBoth);
  halve<<<1, 2>>>(values);
  const bool kept = (_mm_getcsr() & kBoth) == kBoth;
  _mm_setcsr(before);
  CHECK(kept);
  OK(cudaMemcpy(out, values, sizeof(out), cudaMemcpyDeviceToHost));
  CHECK(out[0] == in[0] / 2 && out[1] == in[1] / 2);
  OK(cudaFree(values));
#endif
}

}  // namespace

int main() {
  test_function_attributes();
  test_shapes();
  test_shared_memory();
  test_settings();
  test_printing();
  test_clusters();
  test_launch_attributes();
  test_cooperative();
  test_waiting_for_the_grid();
  test_dependent_launches();
  test_occupancy();
  test_arithmetic_of_the_host();
  return emulator::runtime::verdict();
}
