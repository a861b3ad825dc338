// What the loading warpgroups do: bring queries, and the keys that indices name, to shared memory, ahead of those who multiply
// them.
//
// Each warpgroup converts the blocks of one stage, each of its warps 16 keys. Codes are fetched to registers some vectors
// ahead, multiplied by their scales, and stored, tile by tile as tiles are given back; rotary dimensions are copied as they
// are. A step is the codes of one scale group of all 16 keys. The second warpgroup, whose first block is wanted later, copies
// queries besides.
//
//   scales, first vectors of block n; indices of n + 2 | wait | half of the steps | wait | the other half; rotary dimensions
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
  static constexpr int kQueryArrivals = Config::kStageThreads + 1;

  // Finds its part of the work: with more registers than `run` has, so call it before they are given back.
  __device__ __forceinline__ Loader(const Problem<Config>& problem, typename Config::SharedStorage& shared, int stage)
      : problem_(problem), params_(problem.params), shared_(shared), stage_(stage) {
    warp_ = device::uniform(threadIdx.x % Config::kStageThreads / 32);
    const int barrier = stage == 0 ? mla_sm90::kLoaderBarrier : mla_sm90::kSecondLoaderBarrier;
    const int part = blockIdx.x / problem_.layout().lanes;
    const split_sm90::Work work = split_sm90::find_work(problem_, part, shared_.search[stage], barrier);
    if (lane() == 0) {
      walk().work = work;
      walk().pieces = ~0u;
    }
  }

  // Whether results are to be combined.
  __device__ __forceinline__ bool run() {
    uint32_t round = 0;
    while (next_piece()) {
      if (stage_ == 1) load_queries(walk().piece);
      load_keys(round);
    }
    const bool whole = walk().work.whole;
    if (stage_ == 1) {
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
  using Scales = typename Format::Scales;
  static constexpr bool kIsPlanar = std::is_same_v<Format, Model1>;

  // The index of a key, negative where it names nothing, and the list that it stands in.
  struct Index {
    int index, list;
  };
  // A block's keys, as a lane of this warp knows them. Lanes l and l + kWarpRows have a key to convert, and half of its scales
  // each: of a pair's the upper 16 lanes. There the lower ones have the keys whose rotary dimensions the warp copies, which
  // are those that it tells of.
  struct Keys {
    const uint8_t* record;  // null where there is no such key
    Scales scales;
    int lane, stage;
  };
  static constexpr int kFirstLane = 32 - 2 * Config::kWarpRows;  // that has a key to convert
  const Problem<Config>& problem_;
  const SparseDecodeParams& params_;
  typename Config::SharedStorage& shared_;
  const int stage_;
  int warp_;

  __device__ __forceinline__ static int lane() { return threadIdx.x % 32; }

  // This warp's first row of a block: the rows of a pair's first thread block come first.
  __device__ __forceinline__ int first_row() const {
    const int rank = Config::kPairs ? device::opaque(device::cluster_rank()) : 0;
    return (rank * Config::kStageWarps + warp_) * Config::kWarpRows;
  }

  __device__ __forceinline__ Walk& walk() { return shared_.walks[stage_ * Config::kStageWarps + warp_]; }

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
    for (int first = warp_ * 4; first < Config::kBlockM; first += Config::kStageWarps * 4) {
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

  // What this lane's key of a block is.
  __device__ __forceinline__ Index look_up(const split_sm90::Piece& piece, int block) const {
    if (block >= piece.last_block) return {-1, 0};
    const int token = piece.request, first_blocks = problem_.blocks(token, 0), list = block >= first_blocks;
    const int row = lane() < Config::kWarpBits || !Config::kPairs
                        ? warp_ * Config::kWarpBits + lane() % Config::kWarpBits
                        : first_row() + lane() % Config::kWarpRows;
    const int key = (block - (list ? first_blocks : 0)) * Config::kBlockN + row;
    if (key >= problem_.length(token, list)) return {-1, list};
    const int index = params_.lists[list].indices[int64_t(token) * params_.lists[list].topk + key];
    return {index <= problem_.grid.last_slots[list] ? index : -1, list};
  }

  // Where the key is, and its scales.
  __device__ __forceinline__ Keys find(const SparseDecodeList& list, int index) const {
    Keys keys = {};
    keys.lane = device::opaque(lane());
    keys.stage = device::opaque(stage_);
    if (index < 0) return keys;
    const int half = keys.lane / Config::kWarpRows % 2;
    const auto* cache = static_cast<const uint8_t*>(list.cache);
    if constexpr (kIsPlanar) {
      const int page = index / list.page_size, slot = index % list.page_size;
      cache += int64_t(page) * list.page_size * Format::kTokenBytes;
      keys.record = cache + int64_t(slot) * Format::kRecordBytes;
      const auto* scales = cache + int64_t(list.page_size) * Format::kRecordBytes + slot * Format::kScaleBytes;
      keys.scales = __ldg(reinterpret_cast<const Scales*>(scales) + half);
    } else {
      keys.record = cache + int64_t(index) * Format::kTokenBytes;
      keys.scales = __ldg(reinterpret_cast<const Scales*>(keys.record + Format::kScalesOffset) + half);
    }
    return keys;
  }

  __device__ __forceinline__ static const uint8_t* record_of(const Keys& keys, int lane) {
    return reinterpret_cast<const uint8_t*>(__shfl_sync(~0u, reinterpret_cast<uint64_t>(keys.record), lane));
  }

  // The row and the tile, of a step's, that a lane has codes of; it has a quarter of its columns, 16.
  __device__ __forceinline__ static int step_row(int lane) {
    return Config::kStepTiles == 2 ? lane / 4 % 2 + lane / 16 * 2 : lane / 4;
  }
  __device__ __forceinline__ static int step_tile(int lane) { return Config::kStepTiles == 2 ? lane / 8 % 2 : 0; }

  // Which scale group a step is of: those of the half of values that comes free first come first.
  __device__ __forceinline__ static int group_of(const Keys& keys, int step) {
    return (step + keys.stage * Config::kHalfSteps) % Config::kSteps;
  }

  // Starts fetching a vector of codes.
  __device__ __forceinline__ static uint4 fetch(const Keys& keys, int vector, bool aligned) {
    const int lane = device::opaque(keys.lane), group = group_of(keys, vector / Config::kStepVectors);
    const int row = vector % Config::kStepVectors * Config::kStepRows + step_row(lane);
    const uint8_t* record = record_of(keys, kFirstLane + row);
    if (!record) return make_uint4(0, 0, 0, 0);
    record += group * Format::kScaleGroup + step_tile(lane) * Config::kTileColumns + lane % 4 * 16;
    if (aligned) return __ldg(reinterpret_cast<const uint4*>(record));
    const auto* halves = reinterpret_cast<const uint2*>(record);
    const uint2 first = __ldg(halves), second = __ldg(halves + 1);
    return make_uint4(first.x, first.y, second.x, second.y);
  }

  // What the codes of a row and a scale group are to be multiplied by.
  __device__ __forceinline__ static auto factors(const Keys& keys, int row, int group) {
    constexpr int kHalfGroups = kIsPlanar ? 4 : 2;
    const int source = kFirstLane + row + group / kHalfGroups * Config::kWarpRows;
    if constexpr (kIsPlanar) {
      const uint32_t word = __shfl_sync(~0u, keys.scales, source);
      return device::power_of(word >> group % 4 * 8 & 0xFF);
    } else {
      const uint32_t word = __shfl_sync(~0u, group % 2 ? keys.scales.y : keys.scales.x, source);
      return device::factors_of(__uint_as_float(word));
    }
  }

  // Converts a vector of codes and stores it.
  __device__ __forceinline__ void store(const Keys& keys, int vector, const uint4& codes) {
    const int lane = device::opaque(keys.lane), group = group_of(keys, vector / Config::kStepVectors);
    const int row = step_row(lane), rows_below = vector % Config::kStepVectors * Config::kStepRows;
    const auto scale = factors(keys, row + rows_below, group);
    auto* tile =
        reinterpret_cast<uint8_t*>(shared_.k[keys.stage][group * Config::kStepTiles + step_tile(lane)].elements);
    const int place = device::swizzled_chunk(first_row() + row, lane % 4 * 2);
    const int offset = device::swizzled_rows_below(place, rows_below);
    // The second chunk is the neighbour of an even one.
    *reinterpret_cast<uint4*>(tile + offset) = device::dequantize(codes.x, codes.y, scale);
    *reinterpret_cast<uint4*>(tile + (offset ^ 16)) = device::dequantize(codes.z, codes.w, scale);
  }

  // This warp's rows of some tiles are there. A pair's go to the other thread block, whose same warp sends as many.
  template <bool SendsRows = true>
  __device__ __forceinline__ void complete(int first_tile, int tiles) {
    device::fence_async_proxy();
    __syncwarp();
    if (lane() != 0) return;
    for (int i = 0; i < tiles; ++i) {
      device::Barrier& full = shared_.full[stage_][first_tile + i];
      if constexpr (SendsRows && Config::kPairs) {
        const uint32_t other = 1 - device::opaque(device::cluster_rank());
        const auto* rows = reinterpret_cast<const uint8_t*>(shared_.k[stage_][first_tile + i].elements) +
                           first_row() * Config::kTileRowBytes;
        device::copy_to_block(device::address_in(other, rows), rows, Config::kWarpRowBytes,
                              device::address_in(other, &full));
        device::arrive_and_expect(full, Config::kWarpRowBytes);
      } else {
        device::arrive(full);
      }
    }
  }

  // Until both warpgroups, a pair's all four, have done with a half of this stage's values before a round.
  __device__ __forceinline__ void wait_for_half(int half, uint32_t round) {
    if constexpr (Config::kPairs) {
      device::wait_for_cluster(shared_.empty[stage_][half], (round + 1) % 2);
    } else {
      device::wait(shared_.empty[stage_][half], (round + 1) % 2);
    }
  }

  // Starts copying rotary dimensions: eight lanes a row.
  __device__ __forceinline__ void copy_rotary(const Keys& keys, bool aligned) {
    auto* tile = reinterpret_cast<uint8_t*>(shared_.k[stage_][Config::kRotaryTile].elements);
    const int row = keys.lane / 8, chunk = keys.lane % 8;
    const int place = device::swizzled_chunk(warp_ * Config::kWarpBits + row, chunk);
#pragma unroll
    for (int i = 0; i < Config::kWarpBits; i += 4) {
      const uint8_t* record = record_of(keys, i + row);
      const bool exists = record != nullptr;
      const auto* source =
          (exists ? record + Format::kRotaryOffset : static_cast<const uint8_t*>(params_.q)) + chunk * 16;
      auto* target = tile + device::swizzled_rows_below(place, i);
      if (aligned) {
        device::copy_16_bytes(target, source, exists);
      } else {
        device::copy_8_bytes(target, source, exists);
        device::copy_8_bytes(target + 8, source + 8, exists);
      }
    }
  }

  __device__ __forceinline__ void complete_rotary() {
    device::wait_for_copies();
    // Each of a pair has copied all of them: its weights will replace them before the other one might have read them.
    complete<false>(Config::kRotaryTile, 1);
  }

  // Those blocks of the piece that go to this warpgroup's stage.
  __device__ __forceinline__ void load_keys(uint32_t& round) {
    // Rotary dimensions are of the second half of values, or of none and go with the half that comes free last.
    const bool rotary_comes_first = Config::kRotaryTile < Config::kValueTiles && stage_ == 1;
    const int own_steps = stage_ == 0 ? Config::kHalfSteps : Config::kSteps - Config::kHalfSteps;
    int block = walk().piece.first_block + stage_;
    Index next = look_up(walk().piece, block);
#pragma unroll 1
    for (; block < walk().piece.last_block; block += Config::kStages, ++round) {
      const SparseDecodeList& list = params_.lists[next.list];
      // Planar pages of an odd number of tokens: every other one begins between two multiples of 16 bytes.
      const bool aligned = !kIsPlanar || list.page_size % 2 == 0;
      const uint32_t valid = __ballot_sync(~0u, next.index >= 0);
      const Keys keys = find(list, next.index);
      next = look_up(walk().piece, block + Config::kStages);
      uint4 codes[Config::kVectorsAhead];
#pragma unroll
      for (int i = 0; i < Config::kVectorsAhead; ++i) codes[i] = fetch(keys, i, aligned);

      wait_for_half(stage_, round);
      if (lane() == 0) reinterpret_cast<uint16_t*>(shared_.valid[stage_])[warp_] = uint16_t(valid);
      if (rotary_comes_first) copy_rotary(keys, aligned);
#pragma unroll
      for (int i = 0; i < Config::kVectors; ++i) {
        const int step = i / Config::kStepVectors;
        if (i % Config::kStepVectors == 0 && step == own_steps) {
          if (rotary_comes_first) complete_rotary();
          wait_for_half(1 - stage_, round);
          if (!rotary_comes_first) copy_rotary(keys, aligned);
        }
        uint4& here = codes[i % Config::kVectorsAhead];
        store(keys, i, here);
        if (i + Config::kVectorsAhead < Config::kVectors) here = fetch(keys, i + Config::kVectorsAhead, aligned);
        if (i % Config::kStepVectors == Config::kStepVectors - 1) {
          complete(group_of(keys, step) * Config::kStepTiles, Config::kStepTiles);
        }
      }
      if (!rotary_comes_first) complete_rotary();
    }
  }
};

}  // namespace jax_flash_mla::sparse_decode_sm90
