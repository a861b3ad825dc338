"""Trains a model: ``python -m jax_flash_mla.examples.deepseek.train --preset smoke --out runs/smoke``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import pathlib
import sys
import time
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jax_flash_mla.examples.deepseek import data, speed
from jax_flash_mla.examples.deepseek.checkpoint import Run
from jax_flash_mla.examples.deepseek.config import ATTENTIONS, COMPUTE, PRESETS, TrainConfig
from jax_flash_mla.examples.deepseek.optimizer import State, make_evaluation, make_step
from jax_flash_mla.examples.deepseek.parallel import make_mesh, place

# Steps between lines, where the output is no terminal.
LINES_EVERY = 20


class Outcome(NamedTuple):
    """What a run came to, in nats a byte of held-out text; rates are over the steps of this process."""

    weights: dict
    held_out: float
    bigram: float
    tokens_per_second: float


def check(config: TrainConfig) -> None:
    """Refuses sizes that do not fit together, in one sentence."""
    data_axis, tensor, context = config.mesh
    for name, value, divisor in (
        ("batch", config.batch, config.accumulate * data_axis),
        ("evaluate", config.evaluate, data_axis),
        ("length", config.length, context),
        ("heads", config.model.heads, tensor),
        ("d_ffn", config.model.d_ffn, tensor),
    ):
        if divisor < 1 or value < 1 or value % divisor:
            raise ValueError(
                f"{name} = {value} must be a positive multiple of {divisor}, "
                f"with mesh {config.mesh} and accumulate = {config.accumulate}."
            )
    if config.steps < 1 or config.save_every < 1:
        raise ValueError(f"steps and save_every must be at least 1, got {config.steps} and {config.save_every}.")


def train(config: TrainConfig, folder: pathlib.Path, console: Console, text: data.Text | None = None) -> Outcome:
    """Trains, or goes on with what it finds in the folder.

    Raises:
      ValueError: sizes that do not fit together, too few devices, or another model in the folder.
    """
    check(config)
    mesh = make_mesh(config.mesh)
    text = data.standard_library() if text is None else text
    with contextlib.closing(Run(folder, config, mesh)) as run:
        state, tokens_per_second = _all_steps(config, run, mesh, text.train, console)
        pieces = data.evenly_spaced(text.held_out, config.evaluate, config.length)
        with console.status("held-out text"):
            held_out = float(make_evaluation(config, mesh)(state.weights, *_on_mesh(pieces, 1, mesh)))
        bigram = data.bigram_loss(text.train, pieces)
        if jax.process_index() == 0:
            plot(run.losses(), held_out, bigram, folder / "loss.png")
    return Outcome(state.weights, held_out, bigram, tokens_per_second)


def _all_steps(config: TrainConfig, run: Run, mesh, text: np.ndarray, console: Console) -> tuple[State, float]:
    """What the steps come to, from where the run is, and tokens a second."""
    state, step = run.start(), make_step(config, mesh)
    first, seconds = int(state.step), 0.0
    if first:
        console.print(f"going on from step {first}", highlight=False)
    with _Progress(console, config, first) as progress:
        for i in range(first, config.steps):
            pieces = data.batch(text, config.batch, config.length, config.seed, i)
            inputs, targets = _on_mesh(pieces, config.accumulate, mesh)
            start = time.perf_counter()
            state, metrics = step(state, inputs, targets)
            metrics = jax.tree.map(float, metrics)
            took = time.perf_counter() - start
            run.add(i, metrics)
            if i > first:  # the first compiles
                seconds += took
            progress.show(i, metrics, took)
            if (i + 1) % config.save_every == 0 or i + 1 == config.steps:
                run.save(state)
    timed = max(0, config.steps - first - 1) * config.batch * config.length
    return state, timed / seconds if seconds else 0.0


def _on_mesh(pieces: np.ndarray, parts: int, mesh):
    """Inputs and targets [parts, sequences, length] of pieces [sequences, length + 1]."""
    pieces = pieces.reshape(parts, -1, pieces.shape[-1])
    return place(pieces[..., :-1], mesh), place(pieces[..., 1:], mesh)


class _Progress:
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, config: TrainConfig, first: int):
        self._console, self._config = console, config
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=config.steps, completed=first, words="compiling")

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *_):
        self._bar.stop()

    def show(self, step: int, metrics, seconds: float) -> None:
        words = f"loss {metrics.loss:.3f}"
        if self._config.model.indexer is not None:
            words += f", indexer {metrics.index_loss:.3f}"
        words += f", {self._config.batch * self._config.length / seconds:,.0f} tokens/s"
        self._bar.update(self._task, completed=step + 1, words=words)
        last = step + 1 == self._config.steps
        if not self._console.is_terminal and (last or step % LINES_EVERY == 0):
            self._console.print(f"step {step + 1}/{self._config.steps}: {words}", markup=False, highlight=False)


def plot(losses: list[dict], held_out: float, bigram: float, picture: pathlib.Path) -> None:
    """Draws the loss of each step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [line["step"] for line in losses]
    axes.plot(steps, [line["loss"] for line in losses], label="training")
    if any(line["index_loss"] for line in losses):
        axes.plot(steps, [line["index_loss"] for line in losses], label="indexer")
    axes.axhline(held_out, color="black", label=f"held-out, {held_out:.3f}")
    axes.axhline(bigram, color="tab:red", linestyle="--", label=f"bigram model, {bigram:.3f}")
    axes.set(xlabel="step", ylabel="nats a byte")
    axes.grid(True, alpha=0.2)
    axes.legend()
    figure.savefig(picture, dpi=120)


