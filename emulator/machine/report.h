// What went wrong, in words: which kernel, line, CTA, warp and lanes.
#pragma once

#include <deque>
#include <memory>

#include "emulator/machine/machine.h"

namespace emulator {

// Where some lanes execute an instruction, or did: CTA, warp, lanes, source line.
std::string where(Warp& warp, Mask lanes, const Instruction* instruction);
// The same of a cluster, of which nothing else is known.
std::string where(const Launch& launch, uint64_t cluster, const Instruction* instruction);
// For a fault of the warp that `cluster` runs just now.
Report describe(const Fault& fault, const Cluster& cluster);
// For clusters none of which goes on: `what`, and who waits for what.
Report describe_deadlock(const std::string& what, const std::deque<std::unique_ptr<Cluster>>& clusters);

}  // namespace emulator
