#include "emulator/machine/shared_tile.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <sstream>

#include "emulator/machine/numerics.h"

namespace emulator {

struct TileType {
  const char* name;
  uint32_t bytes;
  double (*value)(uint32_t bits);
};

namespace {

constexpr TileType kTypes[] = {
    {"bf16", 2, [](uint32_t bits) { return decode(kBfloatFormat, bits); }},
    {"f16", 2, [](uint32_t bits) { return decode(kHalfFormat, bits); }},
    {"f32", 4, [](uint32_t bits) { return double(std::bit_cast<float>(bits)); }},
    {"e4m3", 1, [](uint32_t bits) { return decode(kE4M3Format, bits); }},
    {"e5m2", 1, [](uint32_t bits) { return decode(kE5M2Format, bits); }},
    {"u32", 4, [](uint32_t bits) { return double(bits); }},
    {"u16", 2, [](uint32_t bits) { return double(bits); }},
    {"u8", 1, [](uint32_t bits) { return double(bits); }},
};

struct Swizzle {
  const char* name;
  uint32_t bytes;
};
constexpr Swizzle kSwizzles[] = {{"swizzle32", 32}, {"swizzle64", 64}, {"swizzle128", 128}};

// The entry of that name.
template <typename Entry, size_t kCount>
const Entry& find(const Entry (&entries)[kCount], const std::string& name, const std::string& what) {
  const auto found =
      std::find_if(std::begin(entries), std::end(entries), [&](auto& entry) { return name == entry.name; });
  if (found != std::end(entries)) return *found;
  std::string names;
  for (const Entry& entry : entries) names += std::string(names.empty() ? "" : ", ") + entry.name;
  throw BadTile("there is no " + what + " " + name + "; there are " + names);
}

}  // namespace

SharedTile SharedTile::read(const std::vector<std::string>& parts) {
  if (parts.size() != 4 && parts.size() != 5)
    throw BadTile("it is not offset:rows:columns:type or the same and :swizzle");
  const auto number = [&](int part) {
    const std::string& text = parts[size_t(part)];
    try {
      size_t used = 0;
      const unsigned long value = std::stoul(text, &used, 0);
      if (used == text.size() && value <= UINT32_MAX) return uint32_t(value);
    } catch (const std::logic_error&) {
    }
    throw BadTile(text + " is no number");
  };
  const uint32_t swizzle = parts.size() == 5 ? find(kSwizzles, parts[4], "swizzle").bytes : 16;
  return {number(0), number(1), number(2), &find(kTypes, parts[3], "type"), swizzle};
}

std::string SharedTile::dump(Cta& cta) const {
  std::ostringstream text;
  text << "Shared memory from offset " << offset << ", " << rows << " rows of " << columns << " " << type->name << ":";
  for (uint32_t row = 0; row < rows; ++row) {
    text << "\n";
    for (uint32_t column = 0; column < columns; ++column) {
      uint64_t address = uint64_t{kReservedShared} + offset + (uint64_t{row} * columns + column) * type->bytes;
      address ^= address >> 3 & (swizzle - 16);
      const uint64_t at = address - kReservedShared;
      if (at + type->bytes > cta.shared_bytes()) return text.str() + " (beyond what the CTA has)";
      uint32_t bits = 0;
      std::memcpy(&bits, cta.shared(uint32_t(at)), type->bytes);
      text << " " << type->value(bits);
    }
  }
  return text.str();
}

}  // namespace emulator
