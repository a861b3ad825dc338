"""Asks ptxas for SM90 about families, before the time of a GPU is spent on them.

    python assemble.py [NAME…]

NAME is a group or a family; without any, all are assembled. What ptxas says is printed, warnings included.
"""

import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import families


def complaint(ptxas: str, family: families.Family) -> str:
    """What ptxas says; empty if nothing."""
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, "kernel.ptx")
        source.write_text(family.kernel.ptx)
        command = [ptxas, "-arch", "sm_90a", str(source), "-o", str(source.with_suffix(".o"))]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    silent = "" if done.returncode == 0 else f"ptxas ended with {done.returncode}."
    return done.stdout.strip() or silent


def main(names: list[str]) -> None:
    ptxas = shutil.which("ptxas")
    if ptxas is None:
        sys.exit("There is no ptxas on PATH.")
    some = [
        (f"{group}: {name}", family)
        for group in families.GROUPS
        for name, family in families.group(group).items()
        if not names or group in names or name in names
    ]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        said = pool.map(lambda item: complaint(ptxas, item[1]), some)
        faults = [f"{label}\n  {text}" for (label, _), text in zip(some, said) if text]
    print(*faults, f"{len(some)} families, {len(faults)} of which ptxas complains", sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main(sys.argv[1:])
