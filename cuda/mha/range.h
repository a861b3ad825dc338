// Sequences packed one after another: data only.
#pragma once

#include <cstdint>

namespace jax_flash_mla {

// A range of a pack's tokens, of queries or of keys, with what is opposite: keys or queries. Each pack has one for each of
// its sequences, and one in front of them. In order, they and the gaps behind them cover the pack's tokens once.
struct MhaRange {
  int32_t first, length;              // tokens of the pack; none for the range in front, and where bounds make no sense
  int32_t gap;                        // tokens behind these that no sequence owns
  int32_t other_first, other_length;  // likewise, opposite
  int32_t sound;                      // bounds make sense, of this sequence; of all of the pack, for the range in front
};

// One side of the operands.
struct MhaSide {
  const MhaRange* ranges;  // [packs, sequences + 1]
  const int32_t* bounds;   // [packs, sequences + 1], as given: which tokens unsound sequences claim
  int32_t packs, sequences, tokens;
};

}  // namespace jax_flash_mla
