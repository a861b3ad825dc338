"""A line of a table: a problem, what peers reach on it, and what is wanted."""

from __future__ import annotations

import dataclasses

from jax_flash_mla._bench.problems import Problem


@dataclasses.dataclass(frozen=True)
class Peer:
    """What another library reaches.

    Attributes:
      name: a key of ``presets.PROVENANCE``.
      cublas: share of the rate of cuBLAS.
      read: share of the rate of a streaming read, where memory is the limit.
      ms: time of a call, where it is known.
    """

    name: str
    cublas: float
    read: float | None = None
    ms: float | None = None


@dataclasses.dataclass(frozen=True)
class Target:
    """What a row is to reach: at least a share of ``"cublas"`` or ``"read"``, or at most so many ``"us"``."""

    of: str
    value: float

    def __str__(self):
        return f"≤ {self.value:g} µs" if self.of == "us" else f"{self.of} {self.value:.2f}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table; ``name`` is unique within the preset."""

    name: str
    problem: Problem
    peers: tuple[Peer, ...] = ()
    target: Target | None = None
