#include "emulator/machine/poisoned_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>
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
  const std::vector<unsigned char> block(1 << 20, 0xFF);
  while (written < bytes) {
    const ssize_t step = write(file, block.data(), block.size());
    if (step <= 0) throw std::bad_alloc();
    written += size_t(step);
  }
  return file;
}

}  // namespace

PoisonedMemory::PoisonedMemory(size_t bytes) : bytes_(bytes) {
  if (bytes < kMapped) {
    data_ = static_cast<std::byte*>(::operator new(std::max<size_t>(bytes, 1), std::align_val_t(kAlignment)));
    std::memset(data_, 0xFF, bytes);
    return;
  }
  void* place = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, ones(bytes), 0);
  if (place == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<std::byte*>(place);
}

PoisonedMemory::PoisonedMemory(PoisonedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

PoisonedMemory& PoisonedMemory::operator=(PoisonedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

PoisonedMemory::~PoisonedMemory() {
  if (!data_) return;
  if (bytes_ < kMapped) {
    ::operator delete(data_, std::align_val_t(kAlignment));
  } else {
    munmap(data_, bytes_);
  }
}

}  // namespace emulator
