"""The command line: ``python -m benchmarks dense_decode``."""

from __future__ import annotations

import argparse
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
IMPLEMENTATIONS = ("default", "cuda", "xla")
IMPLEMENTATIONS_HELP = "of default, cuda and xla (default: default,xla; where both are the same, once)"
RECORDER_HELP = "how CUPTI is read (default: auto, the first that works)"
MEMORY_HELP = "skip rows that need more (default: 80 %% of what JAX has of the card; 100 in a dry run)"


def parser() -> argparse.ArgumentParser:
    """The options; ``plot`` has its own."""
    from benchmarks import presets

    made = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Times operations on an NVIDIA GPU, each as a share of what cuBLAS and a streaming read do in the "
        "same round, and writes a table, a JSON file and a roofline. `python -m benchmarks plot FILE` draws a file "
        "again. The protocol is in docs/benchmarks.md. Exit status 1 where a result is wrong or a measurement fails.",
    )
    add = made.add_argument
    add("presets", nargs="+", choices=(*presets.PRESETS, "all"), help="which tables; all is every one but sweep")
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
    from benchmarks import roofline

    made = argparse.ArgumentParser(prog="python -m benchmarks plot", description=roofline.__doc__)
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
    from benchmarks import session

    return session.main(options)


if __name__ == "__main__":
    # An installed package, with its kernels, comes before the sources beside this folder.
    sys.path[:] = [*(p for p in sys.path if pathlib.Path(p or ".").resolve() != ROOT), str(ROOT)]
    sys.exit(main())
