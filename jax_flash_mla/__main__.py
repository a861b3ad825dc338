"""The command line: ``python -m jax_flash_mla info``, ``check``, ``bench`` and ``demo``."""

from __future__ import annotations

import argparse
import sys

import jax
from rich.console import Console
from rich.table import Table

import jax_flash_mla as fm


def info() -> int:
    """Prints what this build contains and what it would run here."""
    console = Console()
    build = fm.build_info()
    facts = Table(show_header=False, title="jax_flash_mla")
    for name in ("version", "jax", "jaxlib", "cuda", "minimum_driver"):
        facts.add_row(name.replace("_", " "), str(build[name] or "none"))
    facts.add_row("devices", ", ".join(dict.fromkeys(d.device_kind for d in jax.devices())))
    facts.add_row("custom calls", ", ".join(build["targets"]) or "none")
    console.print(facts)
    choices = Table(title="what runs here")
    for heading in ("operation", "kernels for", "implementation", "why"):
        choices.add_column(heading)
    for operation, architectures in build["kernels"].items():
        choices.add_row(operation, ", ".join(architectures) or "none", *fm.which_implementation(operation))
    console.print(choices)
    return 0


def check(implementation: str | None, seed: int) -> int:
    """Runs every operation against the oracle."""
    from jax_flash_mla._check import command

    return command.main(implementation, seed)


def bench(argv: list[str]) -> int:
    """Times operations on a GPU."""
    from jax_flash_mla._bench import command

    return command.main(argv)


def demo(argv: list[str]) -> int:
    """Trains and serves a small model."""
    try:
        from jax_flash_mla.examples.deepseek import demo
    except ImportError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    return demo.main(argv)


# These have options of their own.
OWN_OPTIONS = {"bench": bench, "demo": demo}


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in OWN_OPTIONS:
        return OWN_OPTIONS[argv[0]](argv[1:])
    parser = argparse.ArgumentParser(
        prog="python -m jax_flash_mla",
        description=fm.__doc__,
        epilog="`python -m jax_flash_mla COMMAND --help` says more about each. Start with `demo`.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="what this build contains, and what it would run on this machine's devices")
    checking = commands.add_parser(
        "check",
        help="run every operation and its gradient against a float64 oracle",
        description="Runs every operation and its gradient at the dimensions of DeepSeek-V3, compares each element "
        "with a float64 oracle, and prints which implementation ran, why, the error as a fraction of what rounding "
        "allows, and the time. Exit status 1 where an error is larger than that.",
    )
    checking.add_argument(
        "--implementation", choices=("cuda", "xla"), help="ask for one (default: the best that runs here)"
    )
    checking.add_argument("--seed", type=int, default=0, help="of the random inputs (default: 0)")
    commands.add_parser("bench", help="time operations on a GPU, XLA beside the kernels; JSON and a roofline")
    commands.add_parser("demo", help="train a small language model, generate from it, show how fast: takes minutes")
    arguments = parser.parse_args(argv)
    return info() if arguments.command == "info" else check(arguments.implementation, arguments.seed)


if __name__ == "__main__":
    sys.exit(main())
