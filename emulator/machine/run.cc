// Runs a grid: clusters over threads, until all are done or nothing moves.
#include <algorithm>
#include <cfenv>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <sstream>
#include <thread>

#include "emulator/machine/environment.h"
#include "emulator/machine/machine.h"
#include "emulator/machine/omission.h"
#include "emulator/machine/report.h"

namespace emulator {
namespace {

constexpr int kTurnsAtOnce = 16;                      // of a cluster before another may be taken up
constexpr uint64_t kLongWithoutMilestone = 1u << 22;  // instructions

// How many instructions warps may execute without any reaching a milestone, before that counts as a livelock; and how
// many without anything happening at all.
struct Patience {
  uint64_t without_milestone, without_event;

  static Patience from_environment() {
    constexpr int64_t kMillion = 1000000, kMillions = 512, kMost = 1000 * kMillion, kLessWithoutEvent = 8;
    const int64_t most = environment_number("JAX_FLASH_MLA_EMULATOR_PATIENCE", kMillions, 1, kMost) * kMillion;
    return {uint64_t(most), uint64_t(most / kLessWithoutEvent)};
  }
};

// Arithmetic as the language has it. XLA calls handlers on threads that flush subnormal numbers, and threads begin as
// those that start them.
class PlainArithmetic {
 public:
  PlainArithmetic() {
    std::fegetenv(&before_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~PlainArithmetic() { std::fesetenv(&before_); }

 private:
  std::fenv_t before_;
};

int worker_count(uint64_t clusters) {
  constexpr int64_t kMost = 1024;
  const int64_t cores = std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, kMost);
  return int(std::min(uint64_t(environment_number("JAX_FLASH_MLA_EMULATOR_THREADS", cores, 1, kMost)), clusters));
}

// How many clusters a device of this size holds at a time.
uint64_t resident_clusters(const Launch& launch) {
  constexpr uint64_t kThreadsPerSm = 2048, kCtasPerSm = 32, kSharedPerSm = 233472;
  const uint64_t threads = (launch.block.count() + kLanes - 1) / kLanes * kLanes;
  const uint64_t shared = kReservedShared + launch.kernel->static_shared + launch.dynamic_shared;
  const uint64_t per_sm = std::max<uint64_t>(1, std::min({kThreadsPerSm / threads, kCtasPerSm, kSharedPerSm / shared}));
  return std::max<uint64_t>(1, uint64_t(launch.num_sms) * per_sm / launch.cluster.count());
}

// The launch under way: which clusters are to be begun, and which are begun and wait for their turn.
class Schedule {
 public:
  Schedule(Grid& grid) : grid_(grid), resident_(resident_clusters(grid.launch)) {
    const Launch& launch = grid.launch;
    clusters_ = {launch.grid.x / launch.cluster.x, launch.grid.y / launch.cluster.y, launch.grid.z / launch.cluster.z};
  }

  void work() {
    const PlainArithmetic plain;
    uint64_t moves;
    while (std::unique_ptr<Cluster> cluster = take(moves)) {
      Cluster::State state = Cluster::State::kMoved;
      const Cluster::Progress before = cluster->progress();
      try {
        for (int turns = 0; turns < kTurnsAtOnce && state == Cluster::State::kMoved && !failed_; ++turns) {
          state = cluster->run_turn();
        }
      } catch (const Fault& fault) {
        fail(describe(fault, *cluster));
        state = Cluster::State::kDone;
      }
      give_back(std::move(cluster), state, before, moves);
    }
  }

  // Its work is then another's.
  std::optional<Dim3> cancel() {
    std::lock_guard lock(mutex_);
    if (next_ >= clusters_.count()) return std::nullopt;
    return place_of(next_++);
  }

  std::optional<Report> report() { return std::move(report_); }

 private:
  // `moves`: what others had done when it was taken.
  std::unique_ptr<Cluster> take(uint64_t& moves) {
    std::unique_lock lock(mutex_);
    while (true) {
      if (failed_) return nullptr;
      moves = moves_;
      // Few at a time, as long as these come on: they may also be waiting for one that was not begun.
      const bool come_on = since_event_ == 0 && since_milestone_ < kLongWithoutMilestone;
      if (!moving_.empty() && come_on) return pop(moving_);
      if (next_ < clusters_.count() && resident_now() < resident_) return begin(lock);
      if (!moving_.empty()) return pop(moving_);
      // Those that could not move are looked at again when another one has.
      if (!stuck_.empty() && moves_ != moves_seen_) {
        moves_seen_ = moves_;
        std::swap(moving_, stuck_);
        continue;
      }
      if (running_ == 0) {
        if (stuck_.empty()) return nullptr;
        if (!timed_out_ && time_out()) continue;
        fail_locked(describe_deadlock("Deadlock: no thread can go on.", stuck_));
        return nullptr;
      }
      changed_.wait(lock);
    }
  }

  uint64_t resident_now() const { return running_ + moving_.size() + stuck_.size(); }

  std::unique_ptr<Cluster> pop(std::deque<std::unique_ptr<Cluster>>& queue) {
    std::unique_ptr<Cluster> first = std::move(queue.front());
    queue.pop_front();
    ++running_;
    return first;
  }

  std::unique_ptr<Cluster> begin(std::unique_lock<std::mutex>& lock) {
    const uint64_t number = next_++;
    ++running_;
    lock.unlock();
    return std::make_unique<Cluster>(grid_, place_of(number));
  }

  Dim3 place_of(uint64_t number) const {
    return {uint32_t(number % clusters_.x), uint32_t(number / clusters_.x % clusters_.y),
            uint32_t(number / clusters_.x / clusters_.y)};
  }

