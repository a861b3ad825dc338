// Tests of tensor maps: which are refused, and where the bytes of boxes lie.
#include "emulator/machine/tensor_map.h"

#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "emulator/machine/fault.h"
#include "emulator/machine/testing.h"

namespace emulator {
namespace {

// Arguments of an encoding that is right, for tests to spoil.
struct Arguments {
  uint32_t type = 9;  // bfloat16
  uint32_t rank = 3;
  uint64_t address = 0x10000;
  std::vector<uint64_t> sizes = {100, 20, 7, 1, 1};
  std::vector<uint64_t> strides = {208, 208 * 20, 1 << 20, 1 << 20};
  std::vector<uint32_t> box = {64, 8, 2, 1, 1};
  std::vector<uint32_t> element_strides = {1, 1, 1, 1, 1};
  uint32_t interleave = 0, swizzle = 3, promotion = 2, fill = 0;
};

alignas(64) unsigned char storage[2 * kTensorMapBytes];

bool encodes(const Arguments& a, void* map = storage) {
  std::string why;
  const bool done = encode_tensor_map(map, a.type, a.rank, a.address, a.sizes.data(), a.strides.data(), a.box.data(),
                                      a.element_strides.data(), a.interleave, a.swizzle, a.promotion, a.fill, &why);
  CHECK(done == why.empty());
  return done;
}

template <typename Change>
bool encodes_after(Change change) {
  Arguments arguments;
  change(arguments);
  return encodes(arguments);
}

void test_rules() {
  using A = Arguments;
  CHECK(encodes_after([](A&) {}));
  CHECK(!encodes(A{}, storage + 16));
  CHECK(!encodes(A{}, nullptr));
  CHECK(!encodes_after([](A& a) { a.type = 16; }));
  CHECK(!encodes_after([](A& a) { a.type = 13; }));
  CHECK(!encodes_after([](A& a) { a.rank = 0; }));
  CHECK(!encodes_after([](A& a) { a.rank = 6; }));
  CHECK(encodes_after([](A& a) { a.rank = 5; }));
  CHECK(encodes_after([](A& a) { a.rank = 1; }));
  CHECK(!encodes_after([](A& a) { a.address += 8; }));
  CHECK(encodes_after([](A& a) { a.address += 16; }));
  CHECK(!encodes_after([](A& a) { a.sizes[1] = 0; }));
  CHECK(encodes_after([](A& a) { a.sizes[1] = uint64_t{1} << 32; }));
  CHECK(!encodes_after([](A& a) { a.sizes[1] = (uint64_t{1} << 32) + 1; }));
  CHECK(!encodes_after([](A& a) { a.strides[0] = 200; }));
  CHECK(!encodes_after([](A& a) { a.strides[1] = uint64_t{1} << 40; }));
  CHECK(encodes_after([](A& a) { a.strides[1] = (uint64_t{1} << 40) - 16; }));
  CHECK(encodes_after([](A& a) { a.strides[2] = 3; }));  // not of a dimension that there is
  CHECK(!encodes_after([](A& a) { a.box[1] = 0; }));
  CHECK(encodes_after([](A& a) { a.box[1] = 256; }));
  CHECK(!encodes_after([](A& a) { a.box[1] = 257; }));
  CHECK(!encodes_after([](A& a) { a.box[1] = 65536 + 1; }));
  CHECK(!encodes_after([](A& a) { a.element_strides[2] = 0; }));
  CHECK(encodes_after([](A& a) { a.element_strides[2] = 8; }));
  CHECK(!encodes_after([](A& a) { a.element_strides[2] = 9; }));
  CHECK(!encodes_after([](A& a) { a.element_strides[2] = 257; }));
  CHECK(!encodes_after([](A& a) { a.box[0] = 60; }));  // 120 bytes
  CHECK(!encodes_after([](A& a) { a.box[0] = 72; }));  // 144 bytes
  CHECK(encodes_after([](A& a) { a.box[0] = 72, a.swizzle = 0; }));
  for (uint32_t swizzle = 1; swizzle <= 3; ++swizzle) {
    const uint32_t span = 8u << swizzle;  // in elements of 2 bytes
    CHECK(encodes_after([&](A& a) { a.box[0] = span, a.swizzle = swizzle; }));
    CHECK(!encodes_after([&](A& a) { a.box[0] = span + 8, a.swizzle = swizzle; }));
  }
  CHECK(!encodes_after([](A& a) { a.swizzle = 7; }));
  CHECK(!encodes_after([](A& a) { a.interleave = 3; }));
  CHECK(!encodes_after([](A& a) { a.promotion = 4; }));
  CHECK(!encodes_after([](A& a) { a.fill = 2; }));
  CHECK(encodes_after([](A& a) { a.fill = 1; }));
  CHECK(!encodes_after([](A& a) { a.fill = 1, a.type = 1; }));
  CHECK(encodes_after([](A& a) { a.interleave = 1, a.box[0] = 60; }));
  CHECK(!encodes_after([](A& a) { a.interleave = 1, a.rank = 2; }));
  const auto by_32 = [](A& a) { a.interleave = 2, a.swizzle = 1, a.strides = {224, 224 * 20}; };
  CHECK(encodes_after(by_32));
  CHECK(!encodes_after([&](A& a) { by_32(a), a.address += 16; }));
  CHECK(!encodes_after([&](A& a) { by_32(a), a.strides[0] = 208; }));
  CHECK(!encodes_after([&](A& a) { by_32(a), a.swizzle = 0; }));
}

void test_reading() {
  const auto fault_of = [](const void* bytes) {
    try {
      read_tensor_map(bytes);
      return std::string();
    } catch (const Fault& fault) {
      CHECK(fault.code == FaultCode::kIllegalInstruction);
      return std::string(fault.what());
    }
  };
  std::memset(storage, 0, sizeof(storage));
  CHECK(!fault_of(storage).empty());
  CHECK(encodes(Arguments{}));
  CHECK(fault_of(storage).empty());
  TensorMap map = read_tensor_map(storage);
  CHECK(map.rank == 3 && map.address == 0x10000 && map.sizes[1] == 20 && map.strides[1] == 208 * 20);
  CHECK(map.box_bytes() == 64 * 8 * 2 * 2);
  map.strides[0] = 200;  // as a kernel might
  std::memcpy(storage, &map, sizeof(map));
  CHECK(!fault_of(storage).empty());
}

// What lies at each address of shared memory: an address of global memory, or nothing of the tensor.
using Layout = std::map<uint32_t, uint64_t>;
constexpr uint64_t kOutside = ~uint64_t{0};

Layout quick_layout(const TensorMap& map, const TensorCoordinates& origin, uint32_t shared) {
  Layout layout;
  const auto put = [&](uint32_t address, uint64_t global) {
    CHECK(layout.emplace(address, global).second);  // nothing lies where something else does
  };
  for_rows(map, origin, shared, [&](const BoxRow& row) {
    for_pieces(map, row, 0, row.begin, [&](uint32_t, uint32_t address, uint32_t bytes) {
      for (uint32_t i = 0; i < bytes; ++i) put(address + i, kOutside);
    });
    for_pieces(map, row, row.begin, row.end, [&](uint32_t byte, uint32_t address, uint32_t bytes) {
      for (uint32_t i = 0; i < bytes; ++i) put(address + i, row.global + (byte - row.begin) + i);
    });
    for_pieces(map, row, row.end, map.row_bytes(), [&](uint32_t, uint32_t address, uint32_t bytes) {
      for (uint32_t i = 0; i < bytes; ++i) put(address + i, kOutside);
    });
  });
  return layout;
}

// The same element by element, from the words of the documentation.
Layout slow_layout(const Arguments& a, uint32_t element_bytes, const TensorCoordinates& origin, uint32_t shared) {
  Layout layout;
  const uint32_t span = a.swizzle ? 16u << a.swizzle : 0;
  uint32_t counts[5] = {1, 1, 1, 1, 1};
  for (uint32_t d = 0; d < a.rank; ++d) {
    const uint32_t stride = d ? a.element_strides[d] : 1;
    counts[d] = a.box[d] / stride + (a.box[d] % stride != 0);
  }
  uint32_t row_pitch = counts[0] * element_bytes;
  if (row_pitch < span) row_pitch = span;
  uint32_t i[5];
  for (i[4] = 0; i[4] < counts[4]; ++i[4])
    for (i[3] = 0; i[3] < counts[3]; ++i[3])
      for (i[2] = 0; i[2] < counts[2]; ++i[2])
        for (i[1] = 0; i[1] < counts[1]; ++i[1])
          for (i[0] = 0; i[0] < counts[0]; ++i[0]) {
            const uint32_t row = ((i[4] * counts[3] + i[3]) * counts[2] + i[2]) * counts[1] + i[1];
            bool inside = true;
            uint64_t global = a.address;
            for (uint32_t d = 0; d < a.rank; ++d) {
              const int64_t coordinate = origin[d] + int64_t(i[d]) * (d ? a.element_strides[d] : 1);
              if (coordinate < 0 || coordinate >= int64_t(a.sizes[d])) inside = false;
              global += uint64_t(coordinate) * (d ? a.strides[d - 1] : element_bytes);
            }
            for (uint32_t byte = 0; byte < element_bytes; ++byte) {
              uint32_t address = shared + row * row_pitch + i[0] * element_bytes + byte;
              if (span) {
                // Chunks of 16 bytes within a span; lines of 128 bytes.
                const uint32_t chunks = span / 16, chunk = address / 16 % chunks, line = address / 128 % chunks;
                address = address - chunk * 16 + (chunk ^ line) * 16;
              }
              CHECK(layout.emplace(address, inside ? global + byte : kOutside).second);
            }
          }
  return layout;
}

void test_layouts() {
  std::mt19937 random(7);
  const auto below = [&](uint32_t n) { return uint32_t(random() % n); };
  constexpr uint32_t kBytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2};
  for (int round = 0; round < 4000; ++round) {
    Arguments a;
    a.type = below(10);
    a.rank = 1 + below(5);
    a.swizzle = below(4);
    const uint32_t element_bytes = kBytes[a.type];
    const uint32_t span = a.swizzle ? 16u << a.swizzle : 256;
    a.address = 16 * uint64_t(below(1 << 20));
    uint64_t stride = 0;
    TensorCoordinates origin = {};
    for (uint32_t d = 0; d < a.rank; ++d) {
      a.sizes[d] = 1 + below(40);
      a.element_strides[d] = 1 + below(below(2) ? 8 : 1);
      a.box[d] = 1 + below(d == 1 ? 20 : 5);
      if (d == 0) {
        // Often as wide as what is swizzled.
        const uint32_t most = std::min(span, 256 * element_bytes) / 16;
        a.box[0] = (below(2) ? most : 1 + below(most)) * 16 / element_bytes;
        a.sizes[0] = 1 + below(2 * a.box[0]);
        stride = (a.sizes[0] * element_bytes + 15) / 16 * 16 + 16 * below(3);
      } else {
        a.strides[d - 1] = stride;
        stride *= a.sizes[d] + below(2);
      }
      origin[d] = int32_t(below(uint32_t(a.sizes[d]) + 2 * a.box[d])) - int32_t(a.box[d]) - 1;
    }
    CHECK(encodes(a));
    const TensorMap map = read_tensor_map(storage);
    const uint32_t shared = 128 * below(32) + (below(2) << 24);
    const Layout quick = quick_layout(map, origin, shared), slow = slow_layout(a, element_bytes, origin, shared);
    CHECK(quick == slow);
    CHECK(map.box_bytes() == quick.size());
    CHECK(quick.begin()->first >= shared && quick.rbegin()->first < shared + map.rows() * map.pitch());
    if (failures > 20) return;
  }
  // The coordinates that are farthest away.
  Arguments a;
  a.sizes = {uint64_t{1} << 32, 1, 1};
  a.strides = {uint64_t{1} << 33, uint64_t{1} << 33};
  CHECK(encodes(a));
  const TensorMap map = read_tensor_map(storage);
  for (const int32_t coordinate : {INT32_MIN, -64, -1, 0, INT32_MAX - 63, INT32_MAX}) {
    const TensorCoordinates origin = {coordinate, 0, 0};
    CHECK(quick_layout(map, origin, 1024) == slow_layout(a, 2, origin, 1024));
  }
}

}  // namespace
}  // namespace emulator

int main() {
  emulator::test_rules();
  emulator::test_reading();
  emulator::test_layouts();
  return emulator::verdict();
}
