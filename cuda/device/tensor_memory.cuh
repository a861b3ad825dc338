// Tensor memory of SM100: 128 lanes of 512 columns of 32 bits, one function for each PTX instruction used.
//
// An address has the lane in its upper half and the column in its lower. A warp reaches the 32 lanes from 32 times its
// rank in its warpgroup on: of a matrix with a row in each lane, thread t of a warpgroup has row t.
#pragma once

#include <cstdint>

#include "cuda/device/barrier.cuh"
#include "cuda/device/registers.cuh"

namespace jax_flash_mla::device {

inline constexpr int kTensorColumns = 512;

// --- Allocation, by all lanes of a warp. Nobody else on the multiprocessor may allocate before the permit is given up.

// Puts the address into shared memory. Waits while there are too few columns.
__device__ __forceinline__ void allocate_tensor_memory(uint32_t& address, int columns) {
  asm volatile("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], %1;" ::"r"(shared_address(&address)),
               "r"(columns)
               : "memory");
}

__device__ __forceinline__ void give_up_allocating() {
  asm volatile("tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void free_tensor_memory(uint32_t address, int columns) {
  asm volatile("tcgen05.dealloc.cta_group::1.sync.aligned.b32 %0, %1;" ::"r"(address), "r"(columns) : "memory");
}

// --- Order between threads: what comes before the one fence in a thread is done before what comes after the other in a
// thread that was waited from, by a barrier in between.

__device__ __forceinline__ void tensor_fence_before_sync() {
  asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory");
}

__device__ __forceinline__ void tensor_fence_after_sync() {
  asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
}

// --- 32 columns of this thread's lane, by all lanes of a warp.

// Started but not waited for.
__device__ __forceinline__ void start_loading(float (&x)[32], uint32_t address) {
  asm volatile(
      "tcgen05.ld.sync.aligned.32x32b.x32.b32 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, [%32];"
      : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3]), "=f"(x[4]), "=f"(x[5]), "=f"(x[6]), "=f"(x[7]), "=f"(x[8]),
        "=f"(x[9]), "=f"(x[10]), "=f"(x[11]), "=f"(x[12]), "=f"(x[13]), "=f"(x[14]), "=f"(x[15]), "=f"(x[16]),
        "=f"(x[17]), "=f"(x[18]), "=f"(x[19]), "=f"(x[20]), "=f"(x[21]), "=f"(x[22]), "=f"(x[23]), "=f"(x[24]),
        "=f"(x[25]), "=f"(x[26]), "=f"(x[27]), "=f"(x[28]), "=f"(x[29]), "=f"(x[30]), "=f"(x[31])
      : "r"(address)
      : "memory");
}

// Until all that this thread has started to load is in its registers, which are to be pinned then (pin_registers).
__device__ __forceinline__ void wait_for_loads() { asm volatile("tcgen05.wait::ld.sync.aligned;" ::: "memory"); }

// Started but not waited for.
__device__ __forceinline__ void start_storing(uint32_t address, const uint32_t (&x)[32]) {
  asm volatile(
      "tcgen05.st.sync.aligned.32x32b.x32.b32 [%0], {%1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32};" ::"r"(address),
      "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(x[4]), "r"(x[5]), "r"(x[6]), "r"(x[7]), "r"(x[8]), "r"(x[9]),
      "r"(x[10]), "r"(x[11]), "r"(x[12]), "r"(x[13]), "r"(x[14]), "r"(x[15]), "r"(x[16]), "r"(x[17]), "r"(x[18]),
      "r"(x[19]), "r"(x[20]), "r"(x[21]), "r"(x[22]), "r"(x[23]), "r"(x[24]), "r"(x[25]), "r"(x[26]), "r"(x[27]),
      "r"(x[28]), "r"(x[29]), "r"(x[30]), "r"(x[31])
      : "memory");
}

// Until all that this thread has started to store is there.
__device__ __forceinline__ void wait_for_stores() { asm volatile("tcgen05.wait::st.sync.aligned;" ::: "memory"); }

}  // namespace jax_flash_mla::device
