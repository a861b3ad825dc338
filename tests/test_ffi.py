"""The custom calls: when they are used, and what stands in a program that has them."""

import importlib
import pathlib
import sys
import tempfile
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from base import OperationTest, for_each_implementation_of
from operations import KERNEL_SIZED, named

import jax_flash_mla as fm
from jax_flash_mla import _extension, _support


def as_if_built(**kernels):
    """The support table of a build with these kernels."""
    table = {name: frozenset() for name in _support.KERNELS} | {name: frozenset(a) for name, a in kernels.items()}
    return mock.patch.object(_support, "KERNELS", table)


class LoadTest(parameterized.TestCase):
    def extension(self, version):
        return types.SimpleNamespace(xla_ffi_version=version, architectures=("sm90",))

    def load(self, extension):
        with (
            mock.patch.dict(sys.modules, {"jax_flash_mla._C": extension}),
            mock.patch.object(sys.modules["jax_flash_mla"], "_C", extension, create=True),
        ):
            return _extension.load("_C")

    def test_handlers_for_a_newer_interface_are_not_registered(self):
        major, minor = _extension.interface_version()
        for version, fits in (((major, minor), True), ((major, 0), True), ((major, minor + 1), False)):
            extension, why = self.load(self.extension(version))
            self.assertEqual(extension is not None, fits)
            if not fits:
                self.assertEqual(
                    why, f"the kernels were built for XLA FFI {major}.{minor + 1} and this jaxlib has {major}.{minor}"
                )

    @parameterized.named_parameters(("no_header", None), ("no_version", "#define SOMETHING_ELSE 1\n"))
    def test_a_jaxlib_that_does_not_tell_its_version(self, header):
        with tempfile.TemporaryDirectory() as folder:
            if header is not None:
                path = pathlib.Path(folder, "xla", "ffi", "api", "c_api.h")
                path.parent.mkdir(parents=True)
                path.write_text(header)
            with mock.patch.object(jax.ffi, "include_dir", lambda: folder):
                extension, why = self.load(self.extension((0, 1)))
        self.assertIsNone(extension)
        self.assertEqual(why, "this jaxlib does not tell the version of its XLA FFI")

    @parameterized.named_parameters(
        ("absent", ModuleNotFoundError("no", name="jax_flash_mla._C"), "it is pure JAX"),
        (
            "lacks_another",
            ModuleNotFoundError("No module named 'x'", name="x"),
            r"does not load \(No module named 'x'\)",
        ),
        ("broken", ImportError("libx.so: no such file"), r"does not load \(libx.so: no such file\)"),
    )
    def test_an_extension_that_does_not_load(self, error, text):
        with mock.patch.object(importlib, "import_module", side_effect=error):
            extension, why = _extension.load("_C")
        self.assertIsNone(extension)
        self.assertRegex(why, f"{text}$")

    def test_the_installed_interface(self):
        self.assertGreaterEqual(_extension.interface_version(), (0, 3))

    def test_why_there_is_no_kernel(self):
        with (
            as_if_built(),
            mock.patch.object(_extension, "UNAVAILABLE", "it is pure JAX"),
            mock.patch.object(_support, "local_architectures", lambda: ()),
        ):
            self.assertEqual(fm.supports("dense_decode"), "this build has no dense_decode kernel: it is pure JAX.")
            unwritten = fm.supports("quantize", arch="sm100")
            self.assertEqual(unwritten, "this build has no quantize kernel for sm100.")

    def test_an_old_driver_gets_xla(self):
        old = types.SimpleNamespace(cuda_version=13000, driver_version=lambda: 12040)
        with (
            as_if_built(dense_decode=["sm90"]),
            mock.patch.object(_extension, "EXTENSION", old),
            mock.patch.object(_support, "local_architectures", lambda: ("sm90",)),
        ):
            _support._old_driver.cache_clear()
            name, reason = fm.which_implementation("dense_decode")
        _support._old_driver.cache_clear()
        self.assertEqual(name, "xla")
        self.assertEqual(reason, "the kernels need a driver for CUDA 13, and the installed one is for CUDA 12.")

    @parameterized.parameters((("sm90",), "cuda"), (("sm90", "sm90"), "cuda"), (("sm80", "sm90"), "xla"), ((), "xla"))
    def test_every_local_device_must_have_the_kernel(self, devices, chosen):
        new = types.SimpleNamespace(cuda_version=13000, driver_version=lambda: 13010)
        with (
            as_if_built(dense_decode=["sm90"]),
            mock.patch.object(_extension, "EXTENSION", new),
            mock.patch.object(_support, "local_architectures", lambda: tuple(sorted(set(devices)))),
        ):
            _support._old_driver.cache_clear()
            self.assertEqual(fm.which_implementation("dense_decode")[0], chosen)
            self.assertEqual(_support.resolve("dense_decode", None), "xla" if "sm80" in devices else "auto")
        _support._old_driver.cache_clear()


