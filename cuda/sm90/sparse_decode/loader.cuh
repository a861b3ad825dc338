// What the loading warpgroups do: bring queries, and the keys that indices name, to shared memory, ahead of those who multiply
// them.
//
// Each warpgroup converts one half of the values of every block, each of its warps those of 16 keys, two keys at a time. Codes
// are in registers a block ahead. Where a key is, and its scales, are looked up a block ahead too, its index two; what all lanes
// have to know of that is noted in shared memory. Rotary dimensions are copied as they are.
//
//   of block n   look up n + 1 | wait | valid, rotary of n | convert n, fence | factors of n + 1, fetch its codes
//
// Where an index names nothing, the key is zeros, and a bit tells.
#pragma once

#include <type_traits>

#include "cuda/device/barrier.cuh"
#include "cuda/device/cluster.cuh"
#include "cuda/device/copy.cuh"
#include "cuda/device/fp8.cuh"
#include "cuda/device/swizzle.cuh"
#include "cuda/device/wgmma.cuh"
#include "cuda/sm90/sparse_decode/config.h"
#include "cuda/sm90/sparse_decode/problem.cuh"
#include "cuda/sm90/split/schedule.cuh"

namespace jax_flash_mla::sparse_decode_sm90 {

template <typename Config>
class Loader {
 public:
  // Arrivals that complete an item's queries: the threads' copies, and the item.
  static constexpr int kQueryArrivals = Config::kHalfThreads + 1;

  // Finds its part of the work: with more registers than `run` has, so call it before they are given back.
  __device__ __forceinline__ Loader(const Problem<Config>& problem, typename Config::SharedStorage& shared, int half)
      : problem_(problem), params_(problem.params), shared_(shared), half_(half) {
    warp_ = device::uniform(threadIdx.x % Config::kHalfThreads / 32);
    const int barrier = half == 0 ? mla_sm90::kLoaderBarrier : mla_sm90::kSecondLoaderBarrier;
    const int part = blockIdx.x / problem_.layout().lanes;
    const split_sm90::Work work = split_sm90::find_work(problem_, part, shared_.search[half], barrier);
    if (lane() == 0) {
      walk().work = work;
      walk().pieces = ~0u;
    }
  }

  // Whether results are to be combined.
  __device__ __forceinline__ bool run() {
    while (next_piece()) {
      if (half_ == 1) load_queries(walk().piece);
      load_keys();
    }
    const bool whole = walk().work.whole;
    if (half_ == 1) {
      Item none = {};
      none.piece.request = -1;
      none.piece.whole = whole;
      wait_for_room();
      announce(none);
      // In the place of queries.
      if (warp_ == 0 && !whole) split_sm90::find_splits(problem_, shared_.splits());
    }
    return !whole;
  }

 private:
  using Element = typename Config::Element;
  using Format = typename Config::Format;
  using Scale = typename Format::Scale;
  using Factors = typename Format::Factors;
  static constexpr bool kIsPlanar = std::is_same_v<Format, Model1>;

  // Lanes that look up the same key, and the scale groups that each of them looks at.
  static constexpr int kKeyLanes = 32 / Config::kWarpRows;
  static constexpr int kLaneGroups = (Config::kHalfGroups + kKeyLanes - 1) / kKeyLanes;

  const Problem<Config>& problem_;
  const SparseDecodeParams& params_;
  typename Config::SharedStorage& shared_;
  const int half_;
  int warp_;
  uint32_t rounds_ = 0;  // bit s: whether stage s is in an odd round

  // Read anew wherever it is wanted, since registers are few.
  __device__ __forceinline__ static int lane() { return device::lane_anew(); }

  // This warp's first row of a block: the rows of a pair's first thread block come first.
  __device__ __forceinline__ int first_row() const {
    const int rank = Config::kPairs ? device::opaque(device::cluster_rank()) : 0;
    return (rank * Config::kHalfWarps + warp_) * Config::kWarpRows;
  }

  __device__ __forceinline__ Walk& walk() const { return shared_.walks[half_ * Config::kHalfWarps + warp_]; }

