// Holds what the attention kernels for SM100 say of matrices to how CuTe describes the same: descriptors of products
// and of factors in shared memory, where copies put elements of these, and where scores, weights and outputs lie in
// tensor memory.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <cute/atom/copy_traits_sm100.hpp>
#include <cute/atom/mma_traits_sm100.hpp>
#include <cute/tensor.hpp>

#include "cuda/device/swizzle.cuh"
#include "cuda/device/umma.cuh"
#include "cuda/sm100/mha_forward/config.h"
#include "emulator/machine/tcgen05_descriptors.h"
#include "emulator/machine/testing.h"

namespace {

using namespace jax_flash_mla;
using cute::Int;
using cute::UMMA::Major;
using Config = mha_forward_sm100::Config<192>;
using Element = cute::bfloat16_t;
using emulator::SharedDescriptor;

constexpr int kDepth = device::kProductDepth;

// ---------------------------------------------------------------------------------------------------------------------
// Products

template <Major kMajorB>
void check_product(device::Contiguous b, const char* name) {
  using cute::UMMA::ScaleIn;
  const auto want = uint32_t(cute::UMMA::make_instr_desc<Element, Element, float, Config::kTileRows, Config::kBlock,
                                                         Major::K, kMajorB, ScaleIn::One, ScaleIn::One>());
  const uint32_t got = device::bf16_product(Config::kTileRows, Config::kBlock, b);
  CHECK(got == want, "%s: %08x, not %08x", name, got, want);
}

// ---------------------------------------------------------------------------------------------------------------------
// Factors in shared memory

// What CuTe says of a panel [kRows, kK]: the descriptor of each chunk of the sum, and where elements are.
template <Major kMajor, int kRows, int kK, typename Layout>
__global__ void describe(Layout layout, uint64_t* descriptors, uint32_t* addresses, uint32_t* first) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const auto panel = cute::make_tensor(cute::make_smem_ptr(reinterpret_cast<Element*>(memory)), layout);
  *first = cute::cast_smem_ptr_to_uint(memory);
  for (int chunk = 0; chunk < kK / kDepth; ++chunk) {
    const auto part =
        cute::local_tile(panel, cute::make_shape(Int<kRows>{}, Int<kDepth>{}), cute::make_coord(0, chunk));
    descriptors[chunk] = cute::UMMA::make_umma_desc<kMajor>(part).desc_;
  }
  for (int i = threadIdx.x; i < kRows * kK; i += blockDim.x) {
    addresses[i] = cute::cast_smem_ptr_to_uint(&panel(i / kK, i % kK));
  }
}

// `factor(first)`: ours of the panel; `place(row, k)`: the offset to which a copy brings an element.
template <Major kMajor, int kRows, int kK, typename Layout, typename Factor, typename Place>
void check_panel(Layout layout, int chunk_bytes, Factor factor, Place place, const char* name) {
  uint64_t* descriptors;
  uint32_t *addresses, *first;
  CHECK(cudaMallocManaged(&descriptors, kK / kDepth * sizeof(uint64_t)) == cudaSuccess);
  CHECK(cudaMallocManaged(&addresses, kRows * kK * sizeof(uint32_t)) == cudaSuccess);
  CHECK(cudaMallocManaged(&first, sizeof(uint32_t)) == cudaSuccess);
  describe<kMajor, kRows, kK><<<1, 32, Config::kPanelBytes>>>(layout, descriptors, addresses, first);
  CHECK(cudaDeviceSynchronize() == cudaSuccess, "%s", name);
  for (int i = 0; i < kRows * kK; ++i) {
    const uint32_t got = *first + place(i / kK, i % kK);
    CHECK(got == addresses[i], "%s: element %d, %d is at %u, not at %u", name, i / kK, i % kK, addresses[i], got);
  }
  // Along the sum, nobody looks at the leading offset of a swizzled matrix.
  const uint64_t seen = kMajor == Major::K ? ~(uint64_t{0xFFFF} << 16) : ~uint64_t{0};
  for (int chunk = 0; chunk < kK / kDepth; ++chunk) {
    const uint64_t got = factor(*first).at(chunk * chunk_bytes), want = descriptors[chunk];
    CHECK(((got ^ want) & seen) == 0, "%s, chunk %d: %016lx, not %016lx", name, chunk, got, want);
    const SharedDescriptor matrix = SharedDescriptor::of(got);
    for (int i = 0; i < kRows * kDepth; ++i) {
      const int row = i / kDepth, k = i % kDepth;
      const uint32_t at = matrix.layout.element(kMajor == Major::K, sizeof(Element), uint32_t(row), uint32_t(k));
      CHECK(at == addresses[row * kK + chunk * kDepth + k], "%s, chunk %d: element %d, %d", name, chunk, row, k);
    }
  }
  for (void* memory : {static_cast<void*>(descriptors), static_cast<void*>(addresses), static_cast<void*>(first)}) {
    CHECK(cudaFree(memory) == cudaSuccess);
  }
}

