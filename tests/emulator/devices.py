"""Two machines that run a kernel's PTX: the emulator, and a GPU through nothing but its driver."""

import ctypes
import dataclasses
import os
from collections.abc import Mapping

import numpy as np

ALIGNMENT = 256  # of arrays, as cuMemAlloc has it


@dataclasses.dataclass(frozen=True)
class Input:
    """An array that the kernel reads: it gets a pointer."""

    array: np.ndarray


@dataclasses.dataclass(frozen=True)
class Output:
    """An array that the kernel writes. Before that it holds `initial`: an array, or so many equal bytes.

    What is not `kept` is no result: the kernel's own notes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype | type
    initial: np.ndarray | int = 0xCD
    kept: bool = True

    def contents(self) -> np.ndarray:
        out = np.empty(self.shape, self.dtype)
        if isinstance(self.initial, np.ndarray):
            out[...] = self.initial
        else:
            out.reshape(-1).view(np.uint8)[...] = self.initial
        return out


@dataclasses.dataclass(frozen=True)
class Scalar:
    """A value of one of numpy's types."""

    value: np.generic


TENSOR_TYPES = (
    *("uint8", "uint16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64", "bfloat16"),
    *("float32_ftz", "tfloat32", "tfloat32_ftz"),
)


@dataclasses.dataclass(frozen=True)
class TensorMap:
    """A tensor in one of the kernel's arrays, dimension 0 being the contiguous one. Strides are in bytes."""

    of: str
    type: str
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    element_strides: tuple[int, ...] | None = None
    interleave: int = 0
    swizzle: int = 0
    l2_promotion: int = 0
    fill: int = 0
    offset: int = 0  # of the tensor in the array, in bytes

    def encoding(self, base: int) -> tuple:
        steps = self.element_strides or (1,) * len(self.dims)
        return (
            *(TENSOR_TYPES.index(self.type), len(self.dims), base + self.offset),
            *(list(self.dims), list(self.strides), list(self.box), list(steps)),
            *(self.interleave, self.swizzle, self.l2_promotion, self.fill),
        )


Argument = Input | Output | Scalar | TensorMap


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What is launched, and with what; arguments are the parameters of the entry in their order."""

    ptx: str
    entry: str
    arguments: Mapping[str, Argument]
    grid: tuple[int, int, int] = (1, 1, 1)
    block: tuple[int, int, int] = (32, 1, 1)
    cluster: tuple[int, int, int] = (1, 1, 1)
    dynamic_shared: int = 0

    @property
    def results(self) -> dict[str, Output]:
        return {name: a for name, a in self.arguments.items() if isinstance(a, Output) and a.kept}


def parameter_bytes(values: list[tuple[bytes, int]]) -> bytes:
    """Values with their alignments, laid out as a kernel's parameters."""
    out = b""
    for value, alignment in values:
        out += bytes(-len(out) % alignment) + value
    return out


def value_of(argument: Argument, name: str, addresses: Mapping[str, int], encode) -> tuple[bytes, int]:
    """The bytes of a parameter and their alignment."""
    if isinstance(argument, Scalar):
        return argument.value.tobytes(), argument.value.itemsize
    if isinstance(argument, TensorMap):
        return encode(*argument.encoding(addresses[argument.of])), 64
    return addresses[name].to_bytes(8, "little"), 8


class Emulated:
    """The emulator, by way of the extension that test builds have."""

    def __init__(self):
        from jax_flash_mla import _C_emulated

        self._emulator = _C_emulated

    def run(self, kernel: Kernel) -> list[np.ndarray]:
        arrays, buffers = {}, []
        for name, argument in kernel.arguments.items():
            if not isinstance(argument, (Input, Output)):
                continue
            is_input = isinstance(argument, Input)
            array = arrays[name] = aligned(argument.array if is_input else argument.contents())
            written = is_input or isinstance(argument.initial, np.ndarray)
            buffers.append((array.ctypes.data, array.nbytes, written, is_input))
        addresses = {name: array.ctypes.data for name, array in arrays.items()}
        parameters = parameter_bytes(
            [value_of(a, n, addresses, self._emulator.encode_tensor_map) for n, a in kernel.arguments.items()]
        )
        self._emulator.launch(
            *(kernel.ptx, kernel.entry, kernel.grid, kernel.block, kernel.cluster, kernel.dynamic_shared),
            *(parameters, buffers),
        )
        return [arrays[name].copy() for name in kernel.results]


