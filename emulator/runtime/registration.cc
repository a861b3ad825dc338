// What nvcc's generated code registers when a program or library is loaded, and how it is found again: kernels by the
// address of their host stub, variables by that of their shadow on the host.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "emulator/runtime/fat_binary.h"
#include "emulator/runtime/state.h"

namespace emulator::runtime {

// A fat binary. It is read, and its PTX parsed, when something of it is first asked for: it may never be.
struct Binary {
  const void* wrapper = nullptr;
  bool was_loaded = false;
  cudaError_t error = cudaSuccess;
  std::string why;
  std::unique_ptr<Module> module;

  struct Managed {
    void** pointer;
    std::string name;
  };
  std::vector<Managed> managed;
};

namespace {

struct Symbol {
  Binary* binary;
  std::string name;
};

struct Registry {
  std::mutex mutex;
  std::vector<std::unique_ptr<Binary>> binaries;
  std::unordered_map<const void*, std::unique_ptr<Kernel>> kernels;
  std::unordered_map<const void*, Symbol> symbols;
};

// Never destroyed: objects register before main and unregister after it.
Registry& registry() {
  static Registry* registry = new Registry;
  return *registry;
}

Binary* from_handle(void** handle) { return reinterpret_cast<Binary*>(handle); }

const ptx::Variable* find_variable(const Module& module, std::string_view name) {
  for (const auto& [variable, place] : module.globals) {
    if (variable->name == name) return variable;
  }
  return nullptr;
}

void load(Binary& binary) {
  try {
    binary.module = emulator::load(choose_image(read_wrapped_fat_binary(binary.wrapper), code_architecture()));
  } catch (const NoImageError& error) {
    binary.error = cudaErrorNoKernelImageForDevice;
    binary.why = error.what();
  } catch (const FatBinaryError& error) {
    binary.error = cudaErrorInvalidKernelImage;
    binary.why = error.what();
  } catch (const std::exception& error) {
    binary.error = cudaErrorInvalidPtx;
    binary.why = error.what();
  }
  if (binary.error != cudaSuccess) {
    // Said aloud too: launches written <<<…>>> drop what they return.
    std::fprintf(stderr, "The emulator cannot load a module: %s\n", binary.why.c_str());
    return;
  }
  for (const auto& [variable, place] : binary.module->globals) add_block(place, variable->size, Kind::kSymbol);
  for (const Binary::Managed& managed : binary.managed) {
    if (const ptx::Variable* variable = find_variable(*binary.module, managed.name)) {
      *managed.pointer = binary.module->globals.at(variable);
    }
  }
}

// With the registry locked.
cudaError_t require(Binary& binary) {
  if (!std::exchange(binary.was_loaded, true)) load(binary);
  if (binary.error != cudaSuccess) return fail(binary.error, binary.why);
  const ptx::Module& text = *binary.module->text;
  if (text.target_parts().runs_on(code_architecture())) return cudaSuccess;
  return fail(cudaErrorNoKernelImageForDevice,
              "a module was loaded for " + text.target + ", and the device poses as another one since");
}

// The kernel's text in its module, made ready to run.
cudaError_t require(Kernel& kernel) {
  if (const cudaError_t error = require(*kernel.binary); error != cudaSuccess) return error;
  if (kernel.function) return cudaSuccess;
  const Module& module = *kernel.binary->module;
  const ptx::Function* text = module.text->find(kernel.name);
  if (!text || !text->is_kernel || !text->is_defined) {
    return fail(cudaErrorInvalidDeviceFunction, "the PTX has no kernel " + kernel.name);
  }
  try {
    kernel.function = &module.function(*text);
  } catch (const Fault& fault) {
    return fail(Report{fault.code, "Kernel " + kernel.name + ": " + fault.what()}, false);
  } catch (const std::exception& error) {
    return fail(cudaErrorInvalidPtx, "kernel " + kernel.name + ": " + error.what());
  }
  return cudaSuccess;
}

Kernel* look_up(Registry& all, const void* symbol) {
  if (const auto found = all.kernels.find(symbol); found != all.kernels.end()) return found->second.get();
  for (const auto& [stub, kernel] : all.kernels) {
    if (kernel.get() == symbol) return kernel.get();  // a cudaKernel_t or cudaFunction_t
  }
  return nullptr;
}

struct Place {
  std::byte* begin;
  size_t bytes;
};

cudaError_t find_symbol(const void* symbol, Place* place) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  const auto found = all.symbols.find(symbol);
  if (found == all.symbols.end()) return fail(cudaErrorInvalidSymbol);
  Binary& binary = *found->second.binary;
  if (const cudaError_t error = require(binary); error != cudaSuccess) return error;
  const ptx::Variable* variable = find_variable(*binary.module, found->second.name);
  if (!variable) return fail(cudaErrorInvalidSymbol, "the PTX has no variable " + found->second.name);
  *place = {binary.module->globals.at(variable), variable->size};
  return cudaSuccess;
}

// The part of a symbol that a copy is about.
cudaError_t find_part(const void* symbol, size_t bytes, size_t offset, std::byte** begin) {
  Place place;
  if (const cudaError_t error = find_symbol(symbol, &place); error != cudaSuccess) return error;
  if (offset > place.bytes || bytes > place.bytes - offset) return fail(cudaErrorInvalidValue);
  *begin = place.begin + offset;
  return cudaSuccess;
}

}  // namespace

