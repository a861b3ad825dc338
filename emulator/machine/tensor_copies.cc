// Copies of boxes of tensors (TMA), reductions by them, and changes of the maps that describe the tensors.
#include <cstring>

#include "emulator/machine/copies.h"
#include "emulator/machine/machine.h"
#include "emulator/machine/numerics.h"
#include "emulator/machine/tensor_map.h"

namespace emulator {
namespace {

constexpr uint32_t kBoxAlignment = 128;  // in shared memory, whatever the swizzling

// A box as one lane asks for it.
struct Box {
  TensorMap map;
  TensorCoordinates origin = {};
  uint32_t shared = 0;
  // .tile::gather4 and .tile::scatter4: four rows of a matrix, each a box of its own, which lie in shared memory as one box
  // of four rows does. Coordinates are the column in which they begin, and the rows.
  bool has_four_rows = false;

  uint32_t bytes() const { return map.box_bytes() * (has_four_rows ? kRowsAtOnce : 1); }
  // Calls f(origin, address) for each box of the map; the first one is to lie at that address of shared memory.
  template <typename F>
  void for_each(uint32_t address, F&& f) const {
    if (!has_four_rows) return f(origin, address);
    for (uint32_t i = 0; i < kRowsAtOnce; ++i) {
      f(TensorCoordinates{origin[0], origin[1 + i]}, address + i * map.pitch());
    }
  }