def has_emulator() -> bool:
    """Whether this build brings it."""
    try:
        Emulated()
    except ImportError:
        return False
    return True


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy at an address that is a multiple of ALIGNMENT."""
    room = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % ALIGNMENT
    out = room[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    out[...] = array
    return out


# ----------------------------------------------------------------------------------------------------------------------
# The driver, as cuda.h declares it

JIT_ERROR_LOG_BUFFER, JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 5, 6
FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 8, 14
LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION = 4
DEFAULT_DYNAMIC_SHARED = 48 * 1024
PORTABLE_CLUSTER = 8


class LaunchAttribute(ctypes.Structure):
    """CUlaunchAttribute: an id, padding to 8 bytes, and a union of 64 bytes, here the dimensions of a cluster."""

    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("cluster", ctypes.c_uint * 3)]
    _fields_ += [("rest", ctypes.c_char * 52)]


class LaunchConfig(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = [("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared", ctypes.c_uint)]
    _fields_ += [("stream", ctypes.c_void_p), ("attributes", ctypes.POINTER(LaunchAttribute))]
    _fields_ += [("attribute_count", ctypes.c_uint)]


assert ctypes.sizeof(LaunchAttribute) == 72 and ctypes.sizeof(LaunchConfig) == 56

u32, u64, pointer = ctypes.c_uint, ctypes.c_uint64, ctypes.c_void_p
SIGNATURES = {
    "cuInit": [u32],
    "cuDriverGetVersion": [pointer],
    "cuGetErrorName": [ctypes.c_int, pointer],
    "cuGetErrorString": [ctypes.c_int, pointer],
    "cuDeviceGet": [pointer, ctypes.c_int],
    "cuDeviceGetName": [pointer, ctypes.c_int, ctypes.c_int],
    "cuDevicePrimaryCtxRetain": [pointer, ctypes.c_int],
    "cuCtxSetCurrent": [pointer],
    "cuCtxSynchronize": [],
    "cuModuleLoadDataEx": [pointer, pointer, u32, pointer, pointer],
    "cuModuleUnload": [pointer],
    "cuModuleGetFunction": [pointer, pointer, ctypes.c_char_p],
    "cuFuncSetAttribute": [pointer, ctypes.c_int, ctypes.c_int],
    "cuMemAlloc_v2": [pointer, ctypes.c_size_t],
    "cuMemFree_v2": [u64],
    "cuMemcpyHtoD_v2": [u64, pointer, ctypes.c_size_t],
    "cuMemcpyDtoH_v2": [pointer, u64, ctypes.c_size_t],
    "cuLaunchKernelEx": [pointer, pointer, pointer, pointer],
    "cuTensorMapEncodeTiled": [pointer, ctypes.c_int, u32, u64, *[pointer] * 4, *[ctypes.c_int] * 4],
}


# Calls whose failure spoils nothing.
HARMLESS = ("cuModuleLoadDataEx", "cuModuleGetFunction", "cuTensorMapEncodeTiled")


class CudaError(RuntimeError):
    """The driver refused something. `is_fatal`: the context may be of no more use."""

    def __init__(self, message: str, is_fatal: bool):
        super().__init__(message)
        self.is_fatal = is_fatal


class Gpu:
    """The first GPU of this computer."""

    def __init__(self):
        self._driver = load_driver()
        self._call("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), device)
        self.name = name.value.decode()
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        self.driver_version = f"{version.value // 1000}.{version.value % 1000 // 10}"
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)

    def _call(self, function: str, *arguments, log: ctypes.Array | None = None):
        result = getattr(self._driver, function)(*arguments)
        if result == 0:
            return
        text = ctypes.c_char_p()
        self._driver.cuGetErrorName(result, ctypes.byref(text))
        message = f"{function}: {text.value.decode() if text.value else result}"
        if log is not None and log.value:
            message += "\n" + log.value.decode(errors="replace").strip()
        raise CudaError(message, function not in HARMLESS)

    def load(self, ptx: str) -> ctypes.c_void_p:
        log = ctypes.create_string_buffer(16384)
        options = (ctypes.c_int * 2)(JIT_ERROR_LOG_BUFFER, JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
        values = (ctypes.c_void_p * 2)(ctypes.addressof(log), len(log))
        module = ctypes.c_void_p()
        text = ctypes.create_string_buffer(ptx.encode())
        self._call("cuModuleLoadDataEx", ctypes.byref(module), text, 2, options, values, log=log)
        return module

    def encode_tensor_map(self, kind, rank, address, dims, strides, box, steps, *modes) -> bytes:
        room = (ctypes.c_uint64 * 24)()  # a map is 16, at a multiple of 64 bytes
        begin = ctypes.addressof(room) + -ctypes.addressof(room) % 64
        arrays = [(ctypes.c_uint64 * rank)(*dims), (ctypes.c_uint64 * rank)(*strides)]
        arrays += [(ctypes.c_uint32 * rank)(*box), (ctypes.c_uint32 * rank)(*steps)]
        self._call("cuTensorMapEncodeTiled", begin, kind, rank, address, *arrays, *modes)
        return ctypes.string_at(begin, 128)

    def run(self, kernel: Kernel, times: int = 1) -> list[np.ndarray]:
        """Runs it so many times, from the same beginning; raises AssertionError where the results differ."""
        module, addresses = self.load(kernel.ptx), {}
        try:
            function = ctypes.c_void_p()
            self._call("cuModuleGetFunction", ctypes.byref(function), module, kernel.entry.encode())
            if kernel.dynamic_shared > DEFAULT_DYNAMIC_SHARED:
                attribute = FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                self._call("cuFuncSetAttribute", function, attribute, kernel.dynamic_shared)
            if np.prod(kernel.cluster) > PORTABLE_CLUSTER:
                self._call("cuFuncSetAttribute", function, FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)
            for name, argument in kernel.arguments.items():
                if isinstance(argument, (Input, Output)):
                    bytes_ = argument.array.nbytes if isinstance(argument, Input) else argument.contents().nbytes
                    place = ctypes.c_uint64()
                    self._call("cuMemAlloc_v2", ctypes.byref(place), max(bytes_, 1))
                    addresses[name] = place.value
            results = [self._run_once(kernel, function, addresses) for _ in range(times)]
        finally:
            for place in addresses.values():
                self._driver.cuMemFree_v2(place)
            self._driver.cuModuleUnload(module)
        for other in results[1:]:
            for number, (one, two) in enumerate(zip(results[0], other)):
                assert one.tobytes() == two.tobytes(), f"two runs differ in output {number}"
        return results[0]

    def _run_once(self, kernel: Kernel, function, addresses: Mapping[str, int]) -> list[np.ndarray]:
        for name, argument in kernel.arguments.items():
            if isinstance(argument, (Input, Output)):
                is_input = isinstance(argument, Input)
                contents = np.ascontiguousarray(argument.array if is_input else argument.contents())
                self._call("cuMemcpyHtoD_v2", addresses[name], contents.ctypes.data, contents.nbytes)
        values = [value_of(a, n, addresses, self.encode_tensor_map)[0] for n, a in kernel.arguments.items()]
        places = [ctypes.create_string_buffer(value, len(value)) for value in values]
        parameters = (ctypes.c_void_p * max(len(places), 1))(*[ctypes.addressof(place) for place in places])
        cluster = LaunchAttribute(id=LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
        cluster.cluster[:] = kernel.cluster
        config = LaunchConfig(shared=kernel.dynamic_shared, attribute_count=0)
        config.grid[:], config.block[:] = kernel.grid, kernel.block
        if kernel.cluster != (1, 1, 1):
            config.attributes, config.attribute_count = ctypes.pointer(cluster), 1
        self._call("cuLaunchKernelEx", ctypes.byref(config), function, parameters, None)
        self._call("cuCtxSynchronize")
        out = []
        for name, argument in kernel.results.items():
            array = np.empty(argument.shape, argument.dtype)
            self._call("cuMemcpyDtoH_v2", array.ctypes.data, addresses[name], array.nbytes)
            out.append(array)
        return out


def load_driver() -> ctypes.CDLL:
    folders = ["", "/usr/local/nvidia/lib64/", "/usr/lib/x86_64-linux-gnu/", "/usr/local/nvidia/lib/"]
    for folder in folders:
        try:
            driver = ctypes.CDLL(folder + "libcuda.so.1", mode=os.RTLD_GLOBAL)
        except OSError:
            continue
        for name, types in SIGNATURES.items():
            function = getattr(driver, name)
            function.argtypes, function.restype = types, ctypes.c_int
        return driver
    raise OSError("There is no libcuda.so.1.")
