// Pieces of work over blocks of keys, and how they lie: data, for the kernels that split it.
#pragma once

#include <algorithm>
#include <cstdint>

namespace jax_flash_mla::split_sm90 {

// Most thread blocks of a launch. Scratch is sized by it, never by the device.
inline constexpr int kMaxCtas = 160;
// A thread block leaves at most two partial tiles: of the first and of the last item it works on.
inline constexpr int kPartialTiles = 2 * kMaxCtas;
inline constexpr int kTileRows = 64, kTileColumns = 512;  // of a partial tile

// How the work is spread, fixed before the launch.
struct Layout {
  int32_t requests;
  int32_t rows;    // query rows of a tile, at most
  int32_t tiles;   // of a request
  int32_t lanes;   // tiles side by side: thread blocks that share what they read
  int32_t strips;  // groups of that many tiles
  int32_t parts;   // lanes · parts thread blocks
};

inline int ceil_div(int a, int b) { return (a + b - 1) / b; }

inline Layout make_layout(int requests, int rows, int tiles, int num_sms) {
  constexpr int kMostLanes = 4;
  const int ctas = std::min(num_sms, kMaxCtas);
  const int strips = ceil_div(tiles, std::min(kMostLanes, ctas)), lanes = ceil_div(tiles, strips);
  return {requests, rows, tiles, lanes, strips, ctas / lanes};
}

// A thread block's share of an item: some blocks of one tile.
struct Piece {
  int32_t request;
  int32_t tile;                     // of the request
  int32_t first_block, last_block;  // first inclusive, last exclusive
  int32_t whole;                    // whether these are all blocks of the tile
};

// An item that cuts have split.
struct Split {
  int32_t request, strip;
  int32_t first_part, last_part;  // both inclusive
};

// All of a launch, in any order.
struct Splits {
  int32_t count;
  Split list[kMaxCtas];
};

// A part's work: where it begins, and how far it goes.
struct Work {
  int32_t request, strip;  // of the first item
  int32_t skip;            // blocks of that item that are others' work
  int32_t least;           // see Line
  int64_t left;            // from the beginning of that item on: length of the line, or items
  bool whole;              // items are not cut
};

// What finding it takes of shared memory.
struct Search {
  struct {
    int64_t length;
    int32_t longest;
  } of_warps[4];
  Work work;
};

// Sums of a warp that shares a unit of combine.cuh with others: two vectors of four for each lane, and of its row's weights.
using SumsOfWarp = float[9][32];

// Partial results of an item: its first part leaves them in tile 1 of its thread block, all others in tile 0.
__host__ __device__ inline int partial_tile(int block, bool is_first_part) {
  return 2 * block + (is_first_part ? 1 : 0);
}

// Where vectors of four of its outputs lie: as accumulators of WGMMA hold them, so that a warp's stores and loads are 512
// bytes in a row. Of a tile's 64 × 512 outputs, `half` has 256 columns, `warp` 16 rows, `row_half` each eight of those; the
// lanes of a vector eight rows by 16 columns, of which lane l has row l / 4, columns 2 · (l % 4), + 1, + 8 and + 9.
__host__ __device__ inline int64_t partial_vector(int tile, int half, int warp, int row_half, int vector, int lane) {
  constexpr int kHalves = 2, kWarps = 4, kRowHalves = 2, kVectors = kTileColumns / kHalves / 16;
  const int64_t of_tile = (int64_t(tile) * kHalves + half) * kWarps + warp;
  return ((of_tile * kRowHalves + row_half) * kVectors + vector) * 32 + lane;
}

}  // namespace jax_flash_mla::split_sm90
