"""Runs before JAX starts: eight simulated devices for the sharding tests, and what is collected.

What tests a part that is not here is not collected: it could only be skipped.
"""

import fnmatch
import os
import pathlib

import pytest

FLAGS = ["--xla_force_host_platform_device_count=8"]
if not pathlib.Path("/dev/nvidiactl").exists():
    # Most of the time goes into compiling for the CPU what then runs once.
    FLAGS.append("--xla_backend_optimization_level=0")
for flag in FLAGS:
    if flag.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
# The processes of pytest -n share a GPU's memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from results_file import (  # noqa: E402, F401
    NOT_COLLECTED,
    pytest_addoption,
    pytest_make_collect_report,
    pytest_report_header,
    pytest_runtest_makereport,
)
from results_file import pytest_configure as configure_results  # noqa: E402

from jax_flash_mla import _extension, _support  # noqa: E402

TESTS = pathlib.Path(__file__).parent
HAS_KERNELS = any(_support.KERNELS.values())
HAS_HOST_TARGETS = bool(_extension.HOST_TARGETS)
HAS_EMULATOR = bool(_extension.EMULATOR)
# What a build may lack: files that test it, what it is, whether it is here. The first pattern that fits a file counts.
PARTS = (
    ("emulator/*", "the emulator", HAS_EMULATOR),
    ("kernels/*_emulated.py", "the emulator", HAS_EMULATOR),
    ("kernels/*", "kernels", HAS_KERNELS),
    ("test_test_build.py", "handlers that only tests use", HAS_EMULATOR or HAS_HOST_TARGETS),
)


def pytest_configure(config):
    # Whoever makes a test build says so, as Bazel does; else nobody would miss the tests of a part that got lost.
    if os.environ.get("JAX_FLASH_MLA_TEST_BUILD") == "1" and not (HAS_EMULATOR and HAS_HOST_TARGETS):
        raise pytest.UsageError("this should be a test build, with an emulator and with handlers for the CPU")
    config.stash[NOT_COLLECTED] = absent = {}
    for pattern, what, present in PARTS:
        if not present:
            absent.setdefault(what, []).append(pattern)
    configure_results(config)


def pytest_ignore_collect(collection_path):
    if not collection_path.is_relative_to(TESTS):
        return None
    path = collection_path.relative_to(TESTS).as_posix()
    fitting = (present for pattern, _, present in PARTS if fnmatch.fnmatch(path, pattern))
    return None if next(fitting, True) else True
