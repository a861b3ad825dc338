"""Results as a JSON file, and as a table on the terminal."""

from __future__ import annotations

import dataclasses
import datetime
import json
import pathlib

from rich.table import Table

import jax_flash_mla as fm
from jax_flash_mla._bench import presets, references
from jax_flash_mla._bench.presets import Row
from jax_flash_mla._bench.timing import Bench, Times
from jax_flash_mla._check import machine

SCHEMA = 1


@dataclasses.dataclass
class Result:
    """One implementation of one row.

    Attributes:
      id: preset/row/what was asked for, unique in a file.
      asked: ``"default"``, ``"cuda"`` or ``"xla"``.
      ran, why: the implementation that ran, and the reason.
      errors: from pure JAX's results, whole and worst row; None for pure JAX itself.
    """

    id: str
    preset: str
    row: str
    family: str
    asked: str
    ran: str
    why: str
    flop: float
    bytes: int
    errors: tuple[float, float] | None
    times: Times
    peers: list[dict]
    target: dict | None

    @property
    def tflops(self) -> float:
        """TFLOP/s at the median time."""
        return self.flop / self.times.milliseconds.median / 1e9

    @property
    def gbs(self) -> float:
        """GB/s at the median time."""
        return self.bytes / self.times.milliseconds.median / 1e6

    def reached(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        value = self.target["value"]
        if self.target["of"] == "us":
            return 1e3 * self.times.milliseconds.median <= value
        return getattr(self.times, self.target["of"]).median >= value


def result(preset: str, row: Row, asked: str, ran: str, why: str, errors, times: Times) -> Result:
    """A ``Result`` with the row's own facts."""
    return Result(
        id=f"{preset}/{row.name}/{asked}",
        preset=preset,
        row=row.name,
        family=row.problem.family,
        asked=asked,
        ran=ran,
        why=why,
        flop=row.problem.flop(),
        bytes=row.problem.bytes(),
        errors=errors,
        times=times,
        peers=[dataclasses.asdict(peer) for peer in row.peers],
        target=None if row.target is None else dataclasses.asdict(row.target),
    )


class Report:
    """Everything a session found; written anew after each row, so that what there is survives."""

    def __init__(self, path: pathlib.Path, bench: Bench, rounds: int, seed: int):
        self.path = path
        self.results: list[Result] = []
        self.skipped: list[dict[str, str]] = []
        self.failed: list[dict[str, str]] = []
        self._head = {
            "schema": SCHEMA,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": _commit(),
            "machine": machine.machine(),
            "build": fm.build_info(),
            "protocol": {
                "rounds": rounds,
                "fill_bytes": references.FILL_BYTES,
                "cublas": f"bf16 {references.MATMUL_SIZE}^3 NN",
                "recorder": bench.recorder.name,
                "recorded": bench.recorder.sees,
                "why": bench.why,
                "read": str(bench.read_way),
                "ways_to_read_gbs": bench.read_rates,
                "seed": seed,
            },
            "provenance": presets.PROVENANCE,
        }

    def write(self) -> None:
        """Writes the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.as_dict(), indent=1) + "\n")

    def as_dict(self) -> dict:
        """The file's contents."""
        rows = []
        for one in self.results:
            rates = {"tflops": one.tflops, "gbs": one.gbs, "reached": one.reached()}
            rows.append(dataclasses.asdict(one) | rates)
        passed = [one.id for one in self.results]
        return self._head | {"rows": rows, "passed": passed, "skipped": self.skipped, "failed": self.failed}


def _commit() -> str | None:
    """Of the checkout that this is called from, if it is called from one."""
    here = pathlib.Path.cwd()
    return machine.commit(here) if (here / "jax_flash_mla" / "_build.py").exists() else None


def line(one: Result) -> str:
    """The main figures of a result in a line."""
    read = "" if one.times.read is None else f", {one.times.read.median:.3f} of a read"
    ms = one.times.milliseconds.median
    return f"{one.family} {one.row} in {one.ran}: {ms:.4f} ms, {one.times.cublas.median:.3f} of cuBLAS{read}"


def table(results: list[Result]) -> Table:
    """Ours beside the peer and the target."""
    made = Table(title="shares are medians over rounds, with quartiles")
    for heading in ("row", "ran", "ms", "span", "queued", "TFLOP/s", "GB/s", "of cuBLAS", "of read", "peer", "target"):
        made.add_column(heading, justify="left" if heading in ("row", "ran") else "right", no_wrap=heading == "row")
    family = None
    for one in results:
        if family is not None and family != one.family:
            made.add_section()
        family = one.family
        made.add_row(*_cells(one))
    return made


def _cells(one: Result) -> list[str]:
    times = one.times
    span = "-" if times.span_milliseconds is None else f"{times.span_milliseconds:.4f}"
    target = "-"
    if one.target is not None:
        target = str(presets.Target(**one.target))
    # Pure JAX beside a kernel is there to compare with: nothing is asked of it.
    if one.reached() is not None and one.asked != "xla":
        target = f"[{'green' if one.reached() else 'red'}]{target}[/]"
    return [
        f"{one.family} {one.row}",
        one.ran,
        f"{times.milliseconds.median:.4f}",
        span,
        f"{times.queued_milliseconds:.4f}",
        f"{one.tflops:.0f}",
        f"{one.gbs:.0f}",
        _share(times.cublas),
        _share(times.read),
        ", ".join(_peer(peer) for peer in one.peers) or "-",
        target,
    ]


def _share(share) -> str:
    return "-" if share is None else f"{share.median:.3f} [dim]{share.lower:.3f}–{share.upper:.3f}[/]"


def _peer(peer: dict) -> str:
    read = "" if peer["read"] is None else f" | {peer['read']:.2f}"
    return f"{peer['name']} {peer['cublas']:.3f}{read}"
