#include "emulator/machine/happens_before.h"

#include <algorithm>

namespace emulator {
namespace {

Mask bit(int lane) { return Mask{1} << lane; }

// Takes off the groups that are done where at most `pending` are left; returns the last copy of these, or 0.
uint32_t take_done(std::vector<uint32_t>& groups, uint32_t pending) {
  if (groups.size() <= pending) return 0;
  const auto end = groups.end() - ptrdiff_t(pending);
  const uint32_t last = *(end - 1);
  groups.erase(groups.begin(), end);
  return last;
}

}  // namespace

bool Knowledge::operator==(const Knowledge& other) const {
  const auto same = [](const Published& a, const Published& b) {
    return a.seen == b.seen && a.fenced == b.fenced && a.tensor == b.tensor;
  };
  return same(now, other.now) && same(observed, other.observed) && same(released, other.released) &&
         tensor_found == other.tensor_found && tensor_left == other.tensor_left;
}

void Knowledge::join(const Knowledge& other) {
  now.join(other.now);
  observed.join(other.observed);
  released.join(other.released);
  tensor_found.join(other.tensor_found);
  tensor_left.join(other.tensor_left);
}

void Knowledge::acquire(const Published& from) {
  now.seen.join(from.seen);
  now.fenced.join(from.fenced);
  tensor_found.join(from.tensor);
}

Published Knowledge::to_publish() const { return {now.seen, now.fenced, tensor_left}; }

HappensBefore::HappensBefore(uint32_t warps) : warps_(warps), components_(warps * kLanes) {
  for (WarpState& warp : warps_) warp.groups.push_back({kAllLanes, {}});
}

// ---------------------------------------------------------------------------------------------------------------------
// Threads

template <typename F>
void HappensBefore::for_groups(WarpState& warp, Mask lanes, F&& f) {
  for (size_t i = 0; i < warp.groups.size(); ++i) {
    const Mask inside = warp.groups[i].lanes & lanes;
    if (inside == 0) continue;
    if (inside != warp.groups[i].lanes) {
      Group others = warp.groups[i];
      others.lanes &= ~lanes;
      warp.groups[i].lanes = inside;
      warp.groups.push_back(std::move(others));
    }
    f(warp.groups[i]);
  }
  if (warp.groups.size() > 1) unite(warp);
}

// Groups that know the same become one.
void HappensBefore::unite(WarpState& warp) {
  auto& groups = warp.groups;
  for (size_t i = 0; i < groups.size(); ++i) {
    for (size_t j = groups.size(); --j > i;) {
      if (!(groups[j].knows == groups[i].knows)) continue;
      groups[i].lanes |= groups[j].lanes;
      groups.erase(groups.begin() + ptrdiff_t(j));
    }
  }
}

void HappensBefore::raise_own(uint32_t warp, Mask lanes, SharedClock& clock) {
  const WarpState& state = warps_[warp];
  for (Mask left = lanes; left; left &= left - 1) {
    const auto lane = uint32_t(__builtin_ctz(left));
    clock.raise(warp * kLanes + lane, state.time);
    for (const CountedCopies& copies : state.counted) {
      if (copies.known[lane]) clock.raise(copies.component + lane, copies.known[lane]);
    }
  }
}

const Knowledge& HappensBefore::knowledge(uint32_t warp, int lane) const {
  const auto& groups = warps_[warp].groups;
  for (const Group& group : groups) {
    if (group.lanes & bit(lane)) return group.knows;
  }
  return groups[0].knows;
}

Mask HappensBefore::lanes_that_know_as(uint32_t warp, int lane) const {
  for (const Group& group : warps_[warp].groups) {
    if (group.lanes & bit(lane)) return group.lanes;
  }
  return bit(lane);
}

Published HappensBefore::knowledge_of_all(uint32_t warp) {
  Published all;
  for (const Group& group : warps_[warp].groups) all.join(group.knows.now);
  raise_own(warp, kAllLanes, all.seen);
  return all;
}

bool HappensBefore::knows(uint32_t warp, uint32_t component, uint32_t time) const {
  const auto& groups = warps_[warp].groups;
  return std::any_of(groups.begin(), groups.end(),
                     [&](const Group& group) { return (*group.knows.now.seen)[component] >= time; });
}

void HappensBefore::release(uint32_t warp, Mask lanes, Published& into) {
  for (const Group& group : warps_[warp].groups) {
    if (group.lanes & lanes) into.join(group.knows.to_publish());
  }
  raise_own(warp, lanes, into.seen);
  ++warps_[warp].time;
}

void HappensBefore::acquire(uint32_t warp, Mask lanes, const Published& from) {
  for_groups(warps_[warp], lanes, [&](Group& group) { group.knows.acquire(from); });
}

void HappensBefore::meet(uint32_t warp, Mask lanes) {
  Knowledge all;
  for (const Group& group : warps_[warp].groups) {
    if (group.lanes & lanes) all.join(group.knows);
  }
  raise_own(warp, lanes, all.now.seen);
  for_groups(warps_[warp], lanes, [&](Group& group) { group.knows = all; });
  ++warps_[warp].time;
}

void HappensBefore::release_relaxed(uint32_t warp, Mask lanes, Published& into) {
  for (const Group& group : warps_[warp].groups) {
    if (group.lanes & lanes) into.join(group.knows.released);
  }
}

void HappensBefore::acquire_relaxed(uint32_t warp, Mask lanes, const Published& from) {
  for_groups(warps_[warp], lanes, [&](Group& group) { group.knows.observed.join(from); });
}

void HappensBefore::fence(uint32_t warp, Mask lanes) {
  for_groups(warps_[warp], lanes, [&](Group& group) {
    group.knows.acquire(group.knows.observed);
    group.knows.observed = {};
    group.knows.released = group.knows.to_publish();
    raise_own(warp, group.lanes, group.knows.released.seen);
  });
  ++warps_[warp].time;
}

void HappensBefore::fence_proxy(uint32_t warp, Mask lanes) {
  for_groups(warps_[warp], lanes, [&](Group& group) {
    Published& now = group.knows.now;
    now.fenced.join(now.seen);
    raise_own(warp, group.lanes, now.fenced);
  });
  ++warps_[warp].time;
}

void HappensBefore::fence_tensor_before(uint32_t warp, Mask lanes) {
  for_groups(warps_[warp], lanes, [&](Group& group) {
    group.knows.tensor_left = group.knows.now.tensor;
    raise_own(warp, group.lanes, group.knows.tensor_left);
  });
  ++warps_[warp].time;
}

void HappensBefore::fence_tensor_after(uint32_t warp, Mask lanes) {
  for_groups(warps_[warp], lanes, [&](Group& group) { group.knows.now.tensor.join(group.knows.tensor_found); });
}

// ---------------------------------------------------------------------------------------------------------------------
// Asynchronous operations

uint32_t HappensBefore::new_components(uint32_t count) {
  const uint32_t first = components_;
  components_ += count;
  return first;
}

uint32_t HappensBefore::counted_component(uint32_t warp, Counted kind) {
  CountedCopies& copies = counted(warp, kind);
  if (copies.component == kNobody) copies.component = new_components(kLanes);
  return copies.component;
}

// What the issuer does from now on the copy does not know.
uint32_t HappensBefore::count_copy(uint32_t warp, Counted kind) {
  ++warps_[warp].time;
  return ++counted(warp, kind).issued;
}

void HappensBefore::commit(uint32_t warp, Mask lanes, Counted kind) {
  CountedCopies& copies = counted(warp, kind);
  for (Mask left = lanes; left; left &= left - 1) {
    copies.groups[size_t(__builtin_ctz(left))].push_back(copies.issued);
  }
}

void HappensBefore::wait(uint32_t warp, Mask lanes, Counted kind, uint32_t pending) {
  CountedCopies& copies = counted(warp, kind);
  for (Mask left = lanes; left; left &= left - 1) {
    const auto lane = size_t(__builtin_ctz(left));
    copies.known[lane] = std::max(copies.known[lane], take_done(copies.groups[lane], pending));
  }
}

void HappensBefore::publish_copies(uint32_t warp, int lane, uint32_t time, Counted kind, Published& into) {
  if (time == 0) return;
  const uint32_t component = counted_component(warp, kind) + uint32_t(lane);
  into.seen.raise(component, time);
  if (kind == Counted::kTensorOperations) into.tensor.raise(component, time);
}

uint32_t HappensBefore::product_component(uint32_t warp) {
  uint32_t& component = warps_[warp].product_component;
  if (component == kNobody) component = new_components(1);
  return component;
}

uint32_t HappensBefore::wait_for_products(uint32_t warp, uint32_t pending) {
  WarpState& state = warps_[warp];
  if (const uint32_t done = take_done(state.product_groups, pending)) {
    state.known_products = done;
    const uint32_t component = product_component(warp);
    for (Group& group : state.groups) group.knows.now.seen.raise(component, done);
  }
  return state.known_products;
}

}  // namespace emulator
