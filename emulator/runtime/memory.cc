// Allocating, copying and filling memory. The device's memory is this process's, so all of it happens at once.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "emulator/runtime/runtime.h"
#include "emulator/runtime/state.h"

namespace emulator::runtime {
namespace {

constexpr size_t kAlignment = 512;

std::atomic<size_t> allocated = 0;  // of the device's memory

size_t align(size_t value) { return (value + kAlignment - 1) / kAlignment * kAlignment; }

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::kDevice:
      return "memory of cudaMalloc";
    case Kind::kHost:
      return "memory of the host";
    case Kind::kManaged:
      return "managed memory";
    default:
      return "";
  }
}

cudaError_t allocate(void** pointer, size_t bytes, Kind kind) {
  if (!pointer) return fail(cudaErrorInvalidValue);
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (bytes > global_memory() || allocated.fetch_add(bytes) + bytes > global_memory()) {
    if (bytes <= global_memory()) allocated -= bytes;
    return fail(cudaErrorMemoryAllocation);
  }
  void* begin = std::aligned_alloc(kAlignment, align(bytes));
  if (!begin) {
    allocated -= bytes;
    return fail(cudaErrorMemoryAllocation);
  }
  // What the host writes through a pointer nobody sees, so only the device's own memory starts as unwritten.
  const bool written = kind != Kind::kDevice;
  if (!written) std::memset(begin, kPoison, bytes);
  memory().add(begin, bytes, written, false, name_of(kind));
  add_block(begin, bytes, kind);
  *pointer = begin;
  return cudaSuccess;
}

cudaError_t release(void* begin, std::initializer_list<Kind> kinds) {
  if (!begin) return cudaSuccess;
  const std::optional<Block> block = find_block(begin);
  for (const Kind kind : kinds) {
    if (!remove_block(begin, kind)) continue;
    memory().remove(begin);
    allocated -= block->bytes;
    std::free(begin);
    return cudaSuccess;
  }
  return fail(cudaErrorInvalidValue, "there is no such allocation to free");
}

// --- Copying

// Which side of a copy is said to be where.
enum class Side { kAny, kHost, kDevice };

// Whether `bytes` from an address on may be accessed as memory of that side.
cudaError_t check(const void* begin, size_t bytes, Side side) {
  const std::optional<Block> block = find_block(begin);
  if (!block) {
    if (side != Side::kDevice && begin) return cudaSuccess;
    return fail(cudaErrorInvalidValue, "a pointer is none of the device's");
  }
  if (side == Side::kHost && (block->kind == Kind::kDevice || block->kind == Kind::kSymbol)) {
    return fail(cudaErrorInvalidValue, "a pointer is the device's, not the host's");
  }
  const auto address = reinterpret_cast<uint64_t>(begin);
  if (bytes > block->begin + block->bytes - address) {
    return fail(cudaErrorInvalidValue, "the bytes end behind their allocation");
  }
  return cudaSuccess;
}

struct Direction {
  Side source, target;
};

cudaError_t read_kind(cudaMemcpyKind kind, Direction* direction) {
  switch (kind) {
    case cudaMemcpyHostToHost:
      *direction = {Side::kHost, Side::kHost};
      return cudaSuccess;
    case cudaMemcpyHostToDevice:
      *direction = {Side::kHost, Side::kDevice};
      return cudaSuccess;
    case cudaMemcpyDeviceToHost:
      *direction = {Side::kDevice, Side::kHost};
      return cudaSuccess;
    case cudaMemcpyDeviceToDevice:
      *direction = {Side::kDevice, Side::kDevice};
      return cudaSuccess;
    case cudaMemcpyDefault:
      *direction = {Side::kAny, Side::kAny};
      return cudaSuccess;
  }
  return fail(cudaErrorInvalidMemcpyDirection);
}

// Copies bytes that were checked, and what is known of whether they were ever written.
void copy_bytes(void* target, const void* source, size_t bytes) {
  std::memmove(target, source, bytes);
  const auto to = reinterpret_cast<uint64_t>(target), from = reinterpret_cast<uint64_t>(source);
  Allocation* const written = memory().find(to);
  if (!written || !written->written) return;
  const Allocation* const read = memory().find(from);
  if (!read || !read->written) return memory().mark_written(target, bytes);
  std::memmove(&written->written[to - written->begin], &read->written[from - read->begin], bytes);
}

cudaError_t copy(void* target, const void* source, size_t bytes, cudaMemcpyKind kind) {
  Direction direction = {};
  if (const cudaError_t error = read_kind(kind, &direction); error != cudaSuccess) return error;
  if (bytes == 0) return cudaSuccess;
  if (const cudaError_t error = check(target, bytes, direction.target); error != cudaSuccess) return error;
  if (const cudaError_t error = check(source, bytes, direction.source); error != cudaSuccess) return error;
  copy_bytes(target, source, bytes);
  return cudaSuccess;
}

// Bytes from the first of a rectangle to the last.
size_t extent(size_t pitch, size_t width, size_t height) { return pitch * (height - 1) + width; }

cudaError_t copy_2d(void* target, size_t target_pitch, const void* source, size_t source_pitch, size_t width,
                    size_t height, cudaMemcpyKind kind) {
  Direction direction = {};
  if (const cudaError_t error = read_kind(kind, &direction); error != cudaSuccess) return error;
  if (width == 0 || height == 0) return cudaSuccess;
  if (width > target_pitch || width > source_pitch) return fail(cudaErrorInvalidPitchValue);
  if (const cudaError_t error = check(target, extent(target_pitch, width, height), direction.target);
      error != cudaSuccess) {
    return error;
  }
  if (const cudaError_t error = check(source, extent(source_pitch, width, height), direction.source);
      error != cudaSuccess) {
    return error;
  }
  for (size_t row = 0; row < height; ++row) {
    copy_bytes(static_cast<std::byte*>(target) + row * target_pitch,
               static_cast<const std::byte*>(source) + row * source_pitch, width);
  }
  return cudaSuccess;
}

