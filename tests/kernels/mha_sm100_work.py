"""What the SM100 kernel of multi-head attention does for a block of keys, counted in the emulator."""

import collections
import os
import re
import tempfile
from unittest import mock

import numpy as np

from kernels.mha_problem import Problem, run_poisoned

BLOCK = 128  # keys
# A warp of each role, of which the others do the same: softmax of either tile, correction, loads, products.
SOFTMAX, CORRECTION, LOADS, PRODUCTS = (0, 4), 8, 12, 13


def executed(d: int, blocks: int, warp: int) -> collections.Counter[str]:
    """How often a warp executes each instruction, in a thread block with two tiles and so many blocks of keys.

    Products are told apart by their place in the source.
    """
    problem = Problem(np.random.default_rng(0), q_lengths=[256], kv_lengths=[BLOCK * blocks], h_q=1, d=d)
    with (
        mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_TRACE=f"cta=0,0,0 warp={warp}"),
        tempfile.TemporaryFile() as printed,
    ):
        stderr = os.dup(2)
        os.dup2(printed.fileno(), 2)
        try:
            run_poisoned(problem, np.nan, emulated=True)
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        printed.seek(0)
        lines = printed.read().decode().splitlines()
    out = collections.Counter()
    for line in lines:
        place, opcode = re.sub(r"^\[CTA .*?\] ", "", line).split()[:2]
        out[f"{opcode} at {place}" if opcode.startswith("tcgen05.mma") else opcode] += 1
    return out


def of_a_block(d: int, warp: int) -> collections.Counter[str]:
    """How much oftener with one block more, in the middle of several."""
    return executed(d, 6, warp) - executed(d, 5, warp)
