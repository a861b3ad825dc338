// Looking at a kernel while it runs, as environment variables ask: see docs/emulator.md.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "emulator/machine/cta.h"
#include "emulator/machine/shared_tile.h"

namespace emulator {

// Which threads are looked at. What is not said matches any.
struct Watched {
  std::optional<Dim3> cta;
  std::optional<int> warp;
  int lane = 0;
  std::string file;  // the end of its path
  int line = 0;
  std::string opcode;  // how it begins
};

class Debugger {
 public:
  // Null where nothing is asked for. Throws std::invalid_argument for what it does not understand.
  static std::unique_ptr<Debugger> from_environment();

  // Called after an instruction, with the function that it belongs to and the registers of its frame.
  void executed(Warp& warp, const Instruction& instruction, const Frame& frame, Mask mask);
  // Called before it: stops the kernel where that is asked for.
  void about_to_execute(Warp& warp, const Instruction& instruction, const Frame& frame, Mask mask);

 private:
  bool matches(const Watched& watched, Warp& warp, const Instruction& instruction, const Frame& frame, Mask mask) const;

  std::optional<Watched> trace_, stop_;
  int stop_after_ = 1;               // executions of the line by a warp that matches
  std::atomic<int> stopped_at_ = 0;  // kernels run on several threads
  std::optional<SharedTile> tile_;
};

}  // namespace emulator
