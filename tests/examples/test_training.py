"""Training: the same losses on every mesh, by parts, by several processes, and after a kill."""

import contextlib
import dataclasses
import functools
import io
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from unittest import mock

import jax
import numpy as np
import optax
import tiny
from absl.testing import parameterized
from rich.console import Console
from tiny import setUpModule, tearDownModule  # noqa: F401

from jax_flash_mla.examples.deepseek import checkpoint, data, model, optimizer, serve, speed, train
from jax_flash_mla.examples.deepseek import config as configs
from jax_flash_mla.examples.deepseek.config import TrainConfig
from jax_flash_mla.examples.deepseek.parallel import make_mesh, place

# Compiling takes most of the time: one layer.
DENSE = TrainConfig(dataclasses.replace(tiny.DENSE, layers=1), steps=4, batch=4, length=16, evaluate=4, save_every=2)
SPARSE = dataclasses.replace(DENSE, model=dataclasses.replace(tiny.SPARSE, layers=1))
# Attention is dense in two steps, and sparse in two.
WARM = dataclasses.replace(SPARSE.model, indexer=dataclasses.replace(tiny.SPARSE.indexer, warm_up=2))
TEXT = np.frombuffer(pathlib.Path(data.__file__).read_bytes(), np.uint8)


@functools.lru_cache
def losses(config):
    mesh = make_mesh(config.mesh)
    state, step = optimizer.initial_state(config, mesh), optimizer.make_step(config, mesh)
    found = []
    for i in range(config.steps):
        pieces = data.batch(TEXT, config.batch, config.length, config.seed, i)
        pieces = pieces.reshape(config.accumulate, -1, config.length + 1)
        state, metrics = step(state, place(pieces[..., :-1], mesh), place(pieces[..., 1:], mesh))
        found.append([float(metrics.loss), float(metrics.index_loss)])
    return np.array(found)


class MeshTest(parameterized.TestCase):
    @parameterized.named_parameters(("dense", DENSE), ("sparse", dataclasses.replace(DENSE, model=WARM)))
    def test_mesh_and_remat_change_nothing(self, config):
        if len(jax.devices()) < 8:
            self.skipTest("needs 8 devices")
        want = losses(config)
        self.assertLess(want[-1, 0], want[0, 0])
        got = losses(dataclasses.replace(config, mesh=(2, 2, 2), accumulate=2, remat=True))
        np.testing.assert_allclose(got, want, rtol=2e-5)

    def test_parts_change_nothing(self):
        np.testing.assert_allclose(losses(dataclasses.replace(DENSE, accumulate=4)), losses(DENSE), rtol=2e-5)

    def test_masters_are_float32(self):
        """Activations are bfloat16, weights and what the optimizer keeps are not."""
        config = dataclasses.replace(DENSE, model=dataclasses.replace(DENSE.model, compute="bfloat16"))
        mesh = make_mesh((1, 1, 1))
        state = jax.eval_shape(lambda: optimizer.initial_state(config, mesh))
        wide = {str(x.dtype) for x in jax.tree.leaves((state.weights, optax.tree.get(state.optimizer, "mu")))}
        self.assertEqual(wide, {"float32"})
        np.testing.assert_allclose(losses(config), losses(DENSE), rtol=0.01)


