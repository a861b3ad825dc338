"""A few calls of every kernel, small and dangerous, for compute-sanitizer.

    python tests/kernels/sanitize.py --all-tools

runs them under each of its tools, prints a line for each, and fails where one has found anything. Without
``--all-tools`` the calls run as they are, or under what is put before:

    compute-sanitizer --tool memcheck python tests/kernels/sanitize.py
"""

import argparse
import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("XLA_PYTHON_CLIENT_ALLOCATOR", "platform")  # each array an allocation of its own
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from jax_flash_mla import _ffi
from kernels import cache_write_problem as cache_write
from kernels import dense_decode_problem as dense
from kernels import mha_problem as mha
from kernels import sparse_backward_problem as sparse_backward
from kernels import sparse_decode_problem as sparse_decode
from kernels import sparse_prefill_problem as sparse_prefill

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
NO_FINDINGS = re.compile(r"^=+ (ERROR SUMMARY: 0 errors|RACECHECK SUMMARY: 0 hazards.*)$", re.MULTILINE)


def page_outside_the_pool(problem):
    problem.block_table[1, 1] = problem.k_cache.shape[0]
    problem.block_table[2, 0] = -(2**31)


def length_out_of_range(problem):
    problem.cache_seqlens[1] = 2**31 - 1
    problem.cache_seqlens[2] = -1


# {what is special: (the problem, what is changed in it)}
DENSE_DECODE = {
    "tiles of several tokens": (dict(lengths=[130, 0, 700], s_q=2, h_q=40, causal=True, sink=True), None),
    "one request on the whole card": (dict(lengths=[2000], h_q=128), None),
    "groups of heads, odd pages, float16": (
        dict(lengths=[100, 333], h_q=6, h_kv=3, page_size=48, dtype=np.float16),
        None,
    ),
    "many groups": (dict(lengths=[70, 200], s_q=3, h_q=32, h_kv=16, causal=True), None),
    "small pages, many requests": (dict(lengths=[64] * 40, page_size=16), None),
    "one page a request": (dict(lengths=[300, 304, 1], page_size=304), None),
    "many strips": (dict(lengths=[200, 70], s_q=40, h_q=64, causal=True, sink=True), None),
    "more queries than keys": (dict(lengths=[3, 0], s_q=70, causal=True), None),
    "page outside the pool": (dict(lengths=[500, 300, 90], s_q=2, h_q=40), page_outside_the_pool),
    "length out of range": (dict(lengths=[500, 300, 90], s_q=2, h_q=40, causal=True), length_out_of_range),
}


MHA = {
    "packed": dict(q_lengths=[60, 0, 130, 7], kv_lengths=[90, 30, 0, 7], h_q=4, h_kv=2, padding=5),
    "padded, causal": dict(q_lengths=[[300], [0], [130]], kv_lengths=[[400], [30], [0]], padding=5, causal=True),
    "128 dimensions, float16": dict(q_lengths=[200] * 3, kv_lengths=[300] * 3, d=128, dtype=np.float16),
    "more tiles than thread blocks": dict(q_lengths=[[20] * 3] * 60, kv_lengths=[[30] * 3] * 60),
    "no key": dict(q_lengths=[5], kv_lengths=[0]),
}
SPARSE_DECODE = {
    "tiles of heads": dict(h_q=130, topk=200, sink=True),
    "one token on the whole card": dict(b=1, h_q=64, topk=1000, pages=20),
    "two caches, odd pages": dict(fmt="MODEL1", h_q=20, topk=100, page_size=5, pages=70, extra_topk=70),
    "lengths": dict(b=4, s_q=2, h_q=3, topk=130, lengths=[0, 1, 64, 130, -1, 131, 65, 7]),
    "more query tokens than thread blocks": dict(b=150, h_q=2, topk=3),
    "no key": dict(fmt="MODEL1", pages=0),
}
SPARSE_PREFILL = {
    "tiles of heads": dict(h_q=130, topk=200, sink=True),
    "without rotary dims, odd blocks": dict(h_q=64, d_qk=512, topk=192),
    "lengths": dict(s_q=7, h_q=3, topk=130, lengths=[0, 1, 64, 130, -1, 131, 65], base="e"),
    "more query tokens than thread blocks": dict(s_q=300, h_q=2, topk=3),
    "no key": dict(s_kv=0),
}


# {what is special: (tokens, slots are below)}
APPEND = {
    "few tokens": (40, 30),
    "many tokens": (2500, 2000),
    "many tokens for one slot": (2500, 1),
}


