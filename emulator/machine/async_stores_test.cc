// What st.async and red.async leave in the other CTA of a cluster, and which of them are faults.
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "emulator/machine/machine.h"
#include "emulator/machine/testing.h"

using namespace emulator;

namespace {

struct Case {
  std::string form;     // of red.async
  uint64_t old, value;  // in memory, and what each of the 32 threads sends
  uint64_t expected;
};

const std::vector<Case> kCases = {
    {"add.u32", 5, 3, 101},
    {"add.s32", 5, uint32_t(-3), uint32_t(-91)},
    {"add.u64", 5, uint64_t{3} << 30, 5 + (uint64_t{96} << 30)},
    {"add.s64", 5, uint64_t(-3), uint64_t(-91)},
    {"min.u32", uint32_t(-7), 9, 9},
    {"min.s32", uint32_t(-7), 9, uint32_t(-7)},
    {"max.u32", uint32_t(-7), 9, uint32_t(-7)},
    {"max.s32", uint32_t(-7), 9, 9},
    {"inc.u32", 5, 6, 2},  // 6, 0, … 6, 0, … of 7 values
    {"dec.u32", 5, 6, 1},
    {"and.b32", 0xff00, 0x0ff0, 0x0f00},
    {"or.b32", 0xff00, 0x0ff0, 0xfff0},
    {"xor.b32", 0xff00, 0x0ff0, 0xff00},
};

// Each CTA of a cluster of two sends `instruction` to the other, from %target and %bar or their generic addresses %gtarget
// and %gbar, with %v of 32 or %w of 64 bits; then stores what it got.
std::string kernel(const std::string& instruction, int bytes) {
  return R"(.version 8.7
.target sm_90a
.address_size 64
.shared .align 16 .b8 box[16];
.shared .align 8 .b64 barrier;
.visible .entry k(.param .u64 data) {
  .reg .b64 %data, %old, %w, %new, %gtarget, %gbar; .reg .b32 %rank, %other, %thread, %target, %bar, %v;
  .reg .pred %first, %over;
  ld.param.u64 %data, [data];
  ld.global.u64 %old, [%data];
  ld.global.u64 %w, [%data+8];
  cvt.u32.u64 %v, %w;
  mov.u32 %rank, %cluster_ctarank;
  mov.u32 %thread, %tid.x;
  xor.b32 %other, %rank, 1;
  mov.u32 %target, box;
  mov.u32 %bar, barrier;
  mapa.shared::cluster.u32 %target, %target, %other;
  mapa.shared::cluster.u32 %bar, %bar, %other;
  cvt.u64.u32 %gtarget, %target;
  cvta.shared.u64 %gtarget, %gtarget;
  cvt.u64.u32 %gbar, %bar;
  cvta.shared.u64 %gbar, %gbar;
  setp.eq.u32 %first, %thread, 0;
  @!%first bra READY;
  st.shared.u64 [box], %old;
  st.shared.u64 [box+8], 0;
  mbarrier.init.shared.b64 [barrier], 1;
  mbarrier.arrive.expect_tx.shared.b64 _, [barrier], )" +
         std::to_string(32 * bytes) + R"(;
  READY:
  barrier.cluster.arrive.aligned;
  barrier.cluster.wait.aligned;
  )" + instruction +
         R"(
  WAIT:
  mbarrier.try_wait.parity.shared.b64 %over, [barrier], 0;
  @!%over bra WAIT;
  ld.shared.u64 %new, [box];
  mad.wide.u32 %data, %rank, 8, %data;
  st.global.u64 [%data+16], %new;
  barrier.cluster.arrive.aligned;
  barrier.cluster.wait.aligned;
  ret;
})";
}

struct Result {
  uint64_t first, second;  // of the two CTAs
  std::string report;
};

Result run(const std::string& instruction, int bytes, uint64_t old, uint64_t value) {
  const auto module = load(kernel(instruction, bytes));
  uint64_t data[4] = {old, value, 0, 0};
  Memory memory;
  memory.add(data, sizeof(data), true);
  Launch launch;
  launch.kernel = &module->function(*module->text->find("k"));
  launch.grid.x = launch.cluster.x = 2;
  launch.block.x = 32;
  const void* const pointer = data;
  launch.parameters.resize(sizeof(pointer));
  std::memcpy(launch.parameters.data(), &pointer, sizeof(pointer));
  const auto report = emulator::run(launch, memory);
  return {data[2], data[3], report ? report->text : ""};
}

void test_reductions() {
  for (const Case& each : kCases) {
    const bool is_wide = each.form.substr(each.form.size() - 2) == "64";
    const std::string value = is_wide ? "%w" : "%v", form = "mbarrier::complete_tx::bytes." + each.form;
    for (const std::string& instruction :
         {"red.async.relaxed.cluster.shared::cluster." + form + " [%target], " + value + ", [%bar];",
          "red.async.relaxed.cluster." + form + " [%gtarget], " + value + ", [%gbar];"}) {
      const Result got = run(instruction, is_wide ? 8 : 4, each.old, each.value);
      CHECK(got.report.empty() && got.first == each.expected && got.second == each.expected, "%s: %llx and %llx %s",
            instruction.c_str(), (unsigned long long)got.first, (unsigned long long)got.second, got.report.c_str());
    }
  }
}

void test_stores() {
  const std::string form = "mbarrier::complete_tx::bytes.";
  for (const std::string& instruction : {"st.async.weak.shared::cluster." + form + "v2.b32 [%target], {%v, 7}, [%bar];",
                                         "st.async.weak." + form + "v2.b32 [%gtarget], {%v, 7}, [%gbar];"}) {
    const Result got = run(instruction, 8, 1, 2);
    const uint64_t expected = uint64_t{7} << 32 | 2;
    CHECK(got.report.empty() && got.first == expected && got.second == expected, "%s: %llx %s", instruction.c_str(),
          (unsigned long long)got.first, got.report.c_str());
  }
}

void test_faults() {
  const std::string store = "st.async.weak.mbarrier::complete_tx::bytes.b32 ";
  const std::string near = "mov.u32 %bar, barrier; st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 ";
  const struct {
    std::string instruction, words;
  } faults[] = {
      {store + "[%data], %v, [%gbar];", "The target of lane 0 is not in shared memory."},
      {store + "[%gtarget], %v, [%data];", "The mbarrier of lane 0 is not in shared memory."},
      {store + "[%gtarget+2], %v, [%gbar];", "is not aligned to 4 bytes"},
      {near + "[%target], %v, [%bar];", " of the cluster, the mbarrier in CTA "},
      {"red.async.relaxed.cluster.mbarrier::complete_tx::bytes.min.u64 [%gtarget], %w, [%gbar];", "no such reduction"},
      {"red.async.mbarrier::complete_tx::bytes.min.u32 [%gtarget], %v, [%gbar];", "it is not .relaxed.cluster"},
      {"st.async.release.sys.global.b32 [%data], %v;", "it does not complete on an mbarrier"},
  };
  for (const auto& fault : faults) {
    const Result got = run(fault.instruction, 4, 1, 2);
    CHECK(got.report.find(fault.words) != std::string::npos, "%s: %s", fault.instruction.c_str(), got.report.c_str());
  }
}

}  // namespace

int main() {
  test_reductions();
  test_stores();
  test_faults();
  return verdict();
}
