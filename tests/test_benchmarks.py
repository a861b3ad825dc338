"""``python -m jax_flash_mla bench``: counting, cutting what was recorded, presets, files, refusals.

Nothing is timed here: a recorder that makes up times stands in for CUPTI.
"""

import contextlib
import importlib.util
import io
import json
import pathlib
import re
import sys
import tempfile
import types
import unittest
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from jax_flash_mla._bench import (
    agreement,
    command,
    curves,
    pictures,
    presets,
    recording,
    references,
    report,
    roofline,
    session,
    timing,
)
from jax_flash_mla._bench import operands as make
from jax_flash_mla._bench.problems import (
    DenseDecode,
    Mha,
    MhaBackward,
    Quantize,
    SparseBackward,
    SparseDecode,
    SparsePrefill,
)
from jax_flash_mla._bench.rows import Peer, Row, Target
from jax_flash_mla._bench.segments import Activity, MeasurementError, busy, span, split
from jax_flash_mla._bench.sweeps import SWEEPS

SMALL = (
    ("dense_decode", DenseDecode(2, 2, 4, 100, varlen=True, causal=True)),
    ("dense_decode_metadata", DenseDecode(2, 1, 4, 100, metadata_each_call=True)),
    ("sparse_decode", SparseDecode(2, 2, 4, 8, 128)),
    ("sparse_decode_planar", SparseDecode(2, 1, 4, 8, 128, planar=True, extra_topk=20)),
    ("sparse_prefill", SparsePrefill(6, 40, 4, 8)),
    ("sparse_prefill_valid", SparsePrefill(6, 40, 4, 8, valid=50)),
    ("mha", Mha(192, 128, 2, 16, 2, True)),
    ("mha_grouped", Mha(128, 128, 2, 16, 4, False, h_kv=2)),
    ("mha_backward", MhaBackward(192, 128, 2, 16, 2, True)),
    ("sparse_backward", SparseBackward(6, 40, 4, 8)),
    ("sparse_backward_deterministic", SparseBackward(6, 40, 4, 8, deterministic=True)),
    ("quantize", Quantize(100)),
    ("quantize_planar", Quantize(100, planar=True)),
)


class CountingTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("dense", DenseDecode(2, 3, 4, 64), 2 * 2 * 3 * 4 * 64 * 1088),
        ("dense_causal", DenseDecode(2, 3, 4, 64, causal=True), 2 * 2 * 3 * 4 * 64 * 1088),
        ("sparse", SparseDecode(2, 3, 4, 5, 64), 2 * 2 * 3 * 4 * 5 * 1088),
        ("prefill", SparsePrefill(7, 64, 4, 5), 2 * 7 * 4 * 5 * 1088),
        ("sparse_planar", SparseDecode(2, 3, 4, 5, 64, planar=True, extra_topk=6), 2 * 2 * 3 * 4 * 11 * 1024),
        ("prefill_512", SparsePrefill(7, 64, 4, 5, 512), 2 * 7 * 4 * 5 * 1024),
        ("prefill_valid", SparsePrefill(7, 64, 4, 20, valid=10), 2 * 7 * 4 * 2 * 1088),
        ("mha", Mha(192, 128, 2, 8, 3, False), 2 * 2 * 3 * 64 * 320),
        ("mha_causal", Mha(192, 128, 2, 8, 3, True), 2 * 3 * 64 * 320),
        ("mha_grouped", Mha(192, 128, 2, 8, 4, False, h_kv=1), 2 * 2 * 4 * 64 * 320),
        ("mha_backward", MhaBackward(192, 128, 2, 8, 3, False), 2 * 2 * 3 * 64 * (576 + 256)),
        ("mha_backward_causal", MhaBackward(128, 128, 2, 8, 3, True), 2 * 3 * 64 * (384 + 256)),
        ("sparse_backward", SparseBackward(7, 64, 4, 5), 2 * 7 * 4 * 5 * (1728 + 1024)),
        ("quantize", Quantize(128), 128 * 512),
    )
    def test_flop(self, problem, want):
        self.assertEqual(problem.flop(), want)

    @parameterized.named_parameters(
        # Cache; q, out and lse of each query head; table and lengths.
        ("dense", DenseDecode(2, 3, 4, 100), 2 * 100 * 1152 + 24 * (1152 + 1024 + 4) + 2 * 2 * 4 + 2 * 4),
        # Chosen tokens and their indices for each query.
        ("sparse", SparseDecode(2, 3, 4, 5, 64), 6 * 5 * (656 + 4) + 24 * (1152 + 1024 + 4)),
        ("prefill", SparsePrefill(7, 64, 4, 5), 7 * 5 * (1152 + 4) + 28 * (1152 + 1024 + 8)),
        ("sparse_planar", SparseDecode(2, 3, 4, 5, 64, True, 6), 6 * 11 * (584 + 4) + 24 * (1024 + 1024 + 4)),
        ("prefill_valid", SparsePrefill(7, 64, 4, 20, valid=10), 7 * (2 * 1152 + 20 * 4) + 28 * (1152 + 1024 + 8)),
        ("mha", Mha(192, 128, 2, 8, 3, True), 48 * (384 * 2 + 256 * 2 + 4)),
        ("mha_grouped", Mha(192, 128, 2, 8, 4, True, h_kv=2), 16 * (4 * (640 + 4) + 2 * 640)),
        ("mha_backward", MhaBackward(192, 128, 2, 8, 3, True), 48 * (384 * 4 + 256 * 4 + 4)),
        (
            "sparse_backward",
            SparseBackward(7, 64, 4, 5),
            7 * 5 * (1152 + 4) + 28 * (2 * 1152 + 2 * 1024 + 4) + 64 * 1152,
        ),
        ("quantize", Quantize(128), 128 * (1152 + 656)),
        ("quantize_planar", Quantize(128, planar=True), 128 * (1024 + 584)),
    )
    def test_bytes(self, problem, want):
        self.assertEqual(problem.bytes(), want)

    def test_varlen_counts_the_lengths_themselves(self):
        problem = DenseDecode(5, 2, 4, 1000, varlen=True)
        lengths = problem.lengths()
        self.assertGreater(len(set(lengths)), 1)
        self.assertGreaterEqual(lengths.min(), 2)
        self.assertEqual(problem.flop(), 2 * 2 * 4 * int(lengths.sum()) * 1088)

    @parameterized.named_parameters(
        (name, row)
        for name in ("dense_decode", "sparse_prefill", "mha_forward", "mha_backward", "sparse_backward")
        for name, row in [(f"{name}_{i}", row) for i, row in enumerate(presets.PRESETS[name])]
        if "varlen" not in row.name
    )
    def test_peers_times_and_shares_agree(self, row):
        """Their times give the rates that their shares are of, with cuBLAS between 700 and 800 TFLOP/s."""
        peer = row.peers[0]
        cublas = row.problem.flop() / peer.ms / 1e9 / peer.cublas
        self.assertBetween(cublas, 700, 830)


class PresetsTest(parameterized.TestCase):
    def test_every_row_of_the_tables(self):
        sizes = {name: len(rows) for name, rows in presets.PRESETS.items() if name not in SWEEPS}
        self.assertEqual(
            sizes,
            dict(
                dense_decode=12,
                sparse_decode=6,
                sparse_prefill=6,
                mha_forward=8,
                mha_backward=8,
                sparse_backward=4,
                quantize=2,
            ),
        )
        self.assertEqual(presets.TABLES, tuple(sizes))
        self.assertEqual(
            {name: len(rows) for name, rows in SWEEPS.items()},
            dict(
                sweep_dense_decode=5 * 6 * 4 * 3,
                sweep_sparse_decode=5 * 5 * 6 + 4,
                sweep_sparse_prefill=4 * 4 * 4 + 3 * 2,
                sweep_sparse_backward=4 * 4 * 2,
                sweep_mha_forward=2 * 3 * 2 * 2 * 4,
                sweep_mha_backward=2 * 3 * 2 * 2 * 4,
            ),
        )

    @parameterized.parameters(*presets.PRESETS)
    def test_rows(self, preset):
        rows = presets.PRESETS[preset]
        self.assertLen({row.name for row in rows}, len(rows))
        for row in rows:
            if preset in SWEEPS:
                self.assertEqual(f"sweep_{row.problem.family}", preset)
                self.assertEqual((row.peers, row.target), ((), None))
                continue
            self.assertEqual(row.problem.family, preset)
            self.assertIn(row.target.of, ("cublas", "read", "us"))
            self.assertTrue({peer.name for peer in row.peers} <= set(presets.PROVENANCE))
            # A target asks for more than the peers have.
            if row.target.of != "us":
                for peer in row.peers:
                    self.assertGreater(row.target.value, getattr(peer, row.target.of))

    @parameterized.parameters(*presets.PRESETS)
    def test_the_support_table_takes_the_facts(self, preset):
        import jax_flash_mla as fm

        for row in presets.PRESETS[preset]:
            reason = fm.supports(row.problem.operation, **row.problem.facts())
            self.assertTrue(reason is None or "this build has no" in reason, reason)


