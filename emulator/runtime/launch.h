// A launch before it is run: what it asks for, and whether the device can do it.
#pragma once

#include <vector>

#include "emulator/runtime/state.h"

namespace emulator::runtime {

struct Shape {
  Dim3 grid, block;
  Dim3 cluster;  // 1 × 1 × 1 where there is none
  bool has_cluster = false;
  bool cooperative = false;
  bool is_programmatic = false;  // it need not wait for the launch before
  size_t dynamic_shared = 0;
};

// Reads a configuration with its attributes.
cudaError_t read_config(const cudaLaunchConfig_t& config, Shape* shape);

// Gives the shape the cluster that the kernel requires, and refuses clusters that cannot be.
cudaError_t settle_cluster(const Kernel& kernel, Shape* shape);

// Where each of a kernel's parameters begins.
std::vector<size_t> parameter_offsets(const Function& function);

}  // namespace emulator::runtime
