"""What a result was obtained on: card, driver, versions."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess

# Packages whose versions a result depends on, where they are installed.
PACKAGES = (
    "jax-flash-mla",
    "jax",
    "jaxlib",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "nvidia-cublas",
    "nvidia-cublas-cu12",
    "numpy",
)


def _output(*command: str) -> str | None:
    """What a command prints, or None where there is no such command or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def machine() -> dict[str, object]:
    """Facts about this machine; starts no JAX backend.

    Returns:
      ``cards``, the names of the NVIDIA GPUs; ``driver`` and ``cuda``, the versions of
      the driver and of the newest CUDA that it runs, or None without one; ``python``;
      ``packages``, name → version of those of ``PACKAGES`` that are installed.
    """
    listed = _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    fields = [line.split(", ") for line in (listed or "").splitlines() if line.strip()]
    header = re.search(r"CUDA Version:\s*([\d.]+)", _output("nvidia-smi") or "") if fields else None
    return {
        "cards": [name for name, *_ in fields],
        "driver": fields[0][-1] if fields else None,
        "cuda": header.group(1) if header else None,
        "python": platform.python_version(),
        "packages": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit(folder) -> str | None:
    """The git commit that a folder is at, with ``-dirty`` where files differ, or None."""
    head = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    if head is None:
        return None
    changed = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return head.strip() + ("-dirty" if changed else "")
