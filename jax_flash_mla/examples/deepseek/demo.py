"""The whole way at once: trains the smoke model, generates from it, and shows how fast it serves."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
import tempfile

import jax
from rich.console import Console
from rich.table import Table

import jax_flash_mla as fm
from jax_flash_mla.examples.deepseek import serve as serving
from jax_flash_mla.examples.deepseek.config import PRESETS, ServeConfig
from jax_flash_mla.examples.deepseek.train import check, train

SMOKE = tuple(name for name in PRESETS if name.startswith("smoke"))
TOKENS = 120
TEMPERATURE = 0.6
SERVERS = {
    "float cache": ServeConfig(max_length=256, prompt_lengths=(256,)),
    "FP8 cache": ServeConfig(max_length=256, prompt_lengths=(256,), cache="fp8"),
    "float cache, 2 guesses a step": ServeConfig(max_length=256, prompt_lengths=(256,), draft_tokens=2, draft_layers=1),
}


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m jax_flash_mla demo",
        description="Trains a small language model with multi-head latent attention on the sources of Python's "
        "standard library, in minutes on two CPU cores; generates from a paged cache, several requests at once; and "
        "shows how fast. Stopped, it goes on where it was, if --out is given. Exit status 1 where the model is no "
        "better than a table of byte pairs, 2 for a bad argument.",
    )
    add = made.add_argument
    add("--preset", choices=SMOKE, default=SMOKE[0], help="smoke-dsa has sparse attention too (default: smoke)")
    add("--steps", type=int, help="of training (default: the preset's)")
    add(
        "--out", type=pathlib.Path, metavar="DIR", help="for checkpoints and loss.png (default: a new temporary folder)"
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and returns the exit status."""
    options = parser().parse_args(argv)
    config = PRESETS[options.preset]
    if options.steps is not None:
        config = dataclasses.replace(config, steps=options.steps)
    console = Console()
    folder = options.out or pathlib.Path(tempfile.mkdtemp(prefix="jax_flash_mla_demo_"))
    try:
        check(config)
        _introduce(console)
        outcome = train(config, folder, console)
    except ValueError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    console.print(
        f"held-out text: {outcome.held_out:.3f} nats a byte; a bigram model: {outcome.bigram:.3f}\n"
        f"trained at {outcome.tokens_per_second:,.0f} tokens/s; the loss: {folder / 'loss.png'}\n",
        markup=False,
        highlight=False,
    )
    _serve(outcome.weights, config.model, console)
    more = f"python -m jax_flash_mla.examples.deepseek.serve --run {folder}"
    console.print(f"more: {more}", markup=False, highlight=False)
    return 0 if outcome.held_out < outcome.bigram else 1


def _introduce(console: Console) -> None:
    kinds = ", ".join(dict.fromkeys(device.device_kind for device in jax.devices()))
    console.print(f"jax_flash_mla {fm.__version__}, jax {jax.__version__}, on {kinds}", markup=False, highlight=False)


def _serve(weights, model, console: Console) -> None:
    title = f"{len(serving.PROMPTS)} requests of {TOKENS} new tokens, {ServeConfig().requests} at once"
    table = Table(title=title)
    for heading in ("served from", "first token, ms", "tokens/s", "tokens a step", "bytes a token"):
        table.add_column(heading, justify="left" if heading == "served from" else "right")
    servers = dict(SERVERS)
    if model.indexer is not None:
        servers["FP8 cache, sparse"] = dataclasses.replace(SERVERS["FP8 cache"], sparse=True)
    for number, (name, serve) in enumerate(servers.items()):
        engine = serving.start(weights, model, serve, console)
        requests = [
            engine.submit(list(prompt.encode()), TOKENS, TEMPERATURE, seed)
            for seed, prompt in enumerate(serving.PROMPTS)
        ]
        # Text once, speed for each.
        if number == 0:
            serving.stream(engine, requests, console)
        else:
            with console.status(name):
                serving.stream(engine, requests, Console(quiet=True, force_terminal=False))
        speed = serving.speed_of(engine, requests)
        table.add_row(
            name,
            f"{1e3 * speed.first_token:.0f}",
            f"{speed.tokens_per_second:,.0f}",
            f"{speed.tokens_per_step:.2f}",
            f"{speed.bytes_per_token:,.0f}",
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
