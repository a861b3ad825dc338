// The device poses as a B200: what it says of itself, and that it does not run what is compiled for an H200.
#include <cuda_runtime.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "emulator/runtime/testing.h"

namespace {

__global__ void set(int* place) { *place = 7; }

void pose_as(const char* capability) { CHECK(setenv("JAX_FLASH_MLA_EMULATOR_CAPABILITY", capability, 1) == 0); }

int attribute(cudaDeviceAttr which) {
  int value = -1;
  OK(cudaDeviceGetAttribute(&value, which, 0));
  return value;
}

void test_properties() {
  cudaDeviceProp properties;
  OK(cudaGetDeviceProperties(&properties, 0));
  CHECK(std::strcmp(properties.name, "NVIDIA B200 (emulated)") == 0);
  CHECK(properties.major == 10 && properties.minor == 0);
  CHECK(properties.multiProcessorCount == 148 && attribute(cudaDevAttrMultiProcessorCount) == 148);
  CHECK(properties.l2CacheSize == attribute(cudaDevAttrL2CacheSize) && properties.l2CacheSize == 126 << 20);
  CHECK(properties.sharedMemPerBlockOptin == 227 << 10 && properties.sharedMemPerMultiprocessor == 228 << 10);
  CHECK(attribute(cudaDevAttrComputeCapabilityMajor) == 10 && attribute(cudaDevAttrComputeCapabilityMinor) == 0);
  CHECK(setenv("JAX_FLASH_MLA_EMULATOR_SMS", "3", 1) == 0);
  CHECK(attribute(cudaDevAttrMultiProcessorCount) == 3);
  CHECK(unsetenv("JAX_FLASH_MLA_EMULATOR_SMS") == 0);
}

}  // namespace

int main() {
  int* place;
  OK(cudaMalloc(&place, sizeof(int)));
  pose_as("9.0");
  set<<<1, 1>>>(place);
  OK(cudaDeviceSynchronize());
  CHECK(attribute(cudaDevAttrMultiProcessorCount) == 132);

  pose_as("10.0");
  test_properties();
  // This file is compiled for an H200 alone.
  set<<<1, 1>>>(place);
  EXPECT(cudaErrorNoKernelImageForDevice, cudaPeekAtLastError());
  cudaFuncAttributes attributes;
  EXPECT(cudaErrorNoKernelImageForDevice, cudaFuncGetAttributes(&attributes, set));
  CHECK(std::string(cudaGetErrorString(cudaErrorNoKernelImageForDevice)).find("sm_90a") != std::string::npos);

  // Others than these are names only.
  pose_as("8.9");
  CHECK(attribute(cudaDevAttrComputeCapabilityMajor) == 8 && attribute(cudaDevAttrMultiProcessorCount) == 132);
  set<<<1, 1>>>(place);
  OK(cudaDeviceSynchronize());
  OK(cudaFree(place));
  return emulator::runtime::verdict();
}