def command(folder, *options):
    """The training command, as a process of its own, on one CPU device."""
    program = "import sys, test_training; sys.exit(test_training.tiny_train(sys.argv[1:]))"
    path = os.pathsep.join([str(pathlib.Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "XLA_FLAGS": "",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PLATFORMS": "cpu",
    }
    arguments = ["--out", str(folder), "--text", str(pathlib.Path(data.__file__).parent), *options]
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def tiny_train(argv):
    """``train.main`` with a preset of the tiny model."""
    configs.PRESETS["smoke"] = dataclasses.replace(DENSE, steps=24, save_every=4)
    return train.main(argv)


def finished(process):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out.decode()
    return out.decode()


def written(folder):
    path = folder / "losses.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class ProcessTest(parameterized.TestCase):
    """The command itself: each process starts JAX."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_killed_it_resumes_and_two_processes_are_as_one(self):
        whole, killed, pair = (self.folder / name for name in ("whole", "killed", "pair"))
        finished(command(whole))
        want = written(whole)
        self.assertEqual([line["step"] for line in want], list(range(24)))
        self.assertTrue((whole / "loss.png").read_bytes().startswith(b"\x89PNG"))

        process = command(killed)
        while len(written(killed)) < 6 or not (killed / "checkpoints" / "4").exists():
            self.assertIsNone(process.poll(), "it should run still")
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        out = finished(command(killed))
        self.assertRegex(out, "going on from step (4|8|12|16|20)\\b")
        self.assertEqual(written(killed), want, out)

        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        shared = ("--coordinator", f"localhost:{port}", "--processes", "2", "--mesh", "2,1,1")
        both = [command(pair, *shared, "--process", str(i)) for i in range(2)]
        out, quiet = (finished(process) for process in both)
        self.assertIn("held-out text", out)
        self.assertNotIn("held-out text", quiet)
        for name in ("loss", "index_loss"):
            np.testing.assert_allclose([line[name] for line in written(pair)], [line[name] for line in want], rtol=2e-5)


class RunTest(parameterized.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.text = data.Text(TEXT, TEXT)

    def train(self, config):
        out = io.StringIO()
        return train.train(config, self.folder, Console(file=out), self.text), out.getvalue()

    def test_outcome(self):
        """What is reported is what the weights give; and the weights are those that are loaded."""
        outcome, out = self.train(SPARSE)
        self.assertIn("step 4/4: loss ", out)
        self.assertIn(", indexer ", out)
        self.assertGreater(outcome.tokens_per_second, 0)
        config, weights = checkpoint.load_weights(self.folder)
        self.assertEqual(config, SPARSE)
        jax.tree.map(np.testing.assert_array_equal, weights, outcome.weights)
        pieces = data.evenly_spaced(TEXT, 4, 16)
        logits = model.forward(weights, pieces[:, :-1], SPARSE.model)[0]
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, pieces[:, 1:]).mean()
        self.assertAlmostEqual(outcome.held_out, float(nats), places=4)
        with self.assertRaisesRegex(ValueError, "holds a run of another model"):
            self.train(DENSE)

        # And it serves.
        served = (
            "--run",
            str(self.folder),
            "--prompt",
            "ab",
            "--tokens",
            "3",
            "--max-length",
            "16",
            "--page-size",
            "16",
        )
        with contextlib.redirect_stdout(io.StringIO()) as out:
            self.assertEqual(serve.main([*served, "--pages", "2", "--sparse", "--cache", "fp8", "--seed", "5"]), 0)
        for text in ("--- request 0\nab", "time to first token", "tokens/s", "2, 1.00 tokens each"):
            self.assertIn(text, out.getvalue())
        # One layer: 656 bytes, and 64 float32 numbers of the indexer.
        self.assertIn(f"{656 + 256} bytes a token", out.getvalue())
        for wrong, message in (
            (("--draft-tokens", "1"), "draft_tokens = 1 needs draft_layers from 1 to 0"),
            (("--tokens", "15"), "at most 16 tokens together (max_length), got 2 and 15"),
            (("--attention", "cuda"), 'implementation="cuda" was asked for, but'),
            (("--run", str(self.folder / "none")), "holds no run: train one there first"),
        ):
            with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
                self.assertEqual(serve.main([*served, *wrong]), 2)
            self.assertIn(message, err.getvalue())
            self.assertEqual(err.getvalue().count("\n"), 1)

    def test_nothing_to_load(self):
        with self.assertRaisesRegex(ValueError, "holds no run: train one there first"):
            checkpoint.load_weights(self.folder)
        configs.save(DENSE, self.folder / "config.json")
        with self.assertRaisesRegex(ValueError, "holds no checkpoint yet"):
            checkpoint.load_weights(self.folder)

    @parameterized.named_parameters(
        ("batch", ("--batch", "3", "--accumulate", "2"), "batch = 3 must be a positive multiple of 2"),
        ("heads", ("--mesh", "1,4,1"), "heads = 2 must be a positive multiple of 4"),
        ("mesh", ("--mesh", "2,1"), "--mesh must be three positive numbers"),
        ("steps", ("--steps", "0"), "steps and save_every must be at least 1, got 0"),
        ("devices", ("--mesh", "16,1,1"), "needs 16 devices, and there are"),
        ("cuda", ("--attention", "cuda", "--compute", "float32"), 'implementation="cuda" was asked for, but'),
        ("cudnn", ("--attention", "cudnn"), 'attention="cudnn" needs an NVIDIA GPU'),
        ("cudnn_sparse", ("--attention", "cudnn", "--preset", "smoke-dsa"), 'attention="cudnn" excludes an indexer'),
        ("text", ("--text", "/nonexistent"), "has 0 Python files, and at least 10 are needed"),
        ("compare", ("--compare", "auto,fast"), "attention must be of auto, cuda, xla, cudnn, got fast"),
    )
    def test_refusals(self, options, message):
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            self.assertEqual(train.main(["--out", str(self.folder / "run"), *options]), 2)
        self.assertIn(message, err.getvalue())
        self.assertEqual(err.getvalue().count("\n"), 1)

    def test_help_teaches(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), self.assertRaises(SystemExit) as stop:
            train.main(["--help"])
        self.assertEqual(stop.exception.code, 0)
        for words in ("--coordinator", "goes on from the last checkpoint", "Exit status 2"):
            self.assertIn(words, " ".join(out.getvalue().split()))


class SpeedTest(parameterized.TestCase):
    def test_flop_is_six_a_weight_and_attention(self):
        config = tiny.DENSE
        sizes = {jax.tree_util.keystr(p): x.size for p, x in jax.tree_util.tree_leaves_with_path(tiny.weights(config))}
        multiplied = sum(n for name, n in sizes.items() if "norm" not in name and "embedding" not in name)
        attention = config.layers * config.heads * (192 + 128) * 50
        self.assertEqual(speed.flop_per_token(config, 100), 6 * (multiplied + attention))

    def test_the_preset_for_one_gpu(self):
        config = configs.PRESETS["h200"]
        train.check(config)
        shapes = jax.eval_shape(lambda: optimizer.initial_state(config, make_mesh((1, 1, 1))).weights)
        weights = sum(x.size for x in jax.tree.leaves(shapes))
        self.assertBetween(weights, 80e6, 130e6)

    def test_comparison(self):
        """Each way is timed, and one that cannot run says why."""
        table = speed.compare(DENSE, ["xla", "cudnn"], 2, Console(quiet=True))
        _, rates, shares, reasons = (list(column.cells) for column in table.columns)
        self.assertEqual([rate == "-" for rate in rates], [False, True])
        self.assertEqual(shares[0], "unknown here")
        self.assertTrue(reasons[1])

    def test_comparison_of_slow_steps(self):
        """One step that compiles and three more, when these take long enough."""
        with mock.patch.object(speed, "ENOUGH_SECONDS", 0), mock.patch.object(data, "batch", wraps=data.batch) as batch:
            speed.compare(DENSE, ["xla"], 50, Console(quiet=True))
        self.assertEqual(batch.call_count, 1 + speed.LEAST_STEPS)


class DataTest(parameterized.TestCase):
    def test_batches(self):
        one = data.batch(TEXT, 3, 8, seed=1, step=2)
        np.testing.assert_array_equal(one, data.batch(TEXT, 3, 8, seed=1, step=2))
        self.assertTrue((one != data.batch(TEXT, 3, 8, seed=1, step=3)).any())
        self.assertIn(bytes(one[0].astype(np.uint8)), TEXT.tobytes())

    def test_held_out_files_are_others(self):
        text = data.standard_library()
        self.assertGreater(len(text.train), 5 * len(text.held_out))
        piece = text.held_out[1000:1400].tobytes()
        self.assertNotIn(piece, text.train.tobytes())

    def test_bigram_loss(self):
        """Of text in which every second byte follows from the first."""
        rng = np.random.default_rng(0)
        text = np.stack([rng.integers(0, 2, 20_000), np.full(20_000, 7)], 1).reshape(-1).astype(np.uint8)
        pieces = data.evenly_spaced(text, 10, 1000)
        self.assertAlmostEqual(data.bigram_loss(text, pieces), np.log(2) / 2, places=2)
