// The runtime as programs see it, but for what launch_test.cu tests. The same program passes on an H200 with CUDA's own
// runtime (13.0), which is where the expectations come from:
//
//   nvcc -std=c++20 -I. -gencode arch=compute_90a,code=sm_90a emulator/runtime/runtime_test.cu && ./a.out
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstring>

#include "emulator/runtime/testing.h"

namespace {

__global__ void plain(int* out) {
  if (out) out[blockIdx.x * blockDim.x + threadIdx.x] = int(blockIdx.x * 1000 + threadIdx.x);
}

__global__ void with_both(int* out) {
  extern __shared__ int dynamic[];
  __shared__ int fixed[1000];
  if (!out) return;
  dynamic[threadIdx.x] = fixed[threadIdx.x] = int(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = dynamic[threadIdx.x ^ 1] + fixed[threadIdx.x ^ 2];
}

struct Mixed {
  char small;
  double large;
  int array[3];
};

__global__ void parameters(int* out, char a, Mixed mixed, short b, long long c) {
  out[0] = a + int(mixed.large) + mixed.array[2] + b + int(c) + mixed.small;
}

__device__ int table[4] = {1, 2, 3, 4};
__constant__ int offset;

__global__ void tabled(int* out) { out[threadIdx.x] = table[threadIdx.x] + offset; }

__global__ void copy_kernel(int* out, const int* in) { out[threadIdx.x] = in[threadIdx.x] + 1; }

void test_device() {
  int count = 0, device = -1, value = 0;
  OK(cudaGetDeviceCount(&count));
  CHECK(count >= 1);
  OK(cudaGetDevice(&device));
  CHECK(device == 0);
  OK(cudaSetDevice(0));
  EXPECT(cudaErrorInvalidDevice, cudaSetDevice(99));
  EXPECT(cudaErrorInvalidValue, cudaGetDevice(nullptr));
  const auto is = [&](cudaDeviceAttr which, int expected) {
    OK(cudaDeviceGetAttribute(&value, which, 0));
    CHECK(value == expected);
  };
  is(cudaDevAttrComputeCapabilityMajor, 9);
  is(cudaDevAttrComputeCapabilityMinor, 0);
  is(cudaDevAttrMaxSharedMemoryPerBlock, 49152);
  is(cudaDevAttrMaxSharedMemoryPerBlockOptin, 232448);
  is(cudaDevAttrMaxSharedMemoryPerMultiprocessor, 233472);
  is(cudaDevAttrReservedSharedMemoryPerBlock, 1024);
  is(cudaDevAttrMaxRegistersPerMultiprocessor, 65536);
  is(cudaDevAttrL2CacheSize, 62914560);
  is(cudaDevAttrClusterLaunch, 1);
  EXPECT(cudaErrorInvalidValue, cudaDeviceGetAttribute(&value, cudaDeviceAttr(199), 0));
  EXPECT(cudaErrorInvalidDevice, cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 99));
  cudaDeviceProp properties;
  OK(cudaGetDeviceProperties(&properties, 0));
  CHECK(properties.major == 9 && properties.minor == 0 && properties.warpSize == 32);
  CHECK(std::strncmp(properties.name, "NVIDIA H200", 11) == 0);
  OK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 0));
  CHECK(value == properties.multiProcessorCount);
}

