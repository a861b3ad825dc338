// Kernels that go wrong, and what the emulator's runtime offers beyond CUDA's.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <thread>

#include "emulator/runtime/runtime.h"
#include "emulator/runtime/testing.h"

namespace {

using emulator::runtime::BorrowedBuffers;
using emulator::runtime::forget_report;
using emulator::runtime::last_report;

__global__ void add_one(int* out, const int* in) { out[threadIdx.x] = in[threadIdx.x] + 1; }

// Lines that reports have to name.
constexpr int kLineOfLoad = __LINE__ + 1;
__device__ __forceinline__ int one_of(const int* in, unsigned i) { return in[i]; }

constexpr int kLineOfSum = __LINE__ + 1;
__device__ __forceinline__ int sum_of_two(const int* in, unsigned i) { return one_of(in, i) + one_of(in, i + 1); }

constexpr int kLineOfCall = __LINE__ + 1;
__global__ void add_neighbours(int* out, const int* in) { out[threadIdx.x] = sum_of_two(in, threadIdx.x); }

constexpr int kLineOfCalled = __LINE__ + 1;
__device__ __noinline__ int called(const int* in, unsigned i) { return in[i + 1]; }

__global__ void call(int* out, const int* in) { out[threadIdx.x] = called(in, threadIdx.x); }

__global__ void stop() { __trap(); }

// What may begin before the kernel that wrote `in` has ended. One thread waits for it, for itself and for others that meet
// it afterwards.
constexpr int kLineOfEarlyLoad = __LINE__ + 4;
__global__ void add_one_early(int* out, const int* in, bool waits) {
  if (waits && threadIdx.x == 0) cudaGridDependencySynchronize();
  __syncthreads();
  out[threadIdx.x] = in[threadIdx.x] + 1;
}

cudaError_t launch(int* out, const int* in) {
  cudaLaunchConfig_t config = {};
  config.gridDim = 1;
  config.blockDim = 32;
  return cudaLaunchKernelEx(&config, add_one, out, in);
}

struct Buffers {
  int* out = nullptr;
  int* in = nullptr;
  Buffers() {
    OK(cudaMalloc(&out, 128));
    OK(cudaMalloc(&in, 128));
    OK(cudaMemset(in, 0, 128));
  }
  ~Buffers() {
    OK(cudaFree(out));
    OK(cudaFree(in));
  }
};

void test_reports() {
  const Buffers buffers;
  forget_report();
  OK(launch(buffers.out, buffers.in));
  CHECK(!last_report());
  EXPECT(cudaErrorIllegalAddress, launch(buffers.out + 1, buffers.in));
  CHECK(last_report() && last_report()->code == emulator::FaultCode::kIllegalAddress);
  CHECK(last_report() && cudaGetErrorString(cudaErrorIllegalAddress) == last_report()->text);
  CHECK(std::strcmp(cudaGetErrorString(cudaErrorInvalidValue), "invalid argument") == 0);
  std::thread([] { CHECK(std::strlen(cudaGetErrorString(cudaErrorIllegalAddress)) < 60); }).join();

  // The next launch works.
  OK(cudaDeviceSynchronize());
  OK(launch(buffers.out, buffers.in));
  EXPECT(cudaErrorIllegalAddress, launch(buffers.out, nullptr));
}

bool says(cudaError_t error, const std::string& words) {
  const char* const text = cudaGetErrorString(error);
  if (std::strstr(text, words.c_str())) return true;
  std::fprintf(stderr, "This does not say \"%s\":\n%s\n", words.c_str(), text);
  return false;
}

std::string at(int line) { return "fault_test.cu:" + std::to_string(line); }

// What nvcc says of source lines arrives in the report.
void test_places() {
  const Buffers buffers;
  constexpr cudaError_t kError = cudaErrorIllegalAddress;
  add_neighbours<<<1, 32>>>(buffers.out, buffers.in);
  EXPECT(kError, cudaDeviceSynchronize());
  for (const std::string& words : {
           std::string("Cannot read 4 bytes at 0x"),
           std::string("kernel (anonymous namespace)::add_neighbours(int*, int const*)"),
           std::string("CTA (0, 0, 0), warp 0"),
           at(kLineOfLoad) + ", inlined at ",
           at(kLineOfSum) + ", at ",
           at(kLineOfCall) + "; PTX line ",
           std::string("'ld.global"),
       }) {
    CHECK(says(kError, words));
  }
  call<<<1, 32>>>(buffers.out, buffers.in);
  EXPECT(kError, cudaDeviceSynchronize());
  CHECK(says(kError, "kernel (anonymous namespace)::call(int*, int const*)"));
  CHECK(says(kError, at(kLineOfCalled) + "; PTX line "));
}

void test_unseen() {
  const Buffers buffers;
  // Who launches so learns of it from whatever waits for the device, once.
  stop<<<1, 32>>>();
  CHECK(cudaPeekAtLastError() == cudaErrorLaunchFailure);
  EXPECT(cudaErrorLaunchFailure, cudaDeviceSynchronize());
  OK(cudaDeviceSynchronize());
  stop<<<1, 32>>>();
  CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
  OK(cudaDeviceSynchronize());
  stop<<<1, 32>>>();
  EXPECT(cudaErrorLaunchFailure, cudaMemcpy(buffers.out, buffers.in, 4, cudaMemcpyDefault));
}

void test_explanations() {
  int* nothing = nullptr;
  void* arguments[] = {&nothing, &nothing};
  const auto* kernel = reinterpret_cast<const void*>(add_one);
  EXPECT(cudaErrorInvalidValue, cudaLaunchKernel(kernel, 1, 2000, arguments, 0, nullptr));
  CHECK(std::strstr(cudaGetErrorString(cudaErrorInvalidValue), "2000 x 1 x 1"));
  EXPECT(cudaErrorInvalidValue, cudaGetDevice(nullptr));
  CHECK(!std::strstr(cudaGetErrorString(cudaErrorInvalidValue), "2000"));
}

void test_unwritten() {
  int* fresh = nullptr;
  int* other = nullptr;
  int host[32] = {};
  Buffers buffers;
  OK(cudaMalloc(&fresh, 128));
  OK(cudaMalloc(&other, 128));
  EXPECT(cudaErrorLaunchFailure, launch(buffers.out, fresh));
  OK(cudaMemcpy(host, fresh, 128, cudaMemcpyDeviceToHost));  // the host may look
  CHECK(host[0] == -1);
  OK(cudaMemset(fresh, 0, 124));
  EXPECT(cudaErrorLaunchFailure, launch(buffers.out, fresh));
  OK(cudaMemcpy(other, fresh, 128, cudaMemcpyDeviceToDevice));  // what was not written stays so
  EXPECT(cudaErrorLaunchFailure, launch(buffers.out, other));
  OK(cudaMemcpy(fresh + 31, host, 4, cudaMemcpyHostToDevice));
  OK(launch(buffers.out, fresh));
  OK(launch(other, fresh));  // a kernel's writing counts as well
  OK(launch(buffers.out, other));
  OK(cudaFree(fresh));
  EXPECT(cudaErrorIllegalAddress, launch(buffers.out, fresh));
  OK(cudaFree(other));
}

void test_borrowed() {
  alignas(64) int in[32], out[32];
  for (int i = 0; i < 32; ++i) in[i] = 2 * i;
  EXPECT(cudaErrorIllegalAddress, launch(out, in));
  {
    BorrowedBuffers buffers;
    buffers.operand(in, sizeof(in));
    buffers.operand(in, sizeof(in));
    buffers.operand(nullptr, 0);
    buffers.result(out, sizeof(out));
    CHECK(out[5] == -1);
    EXPECT(cudaErrorLaunchFailure, launch(out, out));  // nothing is in it yet
    EXPECT(cudaErrorIllegalAddress, launch(in, in));   // an operand
    OK(launch(out, in));
    CHECK(out[5] == 11);
    OK(launch(out, out));
    {
      BorrowedBuffers others;
      others.operand(in, sizeof(in));
    }
    OK(launch(out, in));
  }
  EXPECT(cudaErrorIllegalAddress, launch(out, in));
  {
    BorrowedBuffers buffers;  // in place
    buffers.operand(in, sizeof(in));
    buffers.result(in, sizeof(in));
    CHECK(in[5] == 10);
    OK(launch(in, in));
    CHECK(in[5] == 11);
  }
  {
    BorrowedBuffers buffers;  // parts of one buffer
    buffers.operand(in + 4, 64);
    buffers.operand(in, 64);
    buffers.operand(in + 8, 32);
    buffers.operand(in + 8, 96);
    buffers.result(out, sizeof(out));
    OK(launch(out, in));
    CHECK(out[5] == 12);
  }
  EXPECT(cudaErrorIllegalAddress, launch(out, in));
}

void test_threads() {
  alignas(64) static int in[32];
  const auto work = [] {
    alignas(64) int out[32];
    for (int i = 0; i < 50; ++i) {
      BorrowedBuffers buffers;
      buffers.operand(in, sizeof(in));
      buffers.result(out, sizeof(out));
      OK(launch(out, in));
      CHECK(out[31] == 1);
    }
  };
  std::thread first(work), second(work);
  first.join();
  second.join();
}

}  // namespace

