// tcgen05.mma: products of matrices in shared or tensor memory, whose sums stay in tensor memory.
//
// They are done as asynchronous copies are, in the order in which they were issued: when the turn of the issuer's CTA
// ends, or when somebody waits for its copies. Who does not wait for a tcgen05.commit reads what was there before.
//
// No public source tells the bits that SM100 sums up to. Here a sum of products and accumulator is exact and rounded
// once, to the nearest, ties to even; NaNs are 0x7FFFFFFF, and 0x7FFF of halves.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "emulator/machine/copies.h"
#include "emulator/machine/exact_sums.h"
#include "emulator/machine/numerics.h"
#include "emulator/machine/tcgen05.h"
#include "emulator/machine/tcgen05_descriptors.h"
#include "emulator/machine/tensor_fragments.h"

namespace emulator {
namespace {

[[noreturn]] void illegal(const std::string& message) { throw Fault(FaultCode::kIllegalInstruction, message); }

constexpr int kBytesOfK = 32;  // whatever the element
constexpr int kMostK = kBytesOfK;
constexpr uint32_t kColumnsOfK = kBytesOfK / 4;

// What the lowering leaves in `modes`.
struct Form {
  int32_t group;
  ProductKind kind;
  bool is_ws, a_in_tensor_memory;
  int32_t masks;  // registers of lanes that are left as they are
  int32_t scale;  // the accumulator is multiplied by two to the minus this

  void put(std::array<int32_t, 6>& modes) const {
    modes = {group, int32_t(kind), is_ws | a_in_tensor_memory << 1, masks, scale};
  }
  static Form of(const std::array<int32_t, 6>& modes) {
    return {modes[0], ProductKind(modes[1]), bool(modes[2] & 1), bool(modes[2] & 2), modes[3], modes[4]};
  }
};

// A product as one thread asks for it.
struct Product {
  Form form;
  ProductDescriptor descriptor;
  TensorPlace d, a_place;               // the latter where A is in tensor memory
  SharedDescriptor a_matrix, b_matrix;  // the former where it is in shared memory
  uint32_t masks[8];
  bool adds;

