#include "emulator/runtime/fat_binary.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace emulator::runtime {
namespace {

// What nvcc's generated code hands over, as in fatbinary_section.h.
struct Wrapper {
  uint32_t magic;
  uint32_t version;
  const void* data;
  const void* rest;
};
constexpr uint32_t kWrapperMagic = 0x466243b1;

// No header of the toolkit declares the rest; these are the fields that nvcc 12 and 13 were seen to fill. Sizes tell
// where each part ends, so that fields added behind do no harm.
struct Header {
  uint32_t magic;
  uint16_t version;
  uint16_t header_bytes;
  uint64_t bytes;  // behind the header
};
static_assert(sizeof(Header) == 16);
constexpr uint32_t kMagic = 0xba55ed50;

struct EntryHeader {
  uint16_t kind;
  uint16_t version;
  uint32_t header_bytes;
  uint64_t bytes;  // behind the header, padding included
  uint32_t compressed_bytes;
  uint32_t options_offset;
  uint16_t minor, major;  // of the PTX
  uint32_t architecture;
  uint32_t name_offset, name_bytes;
  uint64_t flags;
  uint64_t unknown;
  uint64_t uncompressed_bytes;
};
static_assert(sizeof(EntryHeader) == 64);

enum Kind : uint16_t { kPtx = 1, kCubin = 2 };
enum Flags : uint64_t {
  kCompressedLz4 = 0x2000,
  kCompressedZstd = 0x8000,
  kArchitectureOnly = 0x100000,  // sm_90a
  kFamilyOnly = 0x200000,        // sm_100f
};

template <typename T>
T read(const std::byte* place) {
  T value;
  std::memcpy(&value, place, sizeof(T));
  return value;
}

// "sm_90a" of the .target directive, which says more than the header does.
void read_target(PtxImage& image) {
  constexpr std::string_view kDirective = ".target sm_";
  constexpr size_t kPrefix = std::string_view(".target ").size();
  const size_t at = image.text.find(kDirective);
  if (at == std::string::npos) return;
  const ptx::Target target = ptx::read_target(std::string_view(image.text).substr(at + kPrefix));
  if (target.architecture != 0) image.target = target;
}

PtxImage read_ptx(const EntryHeader& header, const std::byte* data) {
  PtxImage image;
  image.target.architecture = int(header.architecture);
  image.target.variant = header.flags & kArchitectureOnly ? 'a' : header.flags & kFamilyOnly ? 'f' : 0;
  image.readable = header.compressed_bytes == 0 && !(header.flags & (kCompressedLz4 | kCompressedZstd));
  if (!image.readable) return image;
  const auto* text = reinterpret_cast<const char*>(data);
  image.text.assign(text, strnlen(text, header.bytes));  // padded with zeros
  read_target(image);
  return image;
}

std::string name_of(const PtxImage& image) {
  std::string name = "compute_" + std::to_string(image.target.architecture);
  if (image.target.variant) name += image.target.variant;
  return name;
}

}  // namespace

FatBinary read_wrapped_fat_binary(const void* wrapper) {
  const auto wrapped = read<Wrapper>(static_cast<const std::byte*>(wrapper));
  if (wrapped.magic != kWrapperMagic) throw FatBinaryError("this is not the wrapper of a fat binary");
  return read_fat_binary(wrapped.data);
}

FatBinary read_fat_binary(const void* data, size_t limit) {
  const auto* place = static_cast<const std::byte*>(data);
  if (limit < sizeof(Header)) throw FatBinaryError("the fat binary is cut off");
  const auto header = read<Header>(place);
  if (header.magic != kMagic) throw FatBinaryError("this is no fat binary");
  if (header.header_bytes < sizeof(Header) || header.header_bytes > limit ||
      header.bytes > limit - header.header_bytes) {
    throw FatBinaryError("the fat binary is cut off");
  }
  place += header.header_bytes;

  FatBinary binary;
  for (uint64_t left = header.bytes; left > 0;) {
    if (left < sizeof(EntryHeader)) throw FatBinaryError("an entry of the fat binary is cut off");
    const auto entry = read<EntryHeader>(place);
    if (entry.header_bytes < sizeof(EntryHeader) || entry.header_bytes > left ||
        entry.bytes > left - entry.header_bytes) {
      throw FatBinaryError("an entry of the fat binary is cut off");
    }
    if (entry.kind == kPtx) binary.images.push_back(read_ptx(entry, place + entry.header_bytes));
    if (entry.kind == kCubin) ++binary.cubins;
    place += entry.header_bytes + entry.bytes;
    left -= entry.header_bytes + entry.bytes;
  }
  return binary;
}

const std::string& choose_image(const FatBinary& binary, int capability) {
  const PtxImage* best = nullptr;
  const auto rank = [](const PtxImage& image) {
    const char variant = image.target.variant;
    return 3 * image.target.architecture + (variant == 'a' ? 2 : variant == 'f' ? 1 : 0);
  };
  for (const PtxImage& image : binary.images) {
    if (image.target.runs_on(capability) && (!best || rank(image) > rank(*best))) best = &image;
  }
  if (best && !best->readable) {
    throw NoImageError("the PTX for " + name_of(*best) +
                       " is compressed: compile with nvcc's option -no-compress to run it here");
  }
  if (best) return best->text;

  std::string what = "there is no PTX that compute capability " + std::to_string(capability / 10) + "." +
                     std::to_string(capability % 10) + " can run, only";
  for (const PtxImage& image : binary.images) what += " " + name_of(image);
  if (binary.cubins > 0) what += (binary.images.empty() ? " " : " and ") + std::to_string(binary.cubins) + " cubin(s)";
  if (binary.images.empty() && binary.cubins == 0) what += " nothing";
  const std::string wanted = "compute_" + std::to_string(capability) + "a";
  throw NoImageError(what + ": compile with nvcc's options -gencode arch=" + wanted + ",code=" + wanted +
                     " -no-compress");
}

}  // namespace emulator::runtime
