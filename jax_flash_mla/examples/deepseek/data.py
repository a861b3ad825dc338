"""Text that every machine has: the sources of Python's standard library, byte by byte."""

from __future__ import annotations

import pathlib
import sysconfig
from typing import NamedTuple

import numpy as np

# Of each so many files one is held out.
HOLD_OUT = 10
# Not text that a person wrote as a program.
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}
# Between files; no source has it.
SEPARATOR = b"\0"


class Text(NamedTuple):
    """Bytes: uint8 [size] to train on, and of other files to test on."""

    train: np.ndarray
    held_out: np.ndarray


def standard_library(root: pathlib.Path | None = None) -> Text:
    """The ``.py`` files under a folder, by default those of this Python's standard library.

    Raises:
      ValueError: there are too few.
    """
    root = pathlib.Path(sysconfig.get_path("stdlib")) if root is None else root
    found = sorted(p for p in root.rglob("*.py") if not SKIPPED & set(p.relative_to(root).parts))
    if len(found) < HOLD_OUT:
        raise ValueError(f"{root} has {len(found)} Python files, and at least {HOLD_OUT} are needed as text.")
    contents = [path.read_bytes() for path in found]

    def joined(parts):
        return np.frombuffer(SEPARATOR.join(parts), np.uint8)

    train = [part for i, part in enumerate(contents) if i % HOLD_OUT]
    return Text(joined(train), joined(contents[::HOLD_OUT]))


def batch(text: np.ndarray, sequences: int, length: int, seed: int, step: int) -> np.ndarray:
    """Random pieces of text for a step, and one byte more of each: int32 [sequences, length + 1].

    A pure function of seed and step, so that a run that resumes sees what it would have seen.
    """
    starts = np.random.default_rng((seed, step)).integers(0, len(text) - length, sequences)
    return text[starts[:, None] + np.arange(length + 1)].astype(np.int32)


def evenly_spaced(text: np.ndarray, sequences: int, length: int) -> np.ndarray:
    """Pieces that cover text evenly: int32 [sequences, length + 1]."""
    starts = np.linspace(0, len(text) - length - 1, sequences).astype(int)
    return text[starts[:, None] + np.arange(length + 1)].astype(np.int32)


def bigram_loss(train: np.ndarray, pieces: np.ndarray) -> float:
    """What a table of byte pairs reaches: nats a byte on ``pieces``, of counts in ``train``."""
    counts = np.bincount(train[:-1].astype(np.int64) * 256 + train[1:], minlength=1 << 16).reshape(256, 256)
    # Every pair counts a little, so that none is impossible.
    smooth = counts + 0.01
    logs = np.log(smooth / smooth.sum(1, keepdims=True))
    return float(-logs[pieces[:, :-1], pieces[:, 1:]].mean())
