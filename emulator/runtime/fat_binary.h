// The PTX texts in a fat binary, as nvcc puts it into an object.
//
// They have to be there as text: nvcc compresses PTX unless it is told not to. Hence its options for objects that are to
// run here: -gencode arch=compute_90a,code=compute_90a -no-compress; or compute_100a, compute_100f
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulator/ptx/ptx.h"

namespace emulator::runtime {

// One PTX text, or what says that there was one.
struct PtxImage {
  ptx::Target target;
  bool readable = false;  // not compressed
  std::string text;       // empty where it is not readable
};

struct FatBinary {
  std::vector<PtxImage> images;
  int cubins = 0;  // machine code, which nobody here can run
};

// What is wrong with a fat binary.
struct FatBinaryError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// No fat binary has anything that runs on the device.
struct NoImageError : FatBinaryError {
  using FatBinaryError::FatBinaryError;
};

// Reads what __cudaRegisterFatBinary is given: a wrapper that points to the data.
FatBinary read_wrapped_fat_binary(const void* wrapper);
// Reads the data themselves; at most `limit` bytes of them.
FatBinary read_fat_binary(const void* data, size_t limit = size_t(-1));

// The text that a device of a compute capability (90, 100) would choose: the one for it alone, that for its family, else
// the newest that is not newer.
const std::string& choose_image(const FatBinary& binary, int capability);

}  // namespace emulator::runtime
