// A tile of shared memory as text, for who looks at a kernel.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulator/machine/cta.h"

namespace emulator {

// What describes a tile is wrong; a sentence says how.
struct BadTile : std::logic_error {
  using std::logic_error::logic_error;
};

struct TileType;

struct SharedTile {
  uint32_t offset, rows, columns;
  const TileType* type;
  uint32_t swizzle;  // bytes within which chunks are exchanged, as in tensor maps; 16: none

  // {offset, rows, columns, type} or the same and {swizzle32}, {swizzle64} or {swizzle128}. Throws BadTile.
  static SharedTile read(const std::vector<std::string>& parts);

  std::string dump(Cta& cta) const;
};

}  // namespace emulator