class ProblemTest(parameterized.TestCase):
    @parameterized.named_parameters(*SMALL)
    def test_runs(self, problem):
        operands = problem.operands(0)
        function, arguments = problem.prepare("xla", operands)
        got = references.compiled("operation", function, arguments)()
        want = jax.jit(lambda *operands: problem.call("xla", *operands))(*operands)
        self.assertTrue(all(np.isfinite(np.asarray(x, np.float32)).all() for x in got))
        agreement.compare(got, want)
        sizes = sum(x.size * x.dtype.itemsize for x in (*operands, *want))
        self.assertGreaterEqual(problem.memory(), sizes)
        for a, b in zip(operands, problem.operands(0)):
            np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))

    def test_pages_are_permuted(self):
        lengths = np.array([65, 64, 1000], np.int32)
        table = make.random_pages(np.random.default_rng(0), lengths, 64)
        used = [page for row, n in zip(table, (2, 1, 16)) for page in row[:n]]
        self.assertEqual(sorted(used), list(range(19)))
        self.assertNotEqual(used, list(range(19)))

    def test_tokens_are_distinct(self):
        tokens = np.asarray(make.distinct_tokens(jax.random.key(0), 5, 40, 30))
        for row in tokens:
            self.assertLen(set(row), 30)
            self.assertBetween(row.min(), 0, 39)
        self.assertNotEqual(set(tokens[0]), set(tokens[1]))

    @parameterized.parameters(1, 7, 64, 100, 131)
    def test_normal_in_pieces(self, n):
        x = np.asarray(make.normal(jax.random.key(0), (n, 3, 40)), np.float32)
        self.assertEqual(x.shape, (n, 3, 40))
        self.assertBetween(x.std(), 0.8, 1.2)


def recorded(*names):
    """Activities of a millisecond each, with as much between them."""
    return [Activity(name, 2.0 * i, 2.0 * i + 1) for i, name in enumerate(names)]


class SplitTest(parameterized.TestCase):
    ROUND = ("fill", "gemm", "fill", "split", "combine")

    def test_two_rounds(self):
        cut = split(recorded(*self.ROUND * 2), "fill", ["cublas", "operation"], 2)
        self.assertLen(cut, 2)
        for one in cut:
            self.assertEqual([a.name for a in one["cublas"]], ["gemm"])
            self.assertEqual([a.name for a in one["operation"]], ["split", "combine"])
            self.assertEqual((busy(one["operation"]), span(one["operation"])), (2, 3))

    @parameterized.named_parameters(
        ("lost_fill", ROUND + ROUND[1:], "4 fills named 'fill' were queued (2 rounds of 2), and 3 were recorded"),
        ("extra_fill", (*ROUND, *ROUND, "fill"), "and 5 were recorded among 11 activities"),
        ("other_name", ("memset", "gemm") * 4, "and 0 were recorded"),
        ("early", ("copy", *ROUND, *ROUND), "before the first fill: 1, beginning with 'copy'"),
        ("empty", ("fill", "fill", "op", *ROUND), "nothing was recorded after fill 0, where 'cublas' of round 0"),
        ("empty_end", (*ROUND, *ROUND[:3]), "nothing was recorded after fill 3, where 'operation' of round 1"),
        ("changed", (*ROUND, *ROUND[:4]), "'operation' ran other kernels in round 1 than in round 0: 1 fewer of 'com"),
        ("more", (*ROUND, *ROUND, "memset"), "in round 1 than in round 0: 1 more of 'memset'"),
    )
    def test_refusals(self, names, text):
        with self.assertRaises(MeasurementError) as caught:
            split(recorded(*names), "fill", ["cublas", "operation"], 2)
        self.assertIn(text, str(caught.exception))

    def test_overlap_counts_once(self):
        activities = [Activity("a", 0, 4), Activity("b", 3, 5), Activity("c", 1, 2), Activity("d", 7, 8)]
        self.assertEqual(busy(activities), 6)
        self.assertEqual(span(activities), 8)


