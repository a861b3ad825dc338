// Global memory: the allocations that exist, and which of their bytes were ever written.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <string>

namespace emulator {

enum class Access { kRead, kWrite, kAtomic };

struct Allocation {
  uint64_t begin = 0, end = 0;
  bool read_only = false;
  std::string name;  // for reports
  // A byte for each byte: 0 where nobody wrote, kByHost, or the number of the launch that did. Null where all of it counts
  // as written, by the host.
  std::unique_ptr<uint8_t[]> written;
};

// Addresses are those of this process. Only what was added may be touched.
class Memory {
 public:
  // `written`: its contents mean something. An allocation of the same beginning is replaced.
  void add(const void* begin, size_t bytes, bool written, bool read_only = false, std::string name = {});
  void remove(const void* begin);
  // What the host writes counts as written. Ignores what is no allocation.
  void mark_written(const void* begin, size_t bytes);

  // The allocation around an address, or null. It stays where it is until it is removed.
  Allocation* find(uint64_t address) const;
  // The one that holds all of these bytes, or null; `last` is tried first, and becomes the one around the address.
  Allocation* find(uint64_t address, size_t bytes, Allocation** last) const;
  // A launch begins: what is written from now on is its own. Its number, and that of the launch before; numbers come again
  // after 254 launches, what they stood for before counting as the host's.
  struct Numbers {
    uint8_t own, before;
  };
  Numbers begin_launch();
  // The offset in its allocation of a byte of these that a launch wrote, if it is the latest who did.
  static std::optional<uint64_t> written_by(uint8_t launch, const Allocation& allocation, uint64_t address,
                                            size_t bytes);
  // Throws a Fault unless [address, address + bytes) may be accessed so; marks what is written.
  void check(uint64_t address, size_t bytes, Access access, Allocation** last) const;

 private:
  static constexpr uint8_t kByHost = 1;

  uint8_t launch_ = kByHost;
  mutable std::shared_mutex mutex_;
  std::map<uint64_t, std::unique_ptr<Allocation>> allocations_;  // by their end
};

// Generic addresses outside of global memory; the rest of the bits is the address in the space.
inline constexpr uint64_t kSharedWindow = uint64_t{1} << 56;
inline constexpr uint64_t kLocalWindow = uint64_t{2} << 56;
inline constexpr uint64_t kFunctionWindow = uint64_t{3} << 56;  // of functions: there is no memory
inline constexpr uint64_t kWindowMask = uint64_t{0xFF} << 56;

// Addresses of shared memory, as in shared::cluster: the rank of the CTA in its cluster above the offset in it.
inline constexpr int kRankShift = 24;
inline constexpr uint32_t kReservedShared = 1024;     // below what a kernel sees
inline constexpr uint32_t kReservedSharedUsed = 288;  // of it, on an H200

}  // namespace emulator
