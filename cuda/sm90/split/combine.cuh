// Joins the partial results of split items, once all thread blocks have left theirs.
//
// The warps of all thread blocks join units of eight rows by 32 columns. Where there are fewer units than warps, some warps
// of a thread block share one: each adds up some of the partial results, and one of them adds up the sums.
#pragma once

#include "cuda/device/barrier.cuh"
#include "cuda/device/math.cuh"
#include "cuda/sm90/split/schedule.cuh"
#include "cuda/sm90/split/work.h"

namespace jax_flash_mla::split_sm90 {

// An operation's `Problem` has besides
//   Element                          the type of results
//   const float* partial_out()       [kPartialTiles, 64, 512], as partial_vector has it
//   const float* partial_lse()       [kPartialTiles, 64], base 2
//   int rows(tile)
//   void put(request, tile, row, lse)                       the natural log-sum-exp of a row
//   Element* out(request, tile, row)                        where its 512 results go
//   float keys_share(request, tile, row, lse)               what they are multiplied by, where lse is not -inf

// Eight rows by 32 columns, in vectors of four floats: two for each lane, of some partial results at once.
inline constexpr int kUnitRows = 8, kUnitColumns = 32, kUnitVectors = 2, kPartialsAtOnce = 4;
static_assert(sizeof(SumsOfWarp) == (4 * kUnitVectors + 1) * 32 * sizeof(float));

template <typename Problem>
class Unit {
 public:
  static constexpr int kColumnUnits = kTileColumns / kUnitColumns;  // of a tile

  // Units of a split item, those of rows that its last tile does not have included.
  __device__ __forceinline__ static int count(const Layout& layout) {
    return layout.lanes * row_units(layout) * kColumnUnits;
  }

  __device__ __forceinline__ Unit(const Problem& problem, const Splits& splits, int number) : problem_(problem) {
    const Layout& layout = problem.layout();
    const int units = count(layout), of_item = number % units, of_lane = of_item % (row_units(layout) * kColumnUnits);
    split_ = splits.list[number / units];
    grid_lane_ = of_item / (row_units(layout) * kColumnUnits);
    row_unit_ = of_lane / kColumnUnits;
    column_unit_ = of_lane % kColumnUnits;
    rows_ = tile() < layout.tiles ? problem.rows(tile()) : 0;
  }

  __device__ __forceinline__ bool exists() const { return row_unit_ * kUnitRows < rows_; }

  // Adds up every share-th of the partial results from the member-th on.
  __device__ __forceinline__ void add_partials(int member, int share) {
    // Relative to the largest of all. A NaN passes the maximum by and makes the sum NaN.
    row_max_ = -device::kInfinity;
    for (int i = threadIdx.x % 4; i < partials(); i += 4) row_max_ = fmaxf(row_max_, partial_lse(i));
    row_max_ = device::max_over_quad(row_max_);
    if (row_max_ == -device::kInfinity) row_max_ = 0.0f;
    for (int first = member; first < partials(); first += share * kPartialsAtOnce) {
      float4 x[kPartialsAtOnce][kUnitVectors];
      float weights[kPartialsAtOnce];
#pragma unroll
      for (int j = 0; j < kPartialsAtOnce; ++j) {
        const int i = first + j * share;
        if (i >= partials()) continue;
        weights[j] = partial_lse(i);
#pragma unroll
        for (int v = 0; v < kUnitVectors; ++v) x[j][v] = partial_out(i, v);
      }
#pragma unroll
      for (int j = 0; j < kPartialsAtOnce; ++j) {
        if (first + j * share >= partials()) continue;
        const float weight = exp2f(weights[j] - row_max_);
        sum_ += weight;
#pragma unroll
        for (int v = 0; v < kUnitVectors; ++v) {
          out_[4 * v] += weight * x[j][v].x;
          out_[4 * v + 1] += weight * x[j][v].y;
          out_[4 * v + 2] += weight * x[j][v].z;
          out_[4 * v + 3] += weight * x[j][v].w;
        }
      }
    }
  }

  // What add_partials has summed up, to and from another warp's.
  __device__ __forceinline__ void leave(SumsOfWarp& sums) const {
#pragma unroll
    for (int i = 0; i < 4 * kUnitVectors; ++i) sums[i][threadIdx.x % 32] = out_[i];
    sums[4 * kUnitVectors][threadIdx.x % 32] = sum_;
  }