void test_memory() {
  void* memory = &memory;
  int host[300] = {};
  OK(cudaMalloc(&memory, 0));
  CHECK(memory == nullptr);
  EXPECT(cudaErrorMemoryAllocation, cudaMalloc(&memory, size_t(1) << 45));
  OK(cudaMalloc(&memory, 1000));
  EXPECT(cudaErrorInvalidValue, cudaFree(static_cast<char*>(memory) + 4));
  EXPECT(cudaErrorInvalidValue, cudaFree(host));
  OK(cudaFree(nullptr));
  OK(cudaMemcpy(memory, host, 1000, cudaMemcpyHostToDevice));
  EXPECT(cudaErrorInvalidValue, cudaMemcpy(memory, host, 1004, cudaMemcpyHostToDevice));
  EXPECT(cudaErrorInvalidValue, cudaMemcpy(memory, host, 1000, cudaMemcpyDeviceToHost));
  EXPECT(cudaErrorInvalidValue, cudaMemcpy(host, host + 20, 8, cudaMemcpyDeviceToDevice));
  EXPECT(cudaErrorInvalidMemcpyDirection, cudaMemcpy(memory, host, 8, cudaMemcpyKind(9)));
  EXPECT(cudaErrorInvalidValue, cudaMemcpy(nullptr, host, 4, cudaMemcpyHostToDevice));
  OK(cudaMemcpy(nullptr, host, 0, cudaMemcpyHostToDevice));
  OK(cudaMemset(memory, 1, 1000));
  OK(cudaMemcpy(host, memory, 1000, cudaMemcpyDefault));
  CHECK(host[0] == 0x01010101 && host[249] == 0x01010101 && host[250] == 0);
  EXPECT(cudaErrorInvalidPitchValue, cudaMemcpy2D(memory, 4, host, 8, 6, 2, cudaMemcpyHostToDevice));
  EXPECT(cudaErrorInvalidValue, cudaMemset2D(memory, 4, 0, 6, 2));
  OK(cudaMemset2D(memory, 8, 0, 4, 2));
  OK(cudaMemcpy2D(host, 4, memory, 8, 4, 3, cudaMemcpyDeviceToHost));
  CHECK(host[0] == 0 && host[1] == 0 && host[2] == 0x01010101);

  cudaPointerAttributes a;
  OK(cudaPointerGetAttributes(&a, host));
  CHECK(a.type == cudaMemoryTypeUnregistered && a.hostPointer == host && !a.devicePointer);
  OK(cudaPointerGetAttributes(&a, static_cast<char*>(memory) + 8));
  CHECK(a.type == cudaMemoryTypeDevice && a.devicePointer == static_cast<char*>(memory) + 8 && !a.hostPointer);
  OK(cudaFree(memory));
  EXPECT(cudaErrorInvalidValue, cudaFree(memory));
  void* pinned = nullptr;
  OK(cudaMallocHost(&pinned, 100));
  OK(cudaPointerGetAttributes(&a, pinned));
  CHECK(a.type == cudaMemoryTypeHost && a.devicePointer == pinned && a.hostPointer == pinned);
  EXPECT(cudaErrorInvalidValue, cudaFree(pinned));
  EXPECT(cudaErrorInvalidValue, cudaFreeHost(host));
  OK(cudaFreeHost(pinned));
  OK(cudaFreeHost(nullptr));
  size_t free = 0, total = 0;
  OK(cudaMemGetInfo(&free, &total));
  CHECK(free > 0 && free <= total);
}

void test_symbols() {
  void* pointer = nullptr;
  size_t size = 0;
  int host[4] = {10, 20, 30, 40};
  OK(cudaGetSymbolAddress(&pointer, table));
  OK(cudaGetSymbolSize(&size, table));
  CHECK(pointer && size == sizeof(table));
  EXPECT(cudaErrorInvalidSymbol, cudaGetSymbolAddress(&pointer, host));
  EXPECT(cudaErrorInvalidValue, cudaMemcpyToSymbol(table, host, 17));
  EXPECT(cudaErrorInvalidValue, cudaMemcpyToSymbol(table, host, 4, 16));
  EXPECT(cudaErrorInvalidMemcpyDirection, cudaMemcpyToSymbol(table, host, 4, 0, cudaMemcpyDeviceToHost));
  OK(cudaMemcpyToSymbol(table, host + 3, 4, 12));
  OK(cudaMemcpyToSymbol(offset, host, 4));
  int* out = nullptr;
  OK(cudaMalloc(&out, 16));
  tabled<<<1, 4>>>(out);
  OK(cudaMemcpy(host, out, 16, cudaMemcpyDeviceToHost));
  CHECK(host[0] == 11 && host[1] == 12 && host[2] == 13 && host[3] == 50);
  OK(cudaMemcpyFromSymbol(host, table, 4, 4));
  CHECK(host[0] == 2);
  OK(cudaFree(out));
}

void test_results() {
  int* out = nullptr;
  int host[64] = {};
  OK(cudaMalloc(&out, sizeof(host)));
  plain<<<2, 32>>>(out);
  OK(cudaGetLastError());
  OK(cudaMemcpy(host, out, sizeof(host), cudaMemcpyDeviceToHost));
  CHECK(host[0] == 0 && host[31] == 31 && host[32] == 1000 && host[63] == 1031);
  with_both<<<1, 32, 128>>>(out);
  OK(cudaMemcpy(host, out, sizeof(host), cudaMemcpyDeviceToHost));
  CHECK(host[0] == 3 && host[5] == 11);
  parameters<<<1, 1>>>(out, char(1), Mixed{char(2), 30.0, {0, 0, 400}}, short(5000), 60000ll);
  OK(cudaMemcpy(host, out, 4, cudaMemcpyDeviceToHost));
  CHECK(host[0] == 65433);
  int* managed = nullptr;
  OK(cudaMallocManaged(&managed, 32 * sizeof(int)));
  for (int i = 0; i < 32; ++i) managed[i] = i * i;
  copy_kernel<<<1, 32>>>(out, managed);
  OK(cudaMemcpy(host, out, 32 * sizeof(int), cudaMemcpyDeviceToHost));
  CHECK(host[0] == 1 && host[31] == 962);
  OK(cudaFree(managed));
  OK(cudaFree(out));
}

