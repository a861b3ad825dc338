// Pieces of work, as the roles of the kernel hand them to each other.
#pragma once

#include <cstdint>

#include "cuda/sm90/dense_decode/params.h"

namespace jax_flash_mla::dense_decode_sm90 {

// A thread block's share of an item: some blocks of one tile.
struct Item {
  int32_t request;                  // -1: there is no more work
  int32_t tile;                     // of the request
  int32_t keys;                     // of the request; 0 where its length makes no sense
  int32_t visible_to_all;           // keys that every row of the tile may attend to
  int32_t first_block, last_block;  // first inclusive, last exclusive
  bool sound;                       // the length makes sense
  bool whole;                       // these are all blocks of the tile
};

// An item that cuts have split.
struct Split {
  int32_t request, strip;
  int32_t first_part, last_part;  // both inclusive
};

// All of a launch, in any order.
struct Splits {
  int32_t count;
  Split list[kDenseDecodeMaxCtas];
};

// A part's work: where it begins, and how far it goes.
struct Work {
  int32_t request, strip;  // of the first item
  int32_t skip;            // blocks of that item that are others' work
  int32_t least;           // see Line
  int64_t left;            // from the beginning of that item on: length of the line, or items
  bool whole;              // items are not cut
};

}  // namespace jax_flash_mla::dense_decode_sm90
