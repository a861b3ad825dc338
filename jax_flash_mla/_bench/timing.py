"""Rounds of calls in one queue, and what follows from them for a row."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence

import jax

from jax_flash_mla._bench import references
from jax_flash_mla._bench.problems import Problem
from jax_flash_mla._bench.recording import RECORDERS, Recorder
from jax_flash_mla._bench.references import Call, Read
from jax_flash_mla._bench.segments import Activity, MeasurementError, busy, span, split

WARM_UP_ROUNDS = 2
# Calls that take longer are measured in fewer rounds, down to the least.
SECONDS_OF_CALLS = 10.0
LEAST_ROUNDS = 3
SECONDS_OF_QUEUED_CALLS = 0.3
QUEUED_CALLS = (5, 500)
# What ways of reading are compared on.
READ_TRIAL_BYTES = 1 << 31


@dataclasses.dataclass(frozen=True)
class Quartiles:
    """Median and quartiles over rounds."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        """Of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)


@dataclasses.dataclass(frozen=True)
class Times:
    """What was measured of one call.

    Attributes:
      rounds: how many.
      milliseconds: on the device, all of the call's work.
      span_milliseconds: from its first start to its last end, or None where unknown.
      queued_milliseconds: on the host's clock, for each of many queued calls.
      cublas: rate as a share of that of cuBLAS in the same round.
      read: the same of a streaming read of as many bytes, or None.
      cublas_tflops, read_gbs: medians of the references.
      activities: names and numbers of what a call ran.
    """

    rounds: int
    milliseconds: Quartiles
    span_milliseconds: float | None
    queued_milliseconds: float
    cublas: Quartiles
    read: Quartiles | None
    cublas_tflops: float
    read_gbs: float | None
    activities: dict[str, int]


def queue(calls: Sequence[Call], rounds: int) -> None:
    """Queues rounds of calls and waits for the last; results are dropped on the way."""
    last = None
    for _ in range(rounds):
        for call in calls:
            last = call()
    jax.block_until_ready(last)


class Bench:
    """The references of a session, and how it records.

    Attributes:
      recorder: the recorder in use.
      why: why it is that one.
      fill_kernel: the name that the fill's kernel goes by.
      read_way: the fastest way to read.
      read_rates: GB/s of each way on 2 GiB, or why it was left out.
    """

    def __init__(self, recorder: str = "auto"):
        self.fill = references.fill()
        self.matmul = references.matmul()
        self.recorder, self.fill_kernel, self.why = self._choose_recorder(recorder)
        self.read_way, self.read_rates = self._choose_read()

    def _choose_recorder(self, wanted: str) -> tuple[Recorder, str, str]:
        reasons = []
        for kind in RECORDERS:
            if wanted not in ("auto", kind.name):
                continue
            recorder = kind()
            try:
                fill_kernel = self._try_out(recorder)
            # Whatever is missing on this machine, the next way may not need it.
            except Exception as error:
                reasons.append(f"{kind.name} does not work here: {type(error).__name__}: {error}")
            else:
                return recorder, fill_kernel, "; ".join(reasons) or "works here."
        raise MeasurementError("; ".join(reasons))

    def _try_out(self, recorder: Recorder) -> str:
        """Records a fill alone, then two rounds of known calls; the name of the fill's kernel."""
        queue([self.fill, self.matmul], 1)
        alone = self._record(recorder, [self.fill], 1)
        if len(alone) != 1:
            raise MeasurementError(f"a fill left {len(alone)} activities, not one.")
        (activity,) = alone
        split(self._record(recorder, [self.fill, self.matmul], 2), activity.name, ["cublas"], 2)
        return activity.name

    @staticmethod
    def _record(recorder: Recorder, calls: Sequence[Call], rounds: int) -> list[Activity]:
        recorder.start()
        try:
            queue(calls, rounds)
        finally:
            activities = recorder.stop()
        return activities

    def _rounds(self, calls: Sequence[Call], rounds: int) -> list[dict[str, list[Activity]]]:
        """Rounds of calls with a fill before each, recorded in one go."""
        in_order = [each for call in calls for each in (self.fill, call)]
        queue(in_order, min(WARM_UP_ROUNDS, rounds))
        return split(
            self._record(self.recorder, in_order, rounds), self.fill_kernel, [call.name for call in calls], rounds
        )

    def _choose_read(self) -> tuple[Read, dict[str, float | str]]:
        rates: dict[str, float | str] = {}
        best: tuple[float, Read] | None = None
        for way in references.READS:
            cut = self._rounds([references.read(way, READ_TRIAL_BYTES)], LEAST_ROUNDS)
            if (kernels := len(cut[0]["read"])) != 1:
                rates[str(way)] = f"{kernels} kernels, not one"
                continue
            rate = READ_TRIAL_BYTES / 1e6 / statistics.median(busy(one["read"]) for one in cut)
            rates[str(way)] = rate
            if best is None or rate > best[0]:
                best = rate, way
        if best is None:
            raise MeasurementError(f"no way of reading is a single kernel: {rates}.")
        return best[1], rates

    def time(self, problem: Problem, operation: Call, rounds: int) -> Times:
        """Measures an operation.

        Args:
          problem: what it is, for its FLOP and bytes.
          operation: the compiled call.
          rounds: the most to measure.

        Raises:
          MeasurementError: what was recorded does not fit what was queued.
        """
        jax.block_until_ready(operation())
        rounds = _rounds_within(rounds, _seconds(operation, 1))
        calls = [self.matmul, operation]
        size = references.read_bytes(problem.bytes())
        if problem.reads_memory:
            calls.insert(1, references.read(self.read_way, size))
        cut = self._rounds(calls, rounds)
        ms = {call.name: [busy(one[call.name]) for one in cut] for call in calls}
        spans = [span(one[operation.name]) for one in cut] if self.recorder.has_times else None
        return summarise(problem, ms, spans, cut[0][operation.name], size, _queued_milliseconds(operation))


