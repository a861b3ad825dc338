"""The command line: what it prints and the status it exits with."""

import contextlib
import importlib.util
import io
import sys
from unittest import mock

import jax.numpy as jnp
from absl.testing import parameterized

import jax_flash_mla as fm
from jax_flash_mla import __main__ as command_line
from jax_flash_mla._check import command, operations


def run(*argv):
    """Exit status and output; a wide terminal, so that no cell wraps."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), mock.patch.dict("os.environ", COLUMNS="240"):
        try:
            status = command_line.main(list(argv))
        except SystemExit as stop:
            status = stop.code
    return status, out.getvalue()


class CommandTest(parameterized.TestCase):
    def test_info(self):
        status, out = run("info")
        self.assertEqual(status, 0)
        for text in (fm.__version__, *fm.build_info()["kernels"]):
            self.assertIn(text, out)

    def test_check_covers_every_operation(self):
        families = {check.family for check in command.checks()}
        self.assertEqual(families - {None}, set(fm.build_info()["kernels"]))
        names = " ".join(check.operation.name for check in command.checks())
        for name in ("dequantize", "merge"):
            self.assertIn(name, names)

    def small(self):
        return [
            command.Check(operations.dense_decode("dense decode", h_q=2, h_kv=1, causal=True), "dense_decode", {}),
            command.Check(operations.merge("merge states")),
        ]

    def test_check(self):
        with mock.patch.object(command, "checks", self.small):
            status, out = run("check", "--seed", "3")
        self.assertEqual(status, 0, out)
        for text in ("dense decode", "merge states", "xla", "2/2", "error / allowed"):
            self.assertIn(text, out)
        self.assertNotIn("FAILED", out)

    def test_check_fails_where_a_result_is_wrong(self):
        wrong = operations.merge("merge states")
        object.__setattr__(wrong, "call", lambda _, outs, lses: (outs[0], lses[0]))
        with mock.patch.object(command, "checks", lambda: [command.Check(wrong)]):
            status, out = run("check")
        self.assertEqual(status, 1)
        self.assertIn("FAILED", out)

    def test_check_fails_where_an_implementation_is_missing(self):
        with mock.patch.object(command, "checks", self.small):
            status, out = run("check", "--implementation", "cuda")
        self.assertEqual(status, 1)
        self.assertIn("none", out)

    def test_help_names_every_command(self):
        status, out = run("--help")
        self.assertEqual(status, 0)
        for name in ("info", "check", "bench", "demo"):
            self.assertRegex(out, rf"\n +{name} +\w")

    def test_bench(self):
        status, out = run("bench", "mha_forward", "--dry-run", "--match", "causal")
        self.assertEqual(status, 0)
        self.assertIn("192/128 b=4 s=4096 h=32 causal", out)

    def test_demo_says_what_is_missing(self):
        """In one sentence: optional dependencies are not installed with the package."""
        package = "jax_flash_mla.examples.deepseek"
        hidden = [name for name in sys.modules if name.startswith(package)]
        find = importlib.util.find_spec
        with (
            mock.patch.dict(sys.modules),
            mock.patch.object(importlib.util, "find_spec", lambda name: None if name == "optax" else find(name)),
            contextlib.redirect_stderr(io.StringIO()) as err,
        ):
            for name in hidden:
                del sys.modules[name]
            vars(sys.modules.get("jax_flash_mla.examples", command_line)).pop("deepseek", None)
            self.assertEqual(run("demo")[0], 2)
        self.assertEqual(err.getvalue(), f"demo: {package} needs optax: pip install 'jax-flash-mla[examples]'.\n")

    def test_bad_arguments(self):
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertEqual(run()[0], 2)
            self.assertEqual(run("check", "--implementation", "gpu")[0], 2)
        status, out = run("check", "--help")
        self.assertEqual(status, 0)
        self.assertIn("float64 oracle", out)


class ToleranceTest(parameterized.TestCase):
    def test_error_ratio(self):
        from jax_flash_mla._check.tolerance import error_ratio

        one = jnp.ones((2, 3), jnp.float32)
        self.assertEqual(error_ratio(one, one), 0)
        self.assertLess(error_ratio(one * (1 + 1e-6), one), 1)
        self.assertGreater(error_ratio(one.at[0, 0].set(1 + 1e-5), one), 1)
        self.assertGreater(error_ratio(one.astype(jnp.bfloat16).at[1, 1].set(1.01), one), 1)
        for odd in (jnp.nan, jnp.inf, -jnp.inf):
            spoiled = one.at[1, 2].set(odd)
            self.assertEqual(error_ratio(spoiled, spoiled), 0)
            self.assertEqual(error_ratio(one, spoiled), float("inf"))
            self.assertEqual(error_ratio(spoiled, one), float("inf"))
        self.assertEqual(error_ratio(one.at[0, 0].set(jnp.inf), one.at[0, 0].set(-jnp.inf)), float("inf"))
        ints = jnp.arange(3)
        self.assertEqual(error_ratio(ints, ints), 0)
        self.assertEqual(error_ratio(ints, ints + 1), float("inf"))
