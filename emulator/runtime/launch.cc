// Launches: checked as a GPU would, then run to their end.
//
// The codes are those that CUDA 13.0 returns on an H200; launch_test.cu, which passes there too, holds them.
#include "emulator/runtime/launch.h"

#include <algorithm>
#include <cstring>

#include "emulator/runtime/runtime.h"

namespace emulator::runtime {
namespace {

std::string text(Dim3 dim) {
  return std::to_string(dim.x) + " x " + std::to_string(dim.y) + " x " + std::to_string(dim.z);
}

Dim3 from(dim3 dim) { return {dim.x, dim.y, dim.z}; }

Dim3 from(const int (&dims)[3]) {
  return {uint32_t(dims[0]), uint32_t(std::max(dims[1], 1)), uint32_t(std::max(dims[2], 1))};
}

bool equal(Dim3 a, Dim3 b) { return a.x == b.x && a.y == b.y && a.z == b.z; }

// Every dimension from 1 to its limit.
bool within(Dim3 dim, const uint32_t (&limits)[3]) {
  const auto inside = [](uint32_t value, uint32_t limit) { return value >= 1 && value <= limit; };
  return inside(dim.x, limits[0]) && inside(dim.y, limits[1]) && inside(dim.z, limits[2]);
}

bool divides(Dim3 cluster, Dim3 grid) {
  return grid.x % cluster.x == 0 && grid.y % cluster.y == 0 && grid.z % cluster.z == 0;
}

cudaError_t check_block(const Kernel& kernel, Dim3 block) {
  const auto refuse = [&](const std::string& why) {
    return fail(cudaErrorInvalidValue, "kernel " + kernel.name + ": blocks of " + text(block) + " threads " + why);
  };
  if (!within(block, kMaxBlockDim)) return refuse("cannot be");
  if (block.count() > kMaxThreadsPerBlock) return refuse("are too large");
  const ptx::Function& function = *kernel.function->text;
  if (function.max_threads[0] != 0 && block.count() > from(function.max_threads).count()) {
    return refuse("exceed its launch bounds of " + std::to_string(from(function.max_threads).count()));
  }
  if (function.required_threads[0] != 0 && !equal(block, from(function.required_threads))) {
    return refuse("are not the " + text(from(function.required_threads)) + " that it requires");
  }
  return cudaSuccess;
}

cudaError_t check_shared(const Kernel& kernel, size_t dynamic) {
  const size_t limit = kernel.dynamic_shared_limit();
  if (dynamic <= limit && dynamic + kernel.function->static_shared <= kMaxSharedPerBlock) return cudaSuccess;
  return fail(cudaErrorInvalidValue, "kernel " + kernel.name + ": " + std::to_string(dynamic) +
                                         " bytes of dynamic shared memory exceed the " + std::to_string(limit) +
                                         " that cudaFuncAttributeMaxDynamicSharedMemorySize allows");
}

// All blocks of a cooperative grid run at the same time.
cudaError_t check_cooperative(const Kernel& kernel, const Shape& shape) {
  const uint32_t each = blocks_per_sm(kernel, shape.block.count(), shape.dynamic_shared);
  const auto cluster = uint32_t(shape.cluster.count());
  const uint64_t most = uint64_t(resident_clusters(cluster, each)) * cluster;
  if (shape.grid.count() <= most) return cudaSuccess;
  return fail(cudaErrorCooperativeLaunchTooLarge, "kernel " + kernel.name + ": of " + text(shape.grid) +
                                                      " blocks the device holds " + std::to_string(most));
}

cudaError_t check(const Kernel& kernel, Shape* shape) {
  if (!within(shape->grid, kMaxGridDim)) {
    return fail(cudaErrorInvalidValue, "kernel " + kernel.name + ": a grid of " + text(shape->grid) + " cannot be");
  }
  if (const cudaError_t error = check_block(kernel, shape->block); error != cudaSuccess) return error;
  if (const cudaError_t error = check_shared(kernel, shape->dynamic_shared); error != cudaSuccess) return error;
  if (const cudaError_t error = settle_cluster(kernel, shape); error != cudaSuccess) return error;
  return shape->cooperative ? check_cooperative(kernel, *shape) : cudaSuccess;
}

std::vector<std::byte> gather_parameters(const Function& function, void** arguments) {
  const std::vector<size_t> offsets = parameter_offsets(function);
  const auto& parameters = function.text->parameters;
  std::vector<std::byte> bytes(function.parameter_bytes);
  for (size_t i = 0; i < parameters.size(); ++i) {
    std::memcpy(bytes.data() + offsets[i], arguments[i], parameters[i]->size);
  }
  return bytes;
}

cudaError_t launch(const void* symbol, Shape shape, void** arguments, bool unseen = false) {
  Kernel* kernel;
  if (const cudaError_t error = find_kernel(symbol, &kernel); error != cudaSuccess) return error;
  if (const cudaError_t error = check(*kernel, &shape); error != cudaSuccess) return error;
  if (!arguments && !kernel->function->text->parameters.empty()) {
    return fail(cudaErrorInvalidValue, "kernel " + kernel->name + " has parameters, the launch has no arguments");
  }

  Launch launch;
  launch.kernel = kernel->function;
  launch.grid = shape.grid;
  launch.block = shape.block;
  launch.cluster = shape.cluster;
  launch.has_cluster = shape.has_cluster;
  launch.cooperative = shape.cooperative;
  launch.is_programmatic = shape.is_programmatic;
  launch.dynamic_shared = uint32_t(shape.dynamic_shared);
  launch.parameters = gather_parameters(*kernel->function, arguments);
  launch.num_sms = num_sms();
  std::optional<Report> report;
  try {
    const std::lock_guard lock(launch_lock());
    report = run(launch, memory());
  } catch (const std::exception& error) {
    report = Report{FaultCode::kUnknownInstruction, "Kernel " + kernel->name + " ended the emulator: " + error.what()};
  }
  return report ? fail(*report, unseen) : cudaSuccess;
}

// What stands between <<< and >>>, from there to the stub of the kernel.
struct Call {
  dim3 grid, block;
  size_t dynamic_shared;
  void* stream;
};

std::vector<Call>& calls() {
  thread_local std::vector<Call> calls;
  return calls;
}

Shape shape_of(dim3 grid, dim3 block, size_t dynamic_shared) {
  Shape shape;
  shape.grid = from(grid);
  shape.block = from(block);
  shape.dynamic_shared = dynamic_shared;
  return shape;
}

}  // namespace

std::mutex& launch_lock() {
  static std::mutex* mutex = new std::mutex;
  return *mutex;
}

std::vector<size_t> parameter_offsets(const Function& function) {
  std::vector<size_t> offsets;
  size_t end = 0;
  for (const auto& parameter : function.text->parameters) {
    const size_t begin = (end + parameter->alignment - 1) / parameter->alignment * parameter->alignment;
    offsets.push_back(begin);
    end = begin + parameter->size;
  }
  return offsets;
}

cudaError_t read_config(const cudaLaunchConfig_t& config, Shape* shape) {
  *shape = shape_of(config.gridDim, config.blockDim, config.dynamicSmemBytes);
  Dim3 preferred = {0, 0, 0};
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = config.attrs[i];
    switch (attribute.id) {
      case cudaLaunchAttributeClusterDimension: {
        const auto& dim = attribute.val.clusterDim;
        shape->cluster = {dim.x, dim.y, dim.z};
        shape->has_cluster = dim.x != 0 || dim.y != 0 || dim.z != 0;
        if (!shape->has_cluster) shape->cluster = {};
        break;
      }
      case cudaLaunchAttributePreferredClusterDimension: {
        const auto& dim = attribute.val.preferredClusterDim;
        preferred = {dim.x, dim.y, dim.z};
        break;
      }
      case cudaLaunchAttributeCooperative:
        shape->cooperative = attribute.val.cooperative != 0;
        break;
      case cudaLaunchAttributeProgrammaticStreamSerialization:
        shape->is_programmatic = attribute.val.programmaticStreamSerializationAllowed != 0;
        break;
      // Nothing to do where all is done in order, at once, on one device. Events count as recorded anyway.
      case cudaLaunchAttributeIgnore:
      case cudaLaunchAttributeAccessPolicyWindow:
      case cudaLaunchAttributeClusterSchedulingPolicyPreference:
      case cudaLaunchAttributeProgrammaticEvent:
      case cudaLaunchAttributePriority:
      case cudaLaunchAttributeMemSyncDomainMap:
      case cudaLaunchAttributeMemSyncDomain:
      case cudaLaunchAttributeLaunchCompletionEvent:
      case cudaLaunchAttributePreferredSharedMemoryCarveout:
        break;
      case cudaLaunchAttributeDeviceUpdatableKernelNode:  // of graphs
        return fail(cudaErrorNotSupported);
      default:
#if CUDART_VERSION >= 13000
        if (attribute.id == cudaLaunchAttributeNvlinkUtilCentricScheduling) break;
#endif
        return fail(cudaErrorInvalidValue, "unknown launch attribute " + std::to_string(int(attribute.id)));
    }
  }
  // Clusters are never made larger than they have to be, but the wish must be one.
  if (preferred.count() != 0 && !(shape->has_cluster && shape->cluster.count() != 0 &&
                                  divides(shape->cluster, preferred) && divides(preferred, shape->grid))) {
    return fail(cudaErrorInvalidClusterSize, "preferred clusters of " + text(preferred) + " do not fit");
  }
  return cudaSuccess;
}

