// The machine: runs a grid of thread blocks to its end, over the threads of this computer.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "emulator/machine/cta.h"
#include "emulator/machine/debugger.h"
#include "emulator/machine/fault.h"
#include "emulator/machine/global_races.h"
#include "emulator/machine/memory.h"
#include "emulator/machine/program.h"

namespace emulator {

struct Launch {
  const Function* kernel = nullptr;
  Dim3 grid, block, cluster;
  bool has_cluster = false;  // the launch or the kernel names the cluster's size
  bool cooperative = false;
  bool is_programmatic = false;  // it may begin before the one before it has ended
  uint32_t dynamic_shared = 0;
  std::vector<std::byte> parameters;  // laid out as the kernel's
  int num_sms = 132;
};

// What went wrong, told in full: kernel, source line, CTA, warp, lanes, instruction.
struct Report {
  FaultCode code;
  std::string text;
};

// A launch under way.
struct Grid {
  const Launch& launch;
  Memory& memory;
  std::byte* parameters;         // where kernels see them
  uint64_t workspace = 0;        // of a cooperative launch: the address that %envreg1 and %envreg2 tell
  Debugger* debugger = nullptr;  // null where nobody looks
  bool checks_races = true;
  bool is_strict = true;                // about tensor memory
  uint8_t primary = 0;                  // Memory's number of the launch that may still be under way; 0: none is
  GlobalRaces* global_races = nullptr;  // of several clusters
  // Takes a cluster that has not begun out of the launch, for the one that asks; nothing where there is none.
  std::function<std::optional<Dim3>()> cancel_cluster;
};

// Runs until every thread has exited, or something goes wrong. Launches must fit the device: see the runtime.
std::optional<Report> run(const Launch& launch, Memory& memory);

// Locks what atomics and reductions on global memory change.
std::mutex& atomic_lock(uint64_t address);

}  // namespace emulator
