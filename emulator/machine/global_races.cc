#include "emulator/machine/global_races.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace emulator {
namespace {

constexpr uint64_t kGranule = 4;  // bytes of a cell

// An access in 64 bits; all of them zero: there was none.
struct Entry {
  uint64_t cluster : 22;
  uint64_t time : 19;
  uint64_t site : 18;
  uint64_t bytes : 4;  // of the granule
  uint64_t is_strong : 1;
};
constexpr uint64_t kMostClusters = (1 << 22) - 1, kMostTime = (1 << 19) - 1, kMostSites = (1 << 18) - 1;
static_assert(sizeof(Entry) == sizeof(uint64_t));

}  // namespace

// Clusters run at the same time: who accesses says so first and looks at the others afterwards, so that one of two sees the
// other.
struct Cell {
  std::atomic<Entry> write, read;
};
static_assert(sizeof(Cell) == 16);

Cell* GlobalRaces::cells_of(const Allocation& allocation) {
  const std::lock_guard lock(mutex_);
  const auto [found, is_new] = cells_.try_emplace(&allocation, nullptr, std::free);
  if (is_new) {
    // Zeros, of which only those take memory that are looked at.
    void* const zeros = std::calloc((allocation.end - allocation.begin) / kGranule + 2, sizeof(Cell));
    if (!zeros) throw std::bad_alloc();
    found->second.reset(static_cast<Cell*>(zeros));
  }
  return found->second.get();
}

uint32_t GlobalRaces::Member::site_of(const Instruction* instruction) {
  const auto [found, is_new] = sites_.try_emplace(instruction, 0);
  if (is_new) {
    const std::lock_guard lock(all_.mutex_);
    const auto known = std::find(all_.sites_.begin(), all_.sites_.end(), instruction);
    found->second = uint32_t(known - all_.sites_.begin());
    if (known == all_.sites_.end()) all_.sites_.push_back(instruction);
  }
  return found->second;
}

std::optional<GlobalConflict> GlobalRaces::Member::access(const Allocation& allocation, uint64_t address, size_t bytes,
                                                          Access access, const Instruction* instruction, bool is_strong,
                                                          bool changes) {
  if (cluster_ >= kMostClusters || time_ > kMostTime) return std::nullopt;
  if (last_ != &allocation) {
    last_ = &allocation;
    last_cells_ = all_.cells_of(allocation);
  }
  const uint32_t site = std::min<uint32_t>(site_of(instruction), kMostSites);
  const bool writes = access != Access::kRead;
  const uint64_t base = allocation.begin / kGranule;
  std::optional<GlobalConflict> conflict;
  const auto look_at = [&](const Entry& before, const Entry& now, bool was_write, uint64_t at) {
    if (before.bytes == 0 || before.cluster == now.cluster || !(before.bytes & now.bytes)) return;
    if ((before.is_strong && now.is_strong) || seen_[uint32_t(before.cluster)] >= before.time) return;
    const std::lock_guard lock(all_.mutex_);
    conflict = {at - allocation.begin, before.cluster, all_.sites_[before.site], was_write};
  };
  for (uint64_t at = address; at < address + bytes && !conflict;) {
    const uint64_t granule = at / kGranule, next = std::min(address + bytes, (granule + 1) * kGranule);
    const uint64_t covered = ((1u << (next - at)) - 1) << at % kGranule;
    const Entry now = {cluster_, time_, site, covered, is_strong};
    Cell& cell = last_cells_[granule - base];
    if (!writes) {
      cell.read.store(now);
      look_at(cell.write.load(), now, true, at);
    } else if (changes) {
      look_at(cell.write.exchange(now), now, true, at);
      look_at(cell.read.load(), now, false, at);
    }
    at = next;
  }
  return conflict;
}

void GlobalRaces::Member::release(uint64_t address) {
  const std::lock_guard lock(all_.mutex_);
  Clock& location = all_.locations_[address];
  location.join(seen_);
  location.raise(uint32_t(cluster_), time_);
}

void GlobalRaces::Member::acquire(uint64_t address) {
  const std::lock_guard lock(all_.mutex_);
  const auto found = all_.locations_.find(address);
  if (found != all_.locations_.end()) seen_.join(found->second);
}

}  // namespace emulator
