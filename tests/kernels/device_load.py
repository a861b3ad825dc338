"""Work for the GPU on a stream that JAX knows nothing of, beside what is tested."""

import concurrent.futures
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
    stop = threading.Event()

    def work():
        """How many times it filled the memory."""
        fills = 0
        call("cuCtxSetCurrent", context)
        call("cuStreamCreate", ctypes.byref(stream), 1)  # does not wait for the legacy stream
        call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(num_bytes))
        while not stop.is_set():
            for _ in range(20):
                call("cuMemsetD32Async", memory, 0x7FC00000, ctypes.c_size_t(num_bytes // 4), stream)
            call("cuStreamSynchronize", stream)
            fills += 20
        call("cuMemFree_v2", memory)
        call("cuStreamDestroy_v2", stream)
        return fills

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        try:
            yield
        finally:
            stop.set()
            concurrent.futures.wait([working])
            call("cuDevicePrimaryCtxRelease_v2", device)
        if not working.result():
            raise RuntimeError("the device was not loaded at all")
