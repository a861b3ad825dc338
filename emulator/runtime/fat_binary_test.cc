// Reading fat binaries: made up here, and those in files given as arguments (of nvcc -fatbin), which must have PTX for
// the device.
#include "emulator/runtime/fat_binary.h"

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>

#include "emulator/runtime/testing.h"

namespace {

using namespace emulator::runtime;

void put(std::string& bytes, uint64_t value, int size) {
  bytes.append(reinterpret_cast<const char*>(&value), size_t(size));
}

struct Entry {
  int kind = 1;
  int architecture = 90;
  uint64_t flags = 0x11;
  std::string data;
  int header_bytes = 80;
};

std::string ptx(const std::string& target) { return "\n\n.version 9.0\n.target " + target + "\n.address_size 64\n"; }

std::string make(const std::vector<Entry>& entries) {
  std::string body;
  for (const Entry& entry : entries) {
    const bool is_compressed = entry.flags & 0xa000;
    std::string data = entry.data;
    data.resize((data.size() + 8) / 8 * 8);
    const size_t begin = body.size();
    put(body, uint64_t(entry.kind), 2);
    put(body, 0x101, 2);
    put(body, uint64_t(entry.header_bytes), 4);
    put(body, data.size(), 8);
    put(body, is_compressed ? entry.data.size() : 0, 4);
    put(body, 0, 4);
    put(body, 0x90000, 4);
    put(body, uint64_t(entry.architecture), 4);
    put(body, 0, 8);
    put(body, entry.flags, 8);
    body.resize(begin + size_t(entry.header_bytes));
    body += data;
  }
  std::string binary;
  put(binary, 0xba55ed50, 4);
  put(binary, 1, 2);
  put(binary, 16, 2);
  put(binary, body.size(), 8);
  return binary + body;
}

std::string chosen(const std::vector<Entry>& entries, int capability = 90) {
  const std::string bytes = make(entries);
  try {
    return choose_image(read_fat_binary(bytes.data(), bytes.size()), capability);
  } catch (const NoImageError& error) {
    return error.what();
  }
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

void test_choice() {
  const Entry a{.flags = 0x100011, .data = ptx("sm_90a")}, plain{.data = ptx("sm_90")};
  const Entry old{.architecture = 80, .data = ptx("sm_80"), .header_bytes = 64};
  const Entry newer{.architecture = 100, .data = ptx("sm_100")};
  const Entry family{.architecture = 100, .flags = 0x200011, .data = ptx("sm_100f")};
  const Entry other{.architecture = 80, .flags = 0x100011, .data = ptx("sm_80a")};
  const Entry cubin{.kind = 2,
                    .data =
                        "\x7f"
                        "ELF"};
  const Entry compressed{.flags = 0x108011, .data = "squeezed"};
  CHECK(chosen({old, a, plain}) == ptx("sm_90a"));
  CHECK(chosen({newer, plain, old, cubin}) == ptx("sm_90"));
  CHECK(chosen({cubin, old, family, other}) == ptx("sm_80"));
  CHECK(contains(chosen({old, compressed}), "the PTX for compute_90a is compressed"));
  CHECK(contains(chosen({old, compressed}), "-no-compress"));
  CHECK(contains(chosen({family, cubin}), "only compute_100f and 1 cubin(s)"));
  CHECK(contains(chosen({cubin}), "code=compute_90a"));
  CHECK(contains(chosen({}), "only nothing"));
  // On a B200.
  const Entry b200{.architecture = 100, .flags = 0x100011, .data = ptx("sm_100a")};
  const Entry b300{.architecture = 103, .flags = 0x100011, .data = ptx("sm_103a")};
  CHECK(chosen({family, a, b200, plain}, 100) == ptx("sm_100a"));
  CHECK(chosen({a, newer, family, b300}, 100) == ptx("sm_100f"));
  CHECK(chosen({a, plain, newer, old}, 100) == ptx("sm_100"));
  CHECK(chosen({a, plain, b300}, 100) == ptx("sm_90"));
  CHECK(chosen({b200, family}, 103) == ptx("sm_100f"));
  CHECK(contains(chosen({a}, 100), "compute capability 10.0 can run, only compute_90a"));
  CHECK(contains(chosen({a}, 100), "code=compute_100a"));
}

void test_broken() {
  const std::string bytes = make({{.data = ptx("sm_90a")}});
  const auto throws = [](const std::string& data) {
    try {
      read_fat_binary(data.data(), data.size());
      return false;
    } catch (const FatBinaryError&) {
      return true;
    }
  };
  CHECK(!throws(bytes));
  for (size_t size = 0; size < bytes.size(); ++size) CHECK(throws(bytes.substr(0, size)));
  for (const size_t at : {size_t(0), size_t(8), size_t(20), size_t(24)}) {  // magic; sizes
    std::string changed = bytes;
    changed[at] = char(changed[at] + 1);
    CHECK(throws(changed));
  }
}

void test_file(const char* path, int capability = 90) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  const std::string text = choose_image(read_fat_binary(bytes.data(), bytes.size()), capability);
  CHECK(contains(text, ".version") && contains(text, ".entry"));
}

}  // namespace

int main(int count, char** paths) {
  test_choice();
  test_broken();
  for (int i = 1; i < count; ++i) test_file(paths[i]);
  return verdict();
}
