// tcgen05.ld and .st between registers and tensor memory, tcgen05.cp from shared memory into it, and tcgen05.shift within.
//
// Loads are done where they stand: PTX may copy what it loads to other registers before the wait, as compilers do, so a
// load that came later would not be seen in the right ones. Who looks for races sees uses of them that come too early. The
// others are done as asynchronous copies are.
#include <algorithm>
#include <charconv>
#include <cstring>
#include <string>
#include <vector>

#include "emulator/machine/copies.h"
#include "emulator/machine/machine.h"
#include "emulator/machine/tcgen05.h"
#include "emulator/machine/tcgen05_descriptors.h"
#include "emulator/machine/tensor_fragments.h"

namespace emulator {
namespace {

[[noreturn]] void illegal(const std::string& message) { throw Fault(FaultCode::kIllegalInstruction, message); }

// ---------------------------------------------------------------------------------------------------------------------
// ld, st

// What the lowering leaves in `modes`.
TensorFragment fragment_of(const Instruction& instruction) {
  const auto& modes = instruction.modes;
  return {FragmentShape(modes[0]), modes[1], bool(modes[2]), modes[3]};
}

// The place that the address operand names, which must be one that the warp may name. `at`: its number.
TensorPlace checked_place(Warp& warp, const Instruction& instruction, int at, const TensorFragment& form) {
  const TensorPlace place = TensorPlace::of(uint32_t(warp.address(instruction.operands[at], 0)));
  for (int lane = 1; lane < kLanes; ++lane) {
    if (uint32_t(warp.address(instruction.operands[at], lane)) != place.address()) {
      illegal("The lanes of a warp disagree about an address in tensor memory.");
    }
  }
  const uint32_t rank = uint32_t(warp.index()) % 4;
  if (place.lane / kLanesOfWarp != rank) {
    throw Fault(FaultCode::kIllegalAddress,
                "A warp reaches lanes " + std::to_string(rank * kLanesOfWarp) + " to " +
                    std::to_string(rank * kLanesOfWarp + kLanesOfWarp - 1) +
                    " of tensor memory, by its rank in the warpgroup; the address names lane " +
                    std::to_string(place.lane) + ".");
  }
  const uint32_t alignment = form.shape == FragmentShape::k32x32b ? 32 : 16;
  if (place.lane % alignment != 0) {
    illegal("The shape wants an address whose lane is a multiple of " + std::to_string(alignment) + ", not lane " +
            std::to_string(place.lane) + ".");
  }
  const TensorMemory& memory = warp.cta().tensor_memory;
  memory.check_columns(place.column, form.width());
  if (form.shape == FragmentShape::k16x32bx2) {
    memory.check_columns(place.column + uint32_t(form.half_offset), form.width());
  }
  return place;
}

TensorPlace cell_of(const TensorFragment& form, TensorPlace base, int lane, int reg) {
  const TensorPlace within = form.place(uint32_t(lane), uint32_t(reg));
  return {base.lane + within.lane, base.column + within.column};
}

// Calls f(lane of the warp, place, columns) for the columns that each lane accesses.
template <typename F>
void for_columns(const TensorFragment& form, TensorPlace base, F&& f) {
  const bool is_row = form.shape == FragmentShape::k32x32b;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (is_row) f(lane, cell_of(form, base, lane, 0), form.width());
    for (int reg = 0; !is_row && reg < form.registers; ++reg) f(lane, cell_of(form, base, lane, reg), form.cells());
  }
}

// Operands: registers, address.
Step load_fragment(Warp& warp, const Instruction& instruction, Mask mask) {
  need_whole_warp(mask);
  const TensorFragment form = fragment_of(instruction);
  const TensorMemory& memory = warp.cta().tensor_memory;
  const TensorPlace base = checked_place(warp, instruction, form.registers, form);
  if (Races* races = warp.cta().cluster().races()) {
    races->begin_load(warp);
    for_columns(form, base, [&](int lane, TensorPlace at, uint32_t columns) {
      races->load_tensor(warp, lane, offset_of(at.lane, at.column), columns * sizeof(uint32_t));
    });
  }
  for (int reg = 0; reg < form.registers; ++reg) {
    uint32_t values[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const TensorPlace cell = cell_of(form, base, lane, reg);
      if (form.is_packed) {
        values[lane] = (memory.read(cell.lane, cell.column, kLowHalf) & 0xFFFF) |
                       memory.read(cell.lane, cell.column + 1, kLowHalf) << 16;
      } else {
        values[lane] = memory.read(cell.lane, cell.column, kBothHalves);
      }
    }
    warp.store(instruction.operands[reg], values, mask);
  }
  return Step::kNext;
}

// Operands: registers, address.
Step store_fragment(Warp& warp, const Instruction& instruction, Mask mask) {
  need_whole_warp(mask);
  const TensorFragment form = fragment_of(instruction);
  const TensorPlace base = checked_place(warp, instruction, form.registers, form);
  std::vector<uint32_t> values(size_t(form.registers) * kLanes);
  for (int reg = 0; reg < form.registers; ++reg) {
    std::copy_n(warp.slots32(instruction.operands[reg]), kLanes, &values[size_t(reg) * kLanes]);
  }
  Cta& cta = warp.cta();
  cta.issue(kAllLanes, Completion::kTensorStore, [&cta, form, base, values = std::move(values)] {
    TensorMemory& memory = cta.tensor_memory;
    memory.check_columns(base.column, form.width());  // they may have been given back meanwhile
    if (Races* races = cta.cluster().races()) {
      for_columns(form, base, [&](int lane, TensorPlace at, uint32_t columns) {
        races->act_as_copy(lane);
        touch_columns(cta, at.lane, at.column, columns, Access::kWrite);
      });
    }
    for (int reg = 0; reg < form.registers; ++reg) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const TensorPlace cell = cell_of(form, base, lane, reg);
        const uint32_t value = values[size_t(reg * kLanes + lane)];
        if (form.is_packed) {
          memory.write(cell.lane, cell.column, value & 0xFFFF, kLowHalf);
          memory.write(cell.lane, cell.column + 1, value >> 16, kLowHalf);
        } else {
          memory.write(cell.lane, cell.column, value, kBothHalves);
        }
      }
    }
  });
  if (!cta.grid().is_strict) cta.finish_copies();
  return Step::kNext;
}

