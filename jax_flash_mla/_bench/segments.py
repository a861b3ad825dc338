"""One list of what the device did → what each call of each round did.

The queue is rounds of calls with a fill before each. Kernels carry no mark of the call
they belong to, so the list is cut at the fills, and everything that could make the cut
wrong is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple


class Activity(NamedTuple):
    """A kernel, a memset or a copy on the device; ``start`` and ``end`` in milliseconds."""

    name: str
    start: float
    end: float


class MeasurementError(RuntimeError):
    """What was recorded cannot be what was queued."""


def split(
    activities: Sequence[Activity], fill: str, places: Sequence[str], rounds: int
) -> list[dict[str, list[Activity]]]:
    """The activities of each call: for each round, place → activities.

    Args:
      activities: in the order in which they started.
      fill: the name of the fill's kernel.
      places: names of the calls of a round, in order; each comes after a fill.
      rounds: how many were queued.

    Raises:
      MeasurementError: activities before the first fill, a number of fills other than
        queued, a call that left nothing, or rounds in which the same call ran different
        kernels.
    """
    at = [i for i, activity in enumerate(activities) if activity.name == fill]
    wanted = rounds * len(places)
    if len(at) != wanted:
        raise MeasurementError(
            f"{wanted} fills named {fill!r} were queued ({rounds} rounds of {len(places)}), and {len(at)} were "
            f"recorded among {len(activities)} activities."
        )
    if at[0] != 0:
        raise MeasurementError(
            f"activities were recorded before the first fill: {at[0]}, beginning with {activities[0].name!r}."
        )
    segments = [list(activities[a + 1 : b]) for a, b in zip(at, [*at[1:], len(activities)])]
    for i, segment in enumerate(segments):
        if not segment:
            raise MeasurementError(
                f"nothing was recorded after fill {i}, where {places[i % len(places)]!r} of round "
                f"{i // len(places)} belongs."
            )
    cut = [dict(zip(places, segments[i : i + len(places)])) for i in range(0, wanted, len(places))]
    for place in places:
        first = Counter(activity.name for activity in cut[0][place])
        for i, one in enumerate(cut):
            if (here := Counter(activity.name for activity in one[place])) != first:
                raise MeasurementError(
                    f"{place!r} ran other kernels in round {i} than in round 0: {_difference(here, first)}."
                )
    return cut


def _difference(here: Counter, first: Counter) -> str:
    more, fewer = here - first, first - here
    parts = [f"{count} more of {name!r}" for name, count in more.items()]
    return ", ".join(parts + [f"{count} fewer of {name!r}" for name, count in fewer.items()])


def busy(activities: Sequence[Activity]) -> float:
    """Milliseconds during which at least one of the activities ran."""
    total, reached = 0.0, float("-inf")
    for activity in sorted(activities, key=lambda a: a.start):
        total += max(0.0, activity.end - max(activity.start, reached))
        reached = max(reached, activity.end)
    return total


def span(activities: Sequence[Activity]) -> float:
    """Milliseconds from the first start to the last end."""
    return max(a.end for a in activities) - min(a.start for a in activities)
