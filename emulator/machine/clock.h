// Vector clocks: what somebody knows of what others did.
//
// Whoever accesses memory has a component, in which its time passes. A clock says of each component up to which time its
// accesses are known, that is, ordered before what comes next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace emulator {

class Clock {
 public:
  uint32_t operator[](uint32_t component) const { return component < times_.size() ? times_[component] : 0; }
  void raise(uint32_t component, uint32_t time) {
    if (component >= times_.size()) times_.resize(component + 1);
    if (times_[component] < time) times_[component] = time;
  }
  void join(const Clock& other) {
    if (times_.size() < other.times_.size()) times_.resize(other.times_.size());
    for (size_t i = 0; i < other.times_.size(); ++i) {
      times_[i] = times_[i] < other.times_[i] ? other.times_[i] : times_[i];
    }
  }
  // Whether it knows all that the other one knows.
  bool covers(const Clock& other) const {
    const size_t both = times_.size() < other.times_.size() ? times_.size() : other.times_.size();
    uint32_t missing = 0;
    for (size_t i = 0; i < both; ++i) missing |= uint32_t(times_[i] < other.times_[i]);
    for (size_t i = both; i < other.times_.size(); ++i) missing |= other.times_[i];
    return missing == 0;
  }

 private:
  std::vector<uint32_t> times_;
};

// A clock that is copied where it changes while others have it too: the lanes of a warp mostly know the same, and so do
// those who come from a barrier.
class SharedClock {
 public:
  const Clock& operator*() const {
    static const Clock nothing;
    return clock_ ? *clock_ : nothing;
  }
  bool operator==(const SharedClock& other) const { return clock_ == other.clock_; }
  void raise(uint32_t component, uint32_t time) {
    if ((**this)[component] < time) own().raise(component, time);
  }
  void join(const SharedClock& other) {
    if (clock_ == other.clock_ || !other.clock_) return;
    if (!clock_ || other.clock_->covers(*clock_)) {
      clock_ = other.clock_;
    } else if (!clock_->covers(*other.clock_)) {
      own().join(*other.clock_);
    }
  }

 private:
  Clock& own() {
    if (!clock_) {
      clock_ = std::make_shared<Clock>();
    } else if (clock_.use_count() > 1) {
      clock_ = std::make_shared<Clock>(*clock_);
    }
    return *clock_;
  }
  std::shared_ptr<Clock> clock_;
};

}  // namespace emulator
