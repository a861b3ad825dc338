#include "emulator/machine/tensor_memory.h"

#include <algorithm>
#include <bit>
#include <string>

#include "emulator/machine/fault.h"

namespace emulator {
namespace {

constexpr uint32_t kFewestColumns = 32;

[[noreturn]] void illegal(const std::string& message) { throw Fault(FaultCode::kIllegalInstruction, message); }

bool is_allocatable(uint32_t columns) {
  return columns >= kFewestColumns && columns <= kTensorColumns && std::has_single_bit(columns);
}

}  // namespace

void TensorMemory::check_allocation(uint32_t columns) const {
  if (!is_allocatable(columns)) {
    illegal(std::to_string(columns) +
            " columns of tensor memory cannot be allocated; powers of two from 32 to 512 can.");
  }
  if (!may_allocate_) illegal("Tensor memory is allocated after tcgen05.relinquish_alloc_permit.");
  if (columns > last_columns_) {
    illegal(std::to_string(columns) + " columns of tensor memory are allocated after an allocation of " +
            std::to_string(last_columns_) + "; none may be larger than the one before.");
  }
}

bool TensorMemory::is_free(uint32_t first, uint32_t columns) const {
  return first + columns <= kTensorColumns &&
         std::none_of(allocations_.begin(), allocations_.end(), [&](const auto& allocation) {
           return allocation.first < first + columns && first < allocation.first + allocation.second;
         });
}

std::optional<uint32_t> TensorMemory::allocate(uint32_t columns) {
  check_allocation(columns);
  for (uint32_t first = 0; first + columns <= kTensorColumns; first += kFewestColumns) {
    if (!is_free(first, columns)) continue;
    allocations_[first] = last_columns_ = columns;
    if (!contents_) contents_ = std::make_unique<Contents>();
    for (auto& lane : contents_->written) std::fill_n(lane.begin() + first, columns, kNoHalf);
    return first;
  }
  return std::nullopt;
}

void TensorMemory::deallocate(uint32_t address, uint32_t columns) {
  const auto found = allocations_.find(address);
  if (found == allocations_.end()) {
    illegal("tcgen05.dealloc names " + std::to_string(address) + ", where no allocation of tensor memory begins.");
  }
  if (found->second != columns) {
    illegal("tcgen05.dealloc names " + std::to_string(columns) + " columns of an allocation of " +
            std::to_string(found->second) + ".");
  }
  allocations_.erase(found);
}

void TensorMemory::check_empty() const {
  if (allocations_.empty()) return;
  const auto [first, columns] = *allocations_.begin();
  illegal("The CTA exits with tensor memory that it never deallocated: " + std::to_string(columns) +
          " columns from column " + std::to_string(first) + " on.");
}

void TensorMemory::check_group(int ctas) {
  if (group_ != 0 && group_ != ctas)
    illegal("The kernel has tcgen05 instructions of .cta_group::1 and of .cta_group::2.");
  group_ = ctas;
}

void TensorMemory::check_columns(uint32_t first, uint32_t count) const {
  const auto behind = allocations_.upper_bound(first);
  if (behind != allocations_.begin()) {
    const auto [begin, columns] = *std::prev(behind);
    if (first + count <= begin + columns) return;
  }
  if (!is_strict_ && contents_ && first + count <= kTensorColumns) return;
  throw Fault(FaultCode::kIllegalAddress, "Columns " + std::to_string(first) + " to " +
                                              std::to_string(first + count - 1) +
                                              " of tensor memory are not within an allocation of the CTA.");
}

uint32_t TensorMemory::read(uint32_t lane, uint32_t column, Halves halves) const {
  if (is_strict_ && (contents_->written[lane][column] & halves) != halves) {
    throw Fault(FaultCode::kUninitialized, "Lane " + std::to_string(lane) + ", column " + std::to_string(column) +
                                               " of tensor memory is read before anything was written there.");
  }
  return contents_->cells[lane][column];
}

void TensorMemory::write(uint32_t lane, uint32_t column, uint32_t value, Halves halves) {
  contents_->cells[lane][column] = value;
  contents_->written[lane][column] = halves;
}

}  // namespace emulator
