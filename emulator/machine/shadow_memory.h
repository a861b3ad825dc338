// Who accessed what last: for each four bytes of shared memory, 8 bytes that tell the last write and the reads since then.
// Strong writes, atomics among them, are kept as reads are: they are no race with each other, so that a later one says
// nothing of how those before are ordered.
//
// An event is what one instruction did, in all its lanes. A cell names events with the lane; several readers are a set,
// which cells share. Cells of bytes take the place of a cell where something smaller than four bytes was accessed.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "emulator/machine/clock.h"
#include "emulator/machine/program.h"

namespace emulator {

class Warp;

struct Event {
  const Instruction* instruction = nullptr;
  Warp* warp = nullptr;  // that executed or issued it
  Mask lanes = 0;
  uint32_t component = 0;  // of lane 0, and that of others follow
  uint32_t time = 0;
  bool is_async = false;   // by the async proxy
  bool is_strong = false;  // atomic, volatile, or with an order: no race with others that are
  bool is_copy = false;    // done by others than the thread
  bool is_write = false;   // or both
};

// Who accesses memory just now, and what is ordered before that.
struct Actor {
  SharedClock seen, fenced;
  // Its own: components from `first` on of some lanes, up to a time.
  struct Own {
    uint32_t first = ~0u;
    Mask lanes = 0;
    uint32_t time = 0;
  };
  std::array<Own, 5> own;

  bool knows(const Event& event, uint32_t lane) const {
    for (const Own& mine : own) {
      if (event.component == mine.first && (mine.lanes >> lane & 1) && event.time <= mine.time) return true;
    }
    return (*seen)[event.component + lane] >= event.time;
  }
  bool has_fenced(const Event& event, uint32_t lane) const { return (*fenced)[event.component + lane] >= event.time; }
};

struct Touch {
  const Actor* actor;
  uint32_t event;
  Mask lanes;  // of the event: those that access these bytes
  bool reads, writes;
  bool changes = true;  // writes what was not there before
};

struct Conflict {
  enum class Kind { kUnordered, kNoProxyFence, kNoTensorFence, kSameInstruction };
  Kind kind;
  uint32_t offset;
  uint32_t event;  // the earlier one
  uint32_t lane;
  bool was_write;
};

class ShadowMemory {
 public:
  ShadowMemory(size_t regions, size_t bytes);

  // A number for something that happens now. Numbers of before may be others then: keep none.
  uint32_t add(const Event& event);
  // Likewise, of the same number where the same happens again and nothing was published in between; of no weak write.
  uint32_t add_again(const Event& event);
  const Event& event(uint32_t number) const { return events_[number]; }

  // False where it conflicts with something earlier.
  bool access(uint32_t region, uint32_t offset, uint32_t bytes, const Touch& touch, Conflict& conflict);

 private:
  struct Cell {
    uint32_t write = 0;  // event · 32 + lane; or, with kMany, the number of the four cells of its bytes
    uint32_t read = 0;   // those since; likewise, or, with kMany, of a set of readers
  };
  struct Reader {
    uint32_t event;
    Mask lanes;
  };
  using Readers = std::vector<Reader>;
  static constexpr uint32_t kMany = 1u << 31;

  bool visit(Cell& cell, const Touch& touch, Conflict& conflict);
  bool follows(uint32_t earlier, uint32_t lane, bool was_write, const Touch& touch, Conflict& conflict) const;
  bool add_reader(uint32_t& read, const Touch& touch, Conflict& conflict);
  void collect();

  std::vector<std::vector<Cell>> cells_;
  std::vector<std::array<Cell, 4>> bytes_;
  std::vector<Event> events_;
  std::vector<Readers> readers_;
  size_t most_events_, most_readers_;  // until the next collection

  std::array<uint32_t, 1024> recent_ = {};  // numbers of events, by warp and instruction
  struct Transition {
    uint32_t read = 0, event = 0;
    Mask lanes = 0;
    uint32_t result = 0;
  };
  std::array<Transition, 1024> transitions_ = {};  // of add_reader
};

}  // namespace emulator
