"""The pictures of a results file, beside it: the roofline, and of a sweep its curves."""

from __future__ import annotations

import pathlib

from jax_flash_mla._bench import curves, roofline


def draw(results: pathlib.Path) -> list[pathlib.Path]:
    """Draws a file's pictures and returns where they are.

    Raises:
      ValueError: the file has no rows.
    """
    drawn = [results.with_suffix(".png")]
    roofline.plot(results, drawn[0])
    if curves.is_sweep(results):
        drawn.append(results.with_name(f"{results.stem}-curves.png"))
        curves.plot(results, drawn[1])
    return drawn
