// The extension _C_emulated of test builds: the same kernels, launchers and handler bodies, linked against the emulator
// in place of the CUDA runtime; and the emulator itself, for tests that bring PTX of their own.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/handlers.h"
#include "emulator/machine/machine.h"
#include "emulator/machine/tensor_map.h"
#include "emulator/runtime/device.h"
#include "emulator/runtime/runtime.h"

namespace nb = nanobind;

namespace {

using Triple = std::tuple<uint32_t, uint32_t, uint32_t>;
// Address, bytes, whether it was written, whether it is read-only.
using Buffer = std::tuple<uint64_t, uint64_t, bool, bool>;

template <typename Handler>
nb::capsule handler(Handler* function) {
  return nb::capsule(reinterpret_cast<void*>(function), "xla._CUSTOM_CALL_TARGET");
}

// {platform: {target: {stage: capsule}}}, as the extension for GPUs has it.
nb::dict targets() {
  nb::dict dense_decode, mha_backward, mha_forward, sparse_backward, sparse_decode, sparse_prefill;
  dense_decode["execute"] = handler(jax_flash_mla_dense_decode_emulated);
  mha_backward["execute"] = handler(jax_flash_mla_mha_backward_emulated);
  mha_forward["execute"] = handler(jax_flash_mla_mha_forward_emulated);
  sparse_backward["execute"] = handler(jax_flash_mla_sparse_backward_emulated);
  sparse_decode["execute"] = handler(jax_flash_mla_sparse_decode_emulated);
  sparse_prefill["execute"] = handler(jax_flash_mla_sparse_prefill_emulated);
  nb::dict cpu;
  cpu["jax_flash_mla.dense_decode.v1.emulated"] = dense_decode;
  cpu["jax_flash_mla.mha_backward.v1.emulated"] = mha_backward;
  cpu["jax_flash_mla.mha.v1.emulated"] = mha_forward;
  cpu["jax_flash_mla.sparse_backward.v2.emulated"] = sparse_backward;
  cpu["jax_flash_mla.sparse_decode.v1.emulated"] = sparse_decode;
  cpu["jax_flash_mla.sparse_prefill.v1.emulated"] = sparse_prefill;
  nb::dict all;
  all["cpu"] = cpu;
  return all;
}

emulator::Dim3 dims(const Triple& triple) { return {std::get<0>(triple), std::get<1>(triple), std::get<2>(triple)}; }

// Launches a kernel of some PTX on buffers of this process. None of the device's limits are checked.
void launch(const std::string& ptx, const std::string& kernel, const Triple& grid, const Triple& block,
            const Triple& cluster, uint32_t dynamic_shared, const nb::bytes& parameters,
            const std::vector<Buffer>& buffers) {
  const std::unique_ptr<emulator::Module> module = emulator::load(ptx);
  const int architecture = emulator::runtime::code_architecture();
  if (!module->text->target_parts().runs_on(architecture)) {
    throw std::invalid_argument("The PTX is for " + module->text->target + ", and the device runs what is for sm_" +
                                std::to_string(architecture) + ".");
  }
  const emulator::ptx::Function* text = module->text->find(kernel);
  if (!text || !text->is_kernel) throw std::invalid_argument("There is no kernel " + kernel + " in the PTX.");
  emulator::Launch launch;
  launch.kernel = &module->function(*text);
  launch.grid = dims(grid);
  launch.block = dims(block);
  launch.cluster = dims(cluster);
  launch.has_cluster = launch.cluster.count() > 1;
  launch.dynamic_shared = dynamic_shared;
  launch.num_sms = emulator::runtime::num_sms();
  const auto* bytes = static_cast<const std::byte*>(parameters.data());
  launch.parameters.assign(bytes, bytes + parameters.size());
  if (launch.parameters.size() != launch.kernel->parameter_bytes) {
    throw std::invalid_argument("The kernel has " + std::to_string(launch.kernel->parameter_bytes) +
                                " bytes of parameters, and " + std::to_string(launch.parameters.size()) +
                                " were given.");
  }
  emulator::Memory memory;
  for (const auto& [address, size, written, read_only] : buffers) {
    memory.add(reinterpret_cast<const void*>(address), size, written, read_only);
  }
  nb::gil_scoped_release release;
  if (const auto report = emulator::run(launch, memory)) throw std::runtime_error(report->text);
}

// Kernel, line in the PTX, opcode, and where it comes from: "file:line", then the calls that were inlined around it.
using Listed = std::tuple<std::string, int, std::string, std::vector<std::string>>;

// The instructions of the library's own kernels.
std::vector<Listed> instructions() {
  std::vector<Listed> all;
  for (const emulator::Module* module : emulator::runtime::modules()) {
    const auto place = [&](int file, int line) {
      const auto found = module->text->files.find(file);
      return found == module->text->files.end() ? std::string() : found->second + ":" + std::to_string(line);
    };
    for (const auto& function : module->text->functions) {
      if (!function->is_kernel) continue;
      for (const emulator::ptx::Instruction& instruction : function->body) {
        std::vector<std::string> places = {place(instruction.source.file, instruction.source.line)};
        for (int i = instruction.source.inlined_at; i >= 0;) {
          const emulator::ptx::InlinedCall& call = function->inlined_calls[size_t(i)];
          places.push_back(place(call.file, call.line));
          i = call.inlined_at;
        }
        all.emplace_back(function->name, instruction.line, instruction.opcode, std::move(places));
      }
    }
  }
  return all;
}

// The 128 bytes of a tensor map, as cuTensorMapEncodeTiled makes them for the emulator.
nb::bytes encode_tensor_map(uint32_t type, uint32_t rank, uint64_t address, const std::vector<uint64_t>& sizes,
                            const std::vector<uint64_t>& strides, const std::vector<uint32_t>& box,
                            const std::vector<uint32_t>& element_strides, uint32_t interleave, uint32_t swizzle,
                            uint32_t l2_promotion, uint32_t fill) {
  if (sizes.size() != rank || strides.size() + 1 != rank || box.size() != rank || element_strides.size() != rank) {
    throw std::invalid_argument("The lists do not have the lengths that the rank demands.");
  }
  alignas(emulator::kTensorMapAlignment) std::byte map[emulator::kTensorMapBytes] = {};
  std::string why;
  if (!emulator::encode_tensor_map(map, type, rank, address, sizes.data(), strides.data(), box.data(),
                                   element_strides.data(), interleave, swizzle, l2_promotion, fill, &why)) {
    throw std::invalid_argument(why);
  }
  return nb::bytes(map, sizeof(map));
}

}  // namespace

NB_MODULE(_C_emulated, m) {
  m.doc() = "CUDA kernels of jax_flash_mla on the CPU, for tests.";
  m.def("targets", &targets);
  m.def("launch", &launch);
  m.def("instructions", &instructions);
  m.def("encode_tensor_map", &encode_tensor_map);
  m.attr("xla_ffi_version") = nb::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
}