  __device__ __forceinline__ void add(const SumsOfWarp& sums) {
#pragma unroll
    for (int i = 0; i < 4 * kUnitVectors; ++i) out_[i] += sums[i][threadIdx.x % 32];
    sum_ += sums[4 * kUnitVectors][threadIdx.x % 32];
  }

  __device__ __forceinline__ void write() const {
    using Element = typename Problem::Element;
    const bool attends = sum_ != 0.0f, row_exists = row() < rows_;
    const int row = row_exists ? this->row() : 0;
    const float lse = attends ? (row_max_ + log2f(sum_)) * device::kLn2 : -device::kInfinity;
    const float factor = attends ? problem_.keys_share(split_.request, tile(), row, lse) / sum_ : 0.0f;
    uint32_t pairs[2 * kUnitVectors];
#pragma unroll
    for (int i = 0; i < 2 * kUnitVectors; ++i) {
      pairs[i] =
          device::pack<Element>(attends ? out_[2 * i] * factor : 0.0f, attends ? out_[2 * i + 1] * factor : 0.0f);
    }
    device::transpose_quad(pairs);
    if (!row_exists) return;
    if (column_unit_ == 0 && threadIdx.x % 4 == 0) problem_.put(split_.request, tile(), row, lse);
    Element* target = problem_.out(split_.request, tile(), row) + column_unit_ * kUnitColumns + threadIdx.x % 4 * 8;
    *reinterpret_cast<uint4*>(target) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  }

 private:
  const Problem& problem_;
  Split split_;
  int grid_lane_, row_unit_, column_unit_;
  int rows_;                    // of the tile
  float row_max_, sum_ = 0.0f;  // of this lane's row
  // Columns 2 · (lane % 4) and the next, then of eight columns on, and so on.
  float out_[4 * kUnitVectors] = {};

  __device__ __forceinline__ static int row_units(const Layout& layout) {
    return (layout.rows + kUnitRows - 1) / kUnitRows;
  }

  __device__ __forceinline__ int tile() const { return split_.strip * problem_.layout().lanes + grid_lane_; }
  __device__ __forceinline__ int partials() const { return split_.last_part - split_.first_part + 1; }
  __device__ __forceinline__ int row() const { return row_unit_ * kUnitRows + threadIdx.x % 32 / 4; }

  __device__ __forceinline__ int place_of(int i) const {
    return partial_tile((split_.first_part + i) * problem_.layout().lanes + grid_lane_, i == 0);
  }

  // Base 2. Rows that do not exist take the last one's.
  __device__ __forceinline__ float partial_lse(int i) const {
    return problem_.partial_lse()[place_of(i) * kTileRows + min(row(), rows_ - 1)];
  }

  __device__ __forceinline__ float4 partial_out(int i, int v) const {
    constexpr int kHalfUnits = kColumnUnits / 2;
    const int64_t index = partial_vector(place_of(i), column_unit_ / kHalfUnits, row_unit_ / 2, row_unit_ % 2,
                                         column_unit_ % kHalfUnits * kUnitVectors + v, threadIdx.x % 32);
    return row() < rows_ ? reinterpret_cast<const float4*>(problem_.partial_out())[index] : float4{};
  }
};

// Called by all threads of `kWarps` warps, which no others join at the named barrier, when all thread blocks have left their
// results.
template <int kWarps, typename Problem>
__device__ __forceinline__ void combine(const Problem& problem, const Splits& splits, SumsOfWarp* sums_of_warps,
                                        int barrier) {
  const int units = splits.count * Unit<Problem>::count(problem.layout());
  int share = 1;
  while (share < kWarps && units * 2 * share <= int(gridDim.x) * kWarps) share *= 2;
  const int teams = kWarps / share;  // of warps, of a thread block
  const int warp = threadIdx.x / 32, team = warp / share, member = warp % share;
  // Over the multiprocessors first.
  for (int first = 0; first < units; first += gridDim.x * teams) {
    const int number = first + team * gridDim.x + blockIdx.x;
    const bool is_one = number < units;
    Unit<Problem> unit(problem, splits, is_one ? number : 0);
    const bool exists = is_one && unit.exists();
    if (exists) unit.add_partials(member, share);
    if (share > 1) {
      if (exists && member > 0) unit.leave(sums_of_warps[warp]);
      device::named_sync(barrier, kWarps * 32);
      for (int i = 1; exists && member == 0 && i < share; ++i) unit.add(sums_of_warps[warp + i]);
      device::named_sync(barrier, kWarps * 32);
    }
    if (exists && member == 0) unit.write();
  }
}

}  // namespace jax_flash_mla::split_sm90
