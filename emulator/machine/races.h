// Finds races in the shared and the tensor memory of a cluster, and other use of them that a GPU need not forgive.
//
// The machine tells it of every access, of all that orders accesses (happens_before.h), and of who acts: a lane, a copy
// that was issued before, the warps of a product. What lanes access is kept until their instruction is over, so that all
// of them count as one event.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "emulator/machine/fault.h"
#include "emulator/machine/global_races.h"
#include "emulator/machine/happens_before.h"
#include "emulator/machine/loaded_registers.h"
#include "emulator/machine/memory.h"
#include "emulator/machine/product_registers.h"
#include "emulator/machine/shadow_memory.h"

namespace emulator {

class Cta;
struct Dim3;
struct Grid;

// How it is known that an asynchronous copy is done; and by which proxy it accesses memory.
enum class Completion {
  kMbarrier,         // of bulk copies
  kMbarrierOfStore,  // of st.async and red.async, which are of the generic proxy
  kGroup,            // of cp.async, generic too; an mbarrier may be told of them as well
  kBulkGroup,
  kTensor,       // of tcgen05: mbarriers are told
  kTensorStore,  // of tcgen05.st, which accesses no shared memory
};

// A copy from its issue on: what is ordered before it.
struct IssuedCopy {
  Event event;
  Completion completion;
  struct Part {
    Mask lanes;
    Published knows;
  };
  std::vector<Part> parts;
  uint32_t time;  // of the warp
  std::array<KnownCopies, kLanes> known_copies;
};

class Races {
 public:
  Races(Grid& grid, const Dim3& cluster, size_t ctas, size_t warps_of_cta, size_t shared_bytes);

  // --- Accesses of shared memory, by whoever acts
  void act_as_lane(int lane) { lane_ = lane; }
  // `changes`: it writes what was not there before, where that is known already.
  void touch(const Cta& cta, uint32_t offset, size_t bytes, Access access, bool changes = true);
  // The last one, of this lane, writes what was there before.
  void note_same_value(int lane) {
    if (!touches_.empty() && touches_.back().lane == lane) touches_.back().changes = false;
    if (!global_touches_.empty() && global_touches_.back().lane == lane) global_touches_.back().changes = false;
  }
  // Of tensor memory: by a copy; by a lane of a load. `offset`: in bytes, lane after lane.
  void touch_tensor(const Cta& cta, uint32_t offset, size_t bytes, Access access);
  void load_tensor(Warp& warp, int lane, uint32_t offset, size_t bytes);
  // Columns that one warp gives back, and another one gets.
  void free_tensor(Warp& warp) {
    fence_tensor_before(warp, kAllLanes);
    order_.release(number(warp), kAllLanes, tensor_freed_);
  }
  void allocate_tensor(Warp& warp) {
    order_.acquire(number(warp), kAllLanes, tensor_freed_);
    fence_tensor_after(warp, kAllLanes);
  }
  // An atomic or ordered access of any memory, before it is done.
  void synchronise(Warp& warp, int lane, uint64_t address, Access access);
  // Of global memory. What a launch under way may have written must have been waited for, too.
  void touch_global(Warp& warp, int lane, uint64_t address, size_t bytes, Access access, Allocation** last);
  void touch_global_in_copy(Warp& warp, uint64_t address, size_t bytes, Access access, Allocation** last);
  void wait_for_primary(Warp& warp, Mask lanes) { order_.acquire(number(warp), lanes, primary_); }
  // The instruction is over: looks at what its lanes accessed. Nobody acts any more.
  bool has_acted() const {
    return !touches_.empty() || !global_touches_.empty() || !synchronised_.empty() || acts_alone_;
  }
  void finish(Warp& warp);

  // --- Asynchronous copies
  std::shared_ptr<const IssuedCopy> issue(Warp& warp, Mask lanes, Completion completion);
  void begin_copy(const IssuedCopy& copy);
  void act_as_copy(int lane);                                            // of one of its lanes
  void completes_on(const Cta& cta, uint32_t barrier);                   // what the copy does from now on
  void arrive_after_copies(const Cta& cta, uint32_t barrier, int lane);  // in a copy
  void end_copy();
  // A thread block has ended: a copy that accesses its shared memory, and that nobody has waited for; or null.
  const Event* left_under_way(const Cta& cta);
  void commit(Warp& warp, Mask lanes, Counted kind) { order_.commit(number(warp), lanes, kind); }
  void wait(Warp& warp, Mask lanes, Counted kind, uint32_t pending) { order_.wait(number(warp), lanes, kind, pending); }

  // --- Barriers and fences
  void init_barrier(Warp& warp, int lane, const Cta& cta, uint32_t offset, bool changes);
  void use_barrier(Mask lanes, const Cta& cta, uint32_t offset, Access access);
  void arrive(Warp& warp, Mask lanes, const Cta& cta, uint32_t offset, bool releases);
  void pass(Warp& warp, Mask lanes, const Cta& cta, uint32_t offset, uint32_t parity, bool acquires);
  void phase_over(const Cta& cta, uint32_t offset);
  void arrive_named(Warp& warp, Mask lanes, int number);
  void named_over(const Cta& cta, int number, uint64_t generation);
  void pass_named(Warp& warp, Mask lanes, int number, uint64_t generation);
  void arrive_at_cluster(Warp& warp, Mask lanes) { order_.release(number(warp), lanes, cluster_arrived_); }
  void cluster_over() { cluster_completed_ = std::exchange(cluster_arrived_, {}); }
  void pass_cluster(Warp& warp, Mask lanes) { order_.acquire(number(warp), lanes, cluster_completed_); }
  void meet(Warp& warp, Mask lanes) { order_.meet(number(warp), lanes); }
  void fence(Warp& warp, Mask lanes) { order_.fence(number(warp), lanes); }
  void fence_proxy(Warp& warp, Mask lanes) { order_.fence_proxy(number(warp), lanes); }
  void fence_barrier_init(Warp& warp, Mask lanes);
  void fence_tensor_before(Warp& warp, Mask lanes) { order_.fence_tensor_before(number(warp), lanes); }
  void fence_tensor_after(Warp& warp, Mask lanes) { order_.fence_tensor_after(number(warp), lanes); }