def parser() -> argparse.ArgumentParser:
    """The options; those that are not given are the preset's."""
    made = argparse.ArgumentParser(
        prog="python -m jax_flash_mla.examples.deepseek.train",
        description="Trains a model with multi-head latent attention on the sources of Python's standard library, byte "
        "by byte. Stopped at any moment, the same command goes on from the last checkpoint. Writes config.json, "
        "losses.jsonl, loss.png and checkpoints. Exit status 2 for a bad argument.",
        epilog="Several devices: --mesh 4,2,1. Several CPU devices for a try: XLA_FLAGS="
        "--xla_force_host_platform_device_count=8. Several processes: start each with --coordinator, --processes and "
        "its own --process.",
    )
    add = made.add_argument
    add("--preset", choices=PRESETS, default="smoke", help="sizes: smoke and smoke-dsa take minutes on two CPU cores, "
        "h200 (about 100 M parameters) is for one GPU (default: smoke)")  # fmt: skip
    add("--out", type=pathlib.Path, default=pathlib.Path("run"), metavar="DIR", help="of the run (default: run)")
    add(
        "--text", type=pathlib.Path, metavar="DIR", help="learn the .py files under DIR (default: the standard library)"
    )
    add("--steps", type=int, help="of the optimizer, those already done included")
    add("--batch", type=int, help="sequences a step")
    add("--length", type=int, help="tokens of a sequence")
    add("--accumulate", type=int, metavar="N", help="add up the gradient of N parts of a batch")
    add("--mesh", metavar="D,T,C", help="devices along data, tensor and context")
    add("--save-every", type=int, metavar="STEPS", help="between checkpoints")
    add("--seed", type=int, help="of weights and batches")
    add("--attention", choices=ATTENTIONS, help="who computes it (default: auto, a kernel where there is one)")
    add("--compute", choices=COMPUTE, help="the dtype of activations (default: auto, bfloat16 on a GPU)")
    add("--compare", metavar="LIST", help="train nothing: time at most ten steps with each of these, as auto,xla,cudnn")
    add("--coordinator", metavar="HOST:PORT", help="of jax.distributed: where process 0 listens")
    add("--processes", type=int, help="how many there are")
    add("--process", type=int, help="which of them this is")
    return made


def config_of(options) -> TrainConfig:
    """The preset with what was given instead."""
    config = PRESETS[options.preset]
    names = ("steps", "batch", "length", "accumulate", "save_every", "seed")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.mesh is not None:
        sizes = options.mesh.split(",")
        if len(sizes) != 3 or not all(size.isdecimal() and int(size) for size in sizes):
            raise ValueError(f"--mesh must be three positive numbers, as 4,2,1, got {options.mesh!r}.")
        given["mesh"] = tuple(int(size) for size in sizes)
    names = ("attention", "compute")
    model = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    given["model"] = dataclasses.replace(config.model, **model)
    return dataclasses.replace(config, **given)


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and returns the exit status."""
    options = parser().parse_args(argv)
    try:
        config = config_of(options)
        check(config)
        if options.coordinator is not None:
            jax.distributed.initialize(options.coordinator, options.processes, options.process)
        console = Console(quiet=jax.process_index() != 0)
        if options.compare is not None:
            console.print(speed.compare(config, options.compare.split(","), 10, console))
            return 0
        text = None if options.text is None else data.standard_library(options.text)
        outcome = train(config, options.out, console, text)
    except (ValueError, NotImplementedError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    used = speed.percent(speed.utilisation(config, outcome.tokens_per_second))
    console.print(
        f"held-out text: {outcome.held_out:.3f} nats a byte; a bigram model: {outcome.bigram:.3f}\n"
        f"{outcome.tokens_per_second:,.0f} tokens/s, MFU {used}\n"
        f"run: {options.out}, loss: {options.out / 'loss.png'}",
        markup=False,
        highlight=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