class LoweringTest(parameterized.TestCase):
    """On a machine without a GPU: which platform's program has the custom call."""

    def lowered(self, implementation, platforms, operation, gradient=False):
        operands = operation.operands(np.random.default_rng(0), optional=operation.optional)

        def call(q, rest):
            return operation.call(implementation, q=q, **rest)[0]

        function = jax.grad(lambda q, rest: call(q, rest).sum()) if gradient else call
        with (
            as_if_built(**{operation.family: ["sm90"]}),
            mock.patch.object(_support, "local_architectures", lambda: ()),
        ):
            traced = jax.jit(function).trace(operands.pop("q"), operands)
        return traced.lower(lowering_platforms=platforms).as_text()

    @parameterized.parameters(
        (None, ("cpu",), False),
        (None, ("cuda",), True),
        (None, ("cpu", "cuda"), True),
        ("cuda", ("cuda",), True),
        ("xla", ("cuda",), False),
    )
    def test_platforms(self, implementation, platforms, has_call):
        for operation in KERNEL_SIZED:
            for gradient in (False, True):
                text = self.lowered(implementation, platforms, operation, gradient)
                self.assertEqual(f"@jax_flash_mla.{operation.family}.v1" in text, has_call, operation)

    @parameterized.named_parameters(named([op for op in KERNEL_SIZED if op.family in _support.WORKSPACES]))
    def test_scratch_is_the_same_for_every_device(self, operation):
        text = self.lowered("cuda", ("cuda",), operation)
        for scratch in _support.WORKSPACES[operation.family](512):
            kind = {"float32": "f32", "int32": "i32"}[scratch.dtype.name]
            self.assertIn(f"tensor<{'x'.join(map(str, scratch.shape))}x{kind}>", text)

    def test_what_the_kernel_does_not_take(self):
        q, cache = jnp.zeros((1, 1, 2, 576), jnp.bfloat16), jnp.zeros((3, 24, 1, 576), jnp.bfloat16)
        table, lengths = jnp.zeros((1, 3), jnp.int32), jnp.zeros(1, jnp.int32)
        with as_if_built(dense_decode=["sm90"]), mock.patch.object(_support, "local_architectures", lambda: ()):
            with self.assertRaisesRegex(
                NotImplementedError,
                "the dense_decode kernel needs page_size to be a multiple of 16, got 24",
            ):
                fm.flash_mla_with_kvcache(q, cache, table, lengths, implementation="cuda")
            fm.flash_mla_with_kvcache(q, cache, table, lengths)


@for_each_implementation_of("dense_decode")
class PrivateImplementationTest(OperationTest):
    def test_host(self):
        """Test builds alone take it."""
        q, cache = jnp.ones((1, 1, 2, 576), jnp.bfloat16), jnp.ones((3, 16, 1, 576), jnp.bfloat16)
        table, lengths = jnp.zeros((1, 3), jnp.int32), jnp.full(1, 5, jnp.int32)
        if _extension.HOST_TARGETS:
            out, _ = fm.flash_mla_with_kvcache(q, cache, table, lengths, implementation="host")
            np.testing.assert_array_equal(out, np.ones((1, 1, 2, 512)))
        else:
            with self.assertRaisesRegex(ValueError, "must be one of None, 'cuda', 'xla', got 'host'"):
                fm.flash_mla_with_kvcache(q, cache, table, lengths, implementation="host")
