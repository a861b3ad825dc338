// The device that this runtime poses as: an H200, compute capability 9.0, or a B200, 10.0.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulator::runtime {

inline constexpr uint32_t kMaxThreadsPerBlock = 1024;
inline constexpr uint32_t kMaxBlockDim[3] = {1024, 1024, 64};
inline constexpr uint32_t kMaxGridDim[3] = {2147483647, 65535, 65535};
inline constexpr uint32_t kMaxThreadsPerSm = 2048;
inline constexpr uint32_t kMaxBlocksPerSm = 32;

// Shared memory. What a block has by itself, what it may have if its kernel asks for it, and what there is of it.
inline constexpr size_t kDefaultSharedPerBlock = 48 << 10;
inline constexpr size_t kMaxSharedPerBlock = 227 << 10;
inline constexpr size_t kSharedPerSm = 228 << 10;
inline constexpr size_t kReservedSharedPerBlock = 1024;

inline constexpr uint32_t kPortableClusterSize = 8;
inline constexpr uint32_t kMaxClusterSize = 16;

inline constexpr int kGreatestPriority = -5;  // of a stream; the least is 0

// 132, or 148 of a B200, unless the environment variable JAX_FLASH_MLA_EMULATOR_SMS says otherwise at the time. A small number makes
// persistent kernels launch few blocks.
int num_sms();

// 90, unless the environment variable JAX_FLASH_MLA_EMULATOR_CAPABILITY says otherwise at the time, e.g. 10.0: what the
// device says of itself, for programs that choose by it.
int compute_capability();

// Whose code it runs: its own where it is of the family 10, that of 90 otherwise, whatever it says.
int code_architecture();

// How many clusters of a size the device holds when a multiprocessor holds so many of their blocks.
int resident_clusters(uint32_t cluster_size, uint32_t blocks_per_sm);

// Bytes of global memory that the device is said to have: an H200's or a B200's, or as much as fits this computer.
size_t global_memory();

}  // namespace emulator::runtime
