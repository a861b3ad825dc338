#include "emulator/machine/tensor_memory.h"

#include <string>
#include <tuple>
#include <utility>

#include "emulator/machine/fault.h"
#include "emulator/machine/tensor_fragments.h"
#include "emulator/machine/testing.h"

namespace {

using namespace emulator;

template <typename F>
bool fails(FaultCode code, const std::string& words, F&& f) {
  try {
    f();
    return false;
  } catch (const Fault& fault) {
    return fault.code == code && std::string(fault.what()).find(words) != std::string::npos;
  }
}

void test_allocation() {
  TensorMemory memory;
  CHECK(memory.is_free(0, 512));
  CHECK(memory.allocate(256) == 0u);
  CHECK(memory.allocate(128) == 256u);
  CHECK(memory.allocate(128) == 384u);
  CHECK(!memory.allocate(32));
  memory.deallocate(256, 128);
  CHECK(memory.is_free(256, 128) && !memory.is_free(224, 64) && !memory.is_free(383, 2));
  CHECK(memory.allocate(64) == 256u);
  CHECK(memory.allocate(32) == 320u);
  CHECK(memory.allocate(32) == 352u);
  for (const uint32_t columns : {0u, 16u, 48u, 1024u}) {
    CHECK(fails(FaultCode::kIllegalInstruction, "cannot be allocated", [&] { memory.allocate(columns); }));
  }
  CHECK(fails(FaultCode::kIllegalInstruction, "none may be larger", [&] { memory.allocate(64); }));
  CHECK(fails(FaultCode::kIllegalInstruction, "no allocation of tensor memory begins",
              [&] { memory.deallocate(32, 32); }));
  CHECK(fails(FaultCode::kIllegalInstruction, "of an allocation of 256", [&] { memory.deallocate(0, 128); }));
  CHECK(fails(FaultCode::kIllegalInstruction, "never deallocated: 256 columns", [&] { memory.check_empty(); }));
  memory.relinquish();
  CHECK(fails(FaultCode::kIllegalInstruction, "relinquish_alloc_permit", [&] { memory.allocate(32); }));
  for (const auto& [first, columns] : {std::pair{0, 256}, {256, 64}, {320, 32}, {352, 32}, {384, 128}}) {
    memory.deallocate(uint32_t(first), uint32_t(columns));
  }
  memory.check_empty();
}

void test_contents() {
  TensorMemory memory;
  CHECK(memory.allocate(64) == 0u && memory.allocate(64) == 64u);
  memory.check_columns(0, 64);
  memory.check_columns(100, 28);
  const auto outside = [&](uint32_t first, uint32_t count) {
    return fails(FaultCode::kIllegalAddress, "not within an allocation", [&] { memory.check_columns(first, count); });
  };
  // Not even where the next columns belong to another allocation of the CTA.
  CHECK(outside(60, 5) && outside(120, 9) && outside(128, 1) && outside(4000, 1));

  const auto unwritten = [&](uint32_t lane, uint32_t column, Halves halves) {
    return fails(FaultCode::kUninitialized, "Lane 5, column 9", [&] { memory.read(lane, column, halves); });
  };
  CHECK(unwritten(5, 9, kLowHalf));
  memory.write(5, 9, 0x12345678, kLowHalf);
  CHECK((memory.read(5, 9, kLowHalf) & 0xFFFF) == 0x5678);
  CHECK(unwritten(5, 9, kBothHalves));
  memory.write(5, 9, 7, kBothHalves);
  CHECK(memory.read(5, 9, kBothHalves) == 7);
  memory.deallocate(0, 64);
  CHECK(memory.allocate(64) == 0u);
  CHECK(unwritten(5, 9, kLowHalf));
}

// That no two elements share a cell, and which lanes an accumulator has.
void test_accumulators() {
  for (const auto& [rows, is_ws, is_pair, lanes] : {std::tuple{128u, false, false, 128u},
                                                    {64u, false, false, 64u},
                                                    {64u, true, false, 128u},
                                                    {64u, false, true, 128u},
                                                    {32u, true, false, 128u}}) {
    constexpr uint32_t kColumns = 64;
    const auto layout = AccumulatorLayout::of(rows, kColumns, is_ws, is_pair);
    uint8_t seen[kTensorLanes][kColumns] = {};
    uint32_t used = 0;
    for (uint32_t row = 0; row < rows; ++row) {
      for (uint32_t column = 0; column < kColumns; ++column) {
        const TensorPlace place = layout.place(row, column);
        CHECK(place.column < layout.columns_in_lane());
        CHECK(!seen[place.lane][place.column]++, "%u rows: two elements in a cell", rows);
      }
    }
    for (const auto& lane : seen) used += lane[0];
    CHECK(used == lanes, "%u rows are in %u lanes", rows, used);
  }
}

}  // namespace

int main() {
  test_allocation();
  test_contents();
  test_accumulators();
  return verdict();
}
