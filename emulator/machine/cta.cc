#include "emulator/machine/cta.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "emulator/machine/machine.h"

namespace emulator {
namespace {

constexpr int kTurn = 4096;  // instructions of a warp before the next has its turn
constexpr uint32_t kMostArrivals = (1u << 20) - 1;
constexpr int64_t kMostTransactions = (1 << 20) - 1;

std::string barrier_at(uint32_t offset) { return "the mbarrier at shared offset " + std::to_string(offset); }

// The 8 bytes that a kernel would see: no two states look alike. Their layout is nobody's business.
uint64_t packed(const Mbarrier& barrier) {
  const auto transactions = uint64_t(barrier.transactions) & ((1u << 21) - 1);
  return uint64_t(barrier.phase & 1) << 63 | transactions << 41 | uint64_t(barrier.expected) << 21 |
         (uint64_t(barrier.pending) & ((1u << 21) - 1));
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// Cta

Cta::Cta(Cluster& cluster, uint32_t rank, Dim3 index) : cluster_(cluster), rank_(rank), index_(index) {
  tensor_memory.be_strict(cluster.grid().is_strict);
  const Launch& launch = cluster.grid().launch;
  const Function& kernel = *launch.kernel;
  const uint32_t alignment = std::max(kernel.dynamic_alignment, 1u);
  const uint32_t dynamic_begin = (kernel.static_shared + alignment - 1) / alignment * alignment;
  shared_.resize(launch.dynamic_shared ? dynamic_begin + launch.dynamic_shared : kernel.static_shared, std::byte{0xFF});
  shared_written_.resize(shared_.size());
  const auto threads = uint32_t(launch.block.count());
  for (uint32_t first = 0; first < threads; first += kLanes) {
    const Mask lanes = threads - first >= kLanes ? kAllLanes : (Mask{1} << (threads - first)) - 1;
    warps_.push_back(std::make_unique<Warp>(*this, int(first) / kLanes, kernel, lanes));
  }
}

Grid& Cta::grid() { return cluster_.grid(); }

void Cta::init_mbarrier(uint32_t offset, uint32_t count) {
  if (count == 0 || count > kMostArrivals) {
    throw Fault(FaultCode::kIllegalInstruction,
                "An mbarrier cannot expect " + std::to_string(count) + " arrivals; 1 to 2^20 - 1 are possible.");
  }
  Mbarrier& barrier = mbarriers_[offset] = {count, int32_t(count), 0, 0};
  settle(offset, barrier);
}

void Cta::invalidate_mbarrier(uint32_t offset) {
  mbarrier(offset);
  mbarriers_.erase(offset);
}

Mbarrier& Cta::mbarrier(uint32_t offset) {
  const auto it = mbarriers_.find(offset);
  if (it == mbarriers_.end()) {
    throw Fault(FaultCode::kUninitialized,
                "At shared offset " + std::to_string(offset) + " no mbarrier was initialised.");
  }
  uint64_t bytes;
  std::memcpy(&bytes, shared(offset), sizeof(bytes));
  if (bytes != packed(it->second)) {
    throw Fault(FaultCode::kIllegalInstruction, "Something wrote over " + barrier_at(offset) + ".");
  }
  return it->second;
}

void Cta::arrive(uint32_t offset, int32_t count) {
  Mbarrier& barrier = mbarrier(offset);
  if (count > barrier.pending) {
    throw Fault(FaultCode::kIllegalInstruction, "There are " + std::to_string(count) + " arrivals on " +
                                                    barrier_at(offset) + ", which awaits " +
                                                    std::to_string(barrier.pending) + " more in this phase.");
  }
  barrier.pending -= count;
  settle(offset, barrier);
}

void Cta::expect(uint32_t offset, int64_t bytes) {
  Mbarrier& barrier = mbarrier(offset);
  barrier.transactions += bytes;
  if (std::abs(barrier.transactions) > kMostTransactions) {
    throw Fault(FaultCode::kIllegalInstruction, "The transaction count of " + barrier_at(offset) + " would be " +
                                                    std::to_string(barrier.transactions) + ", beyond 2^20 - 1.");
  }
  settle(offset, barrier);
}

void Cta::lower_expectation(uint32_t offset, uint32_t count) {
  Mbarrier& barrier = mbarrier(offset);
  barrier.expected -= count;
  settle(offset, barrier);
}

void Cta::complete(uint32_t offset, int64_t bytes) { expect(offset, -bytes); }

void Cta::settle(uint32_t offset, Mbarrier& barrier) {
  if (barrier.pending == 0 && barrier.transactions == 0) {
    ++barrier.phase;
    if (Races* races = cluster_.races()) races->phase_over(*this, offset);
    barrier.pending = int32_t(barrier.expected);
    cluster_.note_milestone();
  }
  const uint64_t bytes = packed(barrier);
  std::memcpy(shared(offset), &bytes, sizeof(bytes));
  std::memset(written(offset), 1, sizeof(bytes));
  cluster_.note_event();
}

void Cta::arrive_named(int number, uint32_t threads, uint32_t expected) {
  NamedBarrier& barrier = named[number];
  if (barrier.arrived > 0 && barrier.expected != expected) {
    throw Fault(FaultCode::kIllegalInstruction, "Barrier " + std::to_string(number) + " was told to expect " +
                                                    std::to_string(barrier.expected) + " threads, and now " +
                                                    std::to_string(expected) + ".");
  }
  barrier.expected = expected;
  barrier.arrived += threads;
  const uint32_t wanted = expected ? expected : live_warps() * kLanes;
  if (barrier.arrived > wanted) {
    throw Fault(FaultCode::kIllegalInstruction, std::to_string(barrier.arrived) + " threads came to barrier " +
                                                    std::to_string(number) + ", which expects " +
                                                    std::to_string(wanted) + ".");
  }
  if (barrier.arrived == wanted) {
    barrier.arrived = 0;
    barrier.last_true_votes = barrier.true_votes;
    barrier.last_votes = barrier.votes;
    barrier.true_votes = barrier.votes = 0;
    if (Races* races = cluster_.races()) races->named_over(*this, number, barrier.generation);
    ++barrier.generation;
    cluster_.note_milestone();
  }
  cluster_.note_event();
}

uint32_t Cta::live_warps() const {
  return uint32_t(std::count_if(warps_.begin(), warps_.end(), [](const auto& warp) { return !warp->done(); }));
}

void Cta::warp_exited() {
  // Barriers for all threads of the CTA no longer wait for those that are gone.
  for (int number = 0; number < int(named.size()); ++number) {
    NamedBarrier& barrier = named[number];
    if (barrier.arrived > 0 && barrier.expected == 0) arrive_named(number, 0, 0);
  }
  cluster_.settle_cluster_barrier();
  if (live_warps() == 0) tensor_memory.check_empty();
}

void Cta::check_end() {
  Races* const races = cluster_.races();
  if (!races || live_warps() > 0 || std::exchange(has_ended_, true)) return;
  const Event* const left = races->left_under_way(*this);
  if (!left) return;
  cluster_.running = left->warp;
  left->warp->impersonate(left->instruction, left->lanes, [] {
    throw Fault(FaultCode::kRace,
                "The thread block ends while a copy from or to its shared memory may still be under "
                "way: nobody has waited for it.");
  });
}

void Cta::issue(Mask lanes, Completion completion, std::function<void()> copy) {
  Warp& warp = *cluster_.running;
  Races* const races = cluster_.races();
  copies_.push_back(
      {std::move(copy), &warp, warp.instruction(), lanes, races ? races->issue(warp, lanes, completion) : nullptr});
}

bool Cta::finish_copies() {
  if (copies_.empty()) return false;
  Warp* const running = cluster_.running;
  while (!copies_.empty()) {
    const Copy copy = std::move(copies_.front());
    copies_.pop_front();
    // A fault belongs to who issued the copy.
    cluster_.running = copy.warp;
    if (copy.issued) cluster_.races()->begin_copy(*copy.issued);
    copy.warp->impersonate(copy.instruction, copy.lanes, copy.run);
    if (copy.issued) cluster_.races()->end_copy();
  }
  cluster_.running = running;
  cluster_.note_event();
  return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// Cluster

Cluster::Cluster(Grid& grid, Dim3 index) : grid_(grid), index_(index) {
  const Dim3 size = dims();
  for (uint32_t rank = 0; rank < size.count(); ++rank) {
    const Dim3 within = {rank % size.x, rank / size.x % size.y, rank / size.x / size.y};
    const Dim3 cta = {index.x * size.x + within.x, index.y * size.y + within.y, index.z * size.z + within.z};
    ctas_.push_back(std::make_unique<Cta>(*this, rank, cta));
  }
  if (grid.checks_races) {
    races_ = std::make_unique<Races>(grid, index, ctas_.size(), ctas_[0]->warps().size(), ctas_[0]->shared_bytes());
  }
}

Dim3 Cluster::dims() const { return grid_.launch.cluster; }

Cluster::SharedPlace Cluster::locate(uint64_t address, size_t bytes) {
  const uint64_t rank = address >> kRankShift;
  const uint64_t offset = (address & ((1u << kRankShift) - 1)) - kReservedShared;
  if (rank >= ctas_.size()) {
    throw Fault(FaultCode::kIllegalAddress, "Shared address " + std::to_string(address) + " is in CTA " +
                                                std::to_string(rank) + " of the cluster, which has " +
                                                std::to_string(ctas_.size()) + ".");
  }
  Cta& cta = *ctas_[rank];
  if (offset > cta.shared_bytes() || bytes > cta.shared_bytes() - offset) {
    throw Fault(FaultCode::kIllegalAddress, std::to_string(bytes) + " bytes at shared offset " +
                                                std::to_string(int64_t(offset)) + " are outside of the " +
                                                std::to_string(cta.shared_bytes()) + " bytes that the CTA has.");
  }
  if (&cta != &running->cta() && cta.live_warps() == 0) {
    throw Fault(FaultCode::kIllegalAddress,
                "CTA " + std::to_string(rank) + " of the cluster, whose shared memory this is, has exited.");
  }
  return {&cta, uint32_t(offset)};
}

std::byte* Cluster::shared(uint64_t address, size_t bytes, Access access, size_t alignment, const void* value) {
  if (address % alignment != 0) {
    throw Fault(FaultCode::kMisalignedAddress,
                "Shared address " + std::to_string(address) + " is no multiple of " + std::to_string(alignment) + ".");
  }
  const auto [cta, offset] = locate(address, bytes);
  uint8_t* written = cta->written(offset);
  if (access != Access::kWrite) {
    if (const void* hole = std::memchr(written, 0, bytes)) {
      const auto at = offset + (static_cast<const uint8_t*>(hole) - written);
      throw Fault(FaultCode::kUninitialized,
                  "Shared offset " + std::to_string(at) + " is read before anything was written there.");
    }
  }
  if (access != Access::kRead) std::memset(written, 1, bytes);
  if (races_) {
    const bool changes = !value || std::memcmp(cta->shared(offset), value, bytes) != 0;
    races_->touch(*cta, offset, bytes, access, changes);
  }
  return cta->shared(offset);
}

void Cluster::completes_on(uint64_t barrier_address) {
  if (!races_) return;
  const auto [cta, offset] = locate(barrier_address, 8);
  races_->completes_on(*cta, offset);
}

void Cluster::complete_transaction(uint64_t barrier_address, int64_t bytes) {
  const auto [cta, offset] = locate(barrier_address, 8);
  cta->complete(offset, bytes);
}

bool Cluster::has_come_to_barrier(const Warp& warp) const {
  for (int lane = 0; lane < kLanes; ++lane) {
    if ((warp.live() >> lane & 1) && warp.cluster_arrival(lane) <= cluster_generation) return false;
  }
  return true;
}

void Cluster::settle_cluster_barrier() {
  bool any = false;
  for (const auto& cta : ctas_) {
    for (const auto& warp : cta->warps()) {
      if (!has_come_to_barrier(*warp)) return;
      any |= !warp->done();
    }
  }
  if (!any) return;
  ++cluster_generation;
  if (races_) races_->cluster_over();
  note_milestone();
}

Cluster::State Cluster::run_turn() {
  bool alive = false, moved = false;
  const uint64_t before = events();
  for (const auto& cta : ctas_) {
    for (const auto& warp : cta->warps()) {
      if (warp->done()) continue;
      running = warp.get();
      const int executed = warp->run(kTurn);
      progress_.instructions += uint64_t(executed);
      moved |= executed > 0 && !warp->goes_round();
      alive |= !warp->done();
    }
    moved |= cta->finish_copies();
  }
  for (const auto& cta : ctas_) cta->check_end();
  running = nullptr;
  if (!alive) return State::kDone;
  return moved || events() != before ? State::kMoved : State::kStuck;
}

bool Cluster::time_out() {
  bool any = false;
  for (const auto& cta : ctas_) {
    for (const auto& warp : cta->warps()) any |= warp->time_out();
  }
  return any;
}

}  // namespace emulator