class RecordingTest(parameterized.TestCase):
    def event(self, name, start, stats):
        return types.SimpleNamespace(name=name, start_ns=start * 1e6, duration_ns=1e6, stats=stats)

    def trace(self, **planes):
        made = []
        for name, events in planes.items():
            line = types.SimpleNamespace(name="Stream #13(Kernel,Memset)", events=events)
            made.append(types.SimpleNamespace(name=name.replace("_", ":"), lines=[line]))
        return types.SimpleNamespace(planes=made)

    def test_work_on_the_device_alone(self):
        kernel, memset = [("kernel_details", "regs:1")], [("Memset_details", "kind:device")]
        trace = self.trace(
            **{
                "/device_GPU_0": [
                    self.event("b", 5, kernel),
                    self.event("a", 1, kernel),
                    self.event("Memset", 3, memset),
                    self.event("MemFree", 2, [("MemFree_details", "")]),
                ],
                "/host_CPU": [self.event("cuLaunchKernel", 0, kernel)],
            }
        )
        self.assertEqual(
            recording.activities_of(trace), [Activity("a", 1, 2), Activity("Memset", 3, 4), Activity("b", 5, 6)]
        )

    def test_nothing_recorded(self):
        with self.assertRaisesRegex(MeasurementError, "no work on a GPU; its planes are: /host:CPU"):
            recording.activities_of(self.trace(**{"/host_CPU": []}))
        with self.assertRaisesRegex(MeasurementError, "no kernel"):
            recording.one_after_another([])

    def test_durations_alone(self):
        self.assertEqual(
            recording.one_after_another([("a", 0.5), ("b", 0.25)]), [Activity("a", 0, 0.5), Activity("b", 0.5, 0.75)]
        )

    def test_a_trace_without_a_gpu(self):
        recorder = recording.Trace()
        recorder.start()
        with jax.default_device(jax.devices("cpu")[0]):
            jax.block_until_ready(jnp.ones(3) + 1)
        with self.assertRaisesRegex(MeasurementError, "no work on a GPU"):
            recorder.stop()


class ReferencesTest(parameterized.TestCase):
    def test_fill(self):
        got = np.asarray(references.fill(1024)())
        self.assertEqual(got.nbytes, 1024)
        self.assertGreater(len(set(got)), 4)

    def test_matmul(self):
        self.assertEqual(references.matmul(16)().shape, (16, 16))
        self.assertEqual(references.matmul_flop(8192), 2 * 8192**3)

    @parameterized.named_parameters(*((f"{way.parts}_{way.width}", way) for way in references.READS))
    def test_reads_every_number_once(self, way):
        call = references.read(way, 70_000)
        (x,) = call.arguments
        self.assertEqual(x.nbytes, references.read_bytes(70_000))
        self.assertEqual(x.nbytes, 2 * 65536)
        parts = np.asarray(x).reshape(way.parts, -1, way.width)
        want = np.bitwise_xor.reduce(parts, 0).sum(-1, dtype=np.uint32)
        np.testing.assert_array_equal(call(), want)
        self.assertGreater(len(np.unique(parts)), 0.99 * parts.size)


class AgreementTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.out = make.normal(jax.random.key(0), (40, 64, 32))
        self.lse = jnp.zeros((40, 64), jnp.float32).at[0, 0].set(-jnp.inf)

    def test_rounding_passes(self):
        near = (self.out.astype(jnp.float32) * 1.002).astype(jnp.bfloat16)
        errors = agreement.compare((near, self.lse + 1e-4), (self.out, self.lse))
        self.assertBetween(errors.whole, 1e-4, 0.01)

    def test_bytes_are_the_same(self):
        cache = jnp.arange(200, dtype=jnp.uint8).reshape(2, 100)
        self.assertEqual(agreement.compare((cache,), (cache,)), (0, 0))
        with self.assertRaisesRegex(agreement.Disagreement, "result 0 differs"):
            agreement.compare((cache.at[1, 3].add(1),), (cache,))

    @parameterized.named_parameters(
        ("one_row", lambda out, lse: (out.at[3, 5].multiply(-1), lse), "result 0 differs"),
        ("nan", lambda out, lse: (out.at[3, 5, 7].set(jnp.nan), lse), "result 0 differs"),
        ("lse", lambda out, lse: (out, lse.at[1, 1].add(0.1)), "result 1 differs"),
        ("infinity", lambda out, lse: (out, lse.at[0, 0].set(0)), "result 1 differs"),
        ("shape", lambda out, lse: (out[1:], lse), "result 0 is bfloat16.39, 64, 32., not"),
        ("missing", lambda out, lse: (out,), "1 results, not 2"),
    )
    def test_wrong_fails(self, spoil, text):
        with self.assertRaisesRegex(agreement.Disagreement, text):
            agreement.compare(spoil(self.out, self.lse), (self.out, self.lse))