cudaError_t find_kernel(const void* symbol, Kernel** kernel) {
  if (!symbol) return fail(cudaErrorInvalidDeviceFunction);
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  *kernel = look_up(all, symbol);
  // CUDA takes what it does not know for a handle.
  return *kernel ? require(**kernel) : fail(cudaErrorInvalidResourceHandle, "no such kernel was registered");
}

std::vector<const Module*> modules() {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  std::vector<const Module*> out;
  for (const auto& binary : all.binaries) {
    if (require(*binary) == cudaSuccess) out.push_back(binary->module.get());
  }
  return out;
}

}  // namespace emulator::runtime

using namespace emulator::runtime;

// --- What nvcc's generated code calls; crt/host_runtime.h declares it for that code alone

extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  all.binaries.push_back(std::make_unique<Binary>());
  all.binaries.back()->wrapper = wrapper;
  return reinterpret_cast<void**>(all.binaries.back().get());
}

void __cudaRegisterFatBinaryEnd(void**) {}

void __cudaUnregisterFatBinary(void** handle) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  Binary* binary = from_handle(handle);
  if (binary->module) {
    for (const auto& [variable, place] : binary->module->globals) remove_block(place, Kind::kSymbol);
  }
  std::erase_if(all.kernels, [=](const auto& entry) { return entry.second->binary == binary; });
  std::erase_if(all.symbols, [=](const auto& entry) { return entry.second.binary == binary; });
  std::erase_if(all.binaries, [=](const auto& entry) { return entry.get() == binary; });
}

void __cudaRegisterFunction(void** handle, const char* stub, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  auto kernel = std::make_unique<Kernel>();
  kernel->binary = from_handle(handle);
  kernel->name = name;
  // Two objects may bring the same instance of a template, with one stub: either will do.
  all.kernels.try_emplace(stub, std::move(kernel));
}

void __cudaRegisterVar(void** handle, char* shadow, char*, const char* name, int, size_t, int, int) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  all.symbols.try_emplace(shadow, Symbol{from_handle(handle), name});
}

void __cudaRegisterManagedVar(void** handle, void** pointer, char*, const char* name, int, size_t, int, int) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  all.symbols.try_emplace(pointer, Symbol{from_handle(handle), name});
  from_handle(handle)->managed.push_back({pointer, name});
}

char __cudaInitModule(void** handle) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  return require(*from_handle(handle)) == cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* handle, const void* stub) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  Kernel* kernel = stub ? look_up(all, stub) : nullptr;
  *handle = reinterpret_cast<cudaKernel_t>(kernel);
  return kernel ? cudaSuccess : fail(cudaErrorInvalidDeviceFunction);
}

}  // extern "C"

// --- Handles and names of kernels

cudaError_t cudaGetKernel(cudaKernel_t* handle, const void* stub) {
  return handle ? __cudaGetKernel(handle, stub) : fail(cudaErrorInvalidValue);
}

cudaError_t cudaGetFuncBySymbol(cudaFunction_t* handle, const void* stub) {
  cudaKernel_t kernel;
  if (!handle) return fail(cudaErrorInvalidValue);
  const cudaError_t error = __cudaGetKernel(&kernel, stub);
  *handle = reinterpret_cast<cudaFunction_t>(kernel);
  return error;
}

cudaError_t cudaFuncGetName(const char** name, const void* symbol) {
  Kernel* kernel;
  if (!name) return fail(cudaErrorInvalidValue);
  if (const cudaError_t error = find_kernel(symbol, &kernel); error != cudaSuccess) return error;
  *name = kernel->name.c_str();
  return cudaSuccess;
}

// --- Variables

cudaError_t cudaGetSymbolAddress(void** pointer, const void* symbol) {
  Place place;
  if (!pointer) return fail(cudaErrorInvalidValue);
  if (const cudaError_t error = find_symbol(symbol, &place); error != cudaSuccess) return error;
  *pointer = place.begin;
  return cudaSuccess;
}

cudaError_t cudaGetSymbolSize(size_t* size, const void* symbol) {
  Place place;
  if (!size) return fail(cudaErrorInvalidValue);
  if (const cudaError_t error = find_symbol(symbol, &place); error != cudaSuccess) return error;
  *size = place.bytes;
  return cudaSuccess;
}

cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* source, size_t bytes, size_t offset,
                               cudaMemcpyKind kind) {
  std::byte* part = nullptr;
  if (kind != cudaMemcpyHostToDevice && kind != cudaMemcpyDeviceToDevice && kind != cudaMemcpyDefault) {
    return fail(cudaErrorInvalidMemcpyDirection);
  }
  if (const cudaError_t error = find_part(symbol, bytes, offset, &part); error != cudaSuccess) return error;
  return cudaMemcpy(part, source, bytes, kind);
}

cudaError_t cudaMemcpyToSymbolAsync(const void* symbol, const void* source, size_t bytes, size_t offset,
                                    cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpyToSymbol(symbol, source, bytes, offset, kind);
}

cudaError_t cudaMemcpyFromSymbol(void* target, const void* symbol, size_t bytes, size_t offset, cudaMemcpyKind kind) {
  std::byte* part = nullptr;
  if (kind != cudaMemcpyDeviceToHost && kind != cudaMemcpyDeviceToDevice && kind != cudaMemcpyDefault) {
    return fail(cudaErrorInvalidMemcpyDirection);
  }
  if (const cudaError_t error = find_part(symbol, bytes, offset, &part); error != cudaSuccess) return error;
  return cudaMemcpy(target, part, bytes, kind);
}

cudaError_t cudaMemcpyFromSymbolAsync(void* target, const void* symbol, size_t bytes, size_t offset,
                                      cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpyFromSymbol(target, symbol, bytes, offset, kind);
}
