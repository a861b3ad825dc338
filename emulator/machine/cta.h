// Thread blocks and their clusters: shared memory, barriers, copies under way.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "emulator/machine/races.h"
#include "emulator/machine/tensor_memory.h"
#include "emulator/machine/warp.h"

namespace emulator {

struct Grid;
class Cluster;

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t count() const { return uint64_t(x) * y * z; }
};

// A barrier object in shared memory. Its 8 bytes there hold the same, for kernels that look.
struct Mbarrier {
  uint32_t expected = 0;  // arrivals of a phase
  int32_t pending = 0;    // arrivals still to come
  int64_t transactions = 0;
  uint32_t phase = 0;  // how many phases are over
  bool operator==(const Mbarrier& other) const {
    return expected == other.expected && pending == other.pending && transactions == other.transactions &&
           phase == other.phase;
  }
};

struct NamedBarrier {
  uint32_t arrived = 0;
  uint32_t expected = 0;  // threads; 0 where nobody said
  uint64_t generation = 0;
  uint32_t true_votes = 0, votes = 0;            // of barrier.red, in the phase under way
  uint32_t last_true_votes = 0, last_votes = 0;  // in the one before
};

class Cta {
 public:
  Cta(Cluster& cluster, uint32_t rank, Dim3 index);

  Cluster& cluster() { return cluster_; }
  Grid& grid();
  uint32_t rank() const { return rank_; }
  Dim3 index() const { return index_; }
  std::vector<std::unique_ptr<Warp>>& warps() { return warps_; }

  // --- Shared memory, by offsets from where the kernel's begins
  uint32_t shared_bytes() const { return uint32_t(shared_.size()); }
  std::byte* shared(uint32_t offset) { return shared_.data() + offset; }
  uint8_t* written(uint32_t offset) { return shared_written_.data() + offset; }
  // The address of its first byte, as shared::cluster has it.
  uint32_t shared_base() const { return (rank_ << kRankShift) + kReservedShared; }

  // --- Barriers in shared memory; offsets as above
  void init_mbarrier(uint32_t offset, uint32_t count);
  void invalidate_mbarrier(uint32_t offset);
  Mbarrier& mbarrier(uint32_t offset);  // a Fault where there is none
  void arrive(uint32_t offset, int32_t count);
  void expect(uint32_t offset, int64_t bytes);
  void lower_expectation(uint32_t offset, uint32_t count);  // in the phases after this one
  void complete(uint32_t offset, int64_t bytes);
  const std::map<uint32_t, Mbarrier>& mbarriers() const { return mbarriers_; }

  // --- Named barriers
  std::array<NamedBarrier, 16> named;
  void arrive_named(int number, uint32_t threads, uint32_t expected);
  uint32_t live_warps() const;
  // Called when a warp's last lane has exited.
  void warp_exited();
  // Called when all warps have; what is under way has been done. A Fault where nobody has waited for it.
  void check_end();

  // --- Asynchronous copies: what was issued is done when the issuer's CTA next waits, and not before. `lanes`: of the
  // warp that runs, those that issue it.
  void issue(Mask lanes, Completion completion, std::function<void()> copy);
  bool finish_copies();  // false if there were none

  int64_t register_pool = 0;  // registers that setmaxnreg.dec gave back, of a multiprocessor's
  TensorMemory tensor_memory;
  bool saw_no_cluster_left = false;  // when it asked clusterlaunchcontrol for another

 private:
  void settle(uint32_t offset, Mbarrier& barrier);

  Cluster& cluster_;
  uint32_t rank_;
  Dim3 index_;
  std::vector<std::unique_ptr<Warp>> warps_;
  std::vector<std::byte> shared_;
  std::vector<uint8_t> shared_written_;
  std::map<uint32_t, Mbarrier> mbarriers_;
  struct Copy {
    std::function<void()> run;
    Warp* warp;
    const Instruction* instruction;
    Mask lanes;
    std::shared_ptr<const IssuedCopy> issued;  // where somebody looks for races
  };
  std::deque<Copy> copies_;
  bool has_ended_ = false;
};

class Cluster {
 public:
  Cluster(Grid& grid, Dim3 index);

  Grid& grid() { return grid_; }
  Dim3 index() const { return index_; }
  Dim3 dims() const;
  std::vector<std::unique_ptr<Cta>>& ctas() { return ctas_; }
  Cta& cta(uint32_t rank) { return *ctas_[rank]; }

  // The CTA and offset of an address of shared memory; a Fault unless `bytes` there belong to what the CTA asked for.
  struct SharedPlace {
    Cta* cta;
    uint32_t offset;
  };
  SharedPlace locate(uint64_t address, size_t bytes);
  // The bytes themselves, checked against `access` and marked as written. `value`: what is going to be written there, where
  // it is known to be that alone.
  std::byte* shared(uint64_t address, size_t bytes, Access access, size_t alignment = 1, const void* value = nullptr);
  // An asynchronous copy completes on the barrier at an address, where it is told of the bytes that the copy has brought.
  void completes_on(uint64_t barrier_address);
  void complete_transaction(uint64_t barrier_address, int64_t bytes);

  // --- The cluster's barrier
  uint64_t cluster_generation = 0;                   // how often it was passed
  void settle_cluster_barrier();                     // passes it if all threads that live have arrived
  bool has_come_to_barrier(const Warp& warp) const;  // all its lanes that live

  // Null where nobody looks for races.
  Races* races() { return races_.get(); }

  // --- Scheduling
  // How far it has come. Everything that another warp may wait for is an event. Milestones are those events that no
  // number of threads brings about again and again while they wait: one has exited, or all have come to a barrier.
  struct Progress {
    uint64_t events = 0, milestones = 0, instructions = 0;
  };
  const Progress& progress() const { return progress_; }
  uint64_t events() const { return progress_.events; }
  void note_event() { ++progress_.events; }
  void note_milestone() {
    ++progress_.events;
    ++progress_.milestones;
  }
  enum class State { kDone, kMoved, kStuck };
  State run_turn();
  bool time_out();
  // Who is executing, for faults; null between turns.
  Warp* running = nullptr;

 private:
  Grid& grid_;
  Dim3 index_;
  std::vector<std::unique_ptr<Cta>> ctas_;
  std::unique_ptr<Races> races_;
  Progress progress_;
};

}  // namespace emulator
