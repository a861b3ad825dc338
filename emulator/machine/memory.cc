#include "emulator/machine/memory.h"

#include <cstdio>
#include <cstring>
#include <mutex>

#include "emulator/machine/fault.h"

namespace emulator {
namespace {

std::string hex(uint64_t value) {
  char text[32];
  std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

const char* verb(Access access) {
  switch (access) {
    case Access::kRead:
      return "read";
    case Access::kWrite:
      return "write";
    case Access::kAtomic:
      return "atomically change";
  }
  return "";
}

std::string called(const Allocation& allocation) {
  const std::string size = std::to_string(allocation.end - allocation.begin) + " bytes";
  return allocation.name.empty() ? "an allocation of " + size : allocation.name + " (" + size + ")";
}

}  // namespace

void Memory::add(const void* begin, size_t bytes, bool written, bool read_only, std::string name) {
  if (bytes == 0) return;
  auto allocation = std::make_unique<Allocation>();
  allocation->begin = reinterpret_cast<uint64_t>(begin);
  allocation->end = allocation->begin + bytes;
  allocation->read_only = read_only;
  allocation->name = std::move(name);
  if (!written) allocation->written = std::make_unique<uint8_t[]>(bytes);
  std::unique_lock lock(mutex_);
  allocations_[allocation->end] = std::move(allocation);
}

void Memory::remove(const void* begin) {
  std::unique_lock lock(mutex_);
  const auto it = allocations_.upper_bound(reinterpret_cast<uint64_t>(begin));
  if (it != allocations_.end() && it->second->begin == reinterpret_cast<uint64_t>(begin)) allocations_.erase(it);
}

void Memory::mark_written(const void* begin, size_t bytes) {
  const auto address = reinterpret_cast<uint64_t>(begin);
  Allocation* allocation = find(address);
  if (allocation && allocation->written) {
    std::memset(&allocation->written[address - allocation->begin], kByHost,
                std::min<uint64_t>(bytes, allocation->end - address));
  }
}

Allocation* Memory::find(uint64_t address) const {
  std::shared_lock lock(mutex_);
  const auto it = allocations_.upper_bound(address);
  return it != allocations_.end() && it->second->begin <= address ? it->second.get() : nullptr;
}

Allocation* Memory::find(uint64_t address, size_t bytes, Allocation** last) const {
  Allocation* allocation = *last;
  if (!allocation || address < allocation->begin || address >= allocation->end) allocation = *last = find(address);
  return allocation && bytes <= allocation->end - address ? allocation : nullptr;
}

void Memory::check(uint64_t address, size_t bytes, Access access, Allocation** last) const {
  Allocation* allocation = *last;
  if (!allocation || address < allocation->begin || address >= allocation->end) {
    allocation = *last = find(address);
    if (!allocation) {
      throw Fault(FaultCode::kIllegalAddress, std::string("Cannot ") + verb(access) + " " + std::to_string(bytes) +
                                                  " bytes at " + hex(address) + ": there is no allocation.");
    }
  }
  const uint64_t offset = address - allocation->begin;
  if (bytes > allocation->end - address) {
    throw Fault(FaultCode::kIllegalAddress, std::string("Cannot ") + verb(access) + " " + std::to_string(bytes) +
                                                " bytes at offset " + std::to_string(offset) + " of " +
                                                called(*allocation) + ".");
  }
  if (access != Access::kRead && allocation->read_only) {
    throw Fault(FaultCode::kIllegalAddress, std::string("Cannot ") + verb(access) + " offset " +
                                                std::to_string(offset) + " of " + called(*allocation) +
                                                ", which is read-only.");
  }
  if (!allocation->written) return;
  uint8_t* written = &allocation->written[offset];
  if (access != Access::kWrite) {
    if (const void* hole = std::memchr(written, 0, bytes)) {
      throw Fault(FaultCode::kUninitialized,
                  "Offset " + std::to_string(offset + (static_cast<const uint8_t*>(hole) - written)) + " of " +
                      called(*allocation) + " is read before anything was written there.");
    }
  }
  if (access != Access::kRead) std::memset(written, launch_, bytes);
}

Memory::Numbers Memory::begin_launch() {
  if (launch_ == UINT8_MAX) {
    std::unique_lock lock(mutex_);
    for (const auto& [end, allocation] : allocations_) {
      if (!allocation->written) continue;
      for (uint64_t i = 0; i < end - allocation->begin; ++i) {
        uint8_t& written = allocation->written[i];
        if (written != 0) written = written == launch_ ? kByHost + 1 : kByHost;
      }
    }
    launch_ = kByHost + 1;
  }
  const uint8_t before = launch_++;
  return {launch_, before};
}

std::optional<uint64_t> Memory::written_by(uint8_t launch, const Allocation& allocation, uint64_t address,
                                           size_t bytes) {
  if (!allocation.written) return std::nullopt;
  const uint8_t* written = &allocation.written[address - allocation.begin];
  const void* found = std::memchr(written, launch, bytes);
  if (!found) return std::nullopt;
  return address - allocation.begin + uint64_t(static_cast<const uint8_t*>(found) - written);
}

}  // namespace emulator