struct NamedShape {
  std::string_view name;
  FragmentShape shape;
  int most;  // repetitions
};

constexpr NamedShape kShapes[] = {
    {"32x32b", FragmentShape::k32x32b, 128},     {"16x64b", FragmentShape::k16x64b, 128},
    {"16x128b", FragmentShape::k16x128b, 64},    {"16x256b", FragmentShape::k16x256b, 32},
    {"16x32bx2", FragmentShape::k16x32bx2, 128},
};

int take_repetitions(Lowering& l, int most) {
  const std::string_view name = l.need_one_of({"x1", "x2", "x4", "x8", "x16", "x32", "x64", "x128"});
  int count = 0;
  std::from_chars(name.data() + 1, name.data() + name.size(), count);
  if (count > most) l.unknown("it has no ." + std::string(name));
  return count;
}

// ---------------------------------------------------------------------------------------------------------------------
// cp

void fill(Cta& cta, const FillShape& shape, TensorPlace base, const SharedDescriptor& source) {
  constexpr uint32_t kCellsPerChunk = 4;
  cta.tensor_memory.check_columns(base.column, shape.chunks * kCellsPerChunk);
  const uint64_t rank = uint64_t(cta.rank()) << kRankShift;
  for (uint32_t row = 0; row < shape.rows; ++row) {
    for (uint32_t chunk = 0; chunk < shape.chunks; ++chunk) {
      const uint64_t address = rank | source.layout.chunk(true, row, chunk);
      uint32_t cells[kCellsPerChunk];
      std::memcpy(cells, cta.cluster().shared(address, sizeof(cells), Access::kRead, sizeof(cells)), sizeof(cells));
      for (uint32_t copy = 0; copy < shape.copies; ++copy) {
        touch_columns(cta, base.lane + shape.lane(row, copy), base.column + chunk * kCellsPerChunk, kCellsPerChunk,
                      Access::kWrite);
        for (uint32_t i = 0; i < kCellsPerChunk; ++i) {
          cta.tensor_memory.write(base.lane + shape.lane(row, copy), base.column + chunk * kCellsPerChunk + i, cells[i],
                                  kBothHalves);
        }
      }
    }
  }
}

// Operands: address in tensor memory, descriptor. modes: which of kFills; group.
Step copy_from_shared(Warp& warp, const Instruction& instruction, Mask mask) {
  Cta& cta = warp.cta();
  const FillShape& shape = kFills[instruction.modes[0]];
  const int32_t group = instruction.modes[1];
  check_group(cta, group);
  for_lanes(mask, [&](int lane) {
    const TensorPlace base = TensorPlace::of(uint32_t(warp.address(instruction.operands[0], lane)));
    if (base.lane + shape.lanes() > kTensorLanes) {
      throw Fault(FaultCode::kIllegalAddress,
                  "tcgen05.cp would fill lanes beyond the last, from lane " + std::to_string(base.lane) + " on.");
    }
    const SharedDescriptor source = SharedDescriptor::of(warp.get<uint64_t>(instruction.operands[1], lane));
    source.need_k_major();
    cta.issue(Mask{1} << lane, Completion::kTensor, [&cta, &shape, group, base, source] {
      for_group(cta, group, [&](Cta& one, int) { fill(one, shape, base, source); });
    });
  });
  return Step::kNext;
}

