"""extension: jax_flash_mla/_C, the kernels of every architecture bound to XLA and Python."""

load("@local_python//:defs.bzl", "EXTENSION")
load("@rules_cc//cc:defs.bzl", "cc_binary")
load("//:sources.bzl", "SOURCES")

def extension(name, testing = False):
    """Builds the extension in a folder of its own, since its file name is Python's to choose.

    Args:
      name: of the target, and of the folder.
      testing: whether to add the handlers that only tests use.
    """
    sources = SOURCES["bindings"] + (["testing/" + s for s in SOURCES["bindings/testing"]] if testing else [])
    architectures = [arch for arch, kernels in SOURCES["cuda"].items() if kernels]
    defines = ["JAX_FLASH_MLA_SM" + arch[:-1] for arch in architectures]
    file = "%s/%s" % (name, EXTENSION)
    cc_binary(
        name = file,
        srcs = sources + native.glob(["**/*.h"]) + ["//cuda:sm_" + arch for arch in architectures],
        copts = [
            "-std=c++17",
            "-fvisibility=hidden",
        ],
        linkopts = [
            "-Wl,--gc-sections",
            "-Wl,--strip-all",
            "-Wl,--version-script=$(location exports.lds)",
        ],
        linkshared = True,
        local_defines = defines + (["JAX_FLASH_MLA_TESTING"] if testing else []),
        deps = [
            "exports.lds",
            "//cuda:headers",
            "@cuda_toolkit//:cudart",
            "@pypi//:nanobind",
            "@pypi//:xla_ffi",
        ],
    )
    native.filegroup(
        name = name,
        srcs = [file],
    )
