"""What runs where, and why: the support table and what speaks of it."""

import contextlib
import subprocess
import sys
import types
import warnings
from unittest import mock

import jax
import jax.numpy as jnp
from absl.testing import parameterized
from operations import ATTENTION, V32, named

import jax_flash_mla as fm
from jax_flash_mla import _extension, _support

OPERATIONS = ("dense_decode", "sparse_decode", "sparse_prefill", "mha", "quantize", "append")


@contextlib.contextmanager
def on_devices(architectures, **kernels):
    """A process with CUDA devices of these architectures, and a build with these kernels."""
    table = {name: frozenset(kernels.get(name, ())) for name in _support.KERNELS}
    new = types.SimpleNamespace(cuda_version=13000, driver_version=lambda: 13010)
    with (
        mock.patch.object(_support, "KERNELS", table),
        mock.patch.object(_extension, "EXTENSION", new),
        mock.patch.object(_support, "local_architectures", lambda: tuple(sorted(architectures))),
    ):
        _support._old_driver.cache_clear()
        yield
    _support._old_driver.cache_clear()


class SupportTest(parameterized.TestCase):
    @parameterized.parameters(
        ("dense_decode", dict(d_qk=512), "d_qk to be one of 576, got 512"),
        ("dense_decode", dict(d_v=128), "d_v to be one of 512, got 128"),
        ("dense_decode", dict(page_size=24), "page_size to be a multiple of 16, got 24"),
        (
            "dense_decode",
            dict(s_q=2**24, h_q=128),
            "s_q, h_q to be of a product of at most 2147483584, got 16777216, 128",
        ),
        ("dense_decode", dict(dtype=jnp.float32), "dtype to be one of bfloat16, float16, got float32"),
        ("sparse_decode", dict(kv_format=None), "kv_format to be one of V32, MODEL1, got None"),
        ("sparse_decode", dict(dtype="float16", kv_format=V32), "dtype to be one of bfloat16, got float16"),
        ("sparse_prefill", dict(d_qk=64), "d_qk to be one of 576, 512, got 64"),
        ("mha", dict(d_qk=192, d_v=192), r"d_qk, d_v to be \(192, 128\) or \(128, 128\), got 192, 192"),
        ("quantize", dict(kv_format=None), "kv_format"),
    )
    def test_limits(self, operation, arguments, text):
        self.assertRegex(fm.supports(operation, **arguments), f"^the {operation} kernel needs {text}")

    def test_limits_of_an_architecture(self):
        both = frozenset({"sm90", "sm100"})
        for kernels, devices, arguments, refused in (
            (both, (), dict(dtype="float16"), False),  # compiled for whatever there is then
            (both, (), dict(dtype="float16", arch="sm90"), False),
            (both, (), dict(dtype="float16", arch="sm100"), True),
            (both, (), dict(dtype="bfloat16", arch="sm100"), False),
            ({"sm100"}, (), dict(dtype="float16"), True),
            (both, ("sm100",), dict(dtype="float16"), True),
            (both, ("sm100", "sm90"), dict(dtype="float16"), True),
            (both, ("sm90",), dict(dtype="float16"), False),
            (both, ("sm100", "sm90"), dict(dtype="bfloat16"), False),
        ):
            with on_devices(devices, mha=kernels):
                reason = fm.supports("mha", **arguments)
            text = "the mha kernel for sm100 needs dtype to be one of bfloat16, got float16."
            self.assertEqual(reason, text if refused else None)

    @parameterized.parameters(
        ("mha", (), "auto", "this process has no CUDA device; compiled for one, a kernel runs this."),
        ("mha", ("sm90",), "auto", "a kernel runs this."),
        ("mha", ("sm100",), "xla", "a kernel runs this, and XLA its gradients."),
        ("mha", ("sm100", "sm90"), "xla", "a kernel runs this, and XLA its gradients."),
        ("dense_decode", ("sm90",), "auto", "a kernel runs this."),
    )
    def test_gradients(self, operation, devices, chosen, reason):
        """What a call says of them, and what they get where the call gets a kernel."""
        with on_devices(devices, **{operation: {"sm90", "sm100"}}):
            self.assertEqual(fm.which_implementation(operation), ("cuda" if devices else "xla", reason))
            self.assertEqual(_support.of_gradients(operation, "auto"), chosen)
            self.assertEqual(_support.of_gradients(operation, "xla"), "xla")

    @parameterized.product(operation=OPERATIONS, arch=(None, "sm90", "sm100"))
    def test_kernels_of_this_build(self, operation, arch):
        reason = fm.supports(operation, arch=arch)
        if arch in fm.build_info()["kernels"][operation]:
            self.assertIsNone(reason)
        elif arch is not None:
            self.assertRegex(reason, rf"^this build has no {operation} kernel for {arch}[.:]")

    def test_bad_questions(self):
        for call, error, text in (
            (lambda: fm.supports("dense"), ValueError, "operation must be one of 'dense_decode'.*got 'dense'"),
            (lambda: fm.supports("mha", arch="sm80"), ValueError, "arch must be one of 'sm90', 'sm100', got 'sm80'"),
            (
                lambda: fm.supports("mha", page_size=64),
                TypeError,
                "page_size is not an argument of mha, which has dtype",
            ),
            (
                lambda: fm.supports("dense_decode", page_size="x"),
                TypeError,
                "page_size must be an int, got 'x' of type",
            ),
            (lambda: fm.supports("mha", d_qk=192.0, d_v=128), TypeError, "d_qk must be an int, got 192.0 of type"),
            (lambda: fm.supports("mha", h_q=-1), ValueError, "h_q must be at least 0, got -1"),
            (lambda: fm.supports("mha", dtype="int5"), TypeError, "dtype must be a dtype or its name, got 'int5'"),
            (
                lambda: fm.which_implementation("mha", implementation="triton"),
                ValueError,
                "implementation must be one of",
            ),
        ):
            with self.assertRaisesRegex(error, text):
                call()

    def test_which_implementation(self):
        self.assertEqual(
            fm.which_implementation("mha", implementation="xla"), ("xla", 'implementation="xla" was asked for.')
        )
        name, reason = fm.which_implementation("mha", d_qk=64, d_v=64)
        self.assertEqual(name, "xla")
        self.assertIn("got 64, 64", reason)
        with self.assertRaisesRegex(
            NotImplementedError, r'implementation="cuda" was asked for, but the mha kernel needs'
        ):
            fm.which_implementation("mha", implementation="cuda", d_qk=64, d_v=64)

    def test_a_b200(self):
        """One operation has a kernel there, of one type; XLA runs the others, and what is not taken is not promised."""
        with on_devices(("sm100",), **_support.WRITTEN):
            for operation in OPERATIONS:
                runs, reason = fm.which_implementation(operation)
                if operation == "mha":
                    self.assertEqual((runs, reason), ("cuda", "a kernel runs this, and XLA its gradients."))
                else:
                    self.assertEqual((runs, reason), ("xla", f"this build has no {operation} kernel for sm100."))
            runs, reason = fm.which_implementation("mha", dtype="float16")
            self.assertEqual(runs, "xla")
            self.assertIn("the mha kernel for sm100 needs dtype to be one of bfloat16", reason)

    @parameterized.named_parameters(named(ATTENTION))
    def test_asking_for_a_kernel_that_is_not_there(self, operation):
        """The second tier of refusal: only under "cuda", with the reason of the table."""
        import numpy as np

        operands = operation.operands(np.random.default_rng(0))
        with self.assertRaisesRegex(
            NotImplementedError, r'implementation="cuda" was asked for, but the .* kernel needs'
        ):
            operation.call("cuda", **operands)
        with self.assertRaisesRegex(ValueError, "implementation must be one of None, 'cuda', 'xla', got 'gpu'"):
            operation.call("gpu", **operands)
        with self.assertRaisesRegex(TypeError, "implementation must be known when the function is traced"):
            jax.jit(lambda name: operation.call(name, **operands))(1)

    def test_one_warning_where_a_gpu_is_left_to_xla(self):
        original = _support.local_architectures
        _support.local_architectures = lambda: ("sm80",)
        _support._warn_once.cache_clear()
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                q = jnp.zeros((1, 2, 3, 192), jnp.bfloat16)
                for implementation in (None, None, None, "xla"):
                    fm.flash_attn_func(q, q, q[..., :128], implementation=implementation)
            self.assertEqual({w.filename for w in caught}, {__file__})
            self.assertEqual(
                [str(w.message) for w in caught],
                ["jax_flash_mla runs mha in XLA: this build has no mha kernel for sm80."],
            )
        finally:
            _support.local_architectures = original
            _support._warn_once.cache_clear()


