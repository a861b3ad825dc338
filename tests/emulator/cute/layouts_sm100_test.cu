// Holds the emulator's layouts of tcgen05 to how CuTe describes them: which cell of tensor memory a register is, an
// element of an accumulator or of a factor, a row that is copied from shared memory; where a descriptor finds elements
// of shared memory; what the descriptor of a product says.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <cute/atom/copy_traits_sm100.hpp>
#include <cute/atom/mma_traits_sm100.hpp>
#include <cute/tensor.hpp>
#include <vector>

#include "emulator/machine/tcgen05_descriptors.h"
#include "emulator/machine/tensor_fragments.h"
#include "emulator/machine/testing.h"

namespace {

using namespace emulator;
using cute::Int;
using cute::size;

// An address of a bit, as CuTe counts them: lanes are 2^21 bits apart.
TensorPlace place_of_bit(int64_t bit) { return {uint32_t(bit >> 21), uint32_t(bit & ((1 << 21) - 1)) / 32}; }

bool equal(TensorPlace a, TensorPlace b) { return a.lane == b.lane && a.column == b.column; }

// ---------------------------------------------------------------------------------------------------------------------
// ld, st

int fragments = 0;

// `Threads`: which bit of the tile a bit of a lane is.
template <typename Traits, typename Threads>
void check_fragment(FragmentShape shape, int times, bool is_packed, const char* name) {
  // The immediate that CuTe gives the instruction.
  const int offset = shape == FragmentShape::k16x32bx2 ? times * (is_packed ? 2 : 1) : 0;
  const TensorFragment fragment{shape, times * registers_of(shape), is_packed, offset};
  CHECK(size<1>(Threads{}) == fragment.registers * 32, "%s: another number of registers", name);
  for (int lane = 0; lane < 32; ++lane) {
    for (int reg = 0; reg < fragment.registers; ++reg) {
      for (int half = 0; half < 2; ++half) {
        const int64_t bit = typename Traits::ValID{}(Threads{}(lane, 32 * reg + 16 * half));
        TensorPlace want = fragment.place(uint32_t(lane), uint32_t(reg));
        if (is_packed) want.column += uint32_t(half);
        CHECK(equal(place_of_bit(bit), want), "%s: lane %d, register %d", name, lane, reg);
        CHECK(bit % 32 == (is_packed ? 0 : 16 * half), "%s: lane %d, register %d begins elsewhere", name, lane, reg);
      }
    }
  }
  ++fragments;
}

#define CHECK_FORM(op, shape, times, packed)                                                    \
  do {                                                                                          \
    using Load = cute::Copy_Traits<cute::SM100::TMEM::LOAD::SM100_TMEM_LOAD_##op>;              \
    using Store = cute::Copy_Traits<cute::SM100::TMEM::STORE::SM100_TMEM_STORE_##op>;           \
    check_fragment<Load, Load::DstLayout>(FragmentShape::shape, times, packed, "load " #op);    \
    check_fragment<Store, Store::SrcLayout>(FragmentShape::shape, times, packed, "store " #op); \
  } while (false)
#define CHECK_TIMES(op, shape, times)            \
  CHECK_FORM(op##times##x, shape, times, false); \
  CHECK_FORM(op##times##x_16b, shape, times, true)
#define CHECK_TO_32(op, shape) \
  CHECK_TIMES(op, shape, 1);   \
  CHECK_TIMES(op, shape, 2);   \
  CHECK_TIMES(op, shape, 4);   \
  CHECK_TIMES(op, shape, 8);   \
  CHECK_TIMES(op, shape, 16);  \
  CHECK_TIMES(op, shape, 32)
#define CHECK_TO_64(op, shape) \
  CHECK_TO_32(op, shape);      \
  CHECK_TIMES(op, shape, 64)
#define CHECK_TO_128(op, shape) \
  CHECK_TO_64(op, shape);       \
  CHECK_TIMES(op, shape, 128)

void check_fragments() {
  CHECK_TO_32(16dp256b, k16x256b);
  CHECK_TO_64(16dp128b, k16x128b);
  CHECK_TO_128(16dp64b, k16x64b);
  CHECK_TO_128(16dp32b, k16x32bx2);
  CHECK_TO_128(32dp32b, k32x32b);
  CHECK(fragments == 2 * 2 * (6 + 7 + 8 + 8 + 8), "%d forms", fragments);
}

// ---------------------------------------------------------------------------------------------------------------------
// cp

// Bits of the source go with bits of the tile, which are in tensor memory where ValID says.
template <typename Traits>
void check_fill(const FillShape& fill, const char* name) {
  const typename Traits::SrcLayout source;
  const typename Traits::ValID place;
  const int row_bits = int(fill.chunks) * 128;
  if (fill.rows == 4) {
    // Described as a tile of 128 rows of which four are copied.
    for (int row = 0; row < 4; ++row) {
      for (int bit = 0; bit < row_bits; bit += 32) {
        const TensorPlace want{fill.lane(uint32_t(row), 0), uint32_t(bit) / 32};
        CHECK(equal(place_of_bit(place(source(0, row + 4 * bit))), want), "%s: row %d", name, row);
      }
    }
    return;
  }
  CHECK(size<1>(source) == int(fill.rows * fill.copies) * row_bits, "%s: another size", name);
  for (int tile_bit = 0; tile_bit < size<1>(source); ++tile_bit) {
    // Of the source, rows come first.
    const int from = source(0, tile_bit);
    int row = from % int(fill.rows), bit = from / int(fill.rows);
    if (fill.multicast == "warpx2::01_23") {  // rows 32 to 63 are behind the others
      row = from % 32 + from / 4096 * 32;
      bit = from / 32 % 128;
    }
    const TensorPlace got = place_of_bit(place(tile_bit));
    bool is_there = false;
    for (uint32_t copy = 0; copy < fill.copies; ++copy) {
      is_there |= equal(got, {fill.lane(uint32_t(row), copy), uint32_t(bit) / 32});
    }
    CHECK(is_there, "%s: row %d, bit %d is in lane %u, column %u", name, row, bit, got.lane, got.column);
  }
}

template <typename One, typename Two>
void check_fill_of(const char* shape, const char* multicast) {
  for (const FillShape& fill : kFills) {
    if (fill.name != shape || fill.multicast != multicast) continue;
    check_fill<cute::Copy_Traits<One>>(fill, shape);
    static_assert(std::is_same_v<typename cute::Copy_Traits<One>::ValID, typename cute::Copy_Traits<Two>::ValID>);
    return;
  }
  CHECK(false, "there is no %s", shape);
}

void check_fills() {
  using namespace cute::SM100::TMEM::UTCCP;
  check_fill_of<SM100_UTCCP_128dp256bit_1cta, SM100_UTCCP_128dp256bit_2cta>("128x256b", "");
  check_fill_of<SM100_UTCCP_128dp128bit_1cta, SM100_UTCCP_128dp128bit_2cta>("128x128b", "");
  check_fill_of<SM100_UTCCP_4dp256bit_1cta, SM100_UTCCP_4dp256bit_2cta>("4x256b", "");
  check_fill_of<SM100_UTCCP_4x32dp128bit_1cta, SM100_UTCCP_4x32dp128bit_2cta>("32x128b", "warpx4");
  check_fill_of<SM100_UTCCP_2x64dp128bitlw0213_1cta, SM100_UTCCP_2x64dp128bitlw0213_2cta>("64x128b", "warpx2::02_13");
  check_fill_of<SM100_UTCCP_2x64dp128bitlw0123_1cta, SM100_UTCCP_2x64dp128bitlw0123_2cta>("64x128b", "warpx2::01_23");
}

// ---------------------------------------------------------------------------------------------------------------------
// Accumulators and factors in tensor memory

// `Fragment` makes the tensor of one instruction's [rows, columns]; elements are so many in a column.
template <typename Fragment, int kRows, int kColumns>
void check_accumulator(const AccumulatorLayout& layout, int per_column, const char* name) {
  const auto tensor =
      Fragment::make(cute::make_shape(cute::make_shape(Int<kRows>{}, Int<kColumns>{}), Int<1>{}, Int<1>{}));
  const auto cells = tensor.layout();
  constexpr int kBits = cute::sizeof_bits_v<typename decltype(tensor)::value_type>;
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      const TensorPlace got = place_of_bit(int64_t(cells(cute::make_coord(row, column), 0, 0)) * kBits);
      const TensorPlace want = layout.place(uint32_t(row), uint32_t(column / per_column));
      CHECK(equal(got, want), "%s of %d x %d: element %d, %d is in lane %u, column %u", name, kRows, kColumns, row,
            column, got.lane, got.column);
    }
  }
}

template <int kN>
void check_widths() {
  using namespace cute::UMMA;
  using Half = cute::half_t;
  check_accumulator<tmem_frg_1sm<float>, 64, kN>(AccumulatorLayout::of(64, kN, false, false), 1, "D");
  check_accumulator<tmem_frg_1sm<float>, 128, kN>(AccumulatorLayout::of(128, kN, false, false), 1, "D");
  check_accumulator<tmem_frg_1sm<Half, int32_t>, 64, kN>(AccumulatorLayout::of(64, kN, false, false), 1, "D of halves");
  check_accumulator<tmem_frg_1sm<Half, int32_t>, 128, kN>(AccumulatorLayout::of(128, kN, false, false), 1,
                                                          "D of halves");
  check_accumulator<tmem_frg_2sm<float>, 64, kN>(AccumulatorLayout::of(64, kN, false, true), 1, "D of a pair");
  check_accumulator<tmem_frg_2sm<float>, 128, kN>(AccumulatorLayout::of(128, kN, false, false), 1, "D of a pair");
}

template <int kN>
void check_ws_widths() {
  using namespace cute::UMMA;
  check_accumulator<tmem_frg_ws_1sm<float>, 32, kN>(AccumulatorLayout::of(32, kN, true, false), 1, "D of .ws");
  check_accumulator<tmem_frg_ws_1sm<float>, 64, kN>(AccumulatorLayout::of(64, kN, true, false), 1, "D of .ws");
  check_accumulator<tmem_frg_ws_1sm<float>, 128, kN>(AccumulatorLayout::of(128, kN, true, false), 1, "D of .ws");
}

void check_accumulators() {
  using namespace cute::UMMA;
  using Half = cute::half_t;
  check_widths<16>();
  check_widths<48>();
  check_widths<256>();
  check_ws_widths<64>();
  check_ws_widths<128>();
  check_ws_widths<256>();
  // A lies in the lanes of its rows of D, and of a pair's 128 rows in those of either half.
  constexpr auto kApart = TmemAllocMode::NonInterleaved;
  check_accumulator<tmem_frg_1sm<Half, Half, kApart>, 64, 16>(AccumulatorLayout::of(64, 8, false, false), 2, "A");
  check_accumulator<tmem_frg_1sm<Half, Half, kApart>, 128, 16>(AccumulatorLayout::of(128, 8, false, false), 2, "A");
  check_accumulator<tmem_frg_2sm<Half, Half, TmemAllocMode::Duplicated>, 128, 16>(
      AccumulatorLayout::of(128, 8, false, false), 2, "A of a pair");
}

// ---------------------------------------------------------------------------------------------------------------------
// Descriptors of shared memory

// For each tile of 32 bytes along K: the descriptor, and the addresses of all elements.
template <typename T, cute::UMMA::Major kMajor, typename Layout, int kRows, int kTileK>
__global__ void describe(Layout layout, uint64_t* descriptors, uint32_t* addresses) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const auto matrix = cute::make_tensor(cute::make_smem_ptr(reinterpret_cast<T*>(memory)), layout);
  const int tiles = size<1>(matrix) / kTileK;
  for (int tile = threadIdx.x; tile < tiles; tile += blockDim.x) {
    const auto part =
        cute::local_tile(matrix, cute::make_shape(Int<kRows>{}, Int<kTileK>{}), cute::make_coord(0, tile));
    descriptors[tile] = cute::UMMA::make_umma_desc<kMajor>(part).desc_;
    for (int i = 0; i < kRows * kTileK; ++i) {
      addresses[tile * kRows * kTileK + i] = cute::cast_smem_ptr_to_uint(&part(i / kTileK, i % kTileK));
    }
  }
}

int matrices = 0;

template <typename T, cute::UMMA::Major kMajor, template <typename> class Atom, int kRows>
void check_matrix(const char* name) {
  constexpr int kTileK = 32 / int(sizeof(T)), kTiles = 4, kK = kTileK * kTiles, kElements = kRows * kK;
  const auto layout = cute::tile_to_shape(Atom<T>{}, cute::make_shape(Int<kRows>{}, Int<kK>{}));
  uint64_t* descriptors;
  uint32_t* addresses;
  CHECK(cudaMallocManaged(&descriptors, kTiles * sizeof(uint64_t)) == cudaSuccess);
  CHECK(cudaMallocManaged(&addresses, kElements * sizeof(uint32_t)) == cudaSuccess);
  auto* const kernel = describe<T, kMajor, std::remove_const_t<decltype(layout)>, kRows, kTileK>;
  constexpr int kBytes = kElements * int(sizeof(T));
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes) == cudaSuccess);
  kernel<<<1, 32, kBytes>>>(layout, descriptors, addresses);
  CHECK(cudaDeviceSynchronize() == cudaSuccess, "%s", name);
  for (int tile = 0; tile < kTiles; ++tile) {
    const SharedDescriptor matrix = SharedDescriptor::of(descriptors[tile]);
    for (int row = 0; row < kRows; ++row) {
      for (int k = 0; k < kTileK; ++k) {
        const uint32_t want = addresses[(tile * kRows + row) * kTileK + k];
        const bool k_major = kMajor == cute::UMMA::Major::K;
        const uint32_t got = matrix.layout.element(k_major, sizeof(T), uint32_t(row), uint32_t(k));
        CHECK(got == want, "%s, tile %d: element %d, %d is at %u, not at %u", name, tile, row, k, want, got);
      }
    }
  }
  CHECK(cudaFree(descriptors) == cudaSuccess);
  CHECK(cudaFree(addresses) == cudaSuccess);
  ++matrices;
}