void test_streams() {
  cudaStream_t stream;
  cudaEvent_t event, untimed;
  int priority = 1;
  float milliseconds = -1;
  OK(cudaStreamCreate(&stream));
  OK(cudaStreamDestroy(stream));
  EXPECT(cudaErrorInvalidValue, cudaStreamCreateWithFlags(&stream, 7));
  OK(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, -99));
  OK(cudaStreamGetPriority(stream, &priority));
  CHECK(priority == -5);
  OK(cudaEventCreate(&event));
  EXPECT(cudaErrorInvalidValue, cudaEventCreateWithFlags(&untimed, 64));
  OK(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming));
  EXPECT(cudaErrorInvalidResourceHandle, cudaEventElapsedTime(&milliseconds, event, event));
  OK(cudaEventQuery(event));
  OK(cudaEventRecord(event, stream));
  OK(cudaEventRecord(untimed, stream));
  OK(cudaEventSynchronize(event));
  EXPECT(cudaErrorInvalidResourceHandle, cudaEventElapsedTime(&milliseconds, event, untimed));
  OK(cudaEventElapsedTime(&milliseconds, event, event));
  CHECK(milliseconds == 0);
  OK(cudaStreamWaitEvent(stream, event, 0));
  EXPECT(cudaErrorInvalidValue, cudaStreamWaitEvent(stream, event, 5));
  OK(cudaStreamSynchronize(stream));
  OK(cudaStreamQuery(stream));
  cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusActive;
  OK(cudaStreamIsCapturing(stream, &capturing));
  CHECK(capturing == cudaStreamCaptureStatusNone);
  int called = 0;
  OK(cudaLaunchHostFunc(
      stream, [](void* data) { ++*static_cast<int*>(data); }, &called));
  OK(cudaStreamSynchronize(stream));
  CHECK(called == 1);
  OK(cudaStreamDestroy(stream));
  OK(cudaEventDestroy(event));
  OK(cudaEventDestroy(untimed));
  EXPECT(cudaErrorInvalidResourceHandle, cudaStreamDestroy(nullptr));
}

void test_driver() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  const auto find = [&](const char* name, unsigned version) {
    return cudaGetDriverEntryPointByVersion(name, &function, version, cudaEnableDefault, &found);
  };
  OK(find("cuNoSuchThing", 12000));
  CHECK(!function && found == cudaDriverEntryPointSymbolNotFound);
  OK(find("cuTensorMapEncodeTiled", 11000));
  CHECK(!function && found == cudaDriverEntryPointVersionNotSufficent);
  EXPECT(cudaErrorInvalidValue, find("cuTensorMapEncodeTiled", 99000));
  OK(find("cuTensorMapEncodeTiled", 12000));
  CHECK(function && found == cudaDriverEntryPointSuccess);
  if (!function) return;
  const auto encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  void* memory = nullptr;
  OK(cudaMalloc(&memory, 1 << 16));
  alignas(64) CUtensorMap map;
  const cuuint64_t sizes[2] = {128, 64}, strides[1] = {256};
  cuuint32_t box[2] = {64, 8}, steps[2] = {1, 1};
  const auto encoded = [&] {
    return encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, memory, sizes, strides, box, steps,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  };
  CHECK(encoded() == CUDA_SUCCESS);
  box[0] = 128;  // 256 bytes are wider than the swizzle
  CHECK(encoded() == CUDA_ERROR_INVALID_VALUE);
  OK(cudaFree(memory));
}

void test_errors() {
  CHECK(std::strcmp(cudaGetErrorName(cudaErrorIllegalAddress), "cudaErrorIllegalAddress") == 0);
  CHECK(std::strcmp(cudaGetErrorString(cudaErrorIllegalAddress), "an illegal memory access was encountered") == 0);
  CHECK(std::strcmp(cudaGetErrorString(cudaError_t(12345)), "unrecognized error code") == 0);
  cudaSetDevice(99);
  CHECK(cudaPeekAtLastError() == cudaErrorInvalidDevice);
  CHECK(cudaGetLastError() == cudaErrorInvalidDevice);
  CHECK(cudaGetLastError() == cudaSuccess);
}

}  // namespace

int main() {
  test_device();
  test_memory();
  test_symbols();
  test_results();
  test_streams();
  test_driver();
  test_errors();
  return emulator::runtime::verdict();
}
