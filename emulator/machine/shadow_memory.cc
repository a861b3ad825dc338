#include "emulator/machine/shadow_memory.h"

#include <algorithm>

namespace emulator {
namespace {

constexpr uint32_t kGranule = 4;  // bytes of a cell
constexpr int kLaneBits = 5;
constexpr size_t kLeastToCollect = size_t{1} << 16;

uint32_t event_of(uint32_t entry) { return entry >> kLaneBits; }
uint32_t lane_of(uint32_t entry) { return entry & (kLanes - 1); }
uint32_t entry_of(uint32_t event, uint32_t lane) { return event << kLaneBits | lane; }

size_t hash(uint64_t a, uint64_t b) { return size_t((a * 0x9E3779B97F4A7C15u ^ b * 0xC2B2AE3D27D4EB4Fu) >> 40); }

}  // namespace

ShadowMemory::ShadowMemory(size_t regions, size_t bytes)
    : cells_(regions, std::vector<Cell>((bytes + kGranule - 1) / kGranule)),
      events_(1),  // 0 is none
      most_events_(kLeastToCollect),
      most_readers_(kLeastToCollect) {}

// ---------------------------------------------------------------------------------------------------------------------
// Events

uint32_t ShadowMemory::add(const Event& event) {
  if (events_.size() >= most_events_ || readers_.size() >= most_readers_) collect();
  events_.push_back(event);
  return uint32_t(events_.size() - 1);
}

uint32_t ShadowMemory::add_again(const Event& event) {
  const auto place = hash(reinterpret_cast<uint64_t>(event.instruction), event.component) % recent_.size();
  const Event& recent = events_[recent_[place]];
  if (recent.instruction == event.instruction && recent.component == event.component && recent.time == event.time &&
      recent.lanes == event.lanes && recent.is_write == event.is_write) {
    return recent_[place];
  }
  const uint32_t number = add(event);
  return recent_[place] = number;
}

// Keeps only what cells still name, under other numbers.
void ShadowMemory::collect() {
  std::vector<uint32_t> events(events_.size()), readers(readers_.size());
  std::vector<Event> live_events(1);
  std::vector<Readers> live_readers;
  const auto keep = [&](uint32_t event) {
    if (events[event] == 0) {
      events[event] = uint32_t(live_events.size());
      live_events.push_back(events_[event]);
    }
    return events[event];
  };
  const auto keep_cell = [&](Cell& cell) {
    if (cell.write) cell.write = entry_of(keep(event_of(cell.write)), lane_of(cell.write));
    if (cell.read & kMany) {
      uint32_t& number = readers[cell.read & ~kMany];  // 0 where it is new, else 1 more
      if (number == 0) {
        live_readers.push_back(readers_[cell.read & ~kMany]);
        for (Reader& reader : live_readers.back()) reader.event = keep(reader.event);
        number = uint32_t(live_readers.size());
      }
      cell.read = kMany | (number - 1);
    } else if (cell.read) {
      cell.read = entry_of(keep(event_of(cell.read)), lane_of(cell.read));
    }
  };
  for (auto& region : cells_) {
    for (Cell& cell : region) {
      if (!(cell.write & kMany)) keep_cell(cell);
    }
  }
  for (auto& four : bytes_) {
    for (Cell& cell : four) keep_cell(cell);
  }
  events_ = std::move(live_events);
  readers_ = std::move(live_readers);
  most_events_ = std::max(kLeastToCollect, 2 * events_.size());
  most_readers_ = std::max(kLeastToCollect, 2 * readers_.size());
  recent_ = {};
  transitions_ = {};
}

// ---------------------------------------------------------------------------------------------------------------------
// Accesses

bool ShadowMemory::access(uint32_t region, uint32_t offset, uint32_t bytes, const Touch& touch, Conflict& conflict) {
  const uint32_t end = offset + bytes;
  for (uint32_t at = offset; at < end;) {
    const uint32_t next = std::min(end, at / kGranule * kGranule + kGranule);
    const bool is_whole = next - at == kGranule;
    Cell& cell = cells_[region][at / kGranule];
    conflict.offset = at;
    if (is_whole && !(cell.write & kMany)) {
      if (!visit(cell, touch, conflict)) return false;
    } else {
      if (!(cell.write & kMany)) {
        bytes_.push_back({cell, cell, cell, cell});
        cell = {kMany | uint32_t(bytes_.size() - 1), 0};
      }
      auto& four = bytes_[cell.write & ~kMany];
      for (uint32_t byte = at; byte < next; ++byte) {
        conflict.offset = byte;
        if (!visit(four[byte % kGranule], touch, conflict)) return false;
      }
    }
    at = next;
  }
  return true;
}

bool ShadowMemory::visit(Cell& cell, const Touch& touch, Conflict& conflict) {
  if (cell.write && !follows(event_of(cell.write), lane_of(cell.write), true, touch, conflict)) return false;
  const uint32_t entry = entry_of(touch.event, uint32_t(__builtin_ctz(touch.lanes)));
  if (!touch.writes || events_[touch.event].is_strong) {
    if (cell.read == 0 && (touch.lanes & (touch.lanes - 1)) == 0) {
      cell.read = entry;
      return true;
    }
    return cell.read == entry || add_reader(cell.read, touch, conflict);
  }
  const auto follows_reader = [&](uint32_t event, uint32_t lane) {
    return follows(event, lane, events_[event].is_write, touch, conflict);
  };
  if (cell.read & kMany) {
    for (const Reader& reader : readers_[cell.read & ~kMany]) {
      for (Mask left = reader.lanes; left; left &= left - 1) {
        if (!follows_reader(reader.event, uint32_t(__builtin_ctz(left)))) return false;
      }
    }
  } else if (cell.read && !follows_reader(event_of(cell.read), lane_of(cell.read))) {
    return false;
  }
  cell = {entry, 0};
  return true;
}

bool ShadowMemory::follows(uint32_t earlier, uint32_t lane, bool was_write, const Touch& touch,
                           Conflict& conflict) const {
  const auto conflicts = [&](Conflict::Kind kind) {
    conflict = {kind, conflict.offset, earlier, lane, was_write};
    return false;
  };
  // Two that write the same value do no harm.
  if (was_write && touch.writes && !touch.reads && !touch.changes) return true;
  if (earlier == touch.event) {
    if (touch.lanes == Mask{1} << lane || !was_write || !touch.writes || touch.reads) return true;
    return conflicts(Conflict::Kind::kSameInstruction);
  }
  const Event &before = events_[earlier], &now = events_[touch.event];
  if (before.is_strong && now.is_strong) return true;
  if (!touch.actor->knows(before, lane)) return conflicts(Conflict::Kind::kUnordered);
  if (now.is_async && !before.is_async && was_write && touch.reads && !touch.actor->has_fenced(before, lane)) {
    return conflicts(Conflict::Kind::kNoProxyFence);
  }
  return true;
}

// Makes these lanes readers of a cell, too. One that is ordered before the new one need not be kept: who is ordered after
// this is ordered after both. That does not hold for copies, which hand on nothing but themselves.
bool ShadowMemory::add_reader(uint32_t& read, const Touch& touch, Conflict& conflict) {
  Transition& known = transitions_[hash(uint64_t{read} << 32 | touch.event, touch.lanes) % transitions_.size()];
  if (known.event == touch.event && known.read == read && known.lanes == touch.lanes) {
    read = known.result;
    return true;
  }
  Readers readers;
  if (read & kMany) {
    readers = readers_[read & ~kMany];
  } else if (read) {
    readers.push_back({event_of(read), Mask{1} << lane_of(read)});
  }
  const Event& now = events_[touch.event];
  Mask lanes = touch.lanes;
  for (Reader& reader : readers) {
    const Event& before = events_[reader.event];
    if (before.is_write || touch.writes) {
      for (Mask left = reader.lanes; left; left &= left - 1) {
        const auto lane = uint32_t(__builtin_ctz(left));
        if (!follows(reader.event, lane, before.is_write, touch, conflict)) return false;
      }
    }
    if (before.is_strong != now.is_strong || before.is_write != now.is_write) continue;
    if (reader.event == touch.event) {
      lanes |= reader.lanes;
      reader.lanes = 0;
    } else if (before.component == now.component) {
      reader.lanes &= ~touch.lanes;
    } else if (!now.is_copy) {
      Mask kept = 0;
      for (Mask left = reader.lanes; left; left &= left - 1) {
        const auto lane = uint32_t(__builtin_ctz(left));
        if (!touch.actor->knows(before, lane)) kept |= Mask{1} << lane;
      }
      reader.lanes = kept;
    }
  }
  std::erase_if(readers, [](const Reader& reader) { return reader.lanes == 0; });
  uint32_t result;
  if (readers.empty() && (lanes & (lanes - 1)) == 0) {
    result = entry_of(touch.event, uint32_t(__builtin_ctz(lanes)));
  } else {
    readers.push_back({touch.event, lanes});
    readers_.push_back(std::move(readers));
    result = kMany | uint32_t(readers_.size() - 1);
  }
  known = {read, touch.event, touch.lanes, result};
  read = result;
  return true;
}

}  // namespace emulator
