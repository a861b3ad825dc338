"""A roofline from a results file: arithmetic intensity against TFLOP/s, both logarithmic."""

from __future__ import annotations

import json
import pathlib
import statistics

COLOURS = {
    "dense_decode": "tab:blue",
    "sparse_decode": "tab:orange",
    "sparse_prefill": "tab:green",
    "mha_forward": "tab:red",
    "mha_backward": "tab:purple",
    "sparse_backward": "tab:brown",
    "quantize": "tab:pink",
}


def plot(results: pathlib.Path, picture: pathlib.Path) -> None:
    """Draws the rows of a results file as PNG.

    The roofs are the medians of what cuBLAS and the streaming read did in the same
    rounds. Filled points ran in a kernel, hollow ones in pure JAX; crosses are peers, by
    their time.

    Raises:
      ValueError: the file has no rows that compute anything.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    contents = json.loads(results.read_text())
    rows = [row for row in contents["rows"] if row["flop"]]
    if not rows:
        raise ValueError(f"{results.name} has no rows to plot.")
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xscale="log", yscale="log")
    intensities = [row["flop"] / row["bytes"] for row in rows]
    _roofs(axes, rows, min(intensities) / 2, max(intensities) * 2)
    labelled = set()
    for row, intensity in zip(rows, intensities):
        colour = COLOURS[row["family"]]
        face = colour if row["ran"] == "cuda" else "none"
        label = f"{row['family']}, {row['ran']}"
        axes.plot(
            intensity, row["tflops"], "o", color=colour, markerfacecolor=face,
            label=None if label in labelled else label,
        )  # fmt: skip
        labelled.add(label)
        for peer in row["peers"]:
            if peer["ms"] is not None:
                label = f"{row['family']}, {peer['name']}"
                axes.plot(
                    intensity, row["flop"] / peer["ms"] / 1e9, "x", color=colour, alpha=0.6,
                    label=None if label in labelled else label,
                )  # fmt: skip
                labelled.add(label)
    axes.set_xlabel("FLOP per byte")
    axes.set_ylabel("TFLOP/s")
    axes.set_title(f"{', '.join(contents['machine']['cards']) or 'unknown card'}, {contents['date'][:10]}")
    axes.grid(True, which="both", alpha=0.2)
    axes.legend(fontsize=8)
    figure.savefig(picture, dpi=150)


def _roofs(axes, rows, left: float, right: float) -> None:
    compute = statistics.median(row["times"]["cublas_tflops"] for row in rows)
    axes.axhline(compute, color="black", linewidth=1, label=f"cuBLAS, {compute:.0f} TFLOP/s")
    reads = [row["times"]["read_gbs"] for row in rows if row["times"]["read_gbs"] is not None]
    if reads:
        memory = statistics.median(reads)
        ridge = 1e3 * compute / memory
        ends = (left, min(right, ridge))
        axes.plot(
            ends, [x * memory / 1e3 for x in ends], color="black", linewidth=1, linestyle="--",
            label=f"streaming read, {memory:.0f} GB/s",
        )  # fmt: skip
