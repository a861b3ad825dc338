#include "emulator/machine/loop_watch.h"

namespace emulator {
namespace {

constexpr int kLooksInTurn = 64;
constexpr int kLongestCircle = 32;  // jumps; also how many of them it may take to get into the circle

}  // namespace

void LoopWatch::begin_turn(uint64_t changes) {
  looks_left_ = changes == changes_ ? kLooksInTurn : 0;
  changes_ = changes;
}

bool LoopWatch::has_come_round(uint64_t changes, const std::function<std::vector<std::byte>()>& state) {
  if (looks_left_ == 0) return false;
  --looks_left_;
  std::vector<std::byte> now = state();
  if (changes == known_changes_ && now == known_) return true;
  if (changes != known_changes_ || ++known_for_ == kLongestCircle) {
    known_ = std::move(now);
    known_changes_ = changes;
    known_for_ = 0;
  }
  return false;
}

}  // namespace emulator
