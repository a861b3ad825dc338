"""record.json: which GPU wrote which golden data, when, and what it could not do.

    {"recordings": [{"card": …, "driver": …, "kernel_module": …, "date": …, "ptx": …, "groups": {GROUP: NAMES}}],
     "failed": {"GROUP: FAMILY": why}}

NAMES is a list of families, or "others": those of the group that no other recording lists.
"""

import json
import pathlib
from collections.abc import Collection, Sequence

FILE = "record.json"
OTHERS = "others"


class Recordings:
    def __init__(self, folder: pathlib.Path):
        self.recordings: list[dict] = []
        self.failed: dict[str, str] = {}
        path = folder / FILE
        if path.exists():
            contents = json.loads(path.read_text())
            self.recordings, self.failed = contents["recordings"], contents["failed"]

    def begin(self, about: dict[str, str | None]) -> None:
        """What is added from now on is from this GPU."""
        self.recordings.append(about | {"groups": {}})

    def add(self, group: str, names: Sequence[str], kept: Collection[str]) -> None:
        """`kept`: families of the group whose data stay what they were."""
        sources = {name: self.source(group, name) for name in kept}
        for earlier in self.recordings[:-1]:
            listed = earlier["groups"].pop(group, [])
            left = [name for name, source in sources.items() if source is earlier]
            if left:
                earlier["groups"][group] = listed if listed == OTHERS else left
        self.recordings[-1]["groups"][group] = list(names) if kept else OTHERS

    def source(self, group: str, name: str) -> dict | None:
        """The recording that a family's data are of."""
        rest = None
        for recording in self.recordings:
            names = recording["groups"].get(group, [])
            if names == OTHERS:
                rest = recording
            elif name in names:
                return recording
        return rest

    def save(self, folder: pathlib.Path) -> None:
        recordings = [recording for recording in self.recordings if recording["groups"]]
        contents = {"recordings": recordings, "failed": self.failed}
        (folder / FILE).write_text(json.dumps(contents, indent=1) + "\n")
