// Order between a kernel and the one launched after it with programmatic serialisation.
#pragma once

namespace jax_flash_mla::device {

// Lets the next kernel's thread blocks come as soon as there is room for them.
__device__ __forceinline__ void allow_next_grid() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// Waits until the kernel before has ended, and its writes can be seen.
__device__ __forceinline__ void wait_for_previous_grid() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

}  // namespace jax_flash_mla::device