template <typename T>
void check_matrices(const char* name) {
  using namespace cute::UMMA;
  check_matrix<T, Major::K, Layout_K_INTER_Atom, 64>(name);
  check_matrix<T, Major::K, Layout_K_SW32_Atom, 128>(name);
  check_matrix<T, Major::K, Layout_K_SW64_Atom, 64>(name);
  check_matrix<T, Major::K, Layout_K_SW128_Atom, 256>(name);
  check_matrix<T, Major::MN, Layout_MN_INTER_Atom, 64>(name);
  check_matrix<T, Major::MN, Layout_MN_SW32_Atom, 128>(name);
  check_matrix<T, Major::MN, Layout_MN_SW64_Atom, 64>(name);
  check_matrix<T, Major::MN, Layout_MN_SW128_Atom, 256>(name);
}

// ---------------------------------------------------------------------------------------------------------------------
// Descriptors of products

template <typename A, typename B, typename C, int kM, int kN, cute::UMMA::Major kMajorA, cute::UMMA::Major kMajorB,
          cute::UMMA::ScaleIn kSignA, cute::UMMA::ScaleIn kSignB>
void check_product(ProductKind kind, int ctas, Element a, Element b, const char* name) {
  using namespace cute::UMMA;
  const auto bits = uint32_t(make_instr_desc<A, B, C, kM, kN, kMajorA, kMajorB, kSignA, kSignB>());
  const ProductDescriptor got = ProductDescriptor::of(bits, kind, ctas, false);
  CHECK(got.a == a && got.b == b && got.to_half == (sizeof(C) == 2), "%s", name);
  CHECK(got.m == kM && got.n == kN, "%s: %u x %u", name, got.m, got.n);
  CHECK(got.a_is_mn_major == (kMajorA == Major::MN) && got.b_is_mn_major == (kMajorB == Major::MN), "%s", name);
  CHECK(got.negates_a == (kSignA == ScaleIn::Neg) && got.negates_b == (kSignB == ScaleIn::Neg), "%s", name);
}

