"""What the device did between two moments, from CUPTI.

There are two ways to it from JAX. ``Trace`` is ``jax.profiler``: kernels, memsets and
copies, with their times. ``Kernels`` is the extension behind
``jax.experimental.mosaic.gpu.profiler``: kernels alone, and only how long they took. (Its
``measure`` compiles what it is given, and calls in there may be dropped or moved, so the
extension is used directly.)
"""

from __future__ import annotations

import abc
import os
import pathlib
import tempfile

import jax

from jax_flash_mla._bench.segments import Activity, MeasurementError

# Facts that the trace keeps for each kind of work on a device, and for nothing else, in
# lower case (XLA writes "Memset_details").
WORK = ("kernel_details", "memset_details", "memcpy_details")
# Without it XLA's tracer asks CUPTI to run kernels one by one, and launches that overlap
# by design would not.
CONCURRENT_KERNELS = "TF_GPU_CUPTI_FORCE_CONCURRENT_KERNEL"


class Recorder(abc.ABC):
    """Records between ``start`` and ``stop``; the device must be idle at both.

    Attributes:
      name: on the command line.
      sees: what is recorded, in words.
      has_times: whether activities have the times at which they ran; else they follow
        each other without gaps.
    """

    name: str
    sees: str
    has_times: bool

    @abc.abstractmethod
    def start(self) -> None:
        """Begins to record."""

    @abc.abstractmethod
    def stop(self) -> list[Activity]:
        """Ends recording: what ran, in order.

        Raises:
          MeasurementError: nothing was recorded.
        """


class Trace(Recorder):
    """Records with ``jax.profiler``."""

    name = "trace"
    sees = "kernels, memsets and copies"
    has_times = True

    def start(self) -> None:
        os.environ[CONCURRENT_KERNELS] = "true"
        options = jax.profiler.ProfileOptions()
        # Tracers of the host would slow the queue down, and programs need not be kept.
        options.host_tracer_level = options.python_tracer_level = 0
        options.enable_hlo_proto = False
        self._folder = tempfile.TemporaryDirectory()
        jax.profiler.start_trace(self._folder.name, profiler_options=options)

    def stop(self) -> list[Activity]:
        jax.profiler.stop_trace()
        with self._folder as folder:
            files = list(pathlib.Path(folder).rglob("*.xplane.pb"))
            if len(files) != 1:
                raise MeasurementError(f"jax.profiler left {len(files)} traces, not one.")
            return activities_of(jax.profiler.ProfileData.from_file(str(files[0])))


def activities_of(trace) -> list[Activity]:
    """Work on GPUs in a ``jax.profiler.ProfileData``, by start.

    Raises:
      MeasurementError: there is none.
    """
    is_work: dict[str, bool] = {}
    found = []
    for plane in trace.planes:
        if not plane.name.startswith("/device:GPU:"):
            continue
        for line in plane.lines:
            for event in line.events:
                if event.name not in is_work:
                    is_work[event.name] = any(str(name).lower() in WORK for name, _ in event.stats)
                if is_work[event.name]:
                    start = event.start_ns * 1e-6
                    found.append(Activity(event.name, start, start + event.duration_ns * 1e-6))
    if not found:
        planes = ", ".join(plane.name for plane in trace.planes) or "none"
        raise MeasurementError(f"the trace holds no work on a GPU; its planes are: {planes}.")
    return sorted(found, key=lambda activity: activity.start)


class Kernels(Recorder):
    """Records with the CUPTI extension of Mosaic GPU."""

    name = "kernels"
    sees = "kernels alone, without memsets"
    has_times = False

    def start(self) -> None:
        from jax._src.lib import mosaic_gpu

        self._extension = mosaic_gpu._mosaic_gpu_ext
        self._extension._cupti_init()

    def stop(self) -> list[Activity]:
        return one_after_another(self._extension._cupti_get_timings())


def one_after_another(timings) -> list[Activity]:
    """Activities from ``(name, milliseconds)`` in order.

    Raises:
      MeasurementError: there are none.
    """
    found, now = [], 0.0
    for name, milliseconds in timings:
        found.append(Activity(name, now, now + milliseconds))
        now += milliseconds
    if not found:
        raise MeasurementError("CUPTI recorded no kernel.")
    return found


RECORDERS: tuple[type[Recorder], ...] = (Trace, Kernels)