def _seconds(call: Call, calls: int) -> float:
    """Host seconds until so many queued calls are done."""
    start = time.perf_counter()
    for _ in range(calls):
        last = call()
    jax.block_until_ready(last)
    return time.perf_counter() - start


def _rounds_within(rounds: int, seconds_of_a_call: float) -> int:
    return max(min(rounds, LEAST_ROUNDS), min(rounds, int(SECONDS_OF_CALLS / seconds_of_a_call)))


def _queued_milliseconds(call: Call) -> float:
    least, most = QUEUED_CALLS
    calls = max(least, min(most, int(SECONDS_OF_QUEUED_CALLS / _seconds(call, 1))))
    return 1e3 * _seconds(call, calls) / calls


def summarise(
    problem: Problem,
    ms: dict[str, list[float]],
    spans: list[float] | None,
    activities: Sequence[Activity],
    read_size: int,
    queued_milliseconds: float,
) -> Times:
    """Times of a row from milliseconds of each place in each round.

    Args:
      problem: for its FLOP and bytes.
      ms: of ``"cublas"``, ``"operation"`` and, where it was measured, ``"read"``.
      spans: of the operation in each round, or None.
      activities: of the operation in one round.
      read_size: bytes that the read read.
      queued_milliseconds: see ``Times``.
    """
    cublas_rates = [references.matmul_flop() / t for t in ms["cublas"]]
    cublas = [problem.flop() / t / rate for t, rate in zip(ms["operation"], cublas_rates, strict=True)]
    read = read_gbs = None
    if "read" in ms:
        read_rates = [read_size / t for t in ms["read"]]
        read = Quartiles.of([problem.bytes() / t / rate for t, rate in zip(ms["operation"], read_rates, strict=True)])
        read_gbs = statistics.median(read_rates) / 1e6
    counts: dict[str, int] = {}
    for activity in activities:
        counts[activity.name] = counts.get(activity.name, 0) + 1
    return Times(
        rounds=len(cublas),
        milliseconds=Quartiles.of(ms["operation"]),
        span_milliseconds=None if spans is None else statistics.median(spans),
        queued_milliseconds=queued_milliseconds,
        cublas=Quartiles.of(cublas),
        read=read,
        cublas_tflops=statistics.median(cublas_rates) / 1e9,
        read_gbs=read_gbs,
        activities=counts,
    )
