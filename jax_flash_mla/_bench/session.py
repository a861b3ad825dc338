"""Going through rows: what is skipped, checked, timed and reported."""

from __future__ import annotations

import datetime
import gc
import pathlib
import re
import sys
import time

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import jax_flash_mla as fm
from jax_flash_mla._bench import agreement, pictures, presets, references, report
from jax_flash_mla._bench.presets import Row
from jax_flash_mla._bench.problems import Problem
from jax_flash_mla._bench.segments import MeasurementError
from jax_flash_mla._bench.timing import Bench

GIB = 1 << 30
DRY_RUN_GIB = 100.0
SHARE_OF_MEMORY = 0.8


def selected(names: list[str], match: str) -> list[tuple[str, Row]]:
    """Rows of presets, each once, whose name the expression is found in."""
    chosen = [each for name in names for each in (presets.TABLES if name == "all" else (name,))]
    return [
        (name, row) for name in dict.fromkeys(chosen) for row in presets.PRESETS[name] if re.search(match, row.name)
    ]


def memory(problem: Problem) -> int:
    """Bytes that timing a row takes, beside what an implementation needs inside.

    Operands and results, the results of pure JAX to compare with, and the references.
    """
    product = 3 * references.MATMUL_SIZE**2 * 2
    read = references.read_bytes(problem.bytes()) if problem.reads_memory else 0
    results = problem.memory() - _operand_bytes(problem)
    return problem.memory() + results + product + references.FILL_BYTES + read


def _operand_bytes(problem: Problem) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(lambda: problem.operands(0))))


def too_large(problem: Problem, budget: float) -> str | None:
    """Why a row does not fit into a budget of bytes, or None."""
    needed = memory(problem)
    if needed <= budget:
        return None
    return f"needs {needed / GIB:.1f} GiB, above the budget of {budget / GIB:.1f} GiB."


def dry_run(options, console: Console) -> int:
    """Lists what would run."""
    budget = GIB * (DRY_RUN_GIB if options.memory_gib is None else options.memory_gib)
    made = Table(title="dry run: nothing is timed")
    for heading in ("row", "GFLOP", "MB", "FLOP/byte", "memory, GiB", "floor, ms", "target"):
        made.add_column(heading, justify="left" if heading == "row" else "right", no_wrap=heading == "row")
    skipped = []
    for name, row in options.rows:
        if reason := too_large(row.problem, budget):
            skipped.append((name, row.name, reason))
            continue
        flop, moved = row.problem.flop(), row.problem.bytes()
        floors = [flop / options.cublas_tflops / 1e9] if options.cublas_tflops else []
        # Elsewhere most of the bytes come from the L2 cache, again and again.
        floors += [moved / options.read_gbs / 1e6] if options.read_gbs and row.problem.reads_memory else []
        made.add_row(
            f"{name} {row.name}",
            f"{flop / 1e9:.1f}",
            f"{moved / 1e6:.1f}",
            f"{flop / moved:.0f}",
            f"{memory(row.problem) / GIB:.1f}",
            f"{max(floors):.4f}" if floors else "-",
            str(row.target or "-"),
        )
    console.print(made)
    _print_list(console, "skipped", skipped)
    return 0


def _print_list(console: Console, what: str, entries) -> None:
    console.print(f"{what}: {len(entries)}")
    for *names, reason in entries:
        console.print(f"  {'/'.join(names)}: {reason.splitlines()[0]}", markup=False)


def main(options) -> int:
    """Times what the options select, or lists it; the exit status."""
    # A file or a pipe has no width; rows should stay on one line there.
    console = Console(width=None if sys.stdout.isatty() else 240)
    if options.dry_run:
        return dry_run(options, console)
    if jax.default_backend() != "gpu":
        console.print(
            f"Timing needs an NVIDIA GPU, and JAX runs on {jax.default_backend()} here; --dry-run lists the rows."
        )
        return 2
    started = time.monotonic()
    budget = options.memory_gib
    budget = SHARE_OF_MEMORY * jax.devices()[0].memory_stats()["bytes_limit"] if budget is None else budget * GIB
    try:
        bench = Bench(options.recorder)
    except MeasurementError as error:
        console.print(f"Nothing can be timed here: {error}", markup=False)
        return 1
    console.print(f"recording {bench.recorder.sees} with {bench.recorder.name}: {bench.why}", markup=False)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    path = options.out / f"{'+'.join(options.presets)}-{stamp}.json"
    found = report.Report(path, bench, options.rounds, options.seed)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("timing", total=len(options.rows))
        for name, row in options.rows:
            progress.update(task, description=f"{name} {row.name}")
            reason = too_large(row.problem, budget)
            if options.time_limit is not None and time.monotonic() - started > options.time_limit:
                reason = f"the time limit of {options.time_limit:g} s was over."
            if reason:
                found.skipped.append({"id": f"{name}/{row.name}", "reason": reason})
            else:
                before = len(found.results)
                Runner(bench, found, options).run(name, row)
                # What was found so far, for a log that may end early.
                for one in found.results[before:]:
                    progress.console.print(report.line(one), markup=False, highlight=False)
                gc.collect()
            found.write()
            progress.advance(task)
        progress.update(task, description="done")
    return _finish(console, found, path)


def _finish(console: Console, found: report.Report, path: pathlib.Path) -> int:
    console.print(report.table(found.results))
    for what in ("skipped", "failed"):
        _print_list(console, what, [(entry["id"], entry["reason"]) for entry in getattr(found, what)])
    console.print(f"results: {path}", markup=False)
    if found.results:
        try:
            drawn = pictures.draw(path)
        except ImportError:
            console.print('no pictures: matplotlib is missing (pip install "jax-flash-mla[bench]").', markup=False)
        else:
            console.print(f"pictures: {', '.join(map(str, drawn))}", markup=False)
    return 1 if found.failed else 0


class Runner:
    """Runs the implementations of a row."""

    def __init__(self, bench: Bench, found: report.Report, options):
        self.bench = bench
        self.found = found
        self.options = options

    def run(self, preset: str, row: Row) -> None:
        """Each implementation once; what goes wrong with one is listed and stops no other."""
        problem = row.problem
        try:
            operands = jax.block_until_ready(problem.operands(self.options.seed))
        # A row that fails, for whatever reason, must not cost the others.
        except Exception as error:
            self._failed(f"{preset}/{row.name}", error)
            return
        want, done = None, set()
        for asked in self.options.implementations:
            name = f"{preset}/{row.name}/{asked}"
            implementation = None if asked == "default" else asked
            try:
                ran, why = fm.which_implementation(problem.operation, implementation=implementation, **problem.facts())
            except NotImplementedError as error:
                self.found.skipped.append({"id": name, "reason": str(error)})
                continue
            if ran in done:
                continue
            done.add(ran)
            try:
                if want is None and ran != "xla":
                    want = self._compiled(problem, "xla", operands)()
                operation = self._compiled(problem, implementation, operands)
                errors = None if ran == "xla" else tuple(agreement.compare(operation(), want, problem.row_error))
                times = self.bench.time(problem, operation, self.options.rounds)
            except Exception as error:
                self._failed(name, error)
            else:
                self.found.results.append(report.result(preset, row, asked, ran, why, errors, times))

    def _failed(self, name: str, error: Exception) -> None:
        self.found.failed.append({"id": name, "reason": f"{type(error).__name__}: {error}"})

    @staticmethod
    def _compiled(problem: Problem, implementation: str | None, operands) -> references.Call:
        function, arguments = problem.prepare(implementation, operands)
        return references.compiled("operation", function, arguments)
