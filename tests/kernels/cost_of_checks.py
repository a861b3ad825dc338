"""How much longer kernels take in the emulator that looks for races than in one that does not.

    PYTHONPATH=tests python -P tests/kernels/cost_of_checks.py

runs each on the problems of its mutants, in a process of its own, and prints the time of the CPU with and without, and
the ratio: of the user, by one thread, the median of several runs that take turns.
"""

import argparse
import concurrent.futures
import functools
import multiprocessing
import os
import resource
import statistics
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from operations import V32

import jax_flash_mla as fm
from jax_flash_mla import _support
from kernels import cache_write_problem, mutants

MOST = 6  # times: more would keep people from having checks on


def cache_writes(races: str):
    """A call of what has no mutants, for it orders nothing."""
    quantize = jax.jit(fm.quantize_kv_cache, static_argnames=("fmt", "implementation"))
    append = jax.jit(fm.append_to_kv_cache, static_argnames="implementation")
    latent, rope = cache_write_problem.tokens(np.random.default_rng(0), V32, (4096,))
    slots = jnp.arange(4096, dtype=jnp.int32) % 256

    def call():
        with mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_RACES=races):
            cache = quantize(latent[None, :256], rope[None, :256], fmt=V32, implementation=_support.EMULATED)
            jax.block_until_ready(append(cache, latent, rope, slots, implementation=_support.EMULATED))

    return call


FAMILIES = {
    "dense decode": mutants.DENSE_DECODE,
    "sparse decode": mutants.SPARSE_DECODE,
    "sparse decode, pairs": mutants.SPARSE_DECODE_PAIRS,
    "sparse prefill": mutants.SPARSE_PREFILL,
    "sparse backward": mutants.SPARSE_BACKWARD,
    "sparse backward, one order": mutants.ORDERED_SPARSE_BACKWARD,
    "multi-head attention, forward": mutants.MHA_FORWARD,
    "multi-head attention, backward": mutants.MHA_BACKWARD,
    "multi-head attention, forward, SM100": mutants.MHA_FORWARD_SM100,
    "cache writing": None,
}


def user_seconds(function) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    function()
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime - before


def seconds(name: str, runs: int) -> dict[str, list[float]]:
    """With and without looking for races."""
    target = FAMILIES[name]
    if target is None:
        calls = {races: [cache_writes(races)] for races in "10"}
    else:
        index = mutants.TARGETS.index(target)
        problems = [mutants.problem(index, number) for number in range(len(target.problems))]
        calls = {races: [functools.partial(mutants.run, index, made, "", races) for made in problems] for races in "10"}
    out = {"1": [], "0": []}
    for attempt in range(runs + 1):  # the first compiles
        for races, times in out.items():
            took = sum(map(user_seconds, calls[races]))
            if attempt:
                times.append(took)
    return out


def measured(name: str, runs: int) -> tuple[float, float]:
    """The medians of both, by a process that has its device."""
    target = FAMILIES[name]
    settings = {"CAPABILITY": target.capability if target else "9.0", "THREADS": "1"}
    with (
        mock.patch.dict(os.environ, {f"JAX_FLASH_MLA_EMULATOR_{key}": value for key, value in settings.items()}),
        concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        times = pool.submit(seconds, name, runs).result()
    return statistics.median(times["1"]), statistics.median(times["0"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--match", default="", help="families whose name has this in it")
    arguments = parser.parse_args()
    print(f"{'kernel':36}  with  without  ratio")
    ratios = []
    for name in FAMILIES:
        if arguments.match not in name:
            continue
        with_, without = measured(name, arguments.runs)
        ratios.append(with_ / without)
        print(f"{name:36} {with_:5.2f}  {without:7.2f}  {ratios[-1]:5.2f}", flush=True)
    if max(ratios) > MOST:
        raise SystemExit(f"one takes more than {MOST} times as long")


if __name__ == "__main__":
    main()
