"""What a build contains and which compiler makes it, by two environment variables and what is here."""

import importlib.util
import os
import pathlib
import tempfile
from unittest import mock

from absl.testing import parameterized

FILE = pathlib.Path(__file__).parent.parent / "build_backend" / "choices.py"


def load():
    spec = importlib.util.spec_from_file_location("choices", FILE)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict("sys.modules", choices=module):  # where dataclasses look for it
        spec.loader.exec_module(module)
    return module


class ChoicesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.choices = load()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        (self.folder / "bin").mkdir()
        for patch in (
            mock.patch.dict(os.environ, {"PATH": str(self.folder / "bin")}),
            mock.patch.object(self.choices, "GPUS", self.folder / "gpus"),
            mock.patch.object(self.choices.sys, "platform", "linux"),
            mock.patch.object(self.choices.platform, "machine", lambda: "x86_64"),
        ):
            patch.start()
            self.addCleanup(patch.stop)
        for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH", self.choices.CUDA, self.choices.ARCHS):
            os.environ.pop(name, None)

    def program(self, name, output, folder="bin"):
        """Puts a program that prints something on PATH, or elsewhere."""
        path = self.folder / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n".replace("cat", "/bin/cat"))
        path.chmod(0o755)
        return str(path)

    def nvcc(self, version, folder="bin"):
        return self.program("nvcc", f"Cuda compilation tools, release {version}, V{version}.1", folder)

    def choose(self, source=None, archs=None):
        settings = {self.choices.CUDA: source, self.choices.ARCHS: archs}
        with mock.patch.dict(os.environ, {name: value for name, value in settings.items() if value is not None}):
            return self.choices.choose()

    def assert_refused(self, text, **settings):
        with self.assertRaisesRegex(SystemExit, text):
            self.choose(**settings)

    def see_gpus(self, *capabilities):
        self.program("nvidia-smi", "\n".join(capabilities))

    def see_gpus_of_the_host(self):
        (self.folder / "gpus" / "0000:18:00.0").mkdir(parents=True)

    def test_nothing_here(self):
        choice = self.choose()
        self.assertEqual((choice.architectures, choice.nvcc), ((), None))
        self.assertEqual(choice.why, "no CUDA kernels (no NVIDIA GPU is seen here)")

    def test_gpus_of_a_host_that_nothing_asks(self):
        """A container without nvidia-smi gets no kernels, and is told why."""
        self.see_gpus_of_the_host()
        choice = self.choose()
        self.assertEqual(choice.architectures, ())
        self.assertEqual(choice.why, "no CUDA kernels (there is a GPU, but no nvidia-smi to ask which)")

    def test_gpus_that_do_not_answer(self):
        self.see_gpus_of_the_host()
        self.program("nvidia-smi", "No devices were found")
        self.assert_refused("nvidia-smi does not say which: set JAX_FLASH_MLA_CUDA_ARCHS, to all for instance")

    @parameterized.parameters(
        (["9.0"], ("90a",)),
        (["9.0", "9.0"], ("90a",)),
        (["9.0", "8.0"], ("90a",)),
        (["10.0"], ("100f",)),
        (["10.3", "9.0"], ("90a", "100f")),
        (["8.9"], ()),
    )
    def test_native(self, capabilities, architectures):
        self.see_gpus(*capabilities)
        choice = self.choose()
        self.assertEqual(choice.architectures, architectures)
        self.assertIn(f"have compute capability {', '.join(sorted(set(capabilities)))}", choice.why)

    @parameterized.parameters(
        ("90a", ("90a",)),
        (" 90a ", ("90a",)),
        ("100f", ("100f",)),
        ("90a,100f", ("90a", "100f")),
        ("90a, 100f", ("90a", "100f")),
        ("100f ,90a", ("90a", "100f")),
        ("all", ("90a", "100f")),
    )
    def test_lists(self, archs, architectures):
        self.assertEqual(self.choose(archs=archs).architectures, architectures)

    @parameterized.parameters("90", "sm_90a", "90a 100f", "90a,", "every")
    def test_no_list(self, archs):
        self.assert_refused(f"JAX_FLASH_MLA_CUDA_ARCHS={archs} is none of native, all, none, or a list of", archs=archs)

    def without_kernels(self, arch):
        """As if none were written for an architecture."""
        sources = self.choices.sources()
        sources["cuda"][arch] = []
        return mock.patch.object(self.choices, "sources", lambda: sources)

    def test_an_architecture_without_kernels(self):
        with self.without_kernels("100f"):
            self.assertIn("for which none is written yet", self.choose(archs="100f").why)

    def test_none(self):
        self.see_gpus("9.0")
        for settings in (dict(archs="none"), dict(source="none"), dict(source="none", archs="all")):
            self.assertEqual(self.choose(**settings).architectures, ())

    @parameterized.parameters("system", "pypi")
    def test_a_compiler_and_nothing_to_compile(self, source):
        self.nvcc("13.0")
        text = rf"JAX_FLASH_MLA_CUDA={source} asks for kernels, but there are none to build \({{}}\): set".format
        self.assert_refused(text("no NVIDIA GPU is seen here"), source=source)
        self.assert_refused(text("no NVIDIA GPU is seen here"), source=source, archs="native")
        with self.without_kernels("100f"):
            self.assert_refused(text(".*ARCHS=100f, for which none is written yet"), source=source, archs="100f")
        self.assertEqual(self.choose(source=source, archs="none").architectures, ())

    def test_the_systems_compiler(self):
        nvcc = self.nvcc("12.9")
        for source in (None, "auto", "system"):
            choice = self.choose(source, "90a")
            self.assertEqual(choice.nvcc, nvcc)
            self.assertIn(f"compiled by {nvcc}, version 12.9", choice.why)
        self.assertIsNone(self.choose("pypi", "90a").nvcc)

    def test_the_first_that_is_new_enough(self):
        self.nvcc("12.4")
        self.assertIsNone(self.choose(archs="90a").nvcc)
        self.assert_refused("needs nvcc 12.9 or newer, but .*nvcc is 12.4", source="system", archs="90a")
        home = self.nvcc("13.1", "home/bin")
        os.environ["CUDA_HOME"] = str(self.folder / "home")
        self.assertEqual(self.choose(archs="90a").nvcc, home)
        named = self.nvcc("13.0", "elsewhere")
        os.environ["CUDACXX"] = named
        self.assertEqual(self.choose(archs="90a").nvcc, named)

    def test_no_compiler(self):
        self.assertIsNone(self.choose(archs="90a").nvcc)
        self.assert_refused("none is on PATH or under CUDA_HOME", source="system", archs="90a")

    def test_no_such_source(self):
        self.assert_refused("JAX_FLASH_MLA_CUDA=conda is none of auto, system, pypi, none", source="conda")

    def test_other_machines_have_no_kernels(self):
        with mock.patch.object(self.choices.sys, "platform", "darwin"):
            self.assertEqual(self.choose().architectures, ())
            self.assert_refused("kernels are built on Linux, x86_64 or aarch64, alone", archs="all")

    def test_what_is_fetched_has_a_version(self):
        for lock in ("headers.lock", "cuda.lock"):
            self.assertNotEmpty(self.choices.pins(lock))
            for pin in self.choices.pins(lock):
                self.assertRegex(pin, r"^[\w-]+==[\d.]+$")
