#include "emulator/machine/races.h"

#include "emulator/machine/cta.h"
#include "emulator/machine/machine.h"
#include "emulator/machine/report.h"

namespace emulator {
namespace {

constexpr uint32_t kBarrierBytes = 8;
constexpr uint32_t kWarpsOfGroup = 4;

Mask bit(int lane) { return Mask{1} << lane; }

uint64_t key_of(const Cta& cta, uint32_t offset) { return uint64_t(cta.rank()) << 32 | offset; }

Counted counted_as(Completion completion) {
  switch (completion) {
    case Completion::kBulkGroup:
      return Counted::kBulkCopies;
    case Completion::kTensor:
      return Counted::kTensorOperations;
    case Completion::kTensorStore:
      return Counted::kTensorStores;
    default:
      return Counted::kCopies;
  }
}

const char* verb_of(Access access) {
  return access == Access::kAtomic ? "atomically changes" : access == Access::kWrite ? "writes" : "reads";
}

bool is_counted(Completion completion) {
  return completion != Completion::kMbarrier && completion != Completion::kMbarrierOfStore;
}

}  // namespace

Races::Races(Grid& grid, const Dim3& cluster, size_t ctas, size_t warps_of_cta, size_t shared_bytes)
    : warps_of_cta_(uint32_t(warps_of_cta)),
      order_(uint32_t(ctas * warps_of_cta)),
      shadow_(ctas, shared_bytes),
      ctas_(ctas),
      named_(ctas),
      registers_(ctas * warps_of_cta),
      products_(ctas * warps_of_cta),
      loads_(ctas * warps_of_cta),
      primary_component_(order_.new_components(1)) {
  primary_.seen.raise(primary_component_, 1);
  const Dim3 &all = grid.launch.grid, &size = grid.launch.cluster;
  const uint64_t in_x = all.x / size.x, in_y = all.y / size.y;
  if (grid.global_races) global_.emplace(*grid.global_races, cluster.x + in_x * (cluster.y + in_y * cluster.z));
}

uint32_t Races::number(Warp& warp) const { return warp.cta().rank() * warps_of_cta_ + uint32_t(warp.index()); }

// ---------------------------------------------------------------------------------------------------------------------
// Accesses

// What threads of a warp did themselves, up to a time, their own copies included.
std::array<Actor::Own, 1 + kCountedKinds> Races::own_of(uint32_t warp, Mask lanes, uint32_t time,
                                                        const KnownCopies& known) {
  std::array<Actor::Own, 1 + kCountedKinds> own;
  own[0] = {warp * kLanes, lanes, time};
  for (size_t kind = 0; kind < known.size(); ++kind) {
    if (known[kind]) own[kind + 1] = {order_.counted_component(warp, Counted(kind)), lanes, known[kind]};
  }
  return own;
}

void Races::touch(const Cta& cta, uint32_t offset, size_t bytes, Access access, bool changes) {
  if (acts_alone_) {
    if (event_ == 0) return;
    if (access == Access::kAtomic && !shadow_.event(event_).is_strong) {
      Event reduction = shadow_.event(event_);
      reduction.is_strong = reduction.is_write = true;
      event_ = shadow_.add(reduction);
    }
    const Touch touch{&actor_, event_, bit(event_lane_), access != Access::kWrite, access != Access::kRead, changes};
    check(cta.rank(), offset, uint32_t(bytes), touch);
  } else if (lane_ >= 0) {
    touches_.push_back({lane_, cta.rank(), offset, uint32_t(bytes), access, changes});
  }
}

void Races::check(uint32_t cta, uint32_t offset, uint32_t bytes, const Touch& touch) {
  Conflict conflict;
  if (shadow_.access(cta, offset, bytes, touch, conflict)) return;
  const Event& now = shadow_.event(touch.event);
  report(place_of(cta, conflict, now), touch, conflict, now, shadow_.event(conflict.event));
}

ShadowMemory& Races::tensor_shadow() {
  if (!tensor_) tensor_.emplace(ctas_, size_t{kTensorLanes} * kTensorColumns * sizeof(uint32_t));
  return *tensor_;
}

void Races::check_tensor(uint32_t cta, uint32_t offset, uint32_t bytes, const Touch& touch) {
  Conflict conflict;
  if (tensor_->access(cta, offset, bytes, touch, conflict)) return;
  const uint32_t cell = conflict.offset / uint32_t(sizeof(uint32_t));
  // What is known elsewhere, but not there, lacks a fence.
  if (conflict.kind == Conflict::Kind::kUnordered &&
      touch.actor->has_fenced(tensor_->event(conflict.event), conflict.lane)) {
    conflict.kind = Conflict::Kind::kNoTensorFence;
  }
  report("lane " + std::to_string(cell / kTensorColumns) + ", column " + std::to_string(cell % kTensorColumns) +
             " of tensor memory",
         touch, conflict, tensor_->event(touch.event), tensor_->event(conflict.event));
}

void Races::touch_tensor(const Cta& cta, uint32_t offset, size_t bytes, Access access) {
  ShadowMemory& tensor = tensor_shadow();
  if (tensor_event_ == 0) {
    Event event = copy_->event;
    event.is_async = false;
    tensor_event_ = tensor.add(event);
  }
  const Touch touch{&tensor_actor_, tensor_event_, bit(event_lane_), access != Access::kWrite, access != Access::kRead};
  check_tensor(cta.rank(), offset, uint32_t(bytes), touch);
}

void Races::load_tensor(Warp& warp, int lane, uint32_t offset, size_t bytes) {
  const uint32_t who = number(warp);
  const Event event{warp.instruction(), &warp, kAllLanes, who * kLanes, order_.time(who), false, false, false, false};
  const uint32_t number_of_event = tensor_shadow().add_again(event);
  const Published& knows = order_.knowledge(who, lane).now;
  // In tensor memory, what a warp does together is in order, whichever lane has the registers.
  tensor_actor_ = {knows.tensor, knows.seen, own_of(who, kAllLanes, ~0u, order_.known_copies(who, lane))};
  const Touch touch{&tensor_actor_, number_of_event, bit(lane), true, false};
  check_tensor(warp.cta().rank(), offset, uint32_t(bytes), touch);
}

void Races::touch_global(Warp& warp, int lane, uint64_t address, size_t bytes, Access access, Allocation** last) {
  const Grid& grid = warp.cta().grid();
  if (!global_ && grid.primary == 0) return;
  const Allocation* allocation = grid.memory.find(address, bytes, last);
  if (!allocation || allocation->read_only) return;  // a fault, or nobody writes there
  if (grid.primary) check_primary(grid, *order_.knowledge(number(warp), lane).now.seen, *allocation, address, bytes);
  if (global_) global_touches_.push_back({lane, address, bytes, access, allocation});
}

void Races::touch_global_in_copy(Warp& warp, uint64_t address, size_t bytes, Access access, Allocation** last) {
  const Grid& grid = warp.cta().grid();
  if (!global_ && grid.primary == 0) return;
  const Allocation* allocation = grid.memory.find(address, bytes, last);
  if (!allocation || allocation->read_only) return;
  if (grid.primary) check_primary(grid, *actor_.seen, *allocation, address, bytes);
  const GlobalTouch touch{first_lane(copy_->event.lanes), address, bytes, access, allocation};
  if (global_) check(warp, touch, copy_->event.instruction, access == Access::kAtomic);
}

void Races::check_primary(const Grid& grid, const Clock& seen, const Allocation& allocation, uint64_t address,
                          size_t bytes) const {
  if (seen[primary_component_]) return;
  if (const auto offset = Memory::written_by(grid.primary, allocation, address, bytes)) {
    throw Fault(FaultCode::kRace, "Race: offset " + std::to_string(*offset) + " of an allocation of " +
                                      std::to_string(allocation.end - allocation.begin) +
                                      " bytes was written by the kernel before this one, which may still be under "
                                      "way: nobody has executed griddepcontrol.wait.");
  }
}

void Races::check(Warp& warp, const GlobalTouch& touch, const Instruction* instruction, bool is_strong) {
  const auto conflict = global_->access(*touch.allocation, touch.address, touch.bytes, touch.access, instruction,
                                        is_strong, touch.changes);
  if (!conflict) return;
  const Launch& launch = warp.cta().grid().launch;
  const std::string was = conflict->was_write ? "written" : "read";
  Fault fault(FaultCode::kRace, "Race: lane " + std::to_string(touch.lane) + " " + verb_of(touch.access) + " offset " +
                                    std::to_string(conflict->offset) + " of an allocation of " +
                                    std::to_string(touch.allocation->end - touch.allocation->begin) +
                                    " bytes, which another cluster has " + was + ", and nothing orders the two.");
  fault.other = "\n  and " + was + " by" + where(launch, conflict->cluster, conflict->instruction);
  throw fault;
}

void Races::finish_global_touches(Warp& warp) {
  const Instruction* instruction = warp.instruction();
  for (const GlobalTouch& touch : global_touches_) {
    check(warp, touch, instruction, touch.access == Access::kAtomic || instruction->order != 0);
  }
  global_touches_.clear();
}

void Races::finish(Warp& warp) {
  lane_ = -1;
  acts_alone_ = false;
  if (!touches_.empty()) finish_touches(warp);
  if (!global_touches_.empty()) finish_global_touches(warp);
  if (!synchronised_.empty()) finish_synchronised(warp);
}

void Races::finish_touches(Warp& warp) {
  const uint32_t who = number(warp);
  const Access access = touches_[0].access;
  const bool is_strong = access == Access::kAtomic || warp.instruction()->order != 0;
  Mask lanes = 0;
  const bool writes = access != Access::kRead;
  bool is_one_place = !writes || is_strong;
  for (const LaneTouch& touch : touches_) {
    lanes |= bit(touch.lane);
    const LaneTouch& first = touches_[0];
    is_one_place &= touch.offset == first.offset && touch.cta == first.cta && touch.bytes == first.bytes;
  }
  const Event event{warp.instruction(), &warp, lanes, who * kLanes, order_.time(who), false, is_strong, false, writes};
  const bool is_weak_write = writes && !is_strong;
  Touch touch{&actor_, is_weak_write ? shadow_.add(event) : shadow_.add_again(event), 0, access != Access::kWrite,
              writes};
  const Knowledge* knows = &order_.knowledge(who, touches_[0].lane);
  actor_ = {knows->now.seen, knows->now.fenced, {}};

  // All lanes access the same: at once, if what was there before comes from elsewhere.
  if (is_one_place && lanes == kAllLanes && order_.know_the_same(who)) {
    touch.lanes = lanes;
    Conflict conflict;
    const LaneTouch& first = touches_[0];
    if (shadow_.access(first.cta, first.offset, first.bytes, touch, conflict)) {
      touches_.clear();
      return;
    }
  }
  for (const LaneTouch& each : touches_) {
    if (const Knowledge* others = &order_.knowledge(who, each.lane); others != knows) {
      knows = others;
      actor_ = {knows->now.seen, knows->now.fenced, {}};
    }
    touch.lanes = bit(each.lane);
    touch.changes = each.changes;
    actor_.own = own_of(who, bit(each.lane), ~0u, order_.known_copies(who, each.lane));
    check(each.cta, each.offset, each.bytes, touch);
  }
  touches_.clear();
}

void Races::synchronise(Warp& warp, int lane, uint64_t address, Access access) {
  synchronised_.push_back({lane, address, access});
  if (!global_ || access == Access::kRead) return;
  if ((warp.instruction()->order & Instruction::kRelease) || order_.has_fenced(number(warp), lane)) {
    global_->release(address);
  }
}

void Races::finish_synchronised(Warp& warp) {
  const uint32_t who = number(warp);
  const int32_t order = warp.instruction()->order;
  for (const Synchronised& each : synchronised_) {
    if (each.access == Access::kWrite) continue;
    if (global_) global_->acquire(each.address);
    const auto found = locations_.find(each.address);
    if (found == locations_.end()) continue;
    if (order & Instruction::kAcquire) {
      order_.acquire(who, bit(each.lane), found->second);
    } else {
      order_.acquire_relaxed(who, bit(each.lane), found->second);
    }
  }
  for (const Synchronised& each : synchronised_) {
    if (each.access == Access::kRead) continue;
    const bool releases = order & Instruction::kRelease;
    if (!releases && !order_.has_fenced(who, each.lane)) continue;
    if (global_) global_->pass_time();
    if (releases) {
      order_.release(who, bit(each.lane), locations_[each.address]);
    } else {
      order_.release_relaxed(who, bit(each.lane), locations_[each.address]);
    }
  }
  synchronised_.clear();
}

// ---------------------------------------------------------------------------------------------------------------------
// Asynchronous copies

std::shared_ptr<const IssuedCopy> Races::issue(Warp& warp, Mask lanes, Completion completion) {
  const uint32_t who = number(warp);
  IssuedCopy copy;
  copy.event = {
      warp.instruction(),
      &warp,
      lanes,
      0,
      0,
      completion == Completion::kMbarrier || completion == Completion::kBulkGroup || completion == Completion::kTensor,
      false,
      true};
  copy.completion = completion;
  copy.time = order_.time(who);
  for_lanes(lanes, [&](int lane) { copy.known_copies[size_t(lane)] = order_.known_copies(who, lane); });
  for (Mask left = lanes; left;) {
    const int lane = first_lane(left);
    const Mask same = order_.lanes_that_know_as(who, lane) & left;
    copy.parts.push_back({same, order_.knowledge(who, lane).now});
    left &= ~same;
  }
  if (is_counted(completion)) {
    copy.event.component = order_.counted_component(who, counted_as(completion));
    copy.event.time = order_.count_copy(who, counted_as(completion));
    if (completion == Completion::kBulkGroup) {
      for_lanes(lanes, [&](int lane) { last_bulk_copies_[who * kLanes + uint32_t(lane)] = copy.event; });
    }
  } else {
    order_.pass_time(who);
  }
  return std::make_shared<const IssuedCopy>(std::move(copy));
}

void Races::begin_copy(const IssuedCopy& copy) {
  copy_ = &copy;
  event_ = is_counted(copy.completion) ? shadow_.add(copy.event) : 0;
  tensor_event_ = 0;
  act_as_copy(first_lane(copy.event.lanes));
}

void Races::act_as_copy(int lane) {
  acts_alone_ = true;
  for (const IssuedCopy::Part& part : copy_->parts) {
    if (part.lanes & bit(lane)) {
      KnownCopies known = copy_->known_copies[size_t(lane)];
      // What a thread starts by tcgen05 is done in that order.
      if (copy_->completion == Completion::kTensor) {
        known[size_t(Counted::kTensorOperations)] = copy_->event.time - 1;
      }
      const Mask own = copy_->completion == Completion::kTensorStore ? kAllLanes : bit(lane);
      actor_ = {part.knows.seen, part.knows.fenced, own_of(number(*copy_->event.warp), own, copy_->time, known)};
      tensor_actor_ = {part.knows.tensor, part.knows.seen, actor_.own};
    }
  }
  event_lane_ = is_counted(copy_->completion) ? lane : 0;
}

void Races::completes_on(const Cta& cta, uint32_t offset) {
  Barrier* const barrier = find(cta, offset);
  if (!barrier) return;  // a fault as soon as it completes
  if (barrier->component == HappensBefore::kNobody) barrier->component = order_.new_components(1);
  Event event = copy_->event;
  event.component = barrier->component;
  event.time = barrier->phase + 1;
  event_ = shadow_.add(event);
  barrier->last_copy = event;
  // The copy engine must know of the barrier.
  const auto lane = uint32_t(first_lane(barrier->init.lanes));
  Event fence = barrier->init;
  fence.time = barrier->fenced_at;
  const bool is_known = actor_.knows(barrier->init, lane);
  const bool is_fenced =
      !event.is_async || actor_.has_fenced(barrier->init, lane) || (barrier->fenced_at && actor_.knows(fence, lane));
  if (is_known && is_fenced) return;
  const Touch touch{&actor_, event_, bit(event_lane_), true, true};
  const auto kind = is_known ? Conflict::Kind::kNoProxyFence : Conflict::Kind::kUnordered;
  const Conflict conflict{kind, offset, 0, lane, true};
  report(place_of(cta.rank(), conflict, event), touch, conflict, event, barrier->init);
}

void Races::end_copy() {
  copy_ = nullptr;
  acts_alone_ = false;
}

const Event* Races::left_under_way(const Cta& cta) {
  const uint32_t first = cta.rank() * warps_of_cta_, last = first + warps_of_cta_;
  for (const auto& [key, barrier] : barriers_) {
    if (key >> 32 != cta.rank() || !barrier.last_copy.warp) continue;
    bool is_known = false;
    for (uint32_t warp = first; warp < last && !is_known; ++warp) {
      is_known = order_.knows(warp, barrier.component, barrier.last_copy.time);
    }
    if (!is_known) return &barrier.last_copy;
  }
  for (const auto& [thread, copy] : last_bulk_copies_) {
    const uint32_t warp = thread / kLanes;
    if (warp < first || warp >= last) continue;
    if (order_.known_copies(warp, int(thread % kLanes))[size_t(Counted::kBulkCopies)] < copy.time) return &copy;
  }
  return nullptr;
}

// The arrival comes after all that the thread knew when it asked for it; but of what the thread did itself, only its copies
// of that kind are known to be over.
void Races::arrive_after_copies(const Cta& cta, uint32_t offset, int lane) {
  Barrier* const barrier = find(cta, offset);
  if (!barrier) return;
  for (const IssuedCopy::Part& part : copy_->parts) {
    if (part.lanes & bit(lane)) barrier->arrived.join(part.knows);
  }
  const uint32_t who = number(*copy_->event.warp);
  order_.publish_copies(who, lane, copy_->event.time, counted_as(copy_->completion), barrier->arrived);
}

// ---------------------------------------------------------------------------------------------------------------------
// Barriers and fences

Races::Barrier* Races::find(const Cta& cta, uint32_t offset) {
  const auto found = barriers_.find(key_of(cta, offset));
  return found == barriers_.end() ? nullptr : &found->second;
}

void Races::init_barrier(Warp& warp, int lane, const Cta& cta, uint32_t offset, bool changes) {
  touches_.push_back({lane, cta.rank(), offset, kBarrierBytes, Access::kWrite, changes});
  Barrier& barrier = barriers_[key_of(cta, offset)];
  barrier.arrived = {};
  barrier.completed = {};
  barrier.first_phase = barrier.phase;
  const uint32_t who = number(warp);
  barrier.init = {warp.instruction(), &warp, bit(lane), who * kLanes, order_.time(who), false, false, false};
  barrier.fenced_at = 0;
}

void Races::use_barrier(Mask lanes, const Cta& cta, uint32_t offset, Access access) {
  for_lanes(lanes, [&](int lane) { touches_.push_back({lane, cta.rank(), offset, kBarrierBytes, access, true}); });
}

void Races::arrive(Warp& warp, Mask lanes, const Cta& cta, uint32_t offset, bool releases) {
  Barrier* const barrier = find(cta, offset);
  if (!barrier) return;
  if (releases) {
    order_.release(number(warp), lanes, barrier->arrived);
  } else {
    order_.release_relaxed(number(warp), lanes, barrier->arrived);
  }
}

void Races::pass(Warp& warp, Mask lanes, const Cta& cta, uint32_t offset, uint32_t parity, bool acquires) {
  Barrier* const barrier = find(cta, offset);
  if (!barrier) return;
  const Published& completed = barrier->completed[parity & 1];
  if (acquires) {
    order_.acquire(number(warp), lanes, completed);
  } else {
    order_.acquire_relaxed(number(warp), lanes, completed);
  }
}

// Who has waited for a phase knows those before it, too: each arrival changes the same object.
void Races::phase_over(const Cta& cta, uint32_t offset) {
  Barrier* const barrier = find(cta, offset);
  if (!barrier) return;
  if (barrier->component != HappensBefore::kNobody) {
    barrier->arrived.seen.raise(barrier->component, barrier->phase + 1);
  }
  barrier->completed[(barrier->phase - barrier->first_phase) & 1] = barrier->arrived;
  ++barrier->phase;
}

void Races::fence_barrier_init(Warp& warp, Mask lanes) {
  const uint32_t who = number(warp);
  for (auto& [key, barrier] : barriers_) {
    if (barrier.init.component != who * kLanes || !(barrier.init.lanes & lanes)) continue;
    if (barrier.fenced_at == 0) barrier.fenced_at = order_.time(who);
  }
  order_.pass_time(who);
}

void Races::arrive_named(Warp& warp, Mask lanes, int number_of_barrier) {
  order_.release(number(warp), lanes, named_[warp.cta().rank()][size_t(number_of_barrier)].arrived);
}

void Races::named_over(const Cta& cta, int number_of_barrier, uint64_t generation) {
  NamedBarrier& barrier = named_[cta.rank()][size_t(number_of_barrier)];
  barrier.completed[generation & 1] = std::exchange(barrier.arrived, {});
}

void Races::pass_named(Warp& warp, Mask lanes, int number_of_barrier, uint64_t generation) {
  const NamedBarrier& barrier = named_[warp.cta().rank()][size_t(number_of_barrier)];
  order_.acquire(number(warp), lanes, barrier.completed[generation & 1]);
}

// ---------------------------------------------------------------------------------------------------------------------
// Warpgroups

void Races::check(Warp& warp, const RegisterMisuse& misuse) {
  if (!misuse.what) return;
  Fault fault(FaultCode::kRace, misuse.what);
  if (misuse.other) {
    fault.other = std::string("\n  and ") + misuse.other_did + " by" + where(warp, kAllLanes, misuse.other);
  }
  throw fault;
}

void Races::begin_product(Warp& warp, int accumulators, int factors) {
  const uint32_t who = number(warp), product = order_.count_product(who);
  check(warp, products_[who].begin(warp.registers(), *warp.instruction(), accumulators, factors, product));
  const Published all = order_.knowledge_of_all(who);
  actor_ = {all.seen, all.fenced, {}};
  event_ =
      shadow_.add({warp.instruction(), &warp, kAllLanes, order_.product_component(who), product, true, false, true});
  event_lane_ = 0;
  acts_alone_ = true;
}

void Races::wait_for_products(Warp& warp, uint32_t pending) {
  const uint32_t who = number(warp);
  products_[who].wait(order_.wait_for_products(who, pending));
}

void Races::begin_load(Warp& warp) { loads_[number(warp)].begin(warp.registers(), *warp.instruction()); }

void Races::touch_registers(Warp& warp, const Instruction& instruction) {
  const uint32_t who = number(warp);
  if (instruction.touches_products) check(warp, products_[who].touch(warp.registers(), instruction));
  if (instruction.touches_loads) check(warp, loads_[who].touch(warp.registers(), instruction));
}

// The warps of a warpgroup change their registers together: all to the same number, and all before any goes on to the
// next change, for which they must have met in between.
void Races::set_registers(Warp& warp, int count) {
  const uint32_t who = number(warp), first = who - uint32_t(warp.index()) % kWarpsOfGroup;
  auto& own = registers_[who];
  const size_t changes = own.size();
  const uint32_t last = std::min(first + kWarpsOfGroup, who - uint32_t(warp.index()) + warps_of_cta_);
  const Published knows = order_.knowledge_of_all(who);
  for (uint32_t other = first; other < last; ++other) {
    const auto& others = registers_[other];
    if (other == who) continue;
    const std::string name = "warp " + std::to_string(other % warps_of_cta_) + " of its warpgroup";
    if (changes > 0 && (others.size() < changes || (*knows.seen)[other * kLanes] < others[changes - 1].time)) {
      throw Fault(FaultCode::kRace, "setmaxnreg follows another one, and " + name + " may not have come to that yet.");
    }
    if (others.size() > changes && others[changes].count != count) {
      Fault fault(FaultCode::kRace, "setmaxnreg wants " + std::to_string(count) + " registers, in " + name + " " +
                                        std::to_string(others[changes].count) + ".");
      Warp& its = *warp.cta().warps()[other % warps_of_cta_];
      fault.other = "\n  and changed to those by" + where(its, kAllLanes, others[changes].instruction);
      throw fault;
    }
  }
  own.push_back({count, order_.time(who), warp.instruction()});
}

// ---------------------------------------------------------------------------------------------------------------------
// Reports

std::string Races::place_of(uint32_t cta, const Conflict& conflict, const Event& now) {
  const std::string place = "shared offset " + std::to_string(conflict.offset);
  return cta == now.warp->cta().rank() ? place : place + " of CTA " + std::to_string(cta) + " of its cluster";
}

void Races::report(const std::string& place, const Touch& touch, const Conflict& conflict, const Event& now,
                   const Event& before) {
  const std::string verb = verb_of(!touch.writes ? Access::kRead : touch.reads ? Access::kAtomic : Access::kWrite);
  const std::string was = conflict.was_write ? "written" : "read";
  const std::string who = now.is_copy ? "what lane " + std::to_string(first_lane(now.lanes)) + " began"
                                      : "lane " + std::to_string(first_lane(touch.lanes));
  std::string text;
  switch (conflict.kind) {
    case Conflict::Kind::kUnordered:
      text = "Race: " + who + " " + verb + " " + place + ", which another one has " + was +
             ", and nothing orders the two.";
      break;
    case Conflict::Kind::kNoProxyFence:
      text = "Race: by the async proxy, " + who + " " + verb + " " + place +
             ", which was written by the generic one, with no fence.proxy.async between the two.";
      break;
    case Conflict::Kind::kNoTensorFence:
      text = "Race: " + who + " " + verb + " " + place + ", which another one has " + was +
             ", without tcgen05.fence before or after the barrier between the two.";
      break;
    case Conflict::Kind::kSameInstruction:
      text = "Race: lanes " + std::to_string(conflict.lane) + " and " + std::to_string(first_lane(touch.lanes)) +
             " write different values to " + place + " at once.";
      break;
  }
  Fault fault(FaultCode::kRace, text);
  if (conflict.kind != Conflict::Kind::kSameInstruction) {
    const Mask lanes = before.is_copy ? before.lanes : bit(int(conflict.lane));
    fault.other = std::string("\n  and ") + was + (before.is_copy ? ", as was begun there, by" : " by") +
                  where(*before.warp, lanes, before.instruction);
  }
  throw fault;
}

}  // namespace emulator
