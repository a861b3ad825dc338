"""A few calls of every kernel, small, for compute-sanitizer.

    compute-sanitizer --tool memcheck python tests/kernels/sanitize.py

and the same with racecheck, initcheck and synccheck.
"""

import os
import pathlib
import sys

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("XLA_PYTHON_CLIENT_ALLOCATOR", "platform")  # each array an allocation of its own
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import ml_dtypes
import numpy as np

from jax_flash_mla import _ffi
from kernels.dense_decode_problem import D_V, Problem


def main():
    rng = np.random.default_rng(0)
    for options in (
        dict(lengths=[130, 0, 700], s_q=2, h_q=40, causal=True, sink=True),
        dict(lengths=[2000], h_q=128),
        dict(lengths=[100, 333], h_q=6, h_kv=3, page_size=48, dtype=np.float16),
        dict(lengths=[64] * 40, h_q=16, page_size=16, dtype=ml_dtypes.bfloat16),
    ):
        problem = Problem(rng, **options)
        problem.spoil_unused(np.nan)
        out, lse = _ffi.dense_decode(*problem.arrays(), d_v=D_V, scale=problem.scale, causal=problem.causal)
        assert np.isfinite(np.asarray(out, np.float32)).all()
        print(options, float(np.abs(np.asarray(out, np.float32)).max()), np.asarray(lse).shape)


if __name__ == "__main__":
    main()
