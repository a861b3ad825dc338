#include "emulator/machine/poisoned_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

namespace emulator {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kMapped = 1 << 16;  // from this size on memory is mapped: below, a mapping costs more than it saves

// A file in memory with as many ones as have been asked for; private mappings of it share its pages until they write them.
int ones(size_t bytes) {
  static std::mutex mutex;
  static int file = -1;
  static size_t written = 0;
  const std::lock_guard lock(mutex);
  if (file < 0) file = memfd_create("ones", MFD_CLOEXEC);
  if (file < 0) throw std::bad_alloc();
  if (written >= bytes) return file;
  for (const std::vector<unsigned char> block(1 << 20, 0xFF); written < bytes;) {
    const ssize_t step = write(file, block.data(), block.size());
    if (step <= 0) throw std::bad_alloc();
    written += size_t(step);
  }
  return file;
}

}  // namespace

void PoisonedMemoryRelease::operator()(std::byte* memory) const {
  if (bytes < kMapped) {
    ::operator delete(memory, std::align_val_t(kAlignment));
  } else {
    munmap(memory, bytes);
  }
}

PoisonedMemory poisoned_memory(size_t bytes) {
  if (bytes < kMapped) {
    void* place = ::operator new(std::max<size_t>(bytes, 1), std::align_val_t(kAlignment));
    std::memset(place, 0xFF, bytes);
    return PoisonedMemory(static_cast<std::byte*>(place), {bytes});
  }
  void* place = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, ones(bytes), 0);
  if (place == MAP_FAILED) throw std::bad_alloc();
  return PoisonedMemory(static_cast<std::byte*>(place), {bytes});
}

}  // namespace emulator
