"""What a run of record.py adds to golden data, and what it leaves alone: with the emulator in the place of a GPU."""

import pathlib
import shutil
import tempfile
import unittest
from unittest import mock

import families
import numpy as np
import record
from absl.testing import absltest
from devices import Emulated, has_emulator
from recordings import Recordings

GOLDEN = pathlib.Path(__file__).parent / "golden"
GROUP = "copies"
CARD = {"card": "a card", "driver_version": "1.0"}
FAILS, SPOILS = "groups", "mbarrier.arrive.64"
NAMES = list(families.group(GROUP))


class FakeWorker:
    """As record.Worker. One family fails, another one spoils the process; the second process finds no GPU."""

    started = 0
    gpu_returns = True

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        FakeWorker.started += 1

    def answer(self, timeout: float) -> dict:
        return CARD if FakeWorker.started == 1 or FakeWorker.gpu_returns else {"broken": "no GPU"}

    def ask(self, group: str, name: str) -> dict:
        if name in (FAILS, SPOILS):
            return {"failed": name, "why": "it fails", "ended": name == SPOILS}
        outputs = Emulated().run(families.group(group)[name].kernel)
        np.savez(self._folder / f"{group} {name}.npz", *map(families.as_bytes, outputs))
        return {"done": name, "shapes": [0] * len(outputs)}

    def end(self) -> None:
        pass


@unittest.skipUnless(has_emulator(), "this build has no emulator")
class RecordTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        for name in (f"{GROUP}.npz", "record.json"):
            shutil.copy(GOLDEN / name, self.folder)
        with np.load(GOLDEN / f"{GROUP}.npz") as loaded:
            self.known = dict(loaded)
        FakeWorker.started, FakeWorker.gpu_returns = 0, True
        self.enter_context(mock.patch.object(record, "Worker", FakeWorker))
        self.enter_context(mock.patch.object(families, "GROUPS", (GROUP,)))

    def forget(self, *names: str) -> None:
        left = {key: array for key, array in self.known.items() if key.rsplit("/", 1)[0] not in names}
        record.save(self.folder / f"{GROUP}.npz", left)

    def run_it(self, *arguments: str) -> int | str | None:
        with mock.patch("sys.argv", ["record.py", str(self.folder), *arguments]):
            try:
                record.main()
            except SystemExit as error:
                return error.code
        return None

    def data(self, folder: pathlib.Path) -> dict[str, np.ndarray]:
        with np.load(folder / f"{GROUP}.npz") as loaded:
            return dict(loaded)

    def cards(self, folder: pathlib.Path) -> dict[str, str]:
        """By families that have data."""
        names = {key.rsplit("/", 1)[0] for key in self.data(folder)}
        return {name: Recordings(folder).source(GROUP, name)["card"] for name in names}

    def test_only_what_is_missing(self):
        self.run_it()  # families that nobody has recorded yet
        before = self.cards(self.folder)
        missing = [name for name in NAMES if name in before and name not in (FAILS, SPOILS)][:2]
        self.known = self.data(self.folder)
        self.forget(*missing)
        output = self.folder / "output"
        self.assertIsNone(self.run_it("--output", str(output)))
        self.assertCountEqual([path.name for path in output.iterdir()], [f"{GROUP}.npz", "record.json"])
        got = self.data(output)
        for key, array in self.known.items():
            np.testing.assert_array_equal(got[key].view(np.uint8).reshape(-1), array.reshape(-1), key)
        self.assertEqual(self.cards(output), before | dict.fromkeys(missing, CARD["card"]))
        # All of the data again: the earlier recording has nothing left in this group.
        self.assertIsNone(self.run_it("--only", *[name for name in NAMES if name not in (FAILS, SPOILS)]))
        self.assertEqual(set(self.cards(self.folder).values()), {CARD["card"], *(before[n] for n in (FAILS, SPOILS))})

    def test_failures_lose_nothing(self):
        before = self.cards(self.folder)
        self.assertEqual(self.run_it("--all"), 1)
        self.assertCountEqual(Recordings(self.folder).failed, [f"{GROUP}: {FAILS}", f"{GROUP}: {SPOILS}"])
        cards = self.cards(self.folder)
        self.assertCountEqual(cards, NAMES)
        for name in NAMES:
            self.assertEqual(cards[name], before[name] if name in (FAILS, SPOILS) else CARD["card"])

    def test_gpu_lost(self):
        FakeWorker.gpu_returns = False
        self.assertIn("no GPU", self.run_it("--all"))
        done = NAMES[: NAMES.index(SPOILS)]
        cards = self.cards(self.folder)
        self.assertEqual({name for name in NAMES if cards[name] == CARD["card"]}, {*done} - {FAILS})


if __name__ == "__main__":
    absltest.main()