  void give_back(std::unique_ptr<Cluster> cluster, Cluster::State state, const Cluster::Progress& before,
                 uint64_t moves) {
    std::lock_guard lock(mutex_);
    --running_;
    // What another wrote meanwhile it may have looked for before that.
    if (state == Cluster::State::kStuck && moves != moves_) state = Cluster::State::kMoved;
    const Cluster::Progress& after = cluster->progress();
    const bool is_done = state == Cluster::State::kDone;
    since_event_ += after.instructions - before.instructions;
    since_milestone_ += after.instructions - before.instructions;
    if (is_done || after.milestones != before.milestones) since_milestone_ = 0;
    if (is_done || after.events != before.events) {
      ++moves_;
      since_event_ = 0;
      timed_out_ = false;
    }
    if (state == Cluster::State::kMoved) moving_.push_back(std::move(cluster));
    if (state == Cluster::State::kStuck) stuck_.push_back(std::move(cluster));
    if (since_event_ > patience_.without_event || since_milestone_ > patience_.without_milestone) give_up();
    changed_.notify_all();
  }

  void give_up() {
    if (failed_) return;
    for (auto& other : moving_) stuck_.push_back(std::move(other));
    moving_.clear();
    const bool is_quiet = since_event_ > patience_.without_event;
    fail_locked(describe_deadlock(
        "Livelock: in the last " + std::to_string((is_quiet ? since_event_ : since_milestone_) / 1000000) +
            " million instructions " +
            (is_quiet ? "nothing happened." : "no thread has exited and no barrier was passed, though memory changes."),
        stuck_));
  }

  // Lets all waits return that may do so without what they wait for: a kernel could have something else to do then.
  bool time_out() {
    bool any = false;
    for (const auto& cluster : stuck_) any |= cluster->time_out();
    if (any) std::swap(moving_, stuck_);
    return timed_out_ = any;
  }

  void fail(Report report) {
    std::lock_guard lock(mutex_);
    fail_locked(std::move(report));
  }

  void fail_locked(Report report) {
    if (!report_) report_ = std::move(report);
    failed_ = true;
  }

  Grid& grid_;
  Dim3 clusters_;
  const uint64_t resident_;
  std::mutex mutex_;
  std::condition_variable changed_;
  const Patience patience_ = Patience::from_environment();
  uint64_t next_ = 0, running_ = 0;
  uint64_t since_event_ = 0, since_milestone_ = 0;  // instructions, of all clusters
  uint64_t moves_ = 0, moves_seen_ = 0;  // turns in which something happened; of these, what those stuck could see
  bool timed_out_ = false;               // and nothing came of it yet
  std::deque<std::unique_ptr<Cluster>> moving_, stuck_;
  std::optional<Report> report_;
  std::atomic<bool> failed_ = false;
};

}  // namespace

std::mutex& atomic_lock(uint64_t address) {
  static std::mutex locks[64];
  return locks[address / 16 % std::size(locks)];
}

std::optional<Report> run(const Launch& whole, Memory& memory) {
  Launch launch = whole;
  const std::unique_ptr<Function> without = without_named_instruction(*whole.kernel);
  if (without) launch.kernel = without.get();

  // Parameters are memory that kernels may read by generic addresses: tensor maps lie there.
  constexpr size_t kAlignment = 128;
  std::vector<std::byte> storage(launch.parameters.size() + kAlignment);
  const auto address = reinterpret_cast<uint64_t>(storage.data());
  auto* parameters = reinterpret_cast<std::byte*>((address + kAlignment - 1) / kAlignment * kAlignment);
  std::copy(launch.parameters.begin(), launch.parameters.end(), parameters);
  memory.add(parameters, launch.parameters.size(), true, true, "the parameters of the kernel");
  for (const auto& [variable, begin] : launch.kernel->module->globals) {
    memory.add(begin, variable->size, true, variable->space == ptx::Space::kConst, variable->name);
  }

  // By which blocks wait for the whole grid, as cooperative groups know it from the driver: how many bytes it has, and a
  // word that all of them change.
  alignas(16) uint32_t workspace[2] = {sizeof(workspace), 0};
  if (launch.cooperative) {
    memory.add(workspace, sizeof(workspace), true, false, "the workspace of the cooperative grid");
  }

  const std::unique_ptr<Debugger> debugger = Debugger::from_environment();
  const Memory::Numbers numbers = memory.begin_launch();
  const bool checks_races = environment_number("JAX_FLASH_MLA_EMULATOR_RACES", 1, 0, 1) != 0;
  const bool is_strict = environment_number("JAX_FLASH_MLA_EMULATOR_STRICT", 1, 0, 1) != 0;
  const uint64_t place = launch.cooperative ? reinterpret_cast<uint64_t>(workspace) : 0;
  const uint8_t primary = launch.is_programmatic ? numbers.before : 0;
  const uint64_t clusters = launch.grid.count() / launch.cluster.count();
  GlobalRaces global_races;
  Grid grid{launch,    memory,         parameters,
            place,     debugger.get(), checks_races,
            is_strict, primary,        checks_races && clusters > 1 ? &global_races : nullptr,
            nullptr};
  Schedule schedule(grid);
  grid.cancel_cluster = [&] { return schedule.cancel(); };
  std::vector<std::thread> threads;
  for (int i = 1; i < worker_count(clusters); ++i) threads.emplace_back([&] { schedule.work(); });
  schedule.work();
  for (std::thread& thread : threads) thread.join();

  memory.remove(parameters);
  memory.remove(workspace);
  for (const auto& [variable, begin] : launch.kernel->module->globals) memory.remove(begin);
  return schedule.report();
}

}  // namespace emulator
