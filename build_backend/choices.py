"""What a build contains, and which compiler makes it: the two environment variables.

JAX_FLASH_MLA_CUDA        where nvcc comes from: auto, system, pypi, none
JAX_FLASH_MLA_CUDA_ARCHS  which architectures' kernels: native, all, none, or a list such as 90a,100f

The pip backend imports this module; Bazel runs it, and it then prints where the compiler comes
from. The standard library is all it may use.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CUDA = "JAX_FLASH_MLA_CUDA"
ARCHS = "JAX_FLASH_MLA_CUDA_ARCHS"
# Where the driver lists GPUs, of a container's host too.
GPUS = Path("/proc/driver/nvidia/gpus")


@dataclasses.dataclass(frozen=True)
class Choice:
    """What to build, and why.

    Attributes:
      architectures: whose kernels to compile; none for a package of Python alone.
      nvcc: the compiler, or None for that of the PyPI packages.
      why: one sentence for the person who installs.
    """

    architectures: tuple[str, ...]
    nvcc: str | None
    why: str


def choose() -> Choice:
    """The build that the environment asks for.

    Raises:
      SystemExit: with one sentence, for a value that means nothing or asks for what is not here.
    """
    source = _source("auto", "system", "pypi", "none")
    if source == "none":
        return Choice((), None, f"no CUDA kernels ({CUDA}=none)")
    setting = os.environ.get(ARCHS) or "native"
    architectures, reason = _architectures(setting)
    if not architectures and source != "auto" and setting != "none":
        # Whoever names a compiler wants kernels, and pip shows nobody what a build that succeeds says.
        raise SystemExit(f"{CUDA}={source} asks for kernels, but there are none to build ({reason}): set {ARCHS}")
    if not architectures:
        return Choice((), None, f"no CUDA kernels ({reason})")
    if (sys.platform, platform.machine()) not in (("linux", "x86_64"), ("linux", "aarch64")):
        raise SystemExit(f"{ARCHS}: kernels are built on Linux, x86_64 or aarch64, alone; set it to none here")
    nvcc, compiler = find_nvcc(source)
    kernels = f"CUDA kernels for {', '.join(architectures)} ({reason})"
    return Choice(architectures, nvcc, f"{kernels}, compiled by {compiler}")


def find_nvcc(source: str) -> tuple[str | None, str]:
    """A compiler and its description; None for that of the PyPI packages."""
    minimum = sources()["minimum_cuda"]
    found = []
    for nvcc in () if source == "pypi" else _candidates():
        version = _version(nvcc)
        if version and _numbers(version) >= _numbers(minimum):
            return nvcc, f"{nvcc}, version {version}"
        found.append(f"{nvcc} is {version or 'of no known version'}")
    if source == "system":
        problem = " and ".join(found) or "none is on PATH or under CUDA_HOME"
        raise SystemExit(f"{CUDA}=system needs nvcc {minimum} or newer, but {problem}")
    return None, "nvcc of the PyPI packages"


def sources() -> dict:
    """The dictionary in sources.bzl."""
    return ast.literal_eval((ROOT / "sources.bzl").read_text().partition("\nSOURCES = ")[2])


def pins(lock: str) -> list[str]:
    """The requirements, ``name==version``, of a lock file in third_party/."""
    return re.findall(r"^[\w-]+==[\w.]+", (ROOT / "third_party" / lock).read_text(), flags=re.MULTILINE)


def _source(*known: str) -> str:
    """Where the compiler is to come from; the first of the known answers is the default."""
    source = os.environ.get(CUDA) or known[0]
    if source not in known:
        raise SystemExit(f"{CUDA}={source} is none of {', '.join(known)}")
    return source


def _architectures(setting: str) -> tuple[tuple[str, ...], str]:
    """Architectures, those of them that have kernels, and what decided on them."""
    kernels = sources()["cuda"]
    reason = f"{ARCHS}={setting}"
    if setting == "native":
        capabilities = _gpus()
        if not capabilities:
            hidden = any(GPUS.glob("*"))
            return (), "there is a GPU, but no nvidia-smi to ask which" if hidden else "no NVIDIA GPU is seen here"
        reason = f"the GPUs here have compute capability {', '.join(capabilities)}"
        # The kernels of 90a run on compute capability 9.0, those of 100f on 10.0 and 10.3.
        generations = {capability.partition(".")[0] for capability in capabilities}
        chosen = {arch for arch in kernels if re.match(r"(\d+)\d", arch)[1] in generations}
    elif setting in ("all", "none"):
        chosen = set(kernels) if setting == "all" else set()
    else:
        chosen = {arch.strip() for arch in setting.split(",")}
        if not chosen <= set(kernels):
            raise SystemExit(f"{reason} is none of native, all, none, or a list of {', '.join(kernels)}")
    written = tuple(arch for arch, files in kernels.items() if arch in chosen and files)
    return written, reason if written or not chosen else f"{reason}, for which none is written yet"


def _gpus() -> list[str]:
    """The compute capabilities of this machine's GPUs, each once."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    if not shutil.which(command[0]):
        return []  # a container that was given no GPU may still see the host's in /proc
    capabilities = sorted(set(re.findall(r"^\d+\.\d+$", _output(command), flags=re.MULTILINE)))
    if not capabilities and any(GPUS.glob("*")):
        raise SystemExit(f"there is a GPU here, but nvidia-smi does not say which: set {ARCHS}, to all for instance")
    return capabilities


def _candidates() -> list[str]:
    """Every nvcc that the environment names, the most explicit first."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    named = [os.environ.get("CUDACXX"), *(os.path.join(home, "bin", "nvcc") for home in homes), "nvcc"]
    return [path for path in map(shutil.which, filter(None, named)) if path]


def _version(nvcc: str) -> str | None:
    match = re.search(r"release (\d+\.\d+)", _output([nvcc, "--version"]))
    return match and match[1]


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _output(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr


def main() -> None:
    """For Bazel, which builds every architecture: the folder of the system's toolkit, or ``pypi``."""
    nvcc, _ = find_nvcc(_source("auto", "system", "pypi"))
    if nvcc is None:
        print("pypi")
        return
    # nvcc itself is asked: what is on PATH may be a script, or a link to another place.
    top = re.search(r"^#\$ TOP=(.*)$", _output([nvcc, "--dryrun", "-E", "-x", "cu", os.devnull]), flags=re.MULTILINE)
    if not top:
        raise SystemExit(f"{nvcc} does not say where its toolkit is")
    print(os.path.realpath(top[1].strip()))


if __name__ == "__main__":
    main()
