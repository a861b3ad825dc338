// All memory that the runtime knows, and the buffers of others that it borrows.
#include <algorithm>
#include <cstring>
#include <map>

#include "emulator/runtime/runtime.h"
#include "emulator/runtime/state.h"

namespace emulator::runtime {
namespace {

struct Blocks {
  std::mutex mutex;
  std::map<uint64_t, Block> by_begin;

  // The block around an address, or the end.
  std::map<uint64_t, Block>::iterator around(uint64_t address) {
    auto it = by_begin.upper_bound(address);
    if (it == by_begin.begin()) return by_begin.end();
    --it;
    return address - it->second.begin < it->second.bytes ? it : by_begin.end();
  }
};

// Never destroyed, like the memory below: programs free what they have when they end.
Blocks& blocks() {
  static Blocks* blocks = new Blocks;
  return *blocks;
}

uint64_t address_of(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }
const void* pointer_to(uint64_t address) { return reinterpret_cast<const void*>(address); }

// Makes a borrowed block known to the machine.
void expose(const Block& block) {
  const char* name = block.is_result ? block.is_operand ? "an operand that is a result too" : "a result" : "an operand";
  memory().add(pointer_to(block.begin), block.bytes, block.is_operand, !block.is_result, name);
}

// Borrows [begin, begin + bytes). False if the bytes were known already, and hold what somebody wrote.
bool borrow(uint64_t begin, size_t bytes, bool is_operand) {
  Blocks& all = blocks();
  Block added{begin, bytes, Kind::kBorrowed, 1, is_operand, !is_operand};
  {
    const std::lock_guard lock(all.mutex);
    const auto found = all.around(begin);
    if (found != all.by_begin.end()) {
      Block& block = found->second;
      if (block.kind != Kind::kBorrowed) return false;  // it is ours
      const bool fits = begin - block.begin + bytes <= block.bytes;
      if (fits && (is_operand ? block.is_operand : block.is_result)) {
        ++block.holders;
        return false;
      }
    }
  }

  // What overlaps becomes one block, which may be used as any of them. The machine keeps no two blocks of one place,
  // and must not look at those that go.
  const std::lock_guard no_launch(launch_lock());
  const std::lock_guard lock(all.mutex);
  bool is_new = true;
  auto it = all.around(begin);
  if (it == all.by_begin.end()) it = all.by_begin.lower_bound(begin);
  while (it != all.by_begin.end() && it->second.begin < added.begin + added.bytes) {
    const Block& old = it->second;
    if (old.kind != Kind::kBorrowed) break;
    const uint64_t end = std::max(added.begin + added.bytes, old.begin + old.bytes);
    added.begin = std::min(added.begin, old.begin);
    added.bytes = size_t(end - added.begin);
    added.holders += old.holders;
    added.is_operand |= old.is_operand;
    added.is_result |= old.is_result;
    is_new = false;
    memory().remove(pointer_to(old.begin));
    it = all.by_begin.erase(it);
  }
  all.by_begin[added.begin] = added;
  expose(added);
  return is_new;
}

void give_back(uint64_t address) {
  Blocks& all = blocks();
  const std::lock_guard lock(all.mutex);
  const auto found = all.around(address);
  if (found == all.by_begin.end() || found->second.kind != Kind::kBorrowed || --found->second.holders > 0) return;
  memory().remove(pointer_to(found->second.begin));
  all.by_begin.erase(found);
}

}  // namespace

Memory& memory() {
  static Memory* memory = new Memory;
  return *memory;
}

void add_block(const void* begin, size_t bytes, Kind kind) {
  Blocks& all = blocks();
  const std::lock_guard lock(all.mutex);
  all.by_begin[address_of(begin)] = {address_of(begin), bytes, kind, 0, false, false};
}

bool remove_block(const void* begin, Kind kind) {
  Blocks& all = blocks();
  const std::lock_guard lock(all.mutex);
  const auto found = all.by_begin.find(address_of(begin));
  if (found == all.by_begin.end() || found->second.kind != kind) return false;
  all.by_begin.erase(found);
  return true;
}

std::optional<Block> find_block(const void* address) {
  Blocks& all = blocks();
  const std::lock_guard lock(all.mutex);
  const auto found = all.around(address_of(address));
  return found == all.by_begin.end() ? std::nullopt : std::optional(found->second);
}

void BorrowedBuffers::operand(const void* begin, size_t bytes) {
  if (bytes == 0) return;
  borrow(address_of(begin), bytes, true);
  held_.push_back(address_of(begin));
}

void BorrowedBuffers::result(void* begin, size_t bytes) {
  if (bytes == 0) return;
  if (borrow(address_of(begin), bytes, false)) std::memset(begin, kPoison, bytes);
  held_.push_back(address_of(begin));
}

BorrowedBuffers::~BorrowedBuffers() {
  for (const uint64_t address : held_) give_back(address);
}

}  // namespace emulator::runtime
