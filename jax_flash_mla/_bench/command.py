"""The command line: ``python -m jax_flash_mla bench dense_decode``."""

from __future__ import annotations

import argparse
import pathlib
import sys

RESULTS = pathlib.Path("benchmarks", "results")
IMPLEMENTATIONS = ("default", "cuda", "xla")
IMPLEMENTATIONS_HELP = "of default, cuda and xla (default: default,xla; where both are the same, once)"
SIZE_HELP = (
    'in place of a table\'s rows, one problem of these sizes, as "batch=8 s_q=1 h_q=128 s_k=4096"; may be given again'
)
RECORDER_HELP = "how CUPTI is read (default: auto, the first that works)"
MEMORY_HELP = "skip rows that need more (default: 80 %% of what JAX has of the card; 100 in a dry run)"


def parser() -> argparse.ArgumentParser:
    """The options; ``plot`` has its own."""
    from jax_flash_mla._bench import presets

    made = argparse.ArgumentParser(
        prog="python -m jax_flash_mla bench",
        description="Times operations on an NVIDIA GPU, each as a share of what cuBLAS and a streaming read do in the "
        "same round, and writes a table, a JSON file and a roofline. `bench plot FILE` draws a file again. The "
        "protocol is in docs/benchmarks.md. Exit status 1 where a result is wrong or a measurement fails, 2 for a bad "
        "argument or where there is no GPU.",
        epilog="Examples: `bench dense_decode` times the table of dense decode. `bench mha_forward --size 'd_qk=192 "
        "d_v=128 batch=2 s=8192 h=16 causal=true'` times a problem of your own. `bench all --dry-run` lists rows, and "
        "needs no GPU.",
    )
    add = made.add_argument
    add(
        "presets",
        nargs="+",
        choices=(*presets.PRESETS, "all"),
        help="which tables; all is every one but deterministic and sweep",
    )
    add("--size", action="append", default=[], metavar="SIZES", help=SIZE_HELP)
    add("--match", metavar="REGEX", default="", help="only rows whose name it is found in")
    add("--out", type=pathlib.Path, default=RESULTS, metavar="DIR", help="for files (default: benchmarks/results)")
    add("--implementations", default="default,xla", metavar="LIST", help=IMPLEMENTATIONS_HELP)
    add("--rounds", type=int, default=20, help="at most (default: 20; slow calls get fewer)")
    add("--seed", type=int, default=0, help="of the random operands (default: 0)")
    add("--recorder", choices=("auto", "trace", "kernels"), default="auto", help=RECORDER_HELP)
    add("--memory-gib", type=float, metavar="GIB", help=MEMORY_HELP)
    add("--time-limit", type=float, metavar="SECONDS", help="start no row after so long; list those left as skipped")
    add("--dry-run", action="store_true", help="list rows, FLOP, bytes, memory and floors; needs no GPU")
    add("--cublas-tflops", type=float, help="dry run: the rate of cuBLAS, for the floors")
    add("--read-gbs", type=float, help="dry run: the rate of a streaming read, for the floors")
    return made


def plot_command(argv: list[str]) -> int:
    """``plot FILE ...``: draws each file beside itself."""
    from jax_flash_mla._bench import roofline

    made = argparse.ArgumentParser(prog="python -m jax_flash_mla bench plot", description=roofline.__doc__)
    made.add_argument("files", nargs="+", type=pathlib.Path)
    for path in made.parse_args(argv).files:
        roofline.plot(path, path.with_suffix(".png"))
        print(path.with_suffix(".png"))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["plot"]:
        return plot_command(argv[1:])
    made = parser()
    options = made.parse_args(argv)
    options.implementations = options.implementations.split(",")
    for name in options.implementations:
        if name not in IMPLEMENTATIONS:
            made.error(f"--implementations must be of {', '.join(IMPLEMENTATIONS)}, got {name!r}")
    if options.rounds < 1:
        made.error(f"--rounds must be at least 1, got {options.rounds}")
    from jax_flash_mla._bench import presets, session

    options.rows = session.selected(options.presets, options.match)
    if options.size:
        if len(options.presets) > 1 or options.presets[0] not in presets.OPERATIONS:
            made.error(f"--size needs one operation, of {', '.join(presets.OPERATIONS)}")
        (name,) = options.presets
        try:
            options.rows = [(name, presets.row_of(name, sizes)) for sizes in options.size]
        except ValueError as error:
            made.error(str(error))
    return session.main(options)
