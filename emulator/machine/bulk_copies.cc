// Copies of bytes side by side that nobody waits for at once (cp.async.bulk), and reductions by them.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <mutex>

#include "emulator/machine/copies.h"
#include "emulator/machine/machine.h"
#include "emulator/machine/numerics.h"

namespace emulator {

// ---------------------------------------------------------------------------------------------------------------------
// Reductions

Reduction need_reduction(Lowering& l) {
  const std::string_view name = l.need_one_of({"add", "min", "max", "inc", "dec", "and", "or", "xor"});
  if (name == "add") return Reduction::kAdd;
  if (name == "min") return Reduction::kMin;
  if (name == "max") return Reduction::kMax;
  if (name == "inc") return Reduction::kInc;
  if (name == "dec") return Reduction::kDec;
  if (name == "and") return Reduction::kAnd;
  if (name == "or") return Reduction::kOr;
  return Reduction::kXor;
}

bool has_reduction(Reduction reduction, Type type, bool into_global) {
  const bool is_half = type == Type::kF16 || type == Type::kBF16;
  switch (reduction) {
    case Reduction::kAdd:
      if (type == Type::kU32 || type == Type::kS32 || type == Type::kU64) return true;
      return into_global && (is_half || type == Type::kF32 || type == Type::kF64);
    case Reduction::kMin:
    case Reduction::kMax:
      if (type == Type::kU32 || type == Type::kS32) return true;
      return into_global && (is_half || type == Type::kU64 || type == Type::kS64);
    case Reduction::kInc:
    case Reduction::kDec:
      return type == Type::kU32;
    default:
      return type == Type::kB32 || (into_global && type == Type::kB64);
  }
}

namespace {

template <typename T>
T combine_integers(T old, T value, Reduction reduction) {
  switch (reduction) {
    case Reduction::kAdd:
      return T(uint64_t(old) + uint64_t(value));
    case Reduction::kMin:
      return std::min(old, value);
    case Reduction::kMax:
      return std::max(old, value);
    case Reduction::kInc:
      return old >= value ? 0 : old + 1;
    case Reduction::kDec:
      return old == 0 || old > value ? value : old - 1;
    case Reduction::kAnd:
      return old & value;
    case Reduction::kOr:
      return old | value;
    case Reduction::kXor:
      return old ^ value;
  }
  return old;
}

// Global memory adds floats without subnormal numbers, as the PTX ISA says of "the current implementation".
float add_floats(float old, float value) { return canonical(flushed(flushed(old) + flushed(value))); }

double add_doubles(double old, double value) {
  const double sum = old + value;
  return sum == sum ? sum : std::bit_cast<double>(kNan64);
}

Half narrow(float value, Half) { return to_half(value); }
Bfloat narrow(float value, Bfloat) { return to_bfloat(value); }

// In float: that a sum is rounded to 24 bits before it is rounded to 11 or 8 changes nothing.
template <typename T>
T combine_halves(T old, T value, Reduction reduction) {
  const float a = to_float(old), b = to_float(value);
  if (reduction == Reduction::kAdd) return narrow(a + b, T{});
  // A number is preferred to a NaN, and -0 is less than +0.
  if (is_nan(a)) return is_nan(b) ? T{kNan16} : value;
  if (is_nan(b)) return old;
  const bool old_is_less = a < b || (a == b && std::signbit(a));
  return old_is_less == (reduction == Reduction::kMin) ? old : value;
}

template <typename T, typename Combine>
void reduce_each(std::byte* destination, const std::byte* source, size_t bytes, bool global, Combine combine) {
  for (size_t i = 0; i < bytes; i += sizeof(T)) {
    T old, value;
    std::memcpy(&value, source + i, sizeof(T));
    std::unique_lock<std::mutex> lock;
    if (global) lock = std::unique_lock(atomic_lock(reinterpret_cast<uint64_t>(destination + i)));
    std::memcpy(&old, destination + i, sizeof(T));
    old = combine(old, value);
    std::memcpy(destination + i, &old, sizeof(T));
  }
}

}  // namespace

void reduce(std::byte* destination, const std::byte* source, size_t bytes, Reduction reduction, Type type,
            bool global) {
  const auto integers = [&]<typename T>(T) {
    reduce_each<T>(destination, source, bytes, global,
                   [=](T old, T value) { return combine_integers(old, value, reduction); });
  };
  switch (type) {
    case Type::kB32:
    case Type::kU32:
      return integers(uint32_t{});
    case Type::kS32:
      return integers(int32_t{});
    case Type::kB64:
    case Type::kU64:
      return integers(uint64_t{});
    case Type::kS64:
      return integers(int64_t{});
    case Type::kF32:
      return reduce_each<float>(destination, source, bytes, global, add_floats);
    case Type::kF64:
      return reduce_each<double>(destination, source, bytes, global, add_doubles);
    case Type::kF16:
      return reduce_each<Half>(destination, source, bytes, global,
                               [=](Half old, Half value) { return combine_halves(old, value, reduction); });
    case Type::kBF16:
      return reduce_each<Bfloat>(destination, source, bytes, global,
                                 [=](Bfloat old, Bfloat value) { return combine_halves(old, value, reduction); });
    default:
      throw Fault(FaultCode::kUnknownInstruction, "The emulator does not know the reduction for this type.");
  }
}

namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Copies

// What the directions have in common: destination and source of one lane, and how many bytes.
struct Extent {
  uint64_t destination;
  uint64_t source;
  uint32_t bytes;
};

// Operands 0, 1, 2.
Extent extent(Warp& warp, const Instruction& instruction, int lane) {
  Extent out;
  out.destination = warp.address(instruction.operands[0], lane);
  out.source = warp.address(instruction.operands[1], lane);
  out.bytes = warp.get<uint32_t>(instruction.operands[2], lane);
  need_alignment(out.destination, 16, "destination");
  need_alignment(out.source, 16, "source");
  if (out.bytes % 16) {
    throw Fault(FaultCode::kMisalignedAddress, "It copies " + std::to_string(out.bytes) + " bytes, no multiple of 16.");
  }
  return out;
}

enum Source : int32_t { kFromGlobal, kFromShared };

// Operands: destination, source, bytes, barrier, CTAs of a multicast. modes[0]: Source; [1]: multicast; [2]: into the
// CTA's own shared memory.
Step copy_into_shared(Warp& warp, const Instruction& instruction, Mask mask) {
  Cta& cta = warp.cta();
  const bool is_global = instruction.modes[0] == kFromGlobal;
  for_lanes(mask, [&](int lane) {
    const Extent what = extent(warp, instruction, lane);
    Delivery delivery;
    delivery.destination = uint32_t(what.destination);
    delivery.barrier = uint32_t(warp.address(instruction.operands[3], lane));
    need_alignment(delivery.barrier, 8, "mbarrier");
    if (instruction.modes[1]) delivery.ctas = warp.get<uint16_t>(instruction.operands[4], lane);
    if (instruction.modes[2]) need_own(cta, delivery.destination);
    if (!is_global) need_own(cta, uint32_t(what.source));
    cta.issue(Mask{1} << lane, Completion::kMbarrier, [&cta, what, delivery, is_global] {
      Allocation* last = nullptr;
      if (what.bytes) {
        // A source in shared memory has one destination.
        if (!is_global) cta.cluster().completes_on(delivery.barrier);
        const std::byte* const source =
            is_global ? global_bytes(cta, what.source, what.bytes, Access::kRead, &last)
                      : cta.cluster().shared(uint32_t(what.source), what.bytes, Access::kRead, 16);
        delivery.for_each([&](uint32_t destination, uint32_t barrier) {
          cta.cluster().completes_on(barrier);
          std::memmove(cta.cluster().shared(destination, what.bytes, Access::kWrite, 16), source, what.bytes);
        });
      }
      delivery.for_each([&](uint32_t, uint32_t barrier) { cta.cluster().complete_transaction(barrier, what.bytes); });
    });
  });
  return Step::kNext;
}

// Operands: destination, source, bytes.
Step copy_into_global(Warp& warp, const Instruction& instruction, Mask mask) {
  Cta& cta = warp.cta();
  for_lanes(mask, [&](int lane) {
    const Extent what = extent(warp, instruction, lane);
    need_own(cta, uint32_t(what.source));
    cta.issue(Mask{1} << lane, Completion::kBulkGroup, [&cta, what] {
      if (what.bytes == 0) return;
      Allocation* last = nullptr;
      const std::byte* const source = cta.cluster().shared(uint32_t(what.source), what.bytes, Access::kRead, 16);
      std::memcpy(global_bytes(cta, what.destination, what.bytes, Access::kWrite, &last), source, what.bytes);
    });
  });
  return Step::kNext;
}

// Operands: destination, source, bytes, and the barrier where the destination is shared. modes[0]: Reduction; [1]: Type;
// [2]: into global memory.
Step reduce_into(Warp& warp, const Instruction& instruction, Mask mask) {
  Cta& cta = warp.cta();
  const auto reduction = Reduction(instruction.modes[0]);
  const auto type = Type(instruction.modes[1]);
  const bool global = instruction.modes[2];
  for_lanes(mask, [&](int lane) {
    const Extent what = extent(warp, instruction, lane);
    need_own(cta, uint32_t(what.source));
    const uint32_t barrier = global ? 0 : uint32_t(warp.address(instruction.operands[3], lane));
    if (!global) need_alignment(barrier, 8, "mbarrier");
    const Completion completion = global ? Completion::kBulkGroup : Completion::kMbarrier;
    cta.issue(Mask{1} << lane, completion, [&cta, what, barrier, reduction, type, global] {
      if (what.bytes) {
        if (!global) cta.cluster().completes_on(barrier);
        Allocation* last = nullptr;
        const std::byte* const source = cta.cluster().shared(uint32_t(what.source), what.bytes, Access::kRead, 16);
        std::byte* const destination =
            global ? global_bytes(cta, what.destination, what.bytes, Access::kAtomic, &last)
                   : cta.cluster().shared(uint32_t(what.destination), what.bytes, Access::kAtomic, 16);
        reduce(destination, source, what.bytes, reduction, type, global);
      }
      if (!global) cta.cluster().complete_transaction(barrier, what.bytes);
    });
  });
  return Step::kNext;
}

void lower_extent(Lowering& l) {
  l.address(0);
  l.address(1);
  l.source(2, 32);
}

}  // namespace