class FakeCupti(recording.Recorder):
    """Times by the name of a call: cuBLAS 2 ms, a read 1 ms, an operation two kernels of 2 ms."""

    name, sees, has_times = "fake", "nothing real", True
    KERNELS = {"fill": ("popcnt",), "cublas": ("gemm",), "read": ("reduce",), "operation": ("split", "combine")}
    MILLISECONDS = {"popcnt": 0.5, "gemm": 2.0, "reduce": 1.0, "split": 2.0, "combine": 2.0}
    active = None

    def start(self):
        FakeCupti.active = self
        self.calls = []

    def stop(self):
        FakeCupti.active = None
        return recording.one_after_another(
            (kernel, self.MILLISECONDS[kernel]) for call in self.calls for kernel in self.KERNELS[call]
        )

    @staticmethod
    def queue(calls, rounds):
        if FakeCupti.active is not None:
            FakeCupti.active.calls += [call.name for call in calls] * rounds


def no_kernel(operation, *, implementation, **facts):
    """``which_implementation`` of a machine without kernels."""
    return "xla", "there is no kernel."


class SessionTest(parameterized.TestCase):
    """The whole way from options to files, small, with a recorder that makes times up."""

    TARGETS = (Target("cublas", 1e-12), Target("read", 2.0), Target("us", 5000))

    def run_session(self, folder, *options, recorders=(FakeCupti,), which=no_kernel):
        problem = DenseDecode(2, 1, 4, 64)
        rows = tuple(
            Row(f"row {i}", problem, (Peer("FlashMLA", 0.5, 0.25, 3.0),), target)
            for i, target in enumerate(self.TARGETS)
        )
        options = command.parser().parse_args(["dense_decode", "--out", str(folder), *options])
        options.implementations = options.implementations.split(",")
        options.rows = [("dense_decode", row) for row in rows if re.search(options.match, row.name)]
        out = io.StringIO()
        device = mock.Mock(memory_stats=lambda: {"bytes_limit": 1 << 40})
        with contextlib.ExitStack() as stack:
            enter = lambda *args, **kwargs: stack.enter_context(mock.patch.object(*args, **kwargs))
            enter(timing, "RECORDERS", recorders)
            enter(timing, "queue", FakeCupti.queue)
            enter(timing, "READ_TRIAL_BYTES", 65536)
            enter(references, "fill", lambda fill=references.fill: fill(64))
            enter(references, "matmul", lambda matmul=references.matmul: matmul(8))
            enter(session.fm, "which_implementation", which)
            enter(jax, "default_backend", lambda: "gpu")
            enter(session.jax, "devices", lambda: [device])
            enter(sys, "stdout", out)
            # The backend is said to be a GPU only where the harness asks.
            enter(references, "compiled", self.on_cpu(references.compiled))
            status = session.main(options)
        return status, out.getvalue()

    @staticmethod
    def on_cpu(compiled):
        def call(*args, **kwargs):
            made = compiled(*args, **kwargs)
            made.program.as_text = lambda: "__cublas$gemm"
            return made

        return call

    def test_files(self):
        with tempfile.TemporaryDirectory() as folder:
            status, out = self.run_session(folder, "--rounds", "4")
            self.assertEqual(status, 0, out)
            (path,) = pathlib.Path(folder).glob("*.json")
            contents = json.loads(path.read_text())
        self.assertEqual(contents["schema"], report.SCHEMA)
        self.assertEqual((contents["skipped"], contents["failed"]), ([], []))
        self.assertEqual(contents["passed"], [f"dense_decode/row {i}/default" for i in range(3)])
        self.assertEqual(contents["protocol"]["recorder"], "fake")
        self.assertLen(contents["protocol"]["ways_to_read_gbs"], len(references.READS))
        problem = DenseDecode(2, 1, 4, 64)
        for row, reached in zip(contents["rows"], (True, False, True)):
            times = row["times"]
            self.assertEqual((row["ran"], row["errors"], row["reached"]), ("xla", None, reached))
            self.assertEqual((times["rounds"], times["activities"]), (4, {"split": 1, "combine": 1}))
            self.assertAlmostEqual(times["milliseconds"]["median"], 4.0)
            self.assertAlmostEqual(row["tflops"], problem.flop() / 4e9)
            self.assertAlmostEqual(times["cublas"]["median"], problem.flop() / 4.0 / (2 * 8192**3 / 2.0))
            self.assertAlmostEqual(times["read"]["median"], problem.bytes() / 4.0 / (3 * 65536 / 1.0))
            self.assertGreater(times["queued_milliseconds"], 0)
        for text in ("0.210", "FlashMLA 0.500 | 0.25", "≤ 5000 µs", "recording nothing real"):
            self.assertIn(text, out)

    def test_time_limit_and_memory_are_reported(self):
        for option, text in (
            ("--time-limit=-1", "the time limit"),
            ("--memory-gib=0.5", "above the budget of 0.5 GiB"),
        ):
            with tempfile.TemporaryDirectory() as folder:
                status, out = self.run_session(folder, option)
                (path,) = pathlib.Path(folder).glob("*.json")
                skipped = json.loads(path.read_text())["skipped"]
            self.assertEqual(status, 0)
            self.assertLen(skipped, 3)
            self.assertIn(text, skipped[0]["reason"])
            self.assertIn("skipped: 3", out)

    def test_a_wrong_kernel_is_never_timed(self):
        def which(operation, *, implementation, **facts):
            return ("xla", "asked") if implementation == "xla" else ("cuda", "a kernel runs this.")

        call = DenseDecode.call

        def wrong(self, implementation, *operands):
            out, lse = call(self, "xla", *operands)
            return (out if implementation == "xla" else -out), lse

        with (
            mock.patch.object(DenseDecode, "call", wrong),
            tempfile.TemporaryDirectory() as folder,
        ):
            status, out = self.run_session(folder, which=which)
            (path,) = pathlib.Path(folder).glob("*.json")
            contents = json.loads(path.read_text())
        self.assertEqual(status, 1)
        self.assertEqual(contents["passed"], [f"dense_decode/row {i}/xla" for i in range(3)])
        self.assertEqual([f["id"] for f in contents["failed"]], [f"dense_decode/row {i}/default" for i in range(3)])
        self.assertIn("Disagreement: result 0 differs", contents["failed"][0]["reason"])

    def test_a_recorder_that_does_not_work(self):
        class Broken(FakeCupti):
            name = "broken"

            def stop(self):
                super().stop()
                raise MeasurementError("nothing there.")

        with tempfile.TemporaryDirectory() as folder:
            status, out = self.run_session(folder, "--match", "row 0", recorders=(Broken, FakeCupti))
            self.assertEqual(status, 0)
            self.assertIn("broken does not work here: MeasurementError: nothing there.", out)
            status, out = self.run_session(folder, recorders=(Broken,))
            self.assertEqual(status, 1)
            self.assertIn("Nothing can be timed here", out)

    def test_plot(self):
        if importlib.util.find_spec("matplotlib") is None:
            with tempfile.TemporaryDirectory() as folder:
                self.assertIn("matplotlib is missing", self.run_session(folder)[1])
            return
        with tempfile.TemporaryDirectory() as folder:
            self.run_session(folder)
            (picture,) = pathlib.Path(folder).glob("*.png")
            self.assertEqual(picture.read_bytes()[:4], b"\x89PNG")
            picture.unlink()
            (path,) = pathlib.Path(folder).glob("*.json")
            with contextlib.redirect_stdout(io.StringIO()) as out:
                self.assertEqual(command.main(["plot", str(path)]), 0)
            self.assertEqual(out.getvalue().strip(), str(picture))
            self.assertTrue(picture.exists())
            path.write_text(json.dumps({"rows": []}))
            with self.assertRaisesRegex(ValueError, "no rows"):
                roofline.plot(path, picture)

    @unittest.skipUnless(importlib.util.find_spec("matplotlib"), "matplotlib is missing")
    @parameterized.parameters(*SWEEPS)
    def test_curves(self, preset):
        """Every row is a point of a curve."""
        share = dict(median=0.5)
        rows = [
            dict(
                preset=preset, row=row.name, family=row.problem.family, ran="cuda", flop=1.0, bytes=1, tflops=1.0,
                times=dict(cublas=share, read=None, cublas_tflops=800.0, read_gbs=None), peers=[],
            )
            for row in SWEEPS[preset]
        ]  # fmt: skip
        panels = curves._panels(rows)
        points = [point for panel in panels.values() for line in panel.values() for point in line]
        self.assertLen(points, len(rows))
        self.assertEqual({share for _, share in points}, {0.5})
        for panel in panels.values():
            for line in panel.values():
                self.assertLen({size for size, _ in line}, len(line))
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "sweep.json")
            path.write_text(json.dumps(dict(rows=rows, machine=dict(cards=["card"]), date="2026-01-01T00")))
            drawn = pictures.draw(path)
            self.assertEqual([x.name for x in drawn], ["sweep.png", "sweep-curves.png"])
            self.assertTrue(all(x.read_bytes()[:4] == b"\x89PNG" for x in drawn))