void check_products() {
  using cute::UMMA::Major;
  using cute::UMMA::ScaleIn;
  constexpr auto kOne = ScaleIn::One, kNeg = ScaleIn::Neg;
  using Half = cute::half_t;
  using Bfloat = cute::bfloat16_t;
  using E4M3 = cute::float_e4m3_t;
  using E5M2 = cute::float_e5m2_t;
  check_product<Half, Half, float, 128, 256, Major::K, Major::MN, kOne, kNeg>(ProductKind::kF16, 1, Element::kF16,
                                                                              Element::kF16, "f16");
  check_product<Half, Half, Half, 64, 8, Major::MN, Major::K, kNeg, kOne>(ProductKind::kF16, 1, Element::kF16,
                                                                          Element::kF16, "f16 to f16");
  check_product<Bfloat, Bfloat, float, 256, 112, Major::K, Major::K, kOne, kOne>(ProductKind::kF16, 2, Element::kBF16,
                                                                                 Element::kBF16, "bf16");
  check_product<cute::tfloat32_t, cute::tfloat32_t, float, 128, 64, Major::MN, Major::MN, kNeg, kNeg>(
      ProductKind::kTF32, 2, Element::kTF32, Element::kTF32, "tf32");
  check_product<E4M3, E5M2, float, 128, 64, Major::K, Major::K, kOne, kOne>(ProductKind::kF8F6F4, 1, Element::kE4M3,
                                                                            Element::kE5M2, "fp8");
  check_product<cute::detail::float_e2m1_unpacksmem_t, cute::detail::float_e3m2_unpacksmem_t, Half, 128, 64, Major::K,
                Major::K, kOne, kOne>(ProductKind::kF8F6F4, 1, Element::kE2M1, Element::kE3M2, "fp4 and fp6");
  check_product<cute::detail::float_e2m3_unpacksmem_t, E4M3, float, 128, 64, Major::K, Major::K, kOne, kOne>(
      ProductKind::kF8F6F4, 1, Element::kE2M3, Element::kE4M3, "fp6 and fp8");
}

}  // namespace

int main() {
  CHECK(setenv("JAX_FLASH_MLA_EMULATOR_CAPABILITY", "10.0", 1) == 0);
  check_fragments();
  check_fills();
  check_accumulators();
  check_matrices<cute::half_t>("16 bits");
  check_matrices<cute::float_e4m3_t>("8 bits");
  check_matrices<cute::tfloat32_t>("32 bits");
  check_matrix<cute::tfloat32_t, cute::UMMA::Major::MN, cute::UMMA::Layout_MN_SW128_32B_Atom, 128>("pairs of chunks");
  CHECK(matrices == 25, "%d matrices", matrices);
  check_products();
  return verdict();
}