cudaError_t settle_cluster(const Kernel& kernel, Shape* shape) {
  const auto refuse = [&](Dim3 cluster, const std::string& why) {
    return fail(cudaErrorInvalidClusterSize,
                "kernel " + kernel.name + ": clusters of " + text(cluster) + " blocks " + why);
  };
  const Dim3 required = kernel.cluster();
  if (required.x != 0 || required.y != 0 || required.z != 0) {
    if (required.count() == 0) return refuse(required, "are required, which cannot be");
    if (shape->has_cluster && !equal(shape->cluster, required)) {
      return refuse(shape->cluster, "are not the " + text(required) + " that it requires");
    }
    shape->cluster = required;
    shape->has_cluster = true;
  } else if (kernel.function->text->explicit_cluster && !shape->has_cluster) {
    return fail(cudaErrorInvalidClusterSize, "kernel " + kernel.name + " must be launched with clusters");
  }
  const Dim3 cluster = shape->cluster;
  if (cluster.count() == 0) return refuse(cluster, "cannot be");
  if (!divides(cluster, shape->grid)) return refuse(cluster, "do not divide a grid of " + text(shape->grid));
  const bool non_portable = kernel.non_portable_cluster;
  if (cluster.count() > (non_portable ? kMaxClusterSize : kPortableClusterSize)) {
    return refuse(cluster, non_portable ? "are too large"
                                        : "are too large without cudaFuncAttributeNonPortableClusterSizeAllowed");
  }
  const int most = kernel.function->text->max_cluster_rank;
  if (most > 0 && cluster.count() > uint64_t(most)) return refuse(cluster, "exceed its launch bounds");
  return cudaSuccess;
}

}  // namespace emulator::runtime