cudaError_t fill_2d(void* begin, size_t pitch, int value, size_t width, size_t height) {
  if (width == 0 || height == 0) return cudaSuccess;
  if (width > pitch && height > 1) return fail(cudaErrorInvalidValue);
  if (const cudaError_t error = check(begin, extent(pitch, width, height), Side::kDevice); error != cudaSuccess) {
    return error;
  }
  for (size_t row = 0; row < height; ++row) {
    std::byte* place = static_cast<std::byte*>(begin) + row * pitch;
    std::memset(place, value, width);
    memory().mark_written(place, width);
  }
  return cudaSuccess;
}

}  // namespace
}  // namespace emulator::runtime

using namespace emulator::runtime;

// --- Allocating

cudaError_t cudaMalloc(void** pointer, size_t bytes) { return allocate(pointer, bytes, Kind::kDevice); }

cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t) { return cudaMalloc(pointer, bytes); }

cudaError_t cudaMallocPitch(void** pointer, size_t* pitch, size_t width, size_t height) {
  if (!pitch) return fail(cudaErrorInvalidValue);
  *pitch = align(width);
  return cudaMalloc(pointer, *pitch * height);
}

cudaError_t cudaMallocManaged(void** pointer, size_t bytes, unsigned int flags) {
  if (bytes == 0 || (flags != cudaMemAttachGlobal && flags != cudaMemAttachHost)) return fail(cudaErrorInvalidValue);
  return allocate(pointer, bytes, Kind::kManaged);
}

cudaError_t cudaFree(void* pointer) { return release(pointer, {Kind::kDevice, Kind::kManaged}); }

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t) { return cudaFree(pointer); }

cudaError_t cudaMallocHost(void** pointer, size_t bytes) { return allocate(pointer, bytes, Kind::kHost); }

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned int) { return cudaMallocHost(pointer, bytes); }

cudaError_t cudaFreeHost(void* pointer) { return release(pointer, {Kind::kHost}); }

cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned int) {
  if (!pointer || bytes == 0) return fail(cudaErrorInvalidValue);
  if (find_block(pointer)) return fail(cudaErrorHostMemoryAlreadyRegistered);
  memory().add(pointer, bytes, true, false, name_of(Kind::kHost));
  add_block(pointer, bytes, Kind::kRegistered);
  return cudaSuccess;
}

cudaError_t cudaHostUnregister(void* pointer) {
  if (!remove_block(pointer, Kind::kRegistered)) return fail(cudaErrorHostMemoryNotRegistered);
  memory().remove(pointer);
  return cudaSuccess;
}

cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned int) {
  if (!device || !host || !find_block(host)) return fail(cudaErrorInvalidValue);
  *device = host;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  if (free) *free = global_memory() - std::min(global_memory(), allocated.load());
  if (total) *total = global_memory();
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  if (!attributes) return fail(cudaErrorInvalidValue);
  cudaPointerAttributes a = {};
  a.type = cudaMemoryTypeUnregistered;
  a.device = cudaInvalidDeviceId;
  a.hostPointer = const_cast<void*>(pointer);
  if (const std::optional<Block> block = find_block(pointer)) {
    a.device = 0;
    a.devicePointer = const_cast<void*>(pointer);
    switch (block->kind) {
      case Kind::kHost:
      case Kind::kRegistered:
        a.type = cudaMemoryTypeHost;
        break;
      case Kind::kManaged:
        a.type = cudaMemoryTypeManaged;
        break;
      case Kind::kDevice:
      case Kind::kSymbol:
      case Kind::kBorrowed:
        a.type = cudaMemoryTypeDevice;
        a.hostPointer = nullptr;
    }
  }
  *attributes = a;
  return cudaSuccess;
}

// --- Copying and filling

cudaError_t cudaMemcpy(void* target, const void* source, size_t bytes, cudaMemcpyKind kind) {
  if (const cudaError_t fault = wait_for_device(); fault != cudaSuccess) return fault;
  return copy(target, source, bytes, kind);
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  return copy(target, source, bytes, kind);
}

cudaError_t cudaMemcpy2D(void* target, size_t target_pitch, const void* source, size_t source_pitch, size_t width,
                         size_t height, cudaMemcpyKind kind) {
  if (const cudaError_t fault = wait_for_device(); fault != cudaSuccess) return fault;
  return copy_2d(target, target_pitch, source, source_pitch, width, height, kind);
}

cudaError_t cudaMemcpy2DAsync(void* target, size_t target_pitch, const void* source, size_t source_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t) {
  return copy_2d(target, target_pitch, source, source_pitch, width, height, kind);
}

cudaError_t cudaMemset(void* begin, int value, size_t bytes) { return fill_2d(begin, bytes, value, bytes, 1); }

cudaError_t cudaMemsetAsync(void* begin, int value, size_t bytes, cudaStream_t) {
  return cudaMemset(begin, value, bytes);
}

cudaError_t cudaMemset2D(void* begin, size_t pitch, int value, size_t width, size_t height) {
  return fill_2d(begin, pitch, value, width, height);
}

cudaError_t cudaMemset2DAsync(void* begin, size_t pitch, int value, size_t width, size_t height, cudaStream_t) {
  return fill_2d(begin, pitch, value, width, height);
}