  __device__ __forceinline__ bool next_piece() {
    __syncwarp();
    if (lane() == 0) {
      const int grid_lane = blockIdx.x % problem_.layout().lanes;
      ++walk().pieces;
      walk().goes_on = split_sm90::next_piece(problem_, grid_lane, walk().work, walk().piece);
    }
    __syncwarp();
    return walk().goes_on;
  }

  // --- Queries.

  // Until the item before needs its queries no more.
  __device__ __forceinline__ void wait_for_room() { device::wait(shared_.q_empty, (walk().pieces + 1) % 2); }

  // This thread's share of the item's queries is on its way.
  __device__ __forceinline__ void announce(const Item& item) {
    if (warp_ == 0 && lane() == 0) {
      shared_.items[walk().pieces % 2] = item;
      device::arrive(shared_.q_full);
    }
    device::arrive_after_copies(shared_.q_full);
  }

  __device__ __forceinline__ void load_queries(const split_sm90::Piece& piece) {
    const Item item = {piece, problem_.is_sound(piece.request)};
    const int rows = problem_.rows(piece.tile);
    const auto* source =
        static_cast<const Element*>(params_.q) + problem_.place(piece.request, piece.tile, 0) * Config::kDimQK;
    wait_for_room();
    // Four rows of a tile at once: eight lanes copy 16 bytes each of a row.
    const int chunk = lane() % 8;
#pragma unroll 1
    for (int first = warp_ * 4; first < Config::kBlockM; first += Config::kHalfWarps * 4) {
      const int row = first + lane() / 8;
      auto* target = reinterpret_cast<uint8_t*>(shared_.q) + device::swizzled_chunk(row, chunk);
      const bool exists = row < rows;
#pragma unroll
      for (int t = 0; t < Config::kTiles; ++t) {
        device::copy_16_bytes(target + t * Config::kTileBytes,
                              source + (exists ? row : 0) * Config::kDimQK + t * Config::kTileColumns + chunk * 8,
                              exists);
      }
    }
    announce(item);
  }

  // --- Keys.

  // What it takes to know of a piece, to look up its keys. The same in all lanes.
  struct Tokens {
    int first_block, last_block;
    int first_blocks;  // of the query token's first list of keys
    int lengths[2];
    const int32_t* indices[2];
  };

  __device__ __forceinline__ Tokens tokens_of(const split_sm90::Piece& piece) const {
    const int token = device::uniform(piece.request);
    Tokens tokens;
    tokens.first_block = device::uniform(piece.first_block);
    tokens.last_block = device::uniform(piece.last_block);
    tokens.first_blocks = device::uniform(problem_.blocks(token, 0));
#pragma unroll
    for (int list = 0; list < 2; ++list) {
      tokens.lengths[list] = device::uniform(problem_.length(token, list));
      tokens.indices[list] = params_.lists[list].indices + int64_t(token) * params_.lists[list].topk;
    }
    return tokens;
  }

  // The index of a key of a block, by its row; to be checked.
  __device__ __forceinline__ static int look_up(const Tokens& tokens, int block, int row) {
    const bool second = block >= tokens.first_blocks;
    const int first_key = (block - (second ? tokens.first_blocks : 0)) * Config::kBlockN;
    const int length = block >= tokens.last_block ? 0 : second ? tokens.lengths[1] : tokens.lengths[0];
    const int32_t* indices = (second ? tokens.indices[1] : tokens.indices[0]) + first_key;
    return row < length - first_key ? __ldg(indices + row) : -1;
  }

  // The same index, or -1 where it is none of a token.
  __device__ __forceinline__ int checked(const Tokens& tokens, int block, int index) const {
    const int last_slot = block >= tokens.first_blocks ? problem_.grid.last_slots[1] : problem_.grid.last_slots[0];
    return index > last_slot ? -1 : index;
  }