  // --- Warpgroups
  // A product, which then acts: its operands begin with so many registers of the accumulator, and of the other factor.
  void begin_product(Warp& warp, int accumulators, int factors);
  void fence_products(Warp& warp) { products_[number(warp)].fence(); }
  void commit_products(Warp& warp) { order_.commit_products(number(warp)); }
  void wait_for_products(Warp& warp, uint32_t pending);
  // An instruction that has registers of products or of loads.
  void touch_registers(Warp& warp, const Instruction& instruction);
  // tcgen05.ld and the wait for it.
  void begin_load(Warp& warp);
  void wait_for_loads(Warp& warp) { loads_[number(warp)].wait(); }
  void set_registers(Warp& warp, int count);

 private:
  struct LaneTouch {
    int lane;
    uint32_t cta, offset, bytes;
    Access access;
    bool changes;
  };
  struct GlobalTouch {
    int lane;
    uint64_t address;
    size_t bytes;
    Access access;
    const Allocation* allocation;
    bool changes = true;
  };
  struct Synchronised {
    int lane;
    uint64_t address;
    Access access;
  };
  struct Barrier {
    Published arrived;
    std::array<Published, 2> completed;  // by the parity of the phase
    uint32_t phase = 0;                  // that is under way; goes on where it is initialised again
    uint32_t first_phase = 0;
    uint32_t component = HappensBefore::kNobody;  // of copies that complete on it
    Event init;
    Event last_copy;         // that completes on it, with its phase
    uint32_t fenced_at = 0;  // by fence.mbarrier_init of the thread that initialised it
  };
  struct NamedBarrier {
    Published arrived;
    std::array<Published, 2> completed;  // by the parity of the generation
  };
  struct RegisterChange {
    int count;
    uint32_t time;
    const Instruction* instruction;
  };

  uint32_t number(Warp& warp) const;
  std::array<Actor::Own, 1 + kCountedKinds> own_of(uint32_t warp, Mask lanes, uint32_t time, const KnownCopies& known);
  void finish_touches(Warp& warp);
  void finish_global_touches(Warp& warp);
  void check(Warp& warp, const GlobalTouch& touch, const Instruction* instruction, bool is_strong);
  void finish_synchronised(Warp& warp);
  void check(uint32_t cta, uint32_t offset, uint32_t bytes, const Touch& touch);
  Barrier* find(const Cta& cta, uint32_t offset);
  void check_primary(const Grid& grid, const Clock& seen, const Allocation& allocation, uint64_t address,
                     size_t bytes) const;
  static void check(Warp& warp, const RegisterMisuse& misuse);
  void check_tensor(uint32_t cta, uint32_t offset, uint32_t bytes, const Touch& touch);
  ShadowMemory& tensor_shadow();
  [[noreturn]] static void report(const std::string& place, const Touch& touch, const Conflict& conflict,
                                  const Event& now, const Event& before);
  static std::string place_of(uint32_t cta, const Conflict& conflict, const Event& now);

  uint32_t warps_of_cta_;
  HappensBefore order_;
  ShadowMemory shadow_;
  size_t ctas_;
  std::optional<ShadowMemory> tensor_;  // from the first access on
  Published tensor_freed_;
  std::unordered_map<uint64_t, Barrier> barriers_;     // by CTA and offset
  std::unordered_map<uint64_t, Published> locations_;  // of ordered accesses, by address
  std::vector<std::array<NamedBarrier, 16>> named_;    // by CTA
  Published cluster_arrived_, cluster_completed_;
  std::vector<std::vector<RegisterChange>> registers_;    // by warp
  std::vector<ProductRegisters> products_;                // likewise
  std::vector<LoadedRegisters> loads_;                    // likewise
  std::unordered_map<uint32_t, Event> last_bulk_copies_;  // that complete in groups, by the issuer's component
  const uint32_t primary_component_;
  Published primary_;  // what the launch before this one did

  int lane_ = -1;  // that acts
  std::vector<LaneTouch> touches_;
  std::vector<GlobalTouch> global_touches_;
  std::optional<GlobalRaces::Member> global_;  // where there are several clusters
  std::vector<Synchronised> synchronised_;
  const IssuedCopy* copy_ = nullptr;
  bool acts_alone_ = false;  // a copy or product acts
  Actor actor_;
  Actor tensor_actor_;  // the same in tensor memory; `fenced` is what is known elsewhere
  uint32_t event_ = 0;
  uint32_t tensor_event_ = 0;  // the same in tensor memory, where all is of one proxy; 0: it has not touched any yet
  int event_lane_ = 0;
};

}  // namespace emulator
