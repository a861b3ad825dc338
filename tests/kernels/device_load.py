"""Work for the GPU on a stream that JAX knows nothing of, beside what is tested."""

import contextlib
import ctypes
import threading


@contextlib.contextmanager
def loaded_device(num_bytes=256 << 20):
    """While it lasts, another stream fills memory without pause."""
    cuda = ctypes.CDLL("libcuda.so.1")

    def call(name, *arguments):
        status = getattr(cuda, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} returned {status}")

    device, context = ctypes.c_int(), ctypes.c_void_p()
    stream, memory = ctypes.c_void_p(), ctypes.c_uint64()
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    stop, problems = threading.Event(), []

    def work():
        try:
            call("cuCtxSetCurrent", context)
            call("cuStreamCreate", ctypes.byref(stream), 1)  # does not wait for the legacy stream
            call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(num_bytes))
            while not stop.is_set():
                for _ in range(20):
                    call("cuMemsetD32Async", memory, 0x7FC00000, ctypes.c_size_t(num_bytes // 4), stream)
                call("cuStreamSynchronize", stream)
            call("cuMemFree_v2", memory)
            call("cuStreamDestroy_v2", stream)
        except RuntimeError as problem:
            problems.append(problem)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        call("cuDevicePrimaryCtxRelease_v2", device)
    if problems:
        raise problems[0]
