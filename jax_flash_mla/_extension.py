"""The extensions that hold the handlers of the custom calls, where they can be used.

``EXTENSION`` has the kernels. It is absent from a build without them; then, and where it
cannot be used, ``UNAVAILABLE`` says why. Test builds also have ``EMULATOR``, and targets for
the CPU in both.
"""

from __future__ import annotations

import importlib
import pathlib
import re

import jax


def load(name: str):
    """An extension of this package, or None, and why it is not used."""
    module = f"jax_flash_mla.{name}"
    try:
        extension = importlib.import_module(module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            return None, "it is pure JAX"
        return None, f"the extension of jax_flash_mla does not load ({error})"
    # Handlers built for a newer interface would keep the whole backend from starting.
    installed = interface_version()
    if installed is None:
        return None, "this jaxlib does not tell the version of its XLA FFI"
    if installed < extension.xla_ffi_version:
        built, has = (".".join(map(str, version)) for version in (extension.xla_ffi_version, installed))
        return None, f"the kernels were built for XLA FFI {built} and this jaxlib has {has}"
    return extension, None


def interface_version() -> tuple[int, int] | None:
    """Version of the FFI of the installed jaxlib, as its headers have it, or None without them."""
    header = pathlib.Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h")
    text = header.read_text() if header.is_file() else ""
    parts = [re.search(rf"#define XLA_FFI_API_{part} (\d+)", text) for part in ("MAJOR", "MINOR")]
    return tuple(int(part[1]) for part in parts) if all(parts) else None


EXTENSION, UNAVAILABLE = load("_C")
EMULATOR, _ = load("_C_emulated")


def _targets(platform: str) -> tuple[str, ...]:
    """Names of the extension's targets for a platform."""
    return tuple(sorted(EXTENSION.targets().get(platform, ()))) if EXTENSION else ()


TARGETS = _targets("CUDA")
HOST_TARGETS = _targets("cpu")