// ---------------------------------------------------------------------------------------------------------------------
// shift

constexpr uint32_t kShiftedColumns = 8;  // 32 bytes

// Each of a warp's lanes gets what the next one had; the last one keeps its own, where tcgen05.cp.4x256b puts what follows.
void shift_down(Cta& cta, TensorPlace base) {
  TensorMemory& memory = cta.tensor_memory;
  memory.check_columns(base.column, kShiftedColumns);
  for (uint32_t lane = base.lane; lane + 1 < base.lane + kLanesOfWarp; ++lane) {
    touch_columns(cta, lane + 1, base.column, kShiftedColumns, Access::kRead);
    touch_columns(cta, lane, base.column, kShiftedColumns, Access::kWrite);
    for (uint32_t i = 0; i < kShiftedColumns; ++i) {
      memory.write(lane, base.column + i, memory.read(lane + 1, base.column + i, kBothHalves), kBothHalves);
    }
  }
}

// Operands: address in tensor memory. modes: group.
Step shift(Warp& warp, const Instruction& instruction, Mask mask) {
  Cta& cta = warp.cta();
  const int32_t group = instruction.modes[0];
  check_group(cta, group);
  for_lanes(mask, [&](int lane) {
    const TensorPlace base = TensorPlace::of(uint32_t(warp.address(instruction.operands[0], lane)));
    if (base.lane % kLanesOfWarp != 0 || base.lane >= kTensorLanes) {
      illegal("tcgen05.shift wants an address whose lane is the first of a warp's, not lane " +
              std::to_string(base.lane) + ".");
    }
    cta.issue(Mask{1} << lane, Completion::kTensor,
              [&cta, group, base] { for_group(cta, group, [&](Cta& one, int) { shift_down(one, base); }); });
  });
  return Step::kNext;
}

}  // namespace

void lower_tensor_move(Lowering& l, bool is_load) {
  if (!l.take("sync") || !l.take("aligned")) l.unknown("it is not .sync.aligned");
  const NamedShape* named = nullptr;
  for (const NamedShape& candidate : kShapes) {
    if (l.take(candidate.name)) named = &candidate;
  }
  if (!named) l.unknown("its shape is unknown");
  TensorFragment form;
  form.shape = named->shape;
  form.registers = take_repetitions(l, named->most) * registers_of(named->shape);
  form.is_packed = l.take(is_load ? "pack::16b" : "unpack::16b");
  if (!l.take("b32")) l.unknown("it is not .b32");

  // registers, [address] [, offset]; of a store the registers come last.
  const bool has_offset = form.shape == FragmentShape::k16x32bx2;
  need_operands(l, 2 + has_offset);
  const int registers = is_load ? 0 : 1 + has_offset, address = is_load ? 1 : 0;
  if (has_offset) {
    const auto offset = l.constant(address + 1);
    if (!offset || *offset < 0 || *offset >= int64_t(kTensorColumns)) l.unknown("its offset is no constant");
    form.half_offset = int32_t(*offset);
  }
  size_t count = 0;
  is_load ? l.destinations(registers, 32, &count) : l.sources(registers, 32, &count);
  if (int(count) != form.registers) l.unknown("it has another number of registers than expected");
  l.address(address);
  l.out.modes = {int32_t(form.shape), form.registers, form.is_packed, form.half_offset};
  l.out.is_aligned = true;
  l.out.run = is_load ? load_fragment : store_fragment;
}

void lower_tensor_fill(Lowering& l) {
  const int32_t group = take_group(l);
  const std::string_view name = l.need_one_of({"128x256b", "128x128b", "4x256b", "64x128b", "32x128b"});
  const std::string_view multicast = l.take_one_of({"warpx2::02_13", "warpx2::01_23", "warpx4"});
  int32_t found = -1;
  for (size_t i = 0; i < std::size(kFills); ++i) {
    if (kFills[i].name == name && kFills[i].multicast == multicast) found = int32_t(i);
  }
  if (found < 0) l.unknown("its shape is not for these warps");
  need_operands(l, 2);
  l.address(0);
  l.source(1, 64);
  l.out.modes = {found, group};
  l.out.run = copy_from_shared;
}

void lower_tensor_shift(Lowering& l) {
  l.need_exact_architecture();
  const int32_t group = take_group(l);
  if (!l.take("down")) l.unknown("it is not .down");
  need_operands(l, 1);
  l.address(0);
  l.out.modes[0] = group;
  l.out.run = shift;
}

}  // namespace emulator
