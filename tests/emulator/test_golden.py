"""The emulator against a GPU: what each instruction wrote there it must write here."""

import functools
import pathlib
import unittest

import families
import numpy as np
from absl.testing import parameterized
from devices import Emulated, has_emulator
from recordings import Recordings

GOLDEN = pathlib.Path(__file__).parent / "golden"
MOST_SHOWN = 6  # elements that differ


@functools.cache
def golden(group: str) -> dict[str, np.ndarray]:
    path = GOLDEN / f"{group}.npz"
    if not path.exists():
        return {}
    with np.load(path) as loaded:
        return dict(loaded)


def recorded(group: str, family: families.Family) -> list[np.ndarray]:
    """What the GPU wrote; the test is skipped where nobody asked one."""
    out = []
    for i, output in enumerate(family.kernel.results.values()):
        raw = golden(group).get(f"{family.name}/{i}")
        if raw is None:
            raise unittest.SkipTest(f"There is no golden data of {group}: {family.name}. Run record.py on a GPU.")
        out.append(raw.view(output.dtype).reshape(output.shape))
    return out


def difference(family: families.Family, number: int, got: np.ndarray, want: np.ndarray) -> str:
    """Which elements differ, and how; empty if none does."""
    comparison = family.comparison
    if isinstance(comparison, families.Within):
        comparison = families.Within(comparison.bound, number)
    differ = np.flatnonzero(comparison.differences(got, want))
    if differ.size == 0:
        return ""
    lines = [f"{differ.size} of {got.size} elements of output {number} differ from the GPU's:"]
    inputs = [a.array.reshape(-1) for a in family.kernel.arguments.values() if hasattr(a, "array")]
    for index in differ[:MOST_SHOWN]:
        one, other = got.reshape(-1)[index], want.reshape(-1)[index]
        line = (
            f"  [{index}]: {one!r} ({one.tobytes()[::-1].hex()}), on the GPU {other!r} ({other.tobytes()[::-1].hex()})"
        )
        operands = [a[index] for a in inputs if a.size == got.size]
        line += "".join(f", operand {o!r} ({o.tobytes()[::-1].hex()})" for o in operands)
        lines.append(line)
    return "\n".join(lines)


@unittest.skipUnless(has_emulator(), "this build has no emulator")
class GoldenTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.emulator = Emulated()

    def check(self, group: str, name: str) -> None:
        family = families.group(group)[name]
        results = self.emulator.run(family.kernel)
        faults = [difference(family, i, *pair) for i, pair in enumerate(zip(results, recorded(group, family)))]
        faults = [fault for fault in faults if fault]
        if faults:
            source = Recordings(GOLDEN).source(group, name)
            self.fail("\n".join([*faults, f"Recorded on an {source['card']} on {source['date']}."]))

    def test_data_and_families_go_together(self):
        recordings = Recordings(GOLDEN)
        self.assertEqual(recordings.failed, {})
        known = {(group, key.rsplit("/", 1)[0]) for group in families.GROUPS for key in golden(group)}
        stale = [f"{group}: {name}" for group, name in known if name not in families.group(group)]
        self.assertEqual(stale, [])
        of_nowhere = [f"{group}: {name}" for group, name in known if recordings.source(group, name) is None]
        self.assertEqual(of_nowhere, [])


def add_tests() -> None:
    """A test for each family."""
    for group in families.GROUPS:
        for name in families.group(group):
            safe = "".join(c if c.isalnum() else "_" for c in name)
            test = f"test_{group}_{safe}"
            while hasattr(GoldenTest, test):
                test += "_"
            setattr(GoldenTest, test, lambda self, group=group, name=name: self.check(group, name))


add_tests()

if __name__ == "__main__":
    unittest.main()
