"""Curves from a sweep's results file: the share of the nearer limit against the longest of the sizes.

A panel for each number of heads, a line for each of what is left. The limit is cuBLAS, or a
streaming read where an operation came closer to that.
"""

from __future__ import annotations

import json
import pathlib

# By the words of a row's name: what is drawn along the axis, and what has a panel of its own.
ALONG = ("sk", "topk", "s")
PANELS = ("hq", "h")
COLUMNS = 3


def is_sweep(results: pathlib.Path) -> bool:
    """Whether all rows of a file are of sweeps."""
    rows = json.loads(results.read_text())["rows"]
    return bool(rows) and all(row["preset"].startswith("sweep") for row in rows)


def plot(results: pathlib.Path, picture: pathlib.Path) -> None:
    """Draws the rows that ran in a kernel, or all, where none did, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    contents = json.loads(results.read_text())
    rows = [row for row in contents["rows"] if row["ran"] == "cuda"] or contents["rows"]
    panels = _panels(rows)
    lines = sorted({line for panel in panels.values() for line in panel})
    across = min(COLUMNS, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(5 * across, 4 * down + 1.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False, sharey=True)
    for axes, (title, panel) in zip(grid.flat, panels.items(), strict=False):
        for line, points in panel.items():
            axes.plot(*zip(*sorted(points)), "o-", markersize=3, color=f"C{lines.index(line)}", label=line)
        axes.set(title=title, xlabel=_along(rows[0]), ylim=(0, 1.05))
        axes.set_xscale("log", base=2)
        axes.grid(True, alpha=0.2)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    grid[0, 0].set_ylabel("share of cuBLAS or of a read")
    handles = {label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(
        [handles[line] for line in lines], lines, loc="outside lower center", ncols=max(2, 2 * across), fontsize=7
    )
    figure.suptitle(f"{', '.join(contents['machine']['cards']) or 'unknown card'}, {contents['date'][:10]}")
    figure.savefig(picture, dpi=120)


def _words(row: dict) -> dict[str, str]:
    """Of a row's name; one without a value stands for itself."""
    parts = (word.partition("=") for word in row["row"].split())
    return {name: value or name for name, _, value in parts}


def _along(row: dict) -> str:
    return next(name for name in ALONG if name in _words(row))


def _panels(rows) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """{panel: {line: [(size, share)]}}, by heads; rows of several families are told apart."""
    panels = {}
    for row in rows:
        words = _words(row)
        size = int(words.pop(_along(row)))
        heads = next(words.pop(name) for name in PANELS if name in words)
        rest = " ".join(name if name == value else f"{name}={value}" for name, value in words.items())
        shares = [row["times"][limit]["median"] for limit in ("cublas", "read") if row["times"][limit] is not None]
        panel = panels.setdefault(f"{row['family']}, {heads} heads", {})
        panel.setdefault(rest, []).append((size, max(shares)))
    return panels
