// Moves of 8×8 matrices between shared memory and registers.
//
// A row is 16 bytes. In registers, lane 4r + c holds elements 2c and 2c + 1 of row r.
#include <cstring>
#include <utility>

#include "emulator/machine/instruction_set.h"
#include "emulator/machine/warp.h"

namespace emulator {

namespace {

constexpr int kSize = 8;  // of a matrix

constexpr size_t kRowBytes = 16;

using Matrix = uint16_t[kSize][kSize];
static_assert(sizeof(Matrix) == kLanes * sizeof(uint32_t));  // and, row by row, that of the lanes' registers

void transpose(Matrix& matrix) {
  for (int row = 0; row < kSize; ++row) {
    for (int column = 0; column < row; ++column) std::swap(matrix[row][column], matrix[column][row]);
  }
}

void require_whole_warp(Mask mask) {
  if (mask != kAllLanes) {
    throw Fault(FaultCode::kIllegalInstruction,
                "A matrix is moved by " + std::to_string(__builtin_popcount(mask)) + " of the 32 lanes of a warp.");
  }
}

// Of ldmatrix and stmatrix; operands: the address, then the registers.
enum Mode { kCount, kTransposed, kSpace };

// Calls move(row, its address, lane) for each row of matrix `number`; lane 8 · number + row has its address. The
// addresses of other lanes do not matter.
template <typename Move>
void for_rows(Warp& warp, const Instruction& instruction, int number, Move&& move) {
  const auto space = Space(instruction.modes[kSpace]);
  for (int row = 0; row < kSize; ++row) {
    const int lane = number * kSize + row;
    const uint64_t address = warp.address(instruction.operands[0], lane);
    if (space == Space::kGeneric && (address & kWindowMask) != kSharedWindow) {
      throw Fault(FaultCode::kIllegalAddress, "A row of a matrix is not in shared memory.");
    }
    move(row, address, lane);
  }
}

Step ldmatrix(Warp& warp, const Instruction& instruction, Mask mask) {
  require_whole_warp(mask);
  const auto space = Space(instruction.modes[kSpace]);
  // All rows first: the address may be in a register that is written.
  Matrix matrices[4];
  for (int i = 0; i < instruction.modes[kCount]; ++i) {
    for_rows(warp, instruction, i, [&](int row, uint64_t address, int lane) {
      std::memcpy(matrices[i][row], warp.resolve(space, address, kRowBytes, Access::kRead, lane), kRowBytes);
    });
    if (instruction.modes[kTransposed]) transpose(matrices[i]);
  }
  for (int i = 0; i < instruction.modes[kCount]; ++i) {
    std::memcpy(warp.target32(instruction.operands[1 + i]), matrices[i], sizeof(Matrix));
  }
  return Step::kNext;
}

Step stmatrix(Warp& warp, const Instruction& instruction, Mask mask) {
  require_whole_warp(mask);
  const auto space = Space(instruction.modes[kSpace]);
  for (int i = 0; i < instruction.modes[kCount]; ++i) {
    Matrix matrix;
    std::memcpy(matrix, warp.slots32(instruction.operands[1 + i]), sizeof(matrix));
    if (instruction.modes[kTransposed]) transpose(matrix);
    for_rows(warp, instruction, i, [&](int row, uint64_t address, int lane) {
      warp.write(space, address, matrix[row], kRowBytes, lane, kRowBytes);
    });
  }
  return Step::kNext;
}

Step movmatrix(Warp& warp, const Instruction& instruction, Mask mask) {
  require_whole_warp(mask);
  Matrix matrix;
  std::memcpy(matrix, warp.slots32(instruction.operands[1]), sizeof(matrix));
  transpose(matrix);
  std::memcpy(warp.target32(instruction.operands[0]), matrix, sizeof(matrix));
  return Step::kNext;
}

// ---------------------------------------------------------------------------------------------------------------------
// Lowering

void need(Lowering& lowering, std::string_view modifier) {
  if (!lowering.take(modifier)) lowering.unknown("it is not ." + std::string(modifier));
}

void lower_common(Lowering& lowering) {
  need(lowering, "sync");
  need(lowering, "aligned");
  need(lowering, "m8n8");
  need(lowering, "b16");
  lowering.out.is_aligned = true;
  lowering.out.modes = {};
  if (lowering.count() != 2) lowering.unknown("it has another number of operands than expected");
}

void lower_shared_move(Lowering& lowering, int address, int registers, bool is_load) {
  lower_common(lowering);
  auto& modes = lowering.out.modes;
  modes[kCount] = lowering.need_one_of({"x1", "x2", "x4"})[1] - '0';
  modes[kTransposed] = lowering.take("trans");
  modes[kSpace] = int32_t(lowering.take_one_of({"shared", "shared::cta"}).empty() ? Space::kGeneric : Space::kShared);
  lowering.address(address);
  size_t count = 0;
  if (is_load) {
    lowering.destinations(registers, 32, &count);
  } else {
    lowering.sources(registers, 32, &count);
  }
  if (int(count) != modes[kCount]) lowering.unknown("it has another number of registers than expected");
}

void lower_ldmatrix(Lowering& lowering) {
  lower_shared_move(lowering, 1, 0, true);
  lowering.out.run = ldmatrix;
}

void lower_stmatrix(Lowering& lowering) {
  lower_shared_move(lowering, 0, 1, false);
  lowering.out.run = stmatrix;
}

void lower_movmatrix(Lowering& lowering) {
  need(lowering, "trans");
  lower_common(lowering);
  lowering.destination(0, 32);
  lowering.source(1, 32);
  lowering.out.run = movmatrix;
}

}  // namespace

void add_matrix_moves(InstructionSet& instructions) {
  instructions["ldmatrix"] = lower_ldmatrix;
  instructions["stmatrix"] = lower_stmatrix;
  instructions["movmatrix"] = lower_movmatrix;
}

}  // namespace emulator