void lower_bulk_copy(Lowering& l) {
  if (l.take("commit_group")) return lower_commit(l, Counted::kBulkCopies);
  if (l.take("wait_group")) {
    l.take("read");  // what it does not wait for is in global memory
    return lower_wait(l, Counted::kBulkCopies);
  }
  // The direction is the order of the two spaces.
  const std::string_view destination = l.take_next(), source = l.take_next();
  const bool has_policy = l.take("L2::cache_hint");
  if (destination == "global" && source == "shared::cta") {
    if (!l.take("bulk_group")) l.unknown("it is not .bulk_group");
    need_operands(l, 3 + has_policy);
    lower_extent(l);
    l.out.run = copy_into_global;
    return;
  }
  const bool own = destination == "shared::cta" && source == "global";
  const bool from_global = own || (destination == "shared::cluster" && source == "global");
  if (!from_global && (destination != "shared::cluster" || source != "shared::cta" || has_policy)) {
    l.unknown("it copies from ." + std::string(source) + " to ." + std::string(destination));
  }
  if (!l.take("mbarrier::complete_tx::bytes")) l.unknown("it does not complete on an mbarrier");
  const bool multicast = from_global && !own && l.take("multicast::cluster");
  need_operands(l, 4 + multicast + has_policy);
  lower_extent(l);
  l.address(3);
  if (multicast) l.source(4, 16);
  l.out.modes = {from_global ? kFromGlobal : kFromShared, multicast, own};
  l.out.run = copy_into_shared;
}

void lower_bulk_reduction(Lowering& l) {
  const std::string_view destination = l.take_next(), source = l.take_next();
  const bool global = destination == "global";
  if ((!global && destination != "shared::cluster") || source != "shared::cta") {
    l.unknown("it reduces from ." + std::string(source) + " to ." + std::string(destination));
  }
  const bool has_policy = global && l.take("L2::cache_hint");
  if (!l.take(global ? "bulk_group" : "mbarrier::complete_tx::bytes")) l.unknown("it completes otherwise");
  const Reduction reduction = need_reduction(l);
  const Type type = l.need_type();
  if (!has_reduction(reduction, type, global)) l.unknown("it has no such reduction of this type");
  // Halves are added with subnormal numbers, and have to say so.
  const bool adds_halves = reduction == Reduction::kAdd && (type == Type::kF16 || type == Type::kBF16);
  if (adds_halves != l.take("noftz")) l.unknown(".noftz is missing, or too many");
  need_operands(l, global ? 3 + has_policy : 4);
  lower_extent(l);
  if (!global) l.address(3);
  l.out.modes = {int32_t(reduction), int32_t(type), global};
  l.out.run = reduce_into;
}

}  // namespace emulator