class BuildTest(parameterized.TestCase):
    def test_build_info(self):
        info = fm.build_info()
        self.assertEqual(info["version"], fm.__version__)
        self.assertEqual(tuple(info["kernels"]), OPERATIONS)
        self.assertEqual(
            (info["jax"], info["jaxlib"]),
            (jax.__version__, jax.lib.__version__ if hasattr(jax.lib, "__version__") else info["jaxlib"]),
        )

    def test_a_newer_cuda_than_this_knows(self):
        new = types.SimpleNamespace(cuda_version=14010)
        with mock.patch.object(_extension, "EXTENSION", new):
            info = fm.build_info()
        self.assertEqual((info["cuda"], info["minimum_driver"]), ("14.1", "that of CUDA 14"))

    def test_export_safety_checks_name_every_target(self):
        checks = fm.export_safety_checks()
        self.assertEqual(
            [str(check) for check in checks],
            [str(jax.export.DisabledSafetyCheck.custom_call(t)) for t in fm.build_info()["targets"]],
        )

    def test_public_names(self):
        """Exactly these, and no module of ours or of others leaks."""
        names = {
            "KVCacheFormat",
            "append_to_kv_cache",
            "build_info",
            "dequantize_kv_cache",
            "export_safety_checks",
            "flash_attn_func",
            "flash_attn_varlen_func",
            "flash_attn_varlen_kvpacked_func",
            "flash_attn_varlen_qkvpacked_func",
            "flash_mla_sparse_fwd",
            "flash_mla_with_kvcache",
            "get_mla_metadata",
            "merge_attention_states",
            "quantize_kv_cache",
            "supports",
            "which_implementation",
        }
        self.assertEqual(set(fm.__all__), names)
        self.assertEqual(set(dir(fm)), names | {"__version__"})
        # Modules that were imported by now are there as well.
        leaked = {name for name in vars(fm) if not name.startswith("_")} - names
        self.assertLessEqual(leaked, {"reference", "examples", "sharding"})
        for name in names:
            self.assertTrue(getattr(fm, name).__doc__, name)

    def test_import_starts_no_backend(self):
        code = "import jax_flash_mla, jax; from jax._src import xla_bridge as b; assert not b._backends, b._backends"
        subprocess.run([sys.executable, "-c", code], check=True)
