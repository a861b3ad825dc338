#include "emulator/machine/report.h"

#include <cxxabi.h>

#include <cstdlib>
#include <sstream>

namespace emulator {
namespace {

std::string demangled(const std::string& name) {
  int status = 0;
  char* text = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
  const std::string result = status == 0 ? text : name;
  std::free(text);
  return result;
}

std::string triple(const Dim3& dims) {
  return "(" + std::to_string(dims.x) + ", " + std::to_string(dims.y) + ", " + std::to_string(dims.z) + ")";
}

// "0-7, 12": lanes of a warp, or warps of a CTA.
std::string numbers_in(Mask mask) {
  std::string text;
  for (int i = 0; i < kLanes; ++i) {
    if (!(mask >> i & 1)) continue;
    int last = i;
    while (last + 1 < kLanes && (mask >> (last + 1) & 1)) ++last;
    text += (text.empty() ? "" : ", ") + std::to_string(i) + (last > i ? "-" + std::to_string(last) : "");
    i = last;
  }
  return text;
}

// "a.cuh:3, inlined at a.cuh:10, at b.cu:7; PTX line 42"
std::string source_of(const Function& function, const ptx::Instruction& instruction) {
  const auto& files = function.module->text->files;
  std::ostringstream text;
  const auto add = [&](const char* before, int file, int line) {
    const auto found = files.find(file);
    if (found != files.end()) text << before << found->second << ":" << line;
  };
  add("", instruction.source.file, instruction.source.line);
  const char* before = ", inlined at ";
  for (int i = instruction.source.inlined_at; i >= 0;) {
    const ptx::InlinedCall& call = function.text->inlined_calls[size_t(i)];
    add(before, call.file, call.line);
    before = call.has_namesakes ? ", probably at " : ", at ";
    i = call.inlined_at;
  }
  text << (text.tellp() > 0 ? "; " : "") << "PTX line " << instruction.line;
  return text.str();
}

// The instruction as far as its opcode, with its guard.
std::string words(const ptx::Instruction& instruction) { return "'" + instruction.opcode + "'"; }

const Function& function_of(const Fragment& fragment) { return *fragment.frame->function; }

// "CTA (1, 0, 0), warps 0-3; CTA (2, 0, 0), warps 1": with a lane that has not come to the barrier of the cluster.
std::string missing_at_barrier(Cluster& cluster) {
  std::string text;
  for (const auto& cta : cluster.ctas()) {
    Mask missing = 0;
    for (const auto& warp : cta->warps()) {
      const bool has_come = cluster.has_come_to_barrier(*warp);
      missing |= Mask(!has_come) << warp->index();
    }
    if (missing == 0) continue;
    text += (text.empty() ? "CTA " : "; CTA ") + triple(cta->index()) + ", warps " + numbers_in(missing);
  }
  return text;
}

std::string waits_for(const Warp& warp, const Fragment& fragment, Cta& cta) {
  const Wait& wait = fragment.wait;
  std::ostringstream text;
  switch (wait.kind) {
    case Wait::Kind::kNothing:
      text << "goes on without effect";
      break;
    case Wait::Kind::kLanes:
      text << "waits for lanes " << numbers_in(wait.address & ~fragment.lanes) << " of its warp";
      break;
    case Wait::Kind::kMbarrier: {
      text << "waits for the end of a phase of parity " << wait.phase << " of the mbarrier at shared offset "
           << wait.address;
      const auto found = cta.mbarriers().find(wait.address);
      if (found != cta.mbarriers().end()) {
        const Mbarrier& barrier = found->second;
        text << " (in phase " << barrier.phase << ", " << barrier.pending << " of " << barrier.expected
             << " arrivals pending, " << barrier.transactions << " bytes pending)";
      }
      break;
    }
    case Wait::Kind::kNamedBarrier: {
      const NamedBarrier& barrier = cta.named[wait.address];
      text << "waits at barrier " << wait.address << " (" << barrier.arrived << " threads arrived of "
           << (barrier.expected ? barrier.expected : cta.live_warps() * kLanes) << ")";
      break;
    }
    case Wait::Kind::kClusterBarrier:
      text << "waits at the barrier of its cluster, where these are missing: " << missing_at_barrier(cta.cluster());
      break;
    case Wait::Kind::kWarpgroup:
      text << "waits for the other warps of its warpgroup, at its fence " << warp.wgmma_fences << " and product "
           << warp.wgmma_products;
      break;
    case Wait::Kind::kRegisters:
      text << "waits for " << wait.address << " registers; others of its CTA have given up " << cta.register_pool;
      break;
    case Wait::Kind::kTensorMemory:
      text << "waits for tensor memory or for the peer of its CTA (" << wait.address << " columns)";
      break;
  }
  return text.str();
}

std::string kernel_of(Warp& warp) { return demangled(warp.cta().grid().launch.kernel->text->name); }

bool has(const Function& function, const Instruction* instruction) {
  return instruction >= function.code.data() && instruction < function.code.data() + function.code.size();
}

}  // namespace

std::string where(Warp& warp, Mask lanes, const Instruction* instruction) {
  std::ostringstream text;
  text << "\n  CTA " << triple(warp.cta().index()) << ", warp " << warp.index() << ", lanes " << numbers_in(lanes);
  if (!instruction || !instruction->text) return text.str();
  // The kernel's, even of a copy that is done after its warp has exited; or that of a function called.
  const Function* kernel = warp.cta().grid().launch.kernel;
  const Function* function = has(*kernel, instruction) ? kernel : nullptr;
  for (const Fragment& fragment : warp.fragments()) {
    if (has(function_of(fragment), instruction)) function = &function_of(fragment);
  }
  if (function) text << "\n  at " << source_of(*function, *instruction->text);
  text << ": " << words(*instruction->text);
  return text.str();
}

std::string where(const Launch& launch, uint64_t cluster, const Instruction* instruction) {
  const Dim3 &all = launch.grid, &size = launch.cluster;
  const uint64_t in_x = all.x / size.x, in_y = all.y / size.y;
  const Dim3 first = {uint32_t(cluster % in_x) * size.x, uint32_t(cluster / in_x % in_y) * size.y,
                      uint32_t(cluster / in_x / in_y) * size.z};
  std::ostringstream text;
  text << "\n  CTA " << triple(first);
  if (size.count() > 1) text << ", or another one of its cluster";
  if (!instruction || !instruction->text) return text.str();
  if (has(*launch.kernel, instruction)) text << "\n  at " << source_of(*launch.kernel, *instruction->text);
  text << ": " << words(*instruction->text);
  return text.str();
}

Report describe(const Fault& fault, const Cluster& cluster) {
  std::ostringstream text;
  text << fault.what();
  if (Warp* warp = cluster.running) {
    text << "\n  kernel " << kernel_of(*warp) << where(*warp, warp->executing(), warp->instruction());
  }
  return {fault.code, text.str() + fault.other};
}

Report describe_deadlock(const std::string& what, const std::deque<std::unique_ptr<Cluster>>& clusters) {
  constexpr int kMost = 40;  // lines
  std::ostringstream text;
  text << what;
  int lines = 0;
  for (const auto& cluster : clusters) {
    for (const auto& cta : cluster->ctas()) {
      for (const auto& warp : cta->warps()) {
        for (const Fragment& fragment : warp->fragments()) {
          if (warp->done()) continue;
          if (++lines > kMost) continue;
          if (lines == 1) text << "\n  kernel " << kernel_of(*warp);
          text << "\n  CTA " << triple(cta->index()) << ", warp " << warp->index() << ", lanes "
               << numbers_in(fragment.lanes) << " " << waits_for(*warp, fragment, *cta);
          const auto& code = function_of(fragment).code;
          if (fragment.pc < code.size() && code[fragment.pc].text) {
            text << "\n    at " << source_of(function_of(fragment), *code[fragment.pc].text) << ": "
                 << words(*code[fragment.pc].text);
          }
        }
      }
    }
  }
  if (lines > kMost) text << "\n  and " << lines - kMost << " more";
  return {FaultCode::kDeadlock, text.str()};
}

}  // namespace emulator
