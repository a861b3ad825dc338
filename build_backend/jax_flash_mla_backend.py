"""The build backend of ``pip install .``: scikit-build-core, told what to build.

A list of build requirements in pyproject.toml could not say that a package without kernels needs
no compiler, nor that nvcc is to be fetched only where the system has none. So the choice
(choices.py) is made here, before the environment of the build exists, and again inside it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path

import choices
from scikit_build_core import build as scikit
from scikit_build_core.build import build_sdist, get_requires_for_build_sdist

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = dict[str, "str | list[str]"] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """scikit-build-core's own, and those of the kernels: headers, and a compiler where none is here."""
    choice = choices.choose()
    requirements = list(scikit.get_requires_for_build_wheel(_shape(choice, config_settings)))
    if choice.architectures:
        requirements += choices.pins("headers.lock")
        if choice.nvcc is None:
            requirements += choices.pins("cuda.lock")
    return requirements


get_requires_for_build_editable = get_requires_for_build_wheel


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Settings = None) -> str:
    """As in PEP 517."""
    return scikit.prepare_metadata_for_build_wheel(metadata_directory, _shape(choices.choose(), config_settings))


def prepare_metadata_for_build_editable(metadata_directory: str, config_settings: Settings = None) -> str:
    """As in PEP 660."""
    return scikit.prepare_metadata_for_build_editable(metadata_directory, _shape(choices.choose(), config_settings))


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """As in PEP 517."""
    return scikit.build_wheel(wheel_directory, _announced(config_settings), metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """As in PEP 660."""
    return scikit.build_editable(wheel_directory, _announced(config_settings), metadata_directory)


def _shape(choice: choices.Choice, config_settings: Settings) -> dict[str, str | list[str]]:
    """Settings that decide which kind of wheel this is; those given on the command line stand."""
    settings = dict(config_settings or {})
    if not choice.architectures:
        if "cmake.define.JAX_FLASH_MLA_TESTING" in settings:
            raise SystemExit(f"JAX_FLASH_MLA_TESTING needs the extension, and this build has {choice.why}")
        settings |= {"wheel.cmake": "false", "wheel.py-api": "py3"}
    return settings


def _announced(config_settings: Settings) -> dict[str, str | list[str]]:
    """All settings of a build, which is described to whoever watches."""
    choice = choices.choose()
    settings = _shape(choice, config_settings)
    if choice.architectures:
        settings.setdefault("cmake.define.JAX_FLASH_MLA_CUDA_ARCHS", ",".join(choice.architectures))
        settings.setdefault("cmake.define.CMAKE_CUDA_COMPILER", choice.nvcc or _nvcc_of_packages())
    _announce(f"jax_flash_mla: {choice.why}. Change with {choices.ARCHS} (all, none, 90a, 100f) and {choices.CUDA}.")
    return settings


def _nvcc_of_packages() -> str:
    """The compiler that the packages of cuda.lock brought."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else ():
        for nvcc in sorted(Path(folder).glob("cu*/bin/nvcc")):
            return str(nvcc)
    raise SystemExit(f"there is no nvcc in this environment; it needs {', '.join(choices.pins('cuda.lock'))}")


def _announce(message: str) -> None:
    """Prints, past pip's wish to show the output of failed builds alone."""
    line = f"\n*** {message}\n"
    print(line, file=sys.stderr, flush=True)
    if not sys.stderr.isatty():
        with contextlib.suppress(OSError), open("/dev/tty", "w") as terminal:
            print(line, file=terminal)
