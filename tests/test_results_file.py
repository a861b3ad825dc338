"""The results file of a test run, and skips that are failures."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from absl.testing import parameterized

TESTS = pathlib.Path(__file__).resolve().parent

EXAMPLE = """
import pytest
from results_file import TooFewDevices

def test_passes(): pass
def test_fails(): raise ValueError("not so")
@pytest.mark.skip(reason="no such device")
def test_skipped(): pass
def test_of_two_devices(): raise TooFewDevices("needs 2 devices, and there is 1")
@pytest.mark.xfail(reason="known")
def test_fails_as_expected(): assert False
@pytest.fixture
def spoilt():
    yield
    raise ValueError("not torn down")
def test_fails_afterwards(spoilt): pass
"""
SKIPPED_MODULE = "import pytest; pytest.skip('not here', allow_module_level=True)"
CONFTEST = """
from jax_flash_mla import _support
from results_file import NOT_COLLECTED
_support.local_architectures = lambda: {architectures}

def pytest_configure(config):
    config.stash[NOT_COLLECTED] = dict(engine=["test_engine.py"])
"""


class ResultsFileTest(parameterized.TestCase):
    def run_pytest(self, architectures, *options):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "test_example.py").write_text(EXAMPLE)
            (folder / "test_module.py").write_text(SKIPPED_MODULE)
            (folder / "conftest.py").write_text(CONFTEST.format(architectures=architectures))
            path = os.pathsep.join([str(TESTS), *sys.path])
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-p", "results_file", "--results", "out/r.json", *options],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": path},
                capture_output=True,
                text=True,
            )
            self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
            self.assertIn("not collected for want of engine: test_engine.py", done.stdout)
            return json.loads((folder / "out/r.json").read_text())

    @parameterized.named_parameters(
        ("no_device", (), ()),
        ("old_device", ("sm80",), ()),
        ("no_kernel_written", ("sm100",), ()),
        ("workers", (), ("-n", "2")),
    )
    def test_skips(self, architectures, options):
        contents = self.run_pytest(architectures, *options)
        self.assertEqual(contents["passed"], ["test_example.py::test_passes"])
        self.assertEqual(
            contents["skipped"],
            {
                "test_example.py::test_fails_as_expected": "failed as expected: known",
                "test_example.py::test_of_two_devices": "needs 2 devices, and there is 1",
                "test_example.py::test_skipped": "no such device",
                "test_module.py": "not here",
            },
        )
        self.assertEqual(set(contents["failed"]), {f"test_example.py::test_fails{x}" for x in ("", "_afterwards")})
        self.assertEqual(contents["counts"], {"passed": 1, "failed": 2, "skipped": 4})
        self.assertEqual(contents["not_collected"], {"engine": ["test_engine.py"]})
        self.assertEqual(contents["exit_status"], 1)
        self.assertIn("jax", contents["machine"]["packages"])
        self.assertEqual(set(contents["machine"]), {"cards", "driver", "cuda", "python", "packages"})

    def test_a_skip_on_a_fit_device_is_a_failure(self):
        contents = self.run_pytest(("sm90",), "--continue-on-collection-errors")
        self.assertEqual(
            contents["failed"]["test_example.py::test_skipped"],
            "skipped although sm90 is present: no such device",
        )
        self.assertEqual(contents["failed"]["test_module.py"], "skipped although sm90 is present: not here")
        self.assertEqual(
            contents["skipped"],
            {
                "test_example.py::test_fails_as_expected": "failed as expected: known",
                "test_example.py::test_of_two_devices": "needs 2 devices, and there is 1",
            },
        )
        self.assertEqual(contents["counts"], {"passed": 1, "failed": 4, "skipped": 2})
