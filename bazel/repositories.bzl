"""Three repositories made on this machine: its Python, headers from PyPI, a CUDA toolkit."""

def _run(ctx, arguments):
    """The output of a command, without the newline at its end."""
    result = ctx.execute(arguments, timeout = 1800)
    if result.return_code:
        fail("%s failed:\n%s%s" % (" ".join([str(a) for a in arguments[:4]]), result.stdout, result.stderr))
    return result.stdout.strip()

def _python(ctx):
    """PYTHON_BIN_PATH, or the python3 of PATH."""
    python = ctx.os.environ.get("PYTHON_BIN_PATH") or ctx.which("python3")
    if not python:
        fail("There is no python3 on PATH; PYTHON_BIN_PATH can name one.")
    return str(python)

def _pip_install(ctx, locks):
    """Unpacks the wheels of lock files into the folder site, with pip's own idea of where to find them."""
    machine = _run(ctx, ["uname", "-m"])
    arguments = [_python(ctx), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    arguments += ["--no-deps", "--require-hashes", "--no-compile", "--target", "site"]

    # Headers, tools and pure Python are used, no extension: one set of tags fits whatever Python runs this.
    arguments += ["--only-binary=:all:", "--python-version=3.12", "--implementation=cp", "--abi=cp312", "--abi=none"]
    arguments += ["--platform=manylinux_2_%d_%s" % (minor, machine) for minor in (28, 27, 17, 12)]
    arguments += ["--platform=any"]
    for lock in locks:
        arguments += ["--requirement", str(ctx.path(lock))]
    _run(ctx, arguments)

# --- @local_python: the interpreter that wheels are built for and tests run with -------------------------------------

_PROBE = """
import platform, sys, sysconfig
suffix, tag = sysconfig.get_config_var("EXT_SUFFIX"), "cp%d%d" % sys.version_info[:2]
print(sys.executable, sysconfig.get_path("include"), suffix, tag, platform.machine(), sep="\\n")
"""

_PYTHON_DEFS = """
PYTHON = {python}
VERSION = {version}
EXTENSION = {extension}
WHEEL_TAG = {tag}
"""

_PYTHON_BUILD = """
load("@rules_cc//cc:defs.bzl", "cc_library")

cc_library(
    name = "headers",
    hdrs = glob(["include/**/*.h"]),
    defines = {defines},
    includes = ["include"],
    visibility = ["//visibility:public"],
)
"""

def _version(ctx):
    """The version of the package, which jax_flash_mla/_build.py holds."""
    for line in ctx.read(ctx.attr._build_py).split("\n"):
        if line.startswith("VERSION = "):
            return line.split('"')[1]
    fail("There is no VERSION in %s" % ctx.attr._build_py)

def _local_python_impl(ctx):
    python, include, suffix, tag, machine = _run(ctx, [_python(ctx), "-c", _PROBE]).split("\n")
    stable = int(tag[3:]) >= 12  # nanobind has the stable ABI from Python 3.12 on.
    ctx.symlink(include, "include")
    ctx.file("defs.bzl", _PYTHON_DEFS.format(
        python = repr(python),
        version = repr(_version(ctx)),
        extension = repr("_C.abi3.so" if stable else "_C" + suffix),
        tag = repr("%s-linux_%s" % ("cp312-abi3" if stable else tag + "-" + tag, machine)),
    ))
    ctx.file("BUILD", _PYTHON_BUILD.format(
        defines = ["Py_LIMITED_API=0x030C0000"] if stable else [],
    ))

_local_python = repository_rule(
    implementation = _local_python_impl,
    attrs = {"_build_py": attr.label(default = "//jax_flash_mla:_build.py")},
    environ = ["PATH", "PYTHON_BIN_PATH"],
    local = True,
)

# --- @pypi: headers of the extension, and the tool that packs wheels -------------------------------------------------

_PYPI_BUILD = """
load("@rules_cc//cc:defs.bzl", "cc_library")

package(default_visibility = ["//visibility:public"])

cc_library(
    name = "xla_ffi",
    hdrs = glob(["site/jaxlib/include/**/*.h"]),
    includes = ["site/jaxlib/include"],
)

cc_library(
    name = "cutlass",
    hdrs = glob(["site/cutlass_library/source/include/**"]),
    includes = ["site/cutlass_library/source/include"],
)

# For tests: the sources that the package ships as examples, and what they include.
cc_library(
    name = "cutlass_examples",
    hdrs = glob([
        "site/cutlass_library/source/examples/77_blackwell_fmha/**",
        "site/cutlass_library/source/examples/common/**",
        "site/cutlass_library/source/examples/cute/tutorial/**",
        "site/cutlass_library/source/tools/util/include/**",
    ]),
    includes = [
        "site/cutlass_library/source",
        "site/cutlass_library/source/examples/77_blackwell_fmha",
        "site/cutlass_library/source/examples/common",
        "site/cutlass_library/source/tools/util/include",
    ],
    deps = [":cutlass"],
)

cc_library(
    name = "nanobind",
    srcs = ["site/nanobind/src/nb_combined.cpp"],
    hdrs = glob(["site/nanobind/include/**/*.h"]),
    copts = [
        "-std=c++17",
        "-fvisibility=hidden",
        "-fno-strict-aliasing",
    ],
    includes = ["site/nanobind/include"],
    local_defines = [
        "NB_BUILD",
        "NB_COMPACT_ASSERTIONS",
    ],
    textual_hdrs = glob(
        ["site/nanobind/src/*"],
        exclude = ["site/nanobind/src/nb_combined.cpp"],
    ),
    deps = [
        ":robin_map",
        "@local_python//:headers",
    ],
)

cc_library(
    name = "robin_map",
    hdrs = glob(["site/nanobind/ext/robin_map/include/**/*.h"]),
    includes = ["site/nanobind/ext/robin_map/include"],
)

filegroup(
    name = "packaging",
    srcs = glob([
        "site/packaging/**",
        "site/pathspec/**",
        "site/scikit_build_core/**",
        "site/scikit_build_core-*/**",
    ]),
)
"""

def _pypi_impl(ctx):
    _pip_install(ctx, [ctx.attr._headers, ctx.attr._packaging])
    ctx.file("BUILD", _PYPI_BUILD)

# PYTHON_BIN_PATH is left out of the environment: any interpreter's pip fetches the same.
_pypi = repository_rule(
    implementation = _pypi_impl,
    attrs = {
        "_headers": attr.label(default = "//third_party:headers.lock"),
        "_packaging": attr.label(default = "//third_party:packaging.lock"),
    },
)

# --- @cuda_toolkit: nvcc and the CUDA runtime, the system's or PyPI's ------------------------------------------------

_CUDA_BUILD = """
load("@rules_cc//cc:defs.bzl", "cc_import", "cc_library")

package(default_visibility = ["//visibility:public"])

exports_files(["toolkit/bin/nvcc"])

filegroup(
    name = "compiler",
    srcs = glob([
        "toolkit/bin/**",
        "toolkit/include/**",
        "toolkit/nvvm/**",
    ]),
)

cc_library(
    name = "headers",
    hdrs = glob(["toolkit/include/**"]),
    includes = ["toolkit/include"],
)

cc_import(
    name = "cudart_static",
    static_library = glob(["toolkit/lib*/libcudart_static.a"])[0],
)

cc_library(
    name = "cudart",
    linkopts = [
        "-ldl",
        "-lpthread",
        "-lrt",
    ],
    deps = [
        ":cudart_static",
        ":headers",
    ],
)
"""

def _cuda_toolkit_impl(ctx):
    toolkit = _run(ctx, [_python(ctx), ctx.path(ctx.attr._choices)])
    if toolkit == "pypi":
        _pip_install(ctx, [ctx.attr._lock])
        toolkit = "site/nvidia/cu13"
    ctx.symlink(toolkit, "toolkit")
    ctx.file("BUILD", _CUDA_BUILD)

_cuda_toolkit = repository_rule(
    implementation = _cuda_toolkit_impl,
    attrs = {
        "_choices": attr.label(default = "//build_backend:choices.py"),
        "_lock": attr.label(default = "//third_party:cuda.lock"),
        "_sources": attr.label(default = "//:sources.bzl"),
    },
    environ = ["CUDACXX", "CUDA_HOME", "CUDA_PATH", "JAX_FLASH_MLA_CUDA", "PATH"],
)

def repositories():
    """Declares all three."""
    _local_python(name = "local_python")
    _pypi(name = "pypi")
    _cuda_toolkit(name = "cuda_toolkit")
