"""What this build of the package contains."""

from __future__ import annotations

import importlib.metadata

import jax

from jax_flash_mla import _extension, _support

VERSION = "0.1.0.dev0"


def build_info() -> dict[str, object]:
    """Facts about this build, for bug reports and for choosing an implementation.

    Returns:
      ``version``; ``kernels``, the architectures of each operation's CUDA kernels;
      ``targets``, the names of the custom calls that a compiled program may contain;
      ``cuda`` and ``minimum_driver``, versions of the toolkit that built the kernels and
      of the oldest driver that runs them, or None in a build without; ``jax`` and
      ``jaxlib``, the versions in this process.
    """
    cuda = _extension.EXTENSION.cuda_version if _extension.EXTENSION else None
    return {
        "version": VERSION,
        "kernels": {operation: tuple(sorted(archs)) for operation, archs in _support.KERNELS.items()},
        "targets": _extension.TARGETS,
        "cuda": cuda and _dotted(cuda),
        "minimum_driver": cuda and MINIMUM_DRIVERS.get(cuda // 1000, f"that of CUDA {cuda // 1000}"),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
    }


# The oldest driver of each major version of CUDA. It runs what any minor version built.
MINIMUM_DRIVERS = {12: "525", 13: "580"}


def _dotted(cuda_version: int) -> str:
    return f"{cuda_version // 1000}.{cuda_version % 1000 // 10}"


def export_safety_checks() -> list[jax.export.DisabledSafetyCheck]:
    """What to pass as ``disabled_checks`` to ``jax.export.export``.

    ``jax.export`` refuses custom calls whose stability nobody vouches for. The names of
    ours carry a version, and a version's meaning never changes.

    Returns:
      One check for each name in ``build_info()["targets"]``.
    """
    return [jax.export.DisabledSafetyCheck.custom_call(target) for target in _extension.TARGETS]