void test_programmatic() {
  const Buffers buffers;
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = 1;
  config.blockDim = 32;
  const auto launch_second = [&](bool is_early, bool waits) {
    config.attrs = &early;
    config.numAttrs = is_early ? 1 : 0;
    return cudaLaunchKernelEx(&config, add_one_early, buffers.in, static_cast<const int*>(buffers.out), waits);
  };
  OK(launch(buffers.out, buffers.in));
  OK(launch_second(false, false));
  OK(launch(buffers.out, buffers.in));
  OK(launch_second(true, true));
  OK(launch(buffers.out, buffers.in));
  EXPECT(cudaErrorLaunchFailure, launch_second(true, false));
  CHECK(last_report() && last_report()->code == emulator::FaultCode::kRace);
  const std::string text = last_report() ? last_report()->text : "";
  CHECK(text.find("offset 0 of an allocation of 128 bytes was written by the kernel before this one") == 6);
  CHECK(text.find("fault_test.cu:" + std::to_string(kLineOfEarlyLoad)) != std::string::npos);
  // What was written before that is there; and numbers of launches come again.
  const Buffers others;
  for (int i = 0; i < 300; ++i) {
    OK(launch(others.out, others.in));
    OK(launch_second(true, false));
  }
}

int main() {
  test_reports();
  test_places();
  test_unseen();
  test_explanations();
  test_unwritten();
  test_borrowed();
  test_threads();
  test_programmatic();
  return emulator::runtime::verdict();
}