  int k() const { return kBytesOfK / bytes_of(descriptor.a); }
  uint32_t rows_of_cta() const { return descriptor.m / uint32_t(form.group); }
  AccumulatorLayout layout() const {
    return AccumulatorLayout::of(rows_of_cta(), descriptor.n, form.is_ws, form.group == 2 && rows_of_cta() < 128);
  }
  bool leaves(int cta, uint32_t lane) const {
    const uint32_t bit = uint32_t(cta) * kTensorLanes + lane;
    return form.masks && (masks[bit / 32] >> bit % 32 & 1);
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// Factors

// All elements of a factor in a CTA's shared memory, negated or not: put(row of A or column of B, k, value) takes them.
template <typename Put>
void read_shared(Cta& cta, const SharedDescriptor& matrix, Element element, bool is_mn_major, bool is_negated,
                 uint32_t rows, Put&& put) {
  const uint32_t per_chunk = 16 / uint32_t(bytes_of(element)), k = kBytesOfK / uint32_t(bytes_of(element));
  const uint64_t rank = uint64_t(cta.rank()) << kRankShift;
  const uint32_t lines = is_mn_major ? k : rows, chunks = (is_mn_major ? rows : k) / per_chunk;
  for (uint32_t line = 0; line < lines; ++line) {
    for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
      const uint64_t address = rank | matrix.layout.chunk(!is_mn_major, line, chunk);
      float values[kMostPerChunk];
      decode(element, cta.cluster().shared(address, 16, Access::kRead, 16), values);
      for (uint32_t i = 0; i < per_chunk; ++i) {
        const double value = is_negated ? -values[i] : values[i];
        is_mn_major ? put(chunk * per_chunk + i, line, value) : put(line, chunk * per_chunk + i, value);
      }
    }
  }
}

// The row of A that a lane of tensor memory holds.
void read_lane(Cta& cta, const Product& product, uint32_t lane, double (&row)[kMostK]) {
  const Element element = product.descriptor.a;
  const int per_chunk = 16 / bytes_of(element);
  touch_columns(cta, product.a_place.lane + lane, product.a_place.column, kColumnsOfK, Access::kRead);
  for (int chunk = 0; chunk < kBytesOfK / 16; ++chunk) {
    uint32_t cells[4];
    for (uint32_t i = 0; i < 4; ++i) {
      cells[i] = cta.tensor_memory.read(product.a_place.lane + lane, product.a_place.column + uint32_t(chunk) * 4 + i,
                                        kBothHalves);
    }
    float values[kMostPerChunk];
    decode(element, cells, values);
    for (int i = 0; i < per_chunk; ++i) {
      row[chunk * per_chunk + i] = product.descriptor.negates_a ? -values[i] : values[i];
    }
  }
}

// B[k][n], of which each CTA has its part of the columns.
std::vector<double> read_b(Cta& cta, const Product& product) {
  const uint32_t n = product.descriptor.n, part = n / uint32_t(product.form.group);
  std::vector<double> b(size_t(product.k()) * n);
  for_group(cta, product.form.group, [&](Cta& one, int index) {
    read_shared(one, product.b_matrix, product.descriptor.b, product.descriptor.b_is_mn_major,
                product.descriptor.negates_b, part,
                [&](uint32_t column, uint32_t k, double value) { b[size_t(k) * n + index * part + column] = value; });
  });
  return b;
}

// ---------------------------------------------------------------------------------------------------------------------
// Execution

double read_accumulator(Cta& cta, bool is_half, uint32_t lane, uint32_t column) {
  if (is_half) return to_double(Half{uint16_t(cta.tensor_memory.read(lane, column, kLowHalf))});
  return std::bit_cast<float>(cta.tensor_memory.read(lane, column, kBothHalves));
}

void write_accumulator(Cta& cta, bool is_half, uint32_t lane, uint32_t column, double sum) {
  if (is_half) {
    cta.tensor_memory.write(lane, column, to_half(sum).bits, kLowHalf);
  } else {
    cta.tensor_memory.write(lane, column, std::bit_cast<uint32_t>(canonical(float(sum))), kBothHalves);
  }
}

// What one CTA of the group holds of D. `index`: which of the group it is.
void multiply(Cta& cta, int index, const Product& product, const std::vector<double>& b) {
  const AccumulatorLayout layout = product.layout();
  const bool to_half = product.descriptor.to_half;
  const int k = product.k();
  cta.tensor_memory.check_columns(product.d.column, layout.columns_in_lane());
  std::vector<double> a;
  if (product.form.a_in_tensor_memory) {
    cta.tensor_memory.check_columns(product.a_place.column, kColumnsOfK);
  } else {
    a.resize(size_t(layout.rows) * kMostK);
    read_shared(cta, product.a_matrix, product.descriptor.a, product.descriptor.a_is_mn_major,
                product.descriptor.negates_a, layout.rows,
                [&](uint32_t row, uint32_t at, double value) { a[size_t(row) * kMostK + at] = value; });
  }
  // The accumulator may lie where A does: all of A is read before.
  std::vector<std::array<double, kMostK>> lanes;
  for (uint32_t segment = 0; segment < layout.segments; ++segment) {
    for (uint32_t row = 0; row < layout.rows; ++row) {
      double values[kMostK];
      if (product.form.a_in_tensor_memory) {
        read_lane(cta, product, layout.lane(row, segment), values);
      } else {
        std::copy_n(&a[size_t(row) * kMostK], k, values);
      }
      std::copy_n(values, k, lanes.emplace_back().data());
    }
  }
  const double scale = std::ldexp(1.0, -product.form.scale);
  for (uint32_t i = 0; i < layout.segments * layout.rows; ++i) {
    const uint32_t segment = i / layout.rows, lane = product.d.lane + layout.lane(i % layout.rows, segment);
    if (product.leaves(index, lane)) continue;
    touch_columns(cta, lane, product.d.column, layout.columns_in_lane(),
                  product.adds ? Access::kAtomic : Access::kWrite);
    for (uint32_t first = 0; first < layout.columns_in_lane(); first += kSumsAtOnce) {
      double sums[kSumsAtOnce] = {};
      for (uint32_t j = 0; product.adds && j < kSumsAtOnce; ++j) {
        sums[j] = read_accumulator(cta, to_half, lane, product.d.column + first + j) * scale;
      }
      add_products(lanes[i].data(), &b[segment * layout.columns_in_lane() + first], product.descriptor.n, k, sums);
      for (uint32_t j = 0; j < kSumsAtOnce; ++j) {
        write_accumulator(cta, to_half, lane, product.d.column + first + j, sums[j]);
      }
    }
  }
}

void check_places(const Product& product) {
  const bool is_spread = product.layout().is_spread;
  const auto check = [&](TensorPlace place, const char* what) {
    if (place.lane == 0 || (is_spread && place.lane == 16)) return;
    illegal(std::string(what) + " of this shape begins in lane 0" + (is_spread ? " or 16" : "") +
            " of tensor memory, not in lane " + std::to_string(place.lane) + ".");
  };
  check(product.d, "An accumulator");
  if (!product.form.a_in_tensor_memory) return;
  check(product.a_place, "A factor");
  if (product.a_place.lane != product.d.lane) {
    illegal("A factor and the accumulator lie in different lanes of tensor memory: " +
            std::to_string(product.a_place.lane) + " and " + std::to_string(product.d.lane) + " on.");
  }
  if (product.descriptor.a_is_mn_major) illegal("A factor in tensor memory is said to be contiguous along M.");
  if (is_narrow(product.descriptor.a)) {
    throw Fault(FaultCode::kUnknownInstruction, "The emulator does not know factors of 6 and 4 bits in tensor memory.");
  }
}

void check_matrix(const SharedDescriptor& matrix, Element element, bool is_mn_major) {
  if (!is_mn_major) return matrix.need_k_major();
  if (bytes_of(element) == 4 && !matrix.layout.swaps_pairs) {
    throw Fault(
        FaultCode::kUnknownInstruction,
        "The emulator knows matrices of tf32 that are contiguous along M or N only if they are swizzled in chunks of "
        "32 bytes.");
  }
}

// Operands: D, A, B, descriptor, whether D is added, masks.
Step multiply_matrices(Warp& warp, const Instruction& instruction, Mask mask) {
  Cta& cta = warp.cta();
  const Form form = Form::of(instruction.modes);
  check_group(cta, form.group);
  const Mask adds = warp.predicate(instruction.operands[4]);
  for_lanes(mask, [&](int lane) {
    Product product = {};
    product.form = form;
    product.descriptor =
        ProductDescriptor::of(warp.get<uint32_t>(instruction.operands[3], lane), form.kind, form.group, form.is_ws);
    product.d = TensorPlace::of(uint32_t(warp.address(instruction.operands[0], lane)));
    product.b_matrix = SharedDescriptor::of(warp.get<uint64_t>(instruction.operands[2], lane));
    check_matrix(product.b_matrix, product.descriptor.b, product.descriptor.b_is_mn_major);
    if (form.a_in_tensor_memory) {
      product.a_place = TensorPlace::of(uint32_t(warp.address(instruction.operands[1], lane)));
    } else {
      product.a_matrix = SharedDescriptor::of(warp.get<uint64_t>(instruction.operands[1], lane));
      check_matrix(product.a_matrix, product.descriptor.a, product.descriptor.a_is_mn_major);
    }
    check_places(product);
    product.adds = adds >> lane & 1;
    for (int i = 0; i < form.masks; ++i) product.masks[i] = warp.get<uint32_t>(instruction.operands[5 + i], lane);
    cta.issue(Mask{1} << lane, Completion::kTensor, [&cta, product] {
      const std::vector<double> b = read_b(cta, product);
      for_group(cta, product.form.group, [&](Cta& one, int index) { multiply(one, index, product, b); });
    });
  });
  return Step::kNext;
}

// ---------------------------------------------------------------------------------------------------------------------
// Lowering

// Which matrix is kept by the tensor core for the next product: nothing that a result depends on.
void take_collector(Lowering& l, bool is_ws) {
  if (is_ws) {
    l.take_one_of({"collector::b0::fill", "collector::b0::use", "collector::b0::lastuse", "collector::b0::discard",
                   "collector::b1::fill", "collector::b1::use", "collector::b1::lastuse", "collector::b1::discard",
                   "collector::b2::fill", "collector::b2::use", "collector::b2::lastuse", "collector::b2::discard",
                   "collector::b3::fill", "collector::b3::use", "collector::b3::lastuse", "collector::b3::discard"});
  } else {
    l.take_one_of({"collector::a::fill", "collector::a::use", "collector::a::lastuse", "collector::a::discard"});
  }
}

}  // namespace

void lower_tensor_product(Lowering& l) {
  Form form = {};
  form.is_ws = l.take("ws");
  form.group = take_group(l);
  if (form.is_ws && form.group != 1) l.unknown("there is no .ws of two CTAs");
  const std::string_view kind = l.need_one_of({"kind::f16", "kind::tf32", "kind::f8f6f4"});
  form.kind = kind == "kind::f16"    ? ProductKind::kF16
              : kind == "kind::tf32" ? ProductKind::kTF32
                                     : ProductKind::kF8F6F4;
  take_collector(l, form.is_ws);

  // [d], a or [a], b, descriptor, {lanes}, whether to add [, scale]; of .ws no lanes, and no scale but a mask of columns.
  if (l.count() < 5) l.unknown("operands are missing");
  form.a_in_tensor_memory = l.operand(1).kind == ptx::Operand::Kind::kAddress;
  l.address(0);
  form.a_in_tensor_memory ? l.address(1) : l.source(1, 64);
  l.source(2, 64);
  l.source(3, 32);
  const bool has_masks = !form.is_ws && l.operand(4).kind == ptx::Operand::Kind::kVector;
  const int add = has_masks ? 5 : 4;
  l.predicate(add);
  if (has_masks) {
    size_t count = 0;
    l.sources(4, 32, &count);
    if (int(count) != 4 * form.group) l.unknown("it has another number of masks of lanes than expected");
    form.masks = int32_t(count);
  }
  if (int(l.count()) > add + 1) {
    const auto scale = l.constant(add + 1);
    if (form.is_ws) l.unknown("it has a mask of columns that are zero");
    if (form.kind == ProductKind::kF8F6F4 || !scale || *scale < 0 || *scale > 15) {
      l.unknown("the scale of its accumulator is no constant from 0 to 15");
    }
    form.scale = int32_t(*scale);
    need_operands(l, size_t(add) + 2);
  }
  form.put(l.out.modes);
  l.out.run = multiply_matrices;
}

}  // namespace emulator