// Where a copy in the 128-byte swizzle brings an element of a box of 64 columns.
int in_box(int row, int column) { return device::swizzled_chunk(row, column / 8) + column % 8 * int(sizeof(Element)); }

void check_panels() {
  constexpr int kTokens = Config::kBlock, kColumns = Config::kPanelColumns;
  const auto keys = cute::tile_to_shape(cute::UMMA::Layout_K_SW128_Atom<Element>{},
                                        cute::make_shape(Int<kTokens>{}, Int<kColumns>{}));
  check_panel<Major::K, kTokens, kColumns>(
      keys, kDepth * int(sizeof(Element)), [](uint32_t first) { return device::factor_along_sum(first); }, in_box,
      "queries and keys");
  // Of values, columns are multiplied, and tokens summed over: those of a box follow each other.
  const auto values = cute::tile_to_shape(cute::UMMA::Layout_MN_SW128_Atom<Element>{},
                                          cute::make_shape(Int<Config::kDimV>{}, Int<Config::kValueTokens>{}),
                                          cute::Step<cute::_2, cute::_1>{});
  check_panel<Major::MN, Config::kDimV, Config::kValueTokens>(
      values, kDepth * Config::kPanelRowBytes,
      [](uint32_t first) { return device::factor_across_sum(first, Config::kValueBoxBytes); },
      [](int column, int token) {
        return column / kColumns * Config::kValueBoxBytes + in_box(token, column % kColumns);
      },
      "values");
}

// ---------------------------------------------------------------------------------------------------------------------
// Tensor memory: lanes are 2^21 bits apart, columns 32

// Row r in lane r; columns of `kBits` follow each other.
template <int kBits, typename Fragment, typename Shape>
void check_rows(Shape shape, int rows, int columns, const char* name) {
  const auto tensor = Fragment::make(cute::make_shape(shape, Int<1>{}, Int<1>{}));
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < columns; ++column) {
      const int64_t bit = int64_t(tensor.layout()(cute::make_coord(row, column), 0, 0)) * kBits;
      CHECK(bit == (int64_t{row} << 21) + column * kBits, "%s: row %d, column %d", name, row, column);
    }
  }
}

// Register r of lane l is column r of it.
template <typename Traits, typename Threads>
void check_registers(const char* name) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int column = 0; column < Config::kChunk; ++column) {
      const int64_t bit = typename Traits::ValID{}(Threads{}(lane, 32 * column));
      CHECK(bit == (int64_t{lane} << 21) + 32 * column, "%s: lane %d, column %d", name, lane, column);
    }
  }
}

void check_tensor_memory() {
  using namespace cute::SM100::TMEM;
  using Load = cute::Copy_Traits<LOAD::SM100_TMEM_LOAD_32dp32b32x>;
  using Store = cute::Copy_Traits<STORE::SM100_TMEM_STORE_32dp32b32x>;
  using Weights = cute::UMMA::tmem_frg_1sm<Element, Element, cute::UMMA::TmemAllocMode::NonInterleaved>;
  constexpr int kRows = Config::kTileRows, kBlock = Config::kBlock;
  check_rows<32, cute::UMMA::tmem_frg_1sm<float>>(cute::make_shape(Int<kRows>{}, Int<kBlock>{}), kRows, kBlock, "sums");
  check_rows<16, Weights>(cute::make_shape(Int<kRows>{}, Int<kDepth>{}), kRows, kDepth, "weights");
  check_registers<Load, Load::DstLayout>("loads");
  check_registers<Store, Store::SrcLayout>("stores");
}

}  // namespace

int main() {
  CHECK(setenv("JAX_FLASH_MLA_EMULATOR_CAPABILITY", "10.0", 1) == 0);
  check_product<Major::K>(device::Contiguous::kAlongSum, "scores");
  check_product<Major::MN>(device::Contiguous::kAcrossSum, "outputs");
  check_panels();
  check_tensor_memory();
  return emulator::verdict();
}