def run_appends(rng):
    for fmt in (cache_write.V32, cache_write.MODEL1):
        for name, (n, slots) in APPEND.items():
            cache = cache_write.fp8_cache(rng, fmt, -(-slots // 7), 7)
            test = cache_write.AppendKernelTest()
            test.implementation = "cuda"
            test.check(fmt, cache, *cache_write.tokens(rng, fmt, (n,)), rng.integers(-3, slots + 3, n))
            print(f"append, {fmt.name}, {name}: right")
        test = cache_write.QuantizeKernelTest()
        test.implementation = "cuda"
        latent, rope = cache_write.tokens(rng, fmt, (5, 7), jnp.float32)
        got = test.quantize(latent, rope, fmt)
        np.testing.assert_array_equal(got, cache_write.pages_of(fmt, latent, rope))
        print(f"quantize, {fmt.name}: right")


def run_calls():
    if not all(module.HAS_KERNEL for module in (cache_write, dense, mha, sparse_decode, sparse_prefill)):
        raise SystemExit("no GPU here has the kernels")
    rng = np.random.default_rng(0)
    for name, (options, change) in DENSE_DECODE.items():
        problem = dense.Problem(rng, **options)
        problem.spoil_unused(np.nan)
        if change:
            change(problem)
        results = _ffi.dense_decode(*problem.arrays(), d_v=dense.D_V, scale=problem.scale, causal=problem.causal)
        dense.DenseDecodeTest().assert_right(problem, [np.asarray(x) for x in results])
        print(f"dense decode, {name}: right")
    for name, options in MHA.items():
        problem = mha.Problem(rng, **options)
        problem.spoil_unused(np.nan)
        results = _ffi.mha_forward(*problem.arrays(), scale=problem.scale, causal=problem.causal)
        test = mha.MhaTest()
        test.assert_right(problem, [np.asarray(x) for x in results])
        test.assert_gradients_right(problem, rng, functools.partial(mha.run_backward_poisoned, problem, poison=np.nan))
        print(f"multi-head attention, {name}: right")
    for name, options in SPARSE_DECODE.items():
        problem = sparse_decode.Problem(rng, **options)
        problem.invalidate(rng, 0.1)
        problem.spoil_unused(np.nan)
        results = _ffi.sparse_decode(*problem.arrays(), d_v=sparse_decode.D_V, scale=problem.scale)
        sparse_decode.SparseDecodeTest().assert_right(problem, [np.asarray(x) for x in results])
        print(f"sparse decode, {name}: right")
    for name, options in SPARSE_PREFILL.items():
        problem = sparse_prefill.Problem(rng, **options)
        problem.invalidate(rng, 0.1)
        problem.spoil_unused(np.nan)
        results = _ffi.sparse_prefill(
            *problem.arrays(), d_v=sparse_prefill.D_V, scale=problem.scale, lse_base=problem.base
        )
        sparse_prefill.SparsePrefillTest().assert_right(problem, [np.asarray(x) for x in results])
        print(f"sparse prefill, {name}: right")
        problem = sparse_backward.Problem(rng, **options)
        problem.invalidate(rng, 0.1)
        problem.spoil_unused(np.nan)
        # The order is sorted by XLA, whose loops on a GPU read counters that initcheck takes for unwritten.
        with jax.default_device(jax.devices("cpu")[0]):
            ordered = jax.tree.map(np.asarray, problem.ordered_operands())
        for order, operands in (("any", problem.operands()), ("one", ordered)):
            results = _ffi.sparse_backward(*operands, scale=problem.scale)
            sparse_backward.SparseBackwardTest().assert_right(problem, [np.asarray(x) for x in results])
            print(f"sparse backward, {name}, {order} order: right")
    run_appends(rng)


def run_under(tool):
    """Whether all calls ran under a tool and it found nothing."""
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", sys.executable, __file__]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    clean = done.returncode == 0 and bool(NO_FINDINGS.search(done.stdout))
    print(f"{tool}: {'no findings' if clean else 'FAILED'}, {time.perf_counter() - start:.0f} s", flush=True)
    if not clean:
        print(done.stdout, flush=True)
    return clean


def main():
    parser = argparse.ArgumentParser(description="calls of every kernel, for compute-sanitizer")
    parser.add_argument("--all-tools", action="store_true", help=f"run them under {', '.join(TOOLS)}")
    if not parser.parse_args().all_tools:
        run_calls()
        return
    if not shutil.which("compute-sanitizer"):
        raise SystemExit("compute-sanitizer is not on PATH")
    clean = [run_under(tool) for tool in TOOLS]
    if not all(clean):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
