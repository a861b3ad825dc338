// Finds warps that go round in circles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace emulator {

// A warp that is back at a place, with the same in all of its registers, while nothing else has changed, will be there
// again and again. Looking costs time, so it is done only after a turn in which nothing changed, and not at every jump.
class LoopWatch {
 public:
  // `changes` counts, here and below, what changed so far of all that the warp's instructions depend on.
  void begin_turn(uint64_t changes);
  // To be asked at a jump backwards; `state` is what may differ between two times at the same place.
  bool has_come_round(uint64_t changes, const std::function<std::vector<std::byte>()>& state);

 private:
  uint64_t changes_ = UINT64_MAX;  // when the last turn began
  int looks_left_ = 0;             // in this turn
  std::vector<std::byte> known_;
  uint64_t known_changes_ = 0;
  int known_for_ = 0;  // looks
};

}  // namespace emulator