  static constexpr uint32_t kRowsAtOnce = 4;
};

constexpr int32_t kCoordinatesOfRows = 1 + Box::kRowsAtOnce;

// What modes hold of instructions with a box; [1] and [2] are for others.
enum BoxMode { kCoordinates = 0, kFourRows = 3, kPairs = 4 };

// Operands from 0 on: where the box lies in shared memory, the map, coordinates.
Box box_of(Warp& warp, const Instruction& instruction, int lane) {
  Box box;
  box.shared = uint32_t(warp.address(instruction.operands[0], lane));
  need_alignment(box.shared, kBoxAlignment, "box in shared memory");
  const uint64_t map = warp.address(instruction.operands[1], lane);
  box.map =
      read_tensor_map(warp.resolve(Space::kGeneric, map, kTensorMapBytes, Access::kRead, lane, kTensorMapAlignment));
  box.has_four_rows = instruction.modes[kFourRows];
  const int32_t coordinates = instruction.modes[kCoordinates], rank = box.has_four_rows ? 2 : coordinates;
  if (box.map.rank != rank) {
    throw Fault(FaultCode::kIllegalInstruction, "The tensor map has a rank of " + std::to_string(box.map.rank) +
                                                    ", the instruction one of " + std::to_string(rank) + ".");
  }
  if (box.has_four_rows && box.map.rows() != 1) {
    throw Fault(FaultCode::kIllegalInstruction, "The boxes of four rows have " + std::to_string(box.map.rows()) +
                                                    " rows each by their map, which must say one.");
  }
  for (int32_t d = 0; d < coordinates; ++d) box.origin[d] = warp.get<int32_t>(instruction.operands[2 + d], lane);

  const auto unknown = [](const char* what) {
    throw Fault(FaultCode::kUnknownInstruction, std::string("The emulator does not know tensors ") + what + ".");
  };
  // Nobody has written this down; an H200 does so.
  if (box.origin[0] * int64_t(box.map.element_bytes()) % 16 != 0) {
    throw Fault(FaultCode::kIllegalInstruction, "The innermost coordinate of a box is " +
                                                    std::to_string(box.origin[0]) +
                                                    ", which is no multiple of 16 bytes.");
  }
  if (box.map.interleave != TensorInterleave::kNone) unknown("that are interleaved");
  if (box.map.swizzle > TensorSwizzle::k128) unknown("swizzled in chunks of more than 16 bytes");
  return box;
}

// ---------------------------------------------------------------------------------------------------------------------
// From global into shared memory

void fill(TensorFill how, std::byte* to, uint32_t bytes) {
  if (how == TensorFill::kZeros) {
    std::memset(to, 0, bytes);
  } else {
    // Elements that are floating-point have 2 bytes at least, and so have pieces of rows.
    for (uint32_t i = 0; i < bytes; i += sizeof(kOutsideNan)) std::memcpy(to + i, &kOutsideNan, sizeof(kOutsideNan));
  }
}

// Copies elements as the tensor's type has them. Those of float32_ftz stay as they are, and what is subnormal stays so in
// tfloat32_ftz too: an H200 flushes nothing.
void copy_elements(TensorType type, std::byte* to, const std::byte* from, uint32_t bytes) {
  if (type != TensorType::kTF32 && type != TensorType::kTF32Ftz) {
    std::memcpy(to, from, bytes);
    return;
  }
  for (uint32_t i = 0; i < bytes; i += sizeof(float)) {
    float value;
    std::memcpy(&value, from + i, sizeof(value));
    const uint32_t rounded = encode(kTf32Format, value) << 13;
    std::memcpy(to + i, &rounded, sizeof(rounded));
  }
}

void load(Cta& cta, const TensorMap& map, const TensorCoordinates& origin, uint32_t destination) {
  const uint32_t row_bytes = map.row_bytes();
  // Swizzling keeps rows where they are, unless they are narrower than its span: those have holes between them, which
  // nobody writes.
  std::byte* whole = nullptr;
  if (row_bytes == map.pitch()) {
    whole = cta.cluster().shared(destination, map.box_bytes(), Access::kWrite);
  }
  const auto place = [&](uint32_t address, uint32_t bytes) {
    return whole ? whole + (address - destination) : cta.cluster().shared(address, bytes, Access::kWrite);
  };
  Allocation* last = nullptr;
  for_rows(map, origin, destination, [&](const BoxRow& row) {
    const auto outside = [&](uint32_t, uint32_t address, uint32_t bytes) {
      fill(map.fill, place(address, bytes), bytes);
    };
    for_pieces(map, row, 0, row.begin, outside);
    if (row.begin < row.end) {
      const std::byte* const source = global_bytes(cta, row.global, row.end - row.begin, Access::kRead, &last);
      for_pieces(map, row, row.begin, row.end, [&](uint32_t byte, uint32_t address, uint32_t bytes) {
        copy_elements(map.type, place(address, bytes), source + (byte - row.begin), bytes);
      });
    }
    for_pieces(map, row, row.end, row_bytes, outside);
  });
}

// Of .cta_group::2 the barrier may be the peer's; where nothing is said it is in the CTA that gets the box.
void need_barrier_of_group(uint32_t shared, const Delivery& delivery) {
  const uint32_t ranks = shared >> kRankShift ^ delivery.barrier >> kRankShift;
  if (ranks == 0 || (ranks == 1 && delivery.to_pairs)) return;
  throw Fault(FaultCode::kIllegalAddress,
              std::string("A box is for one CTA, and its mbarrier in another") + (delivery.to_pairs ? " pair." : "."));
}

// Operands: see box_of, then barrier, CTAs of a multicast. modes[1]: multicast; [2]: into the CTA's own shared memory.
Step load_box(Warp& warp, const Instruction& instruction, Mask mask) {
  Cta& cta = warp.cta();
  const Operand* const rest = instruction.operands + 2 + instruction.modes[kCoordinates];
  for_lanes(mask, [&](int lane) {
    const Box box = box_of(warp, instruction, lane);
    Delivery delivery;
    delivery.destination = box.shared;
    delivery.barrier = uint32_t(warp.address(rest[0], lane));
    need_alignment(delivery.barrier, 8, "mbarrier");
    if (instruction.modes[1]) delivery.ctas = warp.get<uint16_t>(rest[1], lane);
    if (instruction.modes[2]) need_own(cta, box.shared);
    delivery.to_pairs = instruction.modes[kPairs];
    need_barrier_of_group(box.shared, delivery);
    cta.issue(Mask{1} << lane, Completion::kMbarrier, [&cta, box, delivery] {
      delivery.for_each([&](uint32_t destination, uint32_t barrier) {
        cta.cluster().completes_on(barrier);
        box.for_each(destination,
                     [&](const TensorCoordinates& origin, uint32_t address) { load(cta, box.map, origin, address); });
      });
      // Elements outside of the tensor count as well.
      delivery.for_each([&](uint32_t, uint32_t barrier) { cta.cluster().complete_transaction(barrier, box.bytes()); });
    });
  });
  return Step::kNext;
}

// ---------------------------------------------------------------------------------------------------------------------
// From shared into global memory

// What is stored or reduced. Boxes may begin before the tensor where they are loaded; an H200 refuses to store them.
void need_storable(const Box& box) {
  if (box.map.type > TensorType::kTF32Ftz) {
    throw Fault(FaultCode::kUnknownInstruction,
                "The emulator loads tensors of packed elements, but does not know how they are written.");
  }
  for (const int32_t coordinate : box.origin) {
    if (coordinate < 0) {
      throw Fault(FaultCode::kIllegalInstruction,
                  "A box is stored at the negative coordinate " + std::to_string(coordinate) + ".");
    }
  }
}

// Calls f(global, shared, bytes) with addresses of what belongs to the tensor.
template <typename F>
void for_inside(Cta& cta, const Box& box, Access access, F&& f) {
  constexpr uint32_t kChunk = 16;
  Allocation* last = nullptr;
  const auto store_row = [&](BoxRow row) {
    if (row.begin == row.end) return;
    // An H200 writes whole chunks: a row that ends within one is followed by what the box has there.
    row.end = std::min((row.end + kChunk - 1) / kChunk * kChunk, box.map.row_bytes());
    std::byte* const global = global_bytes(cta, row.global, row.end - row.begin, access, &last);
    for_pieces(box.map, row, row.begin, row.end, [&](uint32_t byte, uint32_t address, uint32_t bytes) {
      f(global + (byte - row.begin), cta.cluster().shared(address, bytes, Access::kRead), bytes);
    });
  };
  box.for_each(box.shared, [&](const TensorCoordinates& origin, uint32_t address) {
    for_rows(box.map, origin, address, store_row);
  });
}

Step store_box(Warp& warp, const Instruction& instruction, Mask mask) {
  Cta& cta = warp.cta();
  for_lanes(mask, [&](int lane) {
    const Box box = box_of(warp, instruction, lane);
    need_own(cta, box.shared);
    need_storable(box);
    cta.issue(Mask{1} << lane, Completion::kBulkGroup, [&cta, box] {
      for_inside(cta, box, Access::kWrite, [](std::byte* global, const std::byte* shared, uint32_t bytes) {
        std::memcpy(global, shared, bytes);
      });
    });
  });
  return Step::kNext;
}

// The type that a reduction sees, if it has one for the tensor's.
std::optional<Type> reduced_type(TensorType tensor, Reduction reduction) {
  const auto type = [&]() -> std::optional<Type> {
    const bool is_bitwise = reduction >= Reduction::kAnd;
    switch (tensor) {
      case TensorType::kU32:
        return is_bitwise ? Type::kB32 : Type::kU32;
      case TensorType::kS32:
        return is_bitwise ? Type::kB32 : Type::kS32;
      case TensorType::kU64:
        return is_bitwise ? Type::kB64 : Type::kU64;
      case TensorType::kS64:
        return is_bitwise ? Type::kB64 : Type::kS64;
      case TensorType::kF16:
        return Type::kF16;
      case TensorType::kBF16:
        return Type::kBF16;
      case TensorType::kF32:
      case TensorType::kF32Ftz:
      case TensorType::kTF32:
      case TensorType::kTF32Ftz:
        return Type::kF32;  // neither rounded nor flushed
      default:
        return std::nullopt;
    }
  }();
  return type && has_reduction(reduction, *type, true) ? type : std::nullopt;
}

// modes[1]: Reduction.
Step reduce_box(Warp& warp, const Instruction& instruction, Mask mask) {
  Cta& cta = warp.cta();
  const auto reduction = Reduction(instruction.modes[1]);
  for_lanes(mask, [&](int lane) {
    const Box box = box_of(warp, instruction, lane);
    need_own(cta, box.shared);
    need_storable(box);
    const auto type = reduced_type(box.map.type, reduction);
    if (!type) {
      throw Fault(FaultCode::kIllegalInstruction,
                  "The reduction does not exist for the type of the tensor's elements.");
    }
    cta.issue(Mask{1} << lane, Completion::kBulkGroup, [&cta, box, reduction, type] {
      for_inside(cta, box, Access::kAtomic, [&](std::byte* global, const std::byte* shared, uint32_t bytes) {
        reduce(global, shared, bytes, reduction, *type, true);
      });
    });
  });
  return Step::kNext;
}

// ---------------------------------------------------------------------------------------------------------------------
// Forms

int32_t take_rank(Lowering& l) {
  const std::string_view name = l.need_one_of({"1d", "2d", "3d", "4d", "5d"});
  return name[0] - '0';
}

// The mode, which goes without saying.
void take_tile(Lowering& l) {
  if (!l.take_one_of({"im2col", "im2col_no_offs"}).empty()) l.unknown("it copies in im2col mode");
  l.take("tile");
}

// How many coordinates there are, in a mode that has four rows or in another.
int32_t take_four_rows(Lowering& l, std::string_view mode, int32_t rank) {
  if (!l.take(mode)) return rank;
  l.need_architecture(100);
  if (rank != 2) l.unknown("it has four rows, and is not .2d");
  l.out.modes[kFourRows] = true;
  return kCoordinatesOfRows;
}

// An operand [map, {coordinates}]: the address and the coordinates.
void lower_map(Lowering& l, int i, int32_t rank) {
  l.address(i);
  int32_t found = 0;
  const auto lower = [&](const ptx::Operand& coordinate) {
    l.source(coordinate, 32);
    ++found;
  };
  for (const ptx::Operand& element : l.operand(i).elements) {
    if (element.kind == ptx::Operand::Kind::kVector) {
      for (const ptx::Operand& coordinate : element.elements) lower(coordinate);
    } else {
      lower(element);
    }
  }
  if (found != rank) l.unknown("it has " + std::to_string(found) + " coordinates, not " + std::to_string(rank));
}

// What stores and reductions share: [map, {coordinates}], [shared].
void lower_to_global(Lowering& l, int32_t rank) {
  rank = take_four_rows(l, "tile::scatter4", rank);
  take_tile(l);
  const bool has_policy = l.take("L2::cache_hint");
  if (!l.take("bulk_group")) l.unknown("it is not .bulk_group");
  need_operands(l, 2 + has_policy);
  l.address(1);
  lower_map(l, 0, rank);
  l.out.modes[kCoordinates] = rank;
}

}  // namespace

void lower_tensor_copy(Lowering& l) {
  int32_t rank = take_rank(l);
  const std::string_view group = l.take_one_of({"cta_group::1", "cta_group::2"});
  // The direction is the order of the two spaces.
  const std::string_view destination = l.take_next(), source = l.take_next();
  if (destination == "global" && source == "shared::cta" && group.empty()) {
    lower_to_global(l, rank);
    l.out.run = store_box;
    return;
  }
  const bool own = destination == "shared::cta";
  if ((!own && destination != "shared::cluster") || source != "global") {
    l.unknown("it copies from ." + std::string(source) + " to ." + std::string(destination));
  }
  if (!group.empty()) l.need_architecture(100);
  rank = take_four_rows(l, "tile::gather4", rank);
  take_tile(l);
  if (!l.take("mbarrier::complete_tx::bytes")) l.unknown("it does not complete on an mbarrier");
  const bool multicast = !own && l.take("multicast::cluster");
  const bool has_policy = l.take("L2::cache_hint");
  need_operands(l, 3 + multicast + has_policy);
  l.address(0);
  lower_map(l, 1, rank);
  l.address(2);
  if (multicast) l.source(3, 16);
  l.out.modes = {rank, multicast, own, l.out.modes[kFourRows], group == "cta_group::2"};
  l.out.run = load_box;
}

void lower_tensor_reduction(Lowering& l) {
  const int32_t rank = take_rank(l);
  const std::string_view destination = l.take_next(), source = l.take_next();
  if (destination != "global" || source != "shared::cta") {
    l.unknown("it reduces from ." + std::string(source) + " to ." + std::string(destination));
  }
  l.out.modes[1] = int32_t(need_reduction(l));
  lower_to_global(l, rank);
  l.out.run = reduce_box;
}

void lower_tensor_prefetch(Lowering& l) {
  int32_t rank = take_rank(l);
  if (!l.take("L2") || !l.take("global")) l.unknown("it is not .L2.global");
  rank = take_four_rows(l, "tile::gather4", rank);
  take_tile(l);
  need_operands(l, l.take("L2::cache_hint") ? 2 : 1);
  lower_map(l, 0, rank);
  l.out.run = do_nothing;
}

// ---------------------------------------------------------------------------------------------------------------------
// tensormap.replace, tensormap.cp_fenceproxy

namespace {

enum class Field : int32_t {
  kAddress,
  kRank,
  kBox,
  kSize,
  kStride,
  kElementStride,
  kType,
  kInterleave,
  kSwizzle,
  kFill
};

struct NamedField {
  std::string_view name;
  Field field;
  bool is_wide;     // .b64
  bool has_number;  // of the dimension
};

constexpr NamedField kFields[] = {
    {"global_address", Field::kAddress, true, false},
    {"rank", Field::kRank, false, false},
    {"box_dim", Field::kBox, false, true},
    {"global_dim", Field::kSize, false, true},
    {"global_stride", Field::kStride, true, true},
    {"element_stride", Field::kElementStride, false, true},
    {"elemtype", Field::kType, false, false},
    {"interleave_layout", Field::kInterleave, false, false},
    {"swizzle_mode", Field::kSwizzle, false, false},
    {"fill_mode", Field::kFill, false, false},
};

// The instruction numbers types in another order than the driver does.
constexpr TensorType kReplacedTypes[] = {TensorType::kU8,     TensorType::kU16, TensorType::kU32,  TensorType::kS32,
                                         TensorType::kU64,    TensorType::kS64, TensorType::kF16,  TensorType::kF32,
                                         TensorType::kF32Ftz, TensorType::kF64, TensorType::kBF16, TensorType::kTF32,
                                         TensorType::kTF32Ftz};

// Values that no map can have make it invalid, which is found where it is used.
void replace_field(TensorMap& map, Field field, int number, uint64_t value) {
  const auto narrow = [&](uint64_t most) { return value <= most ? value : 0; };
  switch (field) {
    case Field::kAddress:
      map.address = value;
      break;
    case Field::kRank:
      map.rank = uint8_t(narrow(kTensorRank - 1) == value ? value + 1 : 0);
      break;
    case Field::kBox:
      map.box[number] = uint16_t(narrow(256));
      break;
    case Field::kSize:
      map.sizes[number] = value;
      break;
    case Field::kStride:
      map.strides[number] = value;
      break;
    case Field::kElementStride:
      map.element_strides[number] = uint8_t(narrow(8));
      break;
    case Field::kType:
      map.type = kReplacedTypes[value];
      break;
    case Field::kInterleave:
      map.interleave = TensorInterleave(value);
      break;
    case Field::kSwizzle:
      map.swizzle = TensorSwizzle(value);
      break;
    case Field::kFill:
      map.fill = TensorFill(value);
      break;
  }
}

// Operands: address of the map, value. modes: Field, number of the dimension, Space, whether the value has 64 bits.
Step replace(Warp& warp, const Instruction& instruction, Mask mask) {
  const auto field = Field(instruction.modes[0]);
  const auto space = Space(instruction.modes[2]);
  for_lanes(mask, [&](int lane) {
    const uint64_t address = warp.address(instruction.operands[0], lane);
    TensorMap map =
        peek_tensor_map(warp.resolve(space, address, kTensorMapBytes, Access::kRead, lane, kTensorMapAlignment));
    const uint64_t value = instruction.modes[3] ? warp.get<uint64_t>(instruction.operands[1], lane)
                                                : warp.get<uint32_t>(instruction.operands[1], lane);
    replace_field(map, field, instruction.modes[1], value);
    warp.write(space, address, &map, kTensorMapBytes, lane, kTensorMapAlignment);
  });
  return Step::kNext;
}

// How many values an enumeration has; the instruction knows them as constants.
std::optional<int64_t> constants_of(Field field) {
  switch (field) {
    case Field::kType:
      return std::size(kReplacedTypes);
    case Field::kInterleave:
      return 3;
    case Field::kSwizzle:
      return 4;  // as the driver's, without those in larger chunks
    case Field::kFill:
      return 2;
    default:
      return std::nullopt;
  }
}

void lower_replace(Lowering& l) {
  if (!l.take("tile")) l.unknown("it is not .tile");
  const NamedField* named = nullptr;
  for (const NamedField& candidate : kFields) {
    if (l.take(candidate.name)) named = &candidate;
  }
  if (!named) l.unknown("its field is not known");
  const std::string_view space = l.take_one_of({"global", "shared::cta"});
  if (!l.take("b1024")) l.unknown("it is not .b1024");
  if (!l.take(named->is_wide ? "b64" : "b32")) l.unknown("its type is not the field's");
  need_operands(l, 2 + named->has_number);
  int64_t number = 0;
  if (named->has_number) {
    number = l.constant(1).value_or(-1);
    if (number < 0 || number >= kTensorRank - (named->field == Field::kStride)) l.unknown("there is no such dimension");
  }
  const int value = 1 + named->has_number;
  if (const auto values = constants_of(named->field)) {
    const auto given = l.constant(value);
    if (!given || *given < 0 || *given >= *values) l.unknown("the field's new value is not known");
  }
  l.address(0);
  l.source(value, named->is_wide ? 64 : 32);
  const Space where = space == "global" ? Space::kGlobal : space == "shared::cta" ? Space::kShared : Space::kGeneric;
  l.out.modes = {int32_t(named->field), int32_t(number), int32_t(where), named->is_wide};
  l.out.run = replace;
}

// Operands: destination in global, source in shared memory. All lanes copy the same.
Step copy_map(Warp& warp, const Instruction& instruction, Mask mask) {
  for_lanes(mask, [&](int lane) {
    const uint64_t destination = warp.address(instruction.operands[0], lane);
    const uint64_t source = warp.address(instruction.operands[1], lane);
    const std::byte* const from =
        warp.resolve(Space::kShared, source, kTensorMapBytes, Access::kRead, lane, kTensorMapAlignment);
    warp.write(Space::kGlobal, destination, from, kTensorMapBytes, lane, kTensorMapAlignment);
  });
  return Step::kNext;
}

void lower_copy_map(Lowering& l) {
  for (const char* part : {"global", "shared::cta", "tensormap::generic", "release", "sync", "aligned"}) {
    if (!l.take(part)) l.unknown(std::string("it is not .") + part);
  }
  l.need_one_of({"cta", "cluster", "gpu", "sys"});
  need_operands(l, 3);
  if (l.constant(2) != int64_t(kTensorMapBytes)) l.unknown("it copies another number of bytes");
  l.address(0);
  l.address(1);
  l.out.is_aligned = true;
  l.out.run = copy_map;
}

void lower_tensormap(Lowering& l) {
  const std::string_view what = l.need_one_of({"replace", "cp_fenceproxy"});
  (what == "replace" ? lower_replace : lower_copy_map)(l);
}

}  // namespace

// What begins with `cp` or `prefetch` is in add_copies.
void add_tensor_copies(InstructionSet& set) { set["tensormap"] = lower_tensormap; }

}  // namespace emulator