  // Where a token's record is, and its scales.
  struct Place {
    const uint8_t *record, *scales;
    bool exists;  // or else the record is in the queries, times zero
  };
  // Of a checked index.
  __device__ __forceinline__ Place place_of(const Tokens& tokens, int block, int index) const {
    const int number = block >= tokens.first_blocks;
    const SparseDecodeList& list = params_.lists[number];
    const bool exists = index >= 0;
    const auto* none = static_cast<const uint8_t*>(params_.q);
    const auto* cache = static_cast<const uint8_t*>(list.cache);
    if constexpr (kIsPlanar) {
      const int page = index / list.page_size, slot = index - page * list.page_size;
      cache += int64_t(page) * list.page_size * Format::kTokenBytes;
      const auto* record = cache + int64_t(slot) * Format::kRecordBytes;
      const auto* scales = cache + int64_t(list.page_size) * Format::kRecordBytes + slot * Format::kScaleBytes;
      return {exists ? record : none, scales, exists};
    } else {
      const uint8_t* record = exists ? cache + int64_t(index) * Format::kTokenBytes : none;
      return {record, record + Format::kScalesOffset, exists};
    }
  }

  __device__ __forceinline__ auto& converted() const { return shared_.converted[half_][warp_]; }
  __device__ __forceinline__ auto& told(int stage) const {
    return shared_.told[half_][warp_][Config::kRotaryIsValue ? stage : 0];
  }

  // Notes where the codes of this lane's key are, brings them to L2, and starts copying its scales: zero where there is no such
  // key. Copies, because who waits for a load may have to wait for others.
  __device__ __forceinline__ void note_codes(const Place& place) const {
    const uint8_t* codes = place.record + half_ * Config::kHalfCodes;
    const int lane = this->lane(), key = lane % Config::kWarpRows, part = lane / Config::kWarpRows;
    if (part == 0) {
      converted().codes[key] = codes;
      constexpr int kBytes = sizeof(converted().scales[key]);
      const uint8_t* scales = place.exists ? place.scales + half_ * kBytes : codes;
      if constexpr (kBytes == 8) {
        device::copy_8_bytes(converted().scales[key], scales, place.exists);
      } else {
        device::copy_4_bytes(converted().scales[key], scales, place.exists);
      }
    }
    device::prefetch_line(codes + part * (Config::kHalfCodes / kKeyLanes));
  }

  // Notes what codes are to be multiplied by. Whether all scales are small: the factors are scales otherwise.
  __device__ __forceinline__ bool note_factors() const {
    device::wait_for_copies();
    __syncwarp();
    const int lane = this->lane(), key = lane % Config::kWarpRows, part = lane / Config::kWarpRows;
    Scale scales[kLaneGroups];
    bool small = true;
#pragma unroll
    for (int i = 0; i < kLaneGroups; ++i) {
      const int group = (part + i * kKeyLanes) % Config::kHalfGroups;
      scales[i] = converted().scales[key][group];
      // What is behind the last scale is none.
      small = small && (half_ * Config::kHalfGroups + group >= Config::kGroups || device::is_small(scales[i]));
    }
    small = __all_sync(~0u, small);
#pragma unroll
    for (int i = 0; i < kLaneGroups; ++i) {
      converted().factors[key][(part + i * kKeyLanes) % Config::kHalfGroups] =
          small ? device::small_factors_of(scales[i]) : device::scale_bits(scales[i]);
    }
    return small;
  }

  // Notes where the rotary dimensions are that this warp brings, of keys as `told_row` says, and which of these there are.
  __device__ __forceinline__ void note_rotary(int stage, const Place& place) const {
    const uint32_t valid = __ballot_sync(~0u, place.exists);
    const uint8_t* rotary = place.record + Format::kRotaryOffset;
    const int lane = this->lane();
    if (lane < Config::kWarpBits) told(stage).rotary[lane] = rotary;
    if (lane == 0) told(stage).valid = valid;
    // Its lines, one or two.
    device::prefetch_line(rotary + (lane / Config::kWarpBits ? Format::kRotaryBytes - 1 : 0));
  }

