// Races in global memory between the clusters of a launch.
//
// Coarser than in shared memory: a cluster is one who knows and acts, and publishes all that it did whenever one of its
// threads releases something in global memory. For each four bytes there is the last write and the latest read of this
// launch, by which cluster, when, and at which instruction.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "emulator/machine/clock.h"
#include "emulator/machine/memory.h"
#include "emulator/machine/program.h"

namespace emulator {

struct Cell;

struct GlobalConflict {
  uint64_t offset;  // in the allocation
  uint64_t cluster;
  const Instruction* instruction;
  bool was_write;
};

class GlobalRaces {
 public:
  // A cluster's part; of one thread of the CPU at a time.
  class Member {
   public:
    Member(GlobalRaces& all, uint64_t cluster) : all_(all), cluster_(cluster) {}
    // What an instruction does to an allocation; a conflict if something earlier is not ordered before it.
    std::optional<GlobalConflict> access(const Allocation& allocation, uint64_t address, size_t bytes, Access access,
                                         const Instruction* instruction, bool is_strong, bool changes);
    // Others run at the same time: released before the write that they may see, acquired after the read.
    void release(uint64_t address);
    void acquire(uint64_t address);
    void pass_time() { ++time_; }  // after a release: what follows is not known by it

   private:
    uint32_t site_of(const Instruction* instruction);

    GlobalRaces& all_;
    const uint64_t cluster_;
    uint32_t time_ = 1;
    Clock seen_;
    const Allocation* last_ = nullptr;
    Cell* last_cells_ = nullptr;
    std::unordered_map<const Instruction*, uint32_t> sites_;
  };

 private:
  friend Member;

  Cell* cells_of(const Allocation& allocation);

  std::mutex mutex_;
  std::map<const Allocation*, std::unique_ptr<Cell, void (*)(void*)>> cells_;
  std::unordered_map<uint64_t, Clock> locations_;  // what was released where
  std::deque<const Instruction*> sites_ = {nullptr};
};

}  // namespace emulator
