"""extension: the kernels of every architecture bound to XLA and Python, as jax_flash_mla/_C and _C_emulated."""

load("@local_python//:defs.bzl", "EXTENSION")
load("@rules_cc//cc:defs.bzl", "cc_binary")
load("//:sources.bzl", "SOURCES")

_ARCHITECTURES = [arch for arch, kernels in SOURCES["cuda"].items() if kernels]

def _binary(name, file, srcs, defines, runtime, copts = ["-std=c++17"]):
    """A library that Python loads, in a folder of its own, since its file name is Python's to choose."""
    path = "%s/%s" % (name, file)
    cc_binary(
        name = path,
        srcs = srcs + native.glob(["**/*.h"]),
        copts = copts + ["-fvisibility=hidden"],
        linkopts = [
            "-Wl,--gc-sections",
            "-Wl,--strip-all",
            "-Wl,--version-script=$(location exports.lds)",
        ],
        linkshared = True,
        local_defines = ["JAX_FLASH_MLA_SM" + arch[:-1] for arch in _ARCHITECTURES] + defines,
        deps = [
            "exports.lds",
            "//cuda:headers",
            "@pypi//:nanobind",
            "@pypi//:xla_ffi",
            runtime,
        ],
    )
    native.filegroup(
        name = name,
        srcs = [path],
    )

def extension(name, testing = False):
    """The extension _C.

    Args:
      name: of the target.
      testing: whether to add the handlers that only tests use.
    """
    sources = SOURCES["bindings"] + (["testing/" + s for s in SOURCES["bindings/testing"]] if testing else [])
    _binary(
        name = name,
        file = EXTENSION,
        srcs = sources + ["//cuda:sm_" + arch for arch in _ARCHITECTURES],
        defines = ["JAX_FLASH_MLA_TESTING"] if testing else [],
        runtime = "@cuda_toolkit//:cudart",
    )

def emulated_extension(name):
    """The extension _C_emulated, of test builds: the same kernels and handlers on the emulator.

    Args:
      name: of the target.
    """
    _binary(
        name = name,
        file = EXTENSION.replace("_C", "_C_emulated", 1),
        srcs = SOURCES["bindings/emulated"] + ["//cuda:emulated_" + arch for arch in _ARCHITECTURES],
        copts = SOURCES["emulator_flags"],
        defines = ["JAX_FLASH_MLA_EMULATED"],
        runtime = "//emulator",
    )