  // Starts fetching a vector of codes.
  __device__ __forceinline__ uint4 fetch(int vector) const {
    const int lane = this->lane();
    const uint8_t* codes = converted().codes[2 * vector + lane / 16] + lane % 16 * 16;
    // Planar pages of an odd number of tokens: every other one begins between two multiples of 16 bytes.
    if (!kIsPlanar || problem_.grid.pages_are_aligned) return device::load_16_bytes(codes);
    const uint2 first = device::load_8_bytes(codes), second = device::load_8_bytes(codes + 8);
    return make_uint4(first.x, first.y, second.x, second.y);
  }

  // Converts a block's codes and stores them. A lane's 16 codes become two chunks; of eight lanes four begin with the second
  // one, so that together they come to all banks.
  template <bool Small>
  __device__ __forceinline__ void convert(int stage, const uint4 (&codes)[Config::kVectors]) const {
    const int lane = this->lane(), key = lane / 16, place = lane % 16, odd = place / 4 % 2;
    // Rotary dimensions, which may be some of values, are no codes.
    if (half_ * Config::kHalfCodes + place * 16 >= Format::kCodes) return;
    const int tile = stage * Config::kStageTiles + half_ * Config::kHalfTiles + place / 4;
    const int first = tile * Config::kTileBytes + device::swizzled_chunk(first_row() + key, place % 4 * 2 + odd);
    const Factors* factors = &converted().factors[key][place * 16 / Format::kScaleGroup];
    auto* elements = reinterpret_cast<uint8_t*>(shared_.k);
#pragma unroll
    for (int i = 0; i < Config::kVectors; ++i) {
      const auto times = device::noted_factors<Small>(factors[2 * i * Config::kHalfGroups]);
      const int offset = device::swizzled_rows_below(first, 2 * i);
      const uint4& x = codes[i];
      *reinterpret_cast<uint4*>(elements + offset) = device::dequantize(odd ? x.z : x.x, odd ? x.w : x.y, times);
      *reinterpret_cast<uint4*>(elements + (offset ^ 16)) = device::dequantize(odd ? x.x : x.z, odd ? x.y : x.w, times);
    }
  }

  // This warp's rows of this half's tiles are there. A pair's go to the other thread block, whose same warp sends as many.
  __device__ __forceinline__ void complete(int stage) const {
    device::fence_async_proxy();
    __syncwarp();
    if (lane() != 0) return;
    const int first_tile = device::opaque(half_ * Config::kHalfTiles);
    auto* full = &shared_.full[stage][first_tile];
    const auto* tiles = &shared_.k[stage][first_tile];
#pragma unroll
    for (int i = 0; i < Config::kHalfTiles; ++i) {
      if (first_tile + i == Config::kRotaryTile) break;
      if constexpr (Config::kPairs) {
        const uint32_t other = 1 - device::opaque(device::cluster_rank());
        const auto* rows = reinterpret_cast<const uint8_t*>(tiles + i) + first_row() * Config::kTileRowBytes;
        device::copy_to_block(device::address_in(other, rows), rows, Config::kWarpRowBytes,
                              device::address_in(other, full + i));
        device::arrive_and_expect(full[i], Config::kWarpRowBytes);
      } else {
        device::arrive(full[i]);
      }
    }
  }

