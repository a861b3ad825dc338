"""What this build of the package contains."""

from __future__ import annotations

import importlib.metadata

import jax

from jax_flash_mla import _support

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
    return {
        "version": VERSION,
        "kernels": {operation: tuple(sorted(archs)) for operation, archs in _support.KERNELS.items()},
        "targets": TARGETS,
        "cuda": None,
        "minimum_driver": None,
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
    }


# Custom calls of this package, versioned by contract.
TARGETS: tuple[str, ...] = ()


def export_safety_checks() -> list[jax.export.DisabledSafetyCheck]:
    """What to pass as ``disabled_checks`` to ``jax.export.export``.

    ``jax.export`` refuses custom calls whose stability nobody vouches for. The names of
    ours carry a version, and a version's meaning never changes.

    Returns:
      One check for each name in ``build_info()["targets"]``.
    """
    return [jax.export.DisabledSafetyCheck.custom_call(target) for target in TARGETS]
