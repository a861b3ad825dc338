// Tensor memory: 128 lanes of 512 columns of 32 bits, of which a CTA gets columns by tcgen05.alloc.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>

namespace emulator {

inline constexpr uint32_t kTensorLanes = 128;
inline constexpr uint32_t kTensorColumns = 512;
inline constexpr uint32_t kLanesOfWarp = 32;  // those that a warp reaches: its rank in the warpgroup says which

// An address as instructions have it: the lane in the upper half, the column in the lower.
struct TensorPlace {
  uint32_t lane = 0, column = 0;

  static TensorPlace of(uint32_t address) { return {address >> 16, address & 0xFFFF}; }
  uint32_t address() const { return lane << 16 | column; }
};

// What the two CTAs of a pair do together, tcgen05.alloc and others of .cta_group::2: what a CTA has come to, and what its
// peer, which came later, has done for both.
struct PairRequest {
  enum class Kind { kNone, kAllocate, kDeallocate, kRelinquish };
  Kind kind = Kind::kNone;
  uint32_t columns = 0, address = 0;
  bool is_done = false;
};

// The part of a cell that has something in it: a 16-bit element lies in the lower half of one, or two share it.
enum Halves : uint8_t { kNoHalf = 0, kLowHalf = 1, kHighHalf = 2, kBothHalves = 3 };

// That of one CTA. Each has all columns to itself: no other CTA is on its multiprocessor.
class TensorMemory {
 public:
  // Else it lets pass what nobody notices on a device where the CTA is alone: accesses of columns that were given back, and
  // of cells that nobody wrote.
  void be_strict(bool is_strict) { is_strict_ = is_strict; }
  // Takes the lowest columns that are free side by side; nothing while there are too few. What is in them counts as
  // never written.
  std::optional<uint32_t> allocate(uint32_t columns);
  // Checks what can be wrong about an allocation whatever the others do. It may have to wait all the same.
  void check_allocation(uint32_t columns) const;
  void deallocate(uint32_t address, uint32_t columns);
  void relinquish() { may_allocate_ = false; }
  bool is_free(uint32_t first, uint32_t columns) const;
  // A Fault if columns are left. To be called when the CTA's last warp has exited.
  void check_empty() const;
  // All instructions of a CTA are of the same .cta_group.
  void check_group(int ctas);

  // A Fault unless these columns are within one allocation.
  void check_columns(uint32_t first, uint32_t count) const;
  // The cell, of which those halves must have been written.
  uint32_t read(uint32_t lane, uint32_t column, Halves halves) const;
  // Writes it. What is in halves that are not named counts as never written.
  void write(uint32_t lane, uint32_t column, uint32_t value, Halves halves);

  PairRequest request;

 private:
  struct Contents {
    std::array<std::array<uint32_t, kTensorColumns>, kTensorLanes> cells;
    std::array<std::array<uint8_t, kTensorColumns>, kTensorLanes> written;
  };
  std::unique_ptr<Contents> contents_;        // from the first allocation on
  std::map<uint32_t, uint32_t> allocations_;  // columns, by the first of them
  uint32_t last_columns_ = kTensorColumns;    // of the allocation before
  bool may_allocate_ = true, is_strict_ = true;
  int group_ = 0;  // CTAs; 0: nothing was executed yet
};

}  // namespace emulator