class CommandTest(parameterized.TestCase):
    def run_command(self, *argv):
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
            try:
                status = command.main(list(argv))
            except SystemExit as exit:
                status = exit.code
        return status, out.getvalue()

    def test_refusal_without_a_gpu(self):
        with mock.patch.object(jax, "default_backend", lambda: "cpu"):
            status, out = self.run_command("dense_decode")
        self.assertEqual(status, 2)
        self.assertEqual(
            " ".join(out.split()),
            "Timing needs an NVIDIA GPU, and JAX runs on cpu here; --dry-run lists the rows.",
        )

    def test_dry_run(self):
        status, out = self.run_command(
            "dense_decode", "mha_forward", "--dry-run", "--cublas-tflops=800", "--read-gbs=4000"
        )
        self.assertEqual(status, 0)
        for row in (*presets.DENSE_DECODE, *presets.MHA_FORWARD):
            self.assertIn(row.name, out)
        line = next(line for line in out.splitlines() if "hq=16 sk=8192" in line)
        moved = DenseDecode(128, 1, 16, 8192).bytes()
        self.assertIn(f"{moved / 4e9:.4f}", line)
        self.assertIn("read 0.95", line)
        self.assertIn("skipped: 0", out)

    def test_skips_are_reported(self):
        status, out = self.run_command(
            "sweep_dense_decode", "--match", "b=256 sq=1 hq=128", "--dry-run", "--memory-gib", "20"
        )
        self.assertEqual(status, 0)
        self.assertIn("skipped: 1", out)
        self.assertIn("sweep_dense_decode/b=256 sq=1 hq=128 sk=65536: needs 37", out)

    def test_sizes_of_ones_own(self):
        sizes = "batch=3 s_q=2 h_q=8 s_k=200 causal=true"
        status, out = self.run_command("dense_decode", "--size", sizes, "--size", sizes[:-12], "--dry-run")
        self.assertEqual(status, 0)
        self.assertEqual(out.count("batch=3 s_q=2"), 2)
        self.assertEqual(presets.row_of("dense_decode", sizes).problem, DenseDecode(3, 2, 8, 200, causal=True))
        self.assertEqual(set(presets.OPERATIONS), set(presets.TABLES))

    @parameterized.parameters(
        ("all", "--size=h=1", "--size needs one operation, of dense_decode"),
        ("dense_decode", "mha_forward", "--size=h=1", "--size needs one operation"),
        ("mha_forward", "--size=b=1", "mha_forward has no size 'b'; it has d_qk, d_v, batch, s, h, causal, h_kv."),
        ("mha_forward", "--size=s=-1", "s must be a positive number, got '-1'."),
        ("mha_forward", "--size=causal=1", "causal must be true or false, got '1'."),
        ("mha_forward", "--size=s=1 h=2", "mha_forward needs d_qk, d_v, batch, causal in 's=1 h=2'."),
        ("dense_decode", "--implementations=gpu", "must be of default, cuda, xla, got 'gpu'"),
        ("dense_decode", "--rounds=0", "at least 1, got 0"),
        ("dense", "--dry-run", "invalid choice: 'dense'"),
    )
    def test_bad_arguments(self, *argv):
        *argv, text = argv
        status, out = self.run_command(*argv)
        self.assertEqual(status, 2)
        self.assertIn(text, " ".join(out.split()))

    def test_all_is_every_table_once(self):
        rows = session.selected(["all", "dense_decode"], "")
        self.assertLen(rows, 46)
        self.assertLen({(name, row.name) for name, row in rows}, 46)
