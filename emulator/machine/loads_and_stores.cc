// Loads and stores of registers: ld, ldu, st.
#include <cstring>
#include <string>
#include <vector>

#include "emulator/machine/copies.h"
#include "emulator/machine/cta.h"
#include "emulator/machine/instruction_set.h"

namespace emulator {
namespace {

constexpr int kMostBits = 256;  // of all elements together
constexpr int kMostBitsOfSm90 = 128;

// What modes hold.
enum Mode { kSpaceMode, kElements, kElementBytes, kSigned };

Space take_space(Lowering& lowering) {
  const auto name = lowering.take_one_of(
      {"global", "shared", "shared::cta", "shared::cluster", "local", "param", "param::entry", "param::func", "const"});
  if (name == "global") return Space::kGlobal;
  if (name.substr(0, 6) == "shared") return Space::kShared;
  if (name == "local") return Space::kLocal;
  if (name.substr(0, 5) == "param") return Space::kParam;
  if (name == "const") return Space::kConst;
  return Space::kGeneric;
}

// Hints about caches, orders and scopes: memory here is one, and every access is seen by all at once. Orders matter to
// those who look for races.
void take_hints(Lowering& lowering, bool& has_policy) {
  lowering.take("mmio");
  lowering.take_order();
  lowering.take("nc");
  lowering.take("unified");
  lowering.take_one_of({"ca", "cg", "cs", "lu", "cv", "wb", "wt"});
  lowering.take_one_of(
      {"L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last", "L1::no_allocate"});
  lowering.take_one_of({"L2::evict_normal", "L2::evict_first", "L2::evict_last"});
  lowering.take_one_of({"L2::64B", "L2::128B", "L2::256B"});
  has_policy = lowering.take("L2::cache_hint");
}

int take_elements(Lowering& lowering) {
  const auto vector = lowering.take_one_of({"v2", "v4", "v8"});
  return vector.empty() ? 1 : vector[1] - '0';
}

// That there are vectors of such elements: those of 256 bits are in global memory alone.
void check_width(Lowering& lowering, int elements, int bits) {
  if (bits < 8 || elements * bits > kMostBits) lowering.unknown("of this type");
  if (elements * bits <= kMostBitsOfSm90 && elements < 8) return;
  lowering.need_architecture(100);
  const bool is_global = Space(lowering.out.modes[kSpaceMode]) == Space::kGlobal;
  if (!is_global || bits < 32 || bits > 64) lowering.unknown("of this type");
}

// Puts a value into a register at least as wide.
void put_extended(Warp& warp, const Operand& operand, int lane, uint64_t value, int bytes, bool is_signed) {
  if (is_signed && bytes < 8) {
    const int unused = 64 - 8 * bytes;
    value = uint64_t(int64_t(value << unused) >> unused);
  }
  warp.put_any(operand, lane, value);
}

Step load(Warp& warp, const Instruction& instruction, Mask mask) {
  const int elements = instruction.modes[kElements], each = instruction.modes[kElementBytes];
  const size_t bytes = size_t(elements) * size_t(each);
  const auto space = Space(instruction.modes[kSpaceMode]);
  uint64_t addresses[kLanes];
  warp.addresses(instruction.operands[0], addresses);
  // All lanes read before any register changes: the base may be a destination.
  std::byte values[kLanes][kMostBits / 8];
  for_lanes(mask, [&](int lane) {
    std::memcpy(values[lane], warp.resolve(space, addresses[lane], bytes, Access::kRead, lane), bytes);
  });
  for (int i = 0; i < elements; ++i) {
    const Operand& to = instruction.operands[1 + i];
    if (to.bits == 0) continue;
    for_lanes(mask, [&](int lane) {
      if (each == 16) {
        std::memcpy(warp.target_bytes(to, lane), values[lane] + i * 16, 16);
        return;
      }
      uint64_t value = 0;
      std::memcpy(&value, values[lane] + i * each, size_t(each));
      put_extended(warp, to, lane, value, each, instruction.modes[kSigned]);
    });
  }
  return Step::kNext;
}

Step store(Warp& warp, const Instruction& instruction, Mask mask) {
  const int elements = instruction.modes[kElements], each = instruction.modes[kElementBytes];
  const size_t bytes = size_t(elements) * size_t(each);
  const auto space = Space(instruction.modes[kSpaceMode]);
  for_lanes(mask, [&](int lane) {
    std::byte values[kMostBits / 8];
    for (int i = 0; i < elements; ++i) {
      std::memcpy(values + i * each, warp.bytes(instruction.operands[1 + i], lane), size_t(each));
    }
    warp.write(space, warp.address(instruction.operands[0], lane), values, bytes, lane, bytes);
  });
  return Step::kNext;
}

// The elements of the operand `i`: registers of any width, of which the low bytes count; or constants.
void take_values(Lowering& lowering, int i, int bits, bool are_targets) {
  const ptx::Operand& operand = lowering.operand(i);
  const bool is_vector = operand.kind == ptx::Operand::Kind::kVector;
  const size_t count = is_vector ? operand.elements.size() : 1;
  if (int(count) != lowering.out.modes[kElements]) lowering.unknown("it has another number of elements than it says");
  for (size_t k = 0; k < count; ++k) {
    const ptx::Operand& element = is_vector ? operand.elements[k] : operand;
    int width = bits;
    if (element.kind == ptx::Operand::Kind::kRegister) {
      width = lowering.function().text->registers[element.reg].bits;
      if (width < bits) lowering.unknown("a register is narrower than its type");
    }
    if (are_targets)
      lowering.destination(element, width);
    else
      lowering.source(element, width);
  }
}

void lower_ld(Lowering& lowering) {
  bool has_policy = false;
  lowering.out.modes[kSpaceMode] = int32_t(take_space(lowering));
  take_hints(lowering, has_policy);
  const int elements = take_elements(lowering);
  const Type type = lowering.need_type();
  const int bits = bits_of(type);
  lowering.out.modes[kElements] = elements;
  lowering.out.modes[kElementBytes] = bits / 8;
  lowering.out.modes[kSigned] = type == Type::kS8 || type == Type::kS16 || type == Type::kS32;
  check_width(lowering, elements, bits);
  lowering.address(1);
  take_values(lowering, 0, bits, true);
  lowering.out.run = load;
}

// Zeros. Operands: address, number of bytes.
Step store_bulk(Warp& warp, const Instruction& instruction, Mask mask) {
  const auto space = Space(instruction.modes[kSpaceMode]);
  for_lanes(mask, [&](int lane) {
    const uint64_t address = warp.address(instruction.operands[0], lane);
    const uint64_t bytes = warp.get<uint64_t>(instruction.operands[1], lane);
    if (bytes % 8 != 0 || bytes > 1u << 24) {
      throw Fault(FaultCode::kIllegalInstruction,
                  "st.bulk is told to fill " + std::to_string(bytes) + " bytes, no multiple of 8 up to 2^24.");
    }
    need_alignment(address & ~kWindowMask, 8, "destination");
    if (space == Space::kGeneric && (address & kWindowMask) != kSharedWindow) {
      throw Fault(FaultCode::kIllegalAddress, "st.bulk fills what is not shared memory.");
    }
    const std::vector<std::byte> zeros(bytes);
    if (bytes) warp.write(space, address, zeros.data(), bytes, lane, 8);
  });
  return Step::kNext;
}

void lower_bulk_store(Lowering& lowering) {
  lowering.need_architecture(100);
  lowering.take("weak");
  lowering.out.modes[kSpaceMode] = int32_t(lowering.take("shared::cta") ? Space::kShared : Space::kGeneric);
  need_operands(lowering, 3);
  if (lowering.constant(2) != 0) lowering.unknown("it fills with something other than zeros");
  lowering.address(0);
  lowering.source(1, 64);
  lowering.out.run = store_bulk;
}

void lower_st(Lowering& lowering) {
  if (lowering.take("async")) return lower_async_store(lowering);
  if (lowering.take("bulk")) return lower_bulk_store(lowering);
  bool has_policy = false;
  lowering.out.modes[kSpaceMode] = int32_t(take_space(lowering));
  take_hints(lowering, has_policy);
  const int elements = take_elements(lowering);
  const int bits = bits_of(lowering.need_type());
  lowering.out.modes[kElements] = elements;
  lowering.out.modes[kElementBytes] = bits / 8;
  check_width(lowering, elements, bits);
  lowering.address(0);
  take_values(lowering, 1, bits, false);
  lowering.out.run = store;
}

}  // namespace

void add_loads_and_stores(InstructionSet& set) {
  set["ld"] = lower_ld;
  set["ldu"] = lower_ld;
  set["st"] = lower_st;
}

}  // namespace emulator