  // Tells which of a block's keys are there, and starts copying their rotary dimensions: eight lanes a row. They arrive by
  // themselves; who multiplies fences them. A pair does not send them: its weights will replace them before the other one
  // might have read them.
  __device__ __forceinline__ void bring_rotary(int stage) {
    const auto& told = this->told(stage);
    device::Barrier& full = shared_.full[stage][Config::kRotaryTile];
    const uint32_t valid = told.valid;
    const int lane = this->lane();
    if (lane == 0) {
      reinterpret_cast<uint16_t*>(shared_.valid[stage])[warp_] = uint16_t(valid);
      device::arrive(full);
    }
    auto* tile = reinterpret_cast<uint8_t*>(shared_.k[stage][Config::kRotaryTile].elements);
    const int row = lane / 8, chunk = lane % 8;
    const int place = device::swizzled_chunk(warp_ * Config::kWarpBits + row, chunk);
    // Several at once: a copy keeps the registers of its address for long.
    constexpr int kAtOnce = Config::kPairs ? 4 : 2;
#pragma unroll
    for (int first = 0; first < Config::kWarpBits / 4; first += kAtOnce) {
      const uint8_t* sources[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) sources[i] = told.rotary[(first + i) * 4 + row] + chunk * 16;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int rows_below = (first + i) * 4;
        const bool exists = valid >> (rows_below + row) & 1;
        auto* target = tile + device::swizzled_rows_below(place, rows_below);
        if (!kIsPlanar || problem_.grid.pages_are_aligned) {
          device::copy_16_bytes(target, sources[i], exists);
        } else {
          device::copy_8_bytes(target, sources[i], exists);
          device::copy_8_bytes(target + 8, sources[i] + 8, exists);
        }
      }
    }
    device::arrive_after_copies(full);
  }

  // Whether this warpgroup tells which keys of a stage's blocks are there, and brings their rotary dimensions: where these
  // are none of values, they come in the place of weights, which is given back with the half that is not the stage's own.
  __device__ __forceinline__ bool brings_rotary(int stage) const {
    return Config::kRotaryIsValue ? half_ == 1 : half_ != stage;
  }

  // The row of this lane's key, and of the one that it looks up to tell of it: the same but for pairs.
  __device__ __forceinline__ int key_row() const { return first_row() + lane() % Config::kWarpRows; }
  __device__ __forceinline__ int told_row() const { return warp_ * Config::kWarpBits + lane() % Config::kWarpBits; }

  // This warpgroup's half of the piece's blocks.
  __device__ __forceinline__ void load_keys() {
    const Tokens tokens = tokens_of(walk().piece);
    int block = tokens.first_block, stage = 0;
    if (block >= tokens.last_block) return;
    int next = checked(tokens, block, look_up(tokens, block, key_row())), next_told = next;
    if constexpr (Config::kPairs) next_told = checked(tokens, block, look_up(tokens, block, told_row()));
    note(tokens, block, 0, next, next_told);
    bool small = note_factors();
    uint4 codes[Config::kVectors];
#pragma unroll
    for (int i = 0; i < Config::kVectors; ++i) codes[i] = fetch(i);
    next = next_told = checked(tokens, block + 1, look_up(tokens, block + 1, key_row()));
    if constexpr (Config::kPairs) next_told = checked(tokens, block + 1, look_up(tokens, block + 1, told_row()));
#pragma unroll 1
    for (; block < tokens.last_block; ++block, stage ^= 1) {
      note(tokens, block + 1, 1 - stage, next, next_told);
      next = look_up(tokens, block + 2, key_row());
      if constexpr (Config::kPairs) next_told = look_up(tokens, block + 2, told_row());

      device::wait(shared_.empty[stage][half_][0], (rounds_ >> stage & 1) ^ 1);
      rounds_ ^= 1 << stage;
      if (brings_rotary(stage)) bring_rotary(stage);
      if (small) {
        convert<true>(stage, codes);
      } else {
        convert<false>(stage, codes);
      }
      complete(stage);
      // What was looked up is there by now. Ahead of codes, for which it would have to wait too.
      small = note_factors();
      next = checked(tokens, block + 2, next);
      if constexpr (Config::kPairs) next_told = checked(tokens, block + 2, next_told);
#pragma unroll
      for (int i = 0; i < Config::kVectors; ++i) codes[i] = fetch(i);
    }
  }

  // Notes what is to be known of a block's keys, but for the factors of their codes.
  __device__ __forceinline__ void note(const Tokens& tokens, int block, int stage, int index,
                                       [[maybe_unused]] int told_index) const {
    const Place place = place_of(tokens, block, index);
    __syncwarp();
    note_codes(place);
    if (brings_rotary(stage)) note_rotary(stage, Config::kPairs ? place_of(tokens, block, told_index) : place);
  }
};

}  // namespace jax_flash_mla::sparse_decode_sm90
