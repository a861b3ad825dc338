// What is ordered before what, in a cluster.
//
// Threads. Each has a component, and its warp a time that passes whenever one of its lanes publishes something: an access
// is known to somebody else if a clock that was published later has reached them. Lanes of a warp that know the same are a
// group with one clock; they are told apart as soon as one of them alone learns something. Nothing is known among lanes
// because they execute together: it takes a barrier, as it does among warps.
//
// What publishes and what acquires: barriers of any kind; writes and reads with .release and .acquire; relaxed ones, or
// volatile, together with fences. Scopes are not looked at.
//
// Asynchronous operations are done by others than the thread that issues them. They know what their issuer knew, and their
// component is known to those who wait for their completion, and to nobody before:
//
//   completes on an mbarrier         a component for each mbarrier, whose time is the phase
//   cp.async, bulk copies of groups  a component for each thread, whose time counts its copies
//   tcgen05, but for loads           likewise, stores by themselves; tcgen05.commit publishes the others
//   products of a warpgroup          a component for each warp, whose time counts its products
//
// Proxies. Bulk copies, those of tensors and matrix products access shared memory by the async proxy. What was written by
// the generic one is known to them only if there was a proxy fence in between, by whomever. So there is a second clock,
// `fenced`, of what was known at such a fence. Completed asynchronous operations need no fence.
//
// Tensor memory has a clock of its own, `tensor`: what was done there is published from a tcgen05.fence::before_thread_sync
// on, and what was acquired is known from an ::after_thread_sync on. tcgen05.commit publishes without.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "emulator/machine/clock.h"
#include "emulator/machine/program.h"

namespace emulator {

// What was left somewhere, for those who acquire it.
struct Published {
  SharedClock seen, fenced, tensor;

  void join(const Published& other) {
    seen.join(other.seen);
    fenced.join(other.fenced);
    tensor.join(other.tensor);
  }
};

struct Knowledge {
  Published now;
  Published observed;  // what relaxed reads found, to be known from the next fence on
  Published released;  // what was known at the last fence: relaxed writes publish it
  // Of tensor memory: what was acquired, to be known from the next fence on; what was known at the last one, to be
  // published.
  SharedClock tensor_found, tensor_left;
  bool operator==(const Knowledge& other) const;
  void join(const Knowledge& other);
  void acquire(const Published& from);
  Published to_publish() const;
};

// Operations of a thread that are done in the order in which they are counted: cp.async, bulk copies of groups, what
// tcgen05.commit speaks of, tcgen05.st.
enum class Counted { kCopies, kBulkCopies, kTensorOperations, kTensorStores };
inline constexpr size_t kCountedKinds = 4;
// Up to which time a thread knows its own, of each kind.
using KnownCopies = std::array<uint32_t, kCountedKinds>;

class HappensBefore {
 public:
  static constexpr uint32_t kNobody = ~0u;

  explicit HappensBefore(uint32_t warps);

  // --- Threads. Warps have numbers in the cluster; a thread's component is 32 times that and its lane.
  uint32_t time(uint32_t warp) const { return warps_[warp].time; }
  const Knowledge& knowledge(uint32_t warp, int lane) const;
  Mask lanes_that_know_as(uint32_t warp, int lane) const;
  bool know_the_same(uint32_t warp) const { return warps_[warp].groups.size() == 1; }
  // Of the lanes of a warp that do something together, what they did themselves included.
  Published knowledge_of_all(uint32_t warp);
  // Whether some lane of a warp does.
  bool knows(uint32_t warp, uint32_t component, uint32_t time) const;
  // What lanes do from now on is not known by what was published before.
  void pass_time(uint32_t warp) { ++warps_[warp].time; }
  void release(uint32_t warp, Mask lanes, Published& into);
  void acquire(uint32_t warp, Mask lanes, const Published& from);
  void meet(uint32_t warp, Mask lanes);
  // Relaxed writes and reads, and fences.
  void release_relaxed(uint32_t warp, Mask lanes, Published& into);
  void acquire_relaxed(uint32_t warp, Mask lanes, const Published& from);
  void fence(uint32_t warp, Mask lanes);
  bool has_fenced(uint32_t warp, int lane) const { return !(knowledge(warp, lane).released.seen == SharedClock()); }
  void fence_proxy(uint32_t warp, Mask lanes);
  void fence_tensor_before(uint32_t warp, Mask lanes);
  void fence_tensor_after(uint32_t warp, Mask lanes);

  // --- Asynchronous operations
  uint32_t new_components(uint32_t count);
  // The time of a copy that some lanes issue; their components follow each other from `counted_component` on.
  uint32_t count_copy(uint32_t warp, Counted kind);
  uint32_t counted_component(uint32_t warp, Counted kind);
  void commit(uint32_t warp, Mask lanes, Counted kind);
  void wait(uint32_t warp, Mask lanes, Counted kind, uint32_t pending);  // until so many groups are pending
  KnownCopies known_copies(uint32_t warp, int lane) const {
    KnownCopies known;
    for (size_t kind = 0; kind < kCountedKinds; ++kind) known[kind] = warps_[warp].counted[kind].known[size_t(lane)];
    return known;
  }
  // What is published when a thread's copies up to now are done.
  void publish_copies(uint32_t warp, int lane, uint32_t time, Counted kind, Published& into);

  uint32_t product_component(uint32_t warp);
  uint32_t count_product(uint32_t warp) { return ++warps_[warp].products; }
  void commit_products(uint32_t warp) { warps_[warp].product_groups.push_back(warps_[warp].products); }
  // Returns the time of the last product that is now done.
  uint32_t wait_for_products(uint32_t warp, uint32_t pending);

 private:
  struct Group {
    Mask lanes;
    Knowledge knows;
  };
  struct CountedCopies {
    uint32_t component = kNobody;  // of lane 0
    uint32_t issued = 0;
    std::array<uint32_t, kLanes> known = {};
    std::array<std::vector<uint32_t>, kLanes> groups;  // the last copy of each group that is pending
  };
  struct WarpState {
    uint32_t time = 1;
    std::vector<Group> groups;
    std::array<CountedCopies, kCountedKinds> counted;
    uint32_t product_component = kNobody, products = 0, known_products = 0;
    std::vector<uint32_t> product_groups;
  };

  CountedCopies& counted(uint32_t warp, Counted kind) { return warps_[warp].counted[size_t(kind)]; }
  const CountedCopies& counted(uint32_t warp, Counted kind) const { return warps_[warp].counted[size_t(kind)]; }
  // Calls f(group) for groups of these lanes and of no others.
  template <typename F>
  void for_groups(WarpState& warp, Mask lanes, F&& f);
  // Raises what the lanes themselves did.
  void raise_own(uint32_t warp, Mask lanes, SharedClock& clock);
  static void unite(WarpState& warp);

  std::vector<WarpState> warps_;
  uint32_t components_;
};

}  // namespace emulator
