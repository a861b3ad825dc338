"""Serves a trained model: ``python -m jax_flash_mla.examples.deepseek.serve --run run --prompt "def "``."""

from __future__ import annotations

import argparse
import codecs
import dataclasses
import pathlib
import statistics
import sys
from typing import NamedTuple

import jax
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from jax_flash_mla.examples.deepseek.checkpoint import load_weights
from jax_flash_mla.examples.deepseek.config import ModelConfig, ServeConfig
from jax_flash_mla.examples.deepseek.engine import Engine, Request

PROMPTS = ("def ", "import ", "class Test", '    """Return ', "    for i in ", "raise ")
# Lines of each answer that a terminal shows while it grows.
SHOWN_LINES = 6


def start(weights: dict, model: ModelConfig, serve: ServeConfig, console: Console) -> Engine:
    """An engine, while a spinner says what takes so long."""
    serve.check(model)
    with console.status("compiling"):
        return Engine(weights, model, serve)


def stream(engine: Engine, requests: list[Request], console: Console) -> None:
    """Steps until all is said. A terminal shows answers grow, anything else gets each when it ends."""
    if not console.is_terminal:
        while not engine.idle:
            for request, _ in engine.step():
                if request.finished is not None:
                    console.print(f"--- request {requests.index(request)}\n{text_of(request)}", markup=False)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not engine.idle:
            engine.step()
            live.update(Group(*(_panel(engine, i, request) for i, request in enumerate(requests))), refresh=True)
    console.print(Group(*(Panel(Text(text_of(request)), title=f"request {i}") for i, request in enumerate(requests))))


def text_of(request: Request) -> str:
    """Prompt and answer; a character that is not whole yet is left out."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return decoder.decode(bytes(request.prompt + request.answer))


def _panel(engine: Engine, number: int, request: Request) -> Panel:
    state = "waits" if request in engine.waiting else "runs" if request.place is not None else "is done"
    tail = "\n".join(text_of(request).splitlines()[-SHOWN_LINES:])
    return Panel(Text(tail), title=f"request {number} {state}: {len(request.answer)} tokens")


class Speed(NamedTuple):
    """What a server did; times in seconds."""

    first_token: float
    longest_first_token: float
    tokens_per_second: float
    tokens_per_step: float
    bytes_per_token: float


def speed_of(engine: Engine, requests: list[Request]) -> Speed:
    """Of all requests that an engine has served."""
    waits = [request.first_token - request.submitted for request in requests]
    seconds = max(request.finished for request in requests) - min(request.submitted for request in requests)
    tokens = sum(len(request.answer) for request in requests)
    return Speed(
        statistics.median(waits),
        max(waits),
        tokens / seconds,
        # The first token of each comes from its prompt.
        (tokens - len(requests)) / max(1, engine.steps),
        engine.cache_bytes / (engine.serve.pages * engine.serve.page_size),
    )


def figures(engine: Engine, requests: list[Request]) -> Table:
    """Time to first token, tokens a second, memory."""
    speed = speed_of(engine, requests)
    first, longest = 1e3 * speed.first_token, 1e3 * speed.longest_first_token
    table = Table(show_header=False, title=f"served on {jax.devices()[0].device_kind}")
    for name, value in (
        ("requests", str(len(requests))),
        ("time to first token", f"{first:.0f} ms in the median, {longest:.0f} ms at most"),
        ("tokens/s", f"{speed.tokens_per_second:,.0f}"),
        ("decode steps", f"{engine.steps}, {speed.tokens_per_step:.2f} tokens each"),
        ("put back for want of pages", str(engine.put_back)),
        ("cache", f"{engine.cache_bytes / 2**20:.1f} MiB, {speed.bytes_per_token:,.0f} bytes a token"),
    ):
        table.add_row(name, value)
    return table


def parser() -> argparse.ArgumentParser:
    """The options."""
    default = ServeConfig()
    made = argparse.ArgumentParser(
        prog="python -m jax_flash_mla.examples.deepseek.serve",
        description="Serves a model that the training command made. Requests share a pool of pages, join and leave "
        "between steps, and wait where there is no page; their text streams to the terminal, and then time to first "
        "token, tokens a second and memory are shown. Exit status 2 for a bad argument.",
    )
    add = made.add_argument
    add("--run", type=pathlib.Path, default=pathlib.Path("run"), metavar="DIR", help="of training (default: run)")
    add("--prompt", action="append", metavar="TEXT", help="of a request; may be given again (default: six of them)")
    add("--tokens", type=int, default=200, help="new ones for each request (default: 200)")
    add("--temperature", type=float, default=0.0, help="0 takes the likeliest token (default: 0)")
    add("--seed", type=int, default=0, help="of sampling; each request's is one more (default: 0)")
    add("--requests", type=int, default=default.requests, help="that run at once (default: %(default)s)")
    add("--pages", type=int, default=default.pages, help="of the pool (default: %(default)s)")
    add("--page-size", type=int, default=default.page_size, help="tokens of a page (default: %(default)s)")
    add(
        "--max-length",
        type=int,
        default=default.max_length,
        help="of a request with its prompt (default: %(default)s)",
    )
    add("--cache", choices=("float", "fp8"), default=default.cache, help="what is stored (default: %(default)s)")
    add("--sparse", action="store_true", help="an indexer chooses the tokens; needs the preset smoke-dsa")
    add(
        "--attention",
        choices=("auto", "cuda", "xla"),
        help="who computes it (default: the run's, a kernel if there is one)",
    )
    add("--draft-tokens", type=int, default=0, metavar="N", help="guess N tokens a step (default: 0)")
    add("--draft-layers", type=int, default=0, metavar="N", help="by the first N layers (default: 0)")
    return made


def config_of(options) -> ServeConfig:
    """What the options ask for."""
    names = ("requests", "pages", "page_size", "max_length", "cache", "sparse", "draft_tokens", "draft_layers")
    lengths = tuple(sorted({min(64, options.max_length), options.max_length}))
    return ServeConfig(**{name: getattr(options, name) for name in names}, prompt_lengths=lengths)


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and returns the exit status."""
    options = parser().parse_args(argv)
    console = Console()
    try:
        config, weights = load_weights(options.run)
        model = config.model
        if options.attention is not None:
            model = dataclasses.replace(model, attention=options.attention)
        engine = start(weights, model, config_of(options), console)
        requests = [
            engine.submit(list(prompt.encode()), options.tokens, options.temperature, options.seed + i)
            for i, prompt in enumerate(options.prompt or PROMPTS)
        ]
    except (ValueError, NotImplementedError) as error:
        print(f"serve: {error}", file=sys.stderr)
        return 2
    stream(engine, requests, console)
    console.print(figures(engine, requests))
    return 0


if __name__ == "__main__":
    sys.exit(main())