using namespace emulator::runtime;

// --- Launches by name. A kernel written <<<…>>> comes through __cudaLaunchKernel

cudaError_t cudaLaunchKernel(const void* symbol, dim3 grid, dim3 block, void** arguments, size_t dynamic_shared,
                             cudaStream_t) {
  return launch(symbol, shape_of(grid, block, dynamic_shared), arguments);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* symbol, void** arguments) {
  Shape shape;
  if (!config) return fail(cudaErrorInvalidValue);
  if (const cudaError_t error = read_config(*config, &shape); error != cudaSuccess) return error;
  return launch(symbol, shape, arguments);
}

cudaError_t cudaLaunchCooperativeKernel(const void* symbol, dim3 grid, dim3 block, void** arguments,
                                        size_t dynamic_shared, cudaStream_t) {
  Shape shape = shape_of(grid, block, dynamic_shared);
  shape.cooperative = true;
  return launch(symbol, shape, arguments);
}

extern "C" {

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t dynamic_shared, CUstream_st* stream) {
  calls().push_back({grid, block, dynamic_shared, stream});
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* dynamic_shared, void* stream) {
  if (calls().empty()) return fail(cudaErrorMissingConfiguration);
  const Call call = calls().back();
  calls().pop_back();
  *grid = call.grid;
  *block = call.block;
  *dynamic_shared = call.dynamic_shared;
  *static_cast<void**>(stream) = call.stream;
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t dynamic_shared,
                               cudaStream_t) {
  return launch(kernel, shape_of(grid, block, dynamic_shared), arguments, true);
}

cudaError_t __cudaLaunchKernel_ptsz(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t dynamic_shared,
                                    cudaStream_t stream) {
  return __cudaLaunchKernel(kernel, grid, block, arguments, dynamic_shared, stream);
}

}  // extern "C"

cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t function, void* data) {
  if (!function) return fail(cudaErrorInvalidValue);
  function(data);
  return cudaSuccess;
}
