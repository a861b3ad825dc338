"""Dense decode problems whose results on an H200 are kept, for the emulator to reproduce.

    python tests/kernels/recorded_dense_decode.py

on an H200 writes them anew.
"""

import pathlib
import sys
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import ml_dtypes
import numpy as np

from kernels.dense_decode_problem import Problem, run_poisoned

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
    """How far apart two results are, in units of bfloat16's last place.

    The unit is that of the element, or of a sixteenth of its row's root mean square where
    that is larger: an element near zero is what terms of that size have left of each other.
    """
    x, y = (np.asarray(a, np.float64) for a in (x, y))
    rms = np.sqrt(np.mean(y**2, axis=-1, keepdims=True))
    _, exponent = np.frexp(np.maximum(np.abs(y), rms / 16))
    unit = np.ldexp(1.0, exponent - 8)
    return np.where(x == y, 0, np.abs(x - y) / unit)


def main():
    results = {}
    for name in PROBLEMS:
        made, checksum = problem(name)
        out, lse = run_poisoned(made, np.nan)
        results |= {f"{name}.out": out.view(np.uint16), f"{name}.lse": lse, f"{name}.operands": np.uint32(checksum)}
    np.savez_compressed(sys.argv[1] if len(sys.argv) > 1 else FILE, **results)


def recorded(name):
    """Out and lse on an H200, and the checksum of the operands they came from."""
    with np.load(FILE) as file:
        dtype = np.dtype(PROBLEMS[name].get("dtype", ml_dtypes.bfloat16))
        return file[f"{name}.out"].view(dtype), file[f"{name}.lse"], int(file[f"{name}.operands"])


if __name__ == "__main__":
    main()
