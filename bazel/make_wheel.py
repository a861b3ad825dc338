"""Packs a wheel from files that Bazel built, with the tool and the settings that pip uses.

The wheel that scikit-build-core makes of pyproject.toml is then the same but for the extension,
which it finds compiled.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from scikit_build_core import build


def main() -> None:
    """Stages the files as in the repository, and packs them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tag", required=True)
    parser.add_argument("--extension", type=Path, action="append", required=True)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("files", nargs="+", type=Path)
    arguments = parser.parse_args()
    wheel = arguments.wheel.absolute()

    with tempfile.TemporaryDirectory() as root:
        for file in arguments.files:
            _copy(file, root / file)
        for extension in arguments.extension:
            _copy(extension, root / Path("jax_flash_mla", extension.name))
        os.chdir(root)
        settings = {"wheel.cmake": "false", "wheel.platlib": "true", "wheel.tags": [arguments.tag]}
        made = build.build_wheel(str(wheel.parent), settings)
    if made != wheel.name:
        raise SystemExit(f"the wheel is called {made}, and Bazel expects {wheel.name}")


def _copy(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, to)


if __name__ == "__main__":
    main()
