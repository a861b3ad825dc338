"""Dense decode problems whose results on an H200 are kept, for the emulator to reproduce.

    python tests/kernels/recorded_dense_decode.py

on an H200 writes them anew, with the date, the card, the driver, the versions and a hash of the kernel's sources, which
`about_recorded` gives back.
"""

import datetime
import hashlib
import json
import pathlib
import re
import sys
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import ml_dtypes
import numpy as np

from jax_flash_mla import build_info
from jax_flash_mla._check.machine import commit, machine
from kernels.dense_decode_problem import Problem, run_poisoned

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = ("cuda/device", "cuda/sm90/dense_decode", "cuda/sm90/mla", "cuda/sm90/split")
FILE = pathlib.Path(__file__).with_name("recorded_dense_decode.npz")
PROBLEMS = {
    "one_tile": dict(lengths=[512], h_q=64),
    "split": dict(lengths=[700, 0, 130], h_q=8, s_q=2, causal=True, sink=True),
    "grouped_fp16": dict(lengths=[200, 65], h_q=6, h_kv=2, page_size=48, dtype=np.float16, causal=True),
}


def problem(name):
    """One of them, and a checksum of its operands."""
    made = Problem(np.random.default_rng(sorted(PROBLEMS).index(name)), **PROBLEMS[name])
    made.spoil_unused(np.nan)
    checksum = 0
    for array in (made.q, made.k_cache, made.block_table, made.cache_seqlens):
        checksum = zlib.crc32(np.ascontiguousarray(array).view(np.uint8), checksum)
    return made, checksum


def steps_apart(x, y):
    """How many numbers of their type, bfloat16 or float16, two results are apart: units of the last place."""

    def place(array):
        bits = array.view(np.int16).astype(np.int32)
        return np.where(bits < 0, np.iinfo(np.int16).min - bits, bits)

    assert x.dtype == y.dtype, (x.dtype, y.dtype)
    return np.abs(place(x) - place(y))


def sources_hash():
    """Of the text that the kernel is compiled from, but for its comments and where its lines break."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.[ch]*")):
            code = re.sub(r"//.*", "", path.read_text())
            digest.update((path.relative_to(ROOT).as_posix() + "".join(code.split())).encode())
    return digest.hexdigest()


def main():
    results = {}
    for name in PROBLEMS:
        made, checksum = problem(name)
        out, lse = run_poisoned(made, np.nan)
        results |= {f"{name}.out": out.view(np.uint16), f"{name}.lse": lse, f"{name}.operands": np.uint32(checksum)}
    about = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(ROOT),
        "sources": sources_hash(),
        "machine": machine(),
        "build": build_info(),
    }
    np.savez_compressed(sys.argv[1] if len(sys.argv) > 1 else FILE, about=json.dumps(about), **results)


def recorded(name):
    """Out and lse on an H200, and the checksum of the operands they came from."""
    with np.load(FILE) as file:
        dtype = np.dtype(PROBLEMS[name].get("dtype", ml_dtypes.bfloat16))
        return file[f"{name}.out"].view(dtype), file[f"{name}.lse"], int(file[f"{name}.operands"])


def about_recorded():
    """What `main` wrote of where the results come from; None for what was not written down at the time."""
    with np.load(FILE) as file:
        return json.loads(file["about"].item())


if __name__ == "__main__":
    main()
