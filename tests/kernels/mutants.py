"""Kernels that each lack one instruction that orders something, and whether the emulator misses it.

A mutant is run on small problems that between them come to all of a kernel's instructions. It is caught if one of these
ends in a report, or in other results.
"""

import collections
import concurrent.futures
import functools
import json
import multiprocessing
import os
import pathlib
import re
import typing
from unittest import mock

import numpy as np

from kernels import (
    dense_decode_problem,
    mha_problem,
    sparse_backward_problem,
    sparse_decode_problem,
    sparse_prefill_problem,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
HARMLESS = pathlib.Path(__file__).with_name("harmless_mutants.json")

# What is left out, one at a time: fences, arrivals, waits, barriers, commits.
ORDERING = re.compile(
    r"mbarrier\.(arrive|test_wait|try_wait|expect_tx|complete_tx)|cp\.async\.mbarrier|"
    r"(cp\.async|cp\.async\.bulk|wgmma)\.(commit|wait)|wgmma\.fence|"
    r"tcgen05\.(commit|wait|fence)|bar\.|barrier\.|fence|membar|griddepcontrol"
)
# In how many words a report says what it is about.
SUBJECTS = {
    "Race: by the async proxy": "no fence between proxies",
    "of an allocation": "race in global memory",
    "of tensor memory, which": "race in tensor memory",
    "of tensor memory are not within": "tensor memory that is not allocated",
    "Race: ": "race in shared memory",
    "before anything was written": "unwritten memory",
    "Deadlock": "deadlock",
    "without having arrived": "waiting for a barrier of a cluster alone",
    "Livelock": "livelock",
    "arrivals on the mbarrier": "arrivals beyond the count",
    "accumulator of a product": "registers of a product",
    "wgmma.fence": "registers of a product",
    "It writes a register that is a factor": "registers of a product",
    "a register that a tcgen05.ld fills": "registers of a load",
}


class Site(typing.NamedTuple):
    """An instruction of a kernel."""

    kernel: str  # as the PTX names it
    line: int  # of the PTX
    opcode: str
    source: tuple[str, ...]  # the line that it comes from, and those of the calls that were inlined around it

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is called in the list of those that are harmless, where nothing depends on lines' numbers."""
        name = re.search(r"\d([a-z_]+_kernel)", self.kernel)[1]
        if name == "sparse_decode_kernel" and "ELb1E" in self.kernel:  # of the template's parameters
            name += " of pairs"
        if name == "mha_backward_kernel" and "Li128" in self.kernel:
            name += " of 128 dimensions"
        if "_sm100" in self.kernel:
            name += " on SM100"
        return name, self.opcode, " < ".join(self.source)


def source_text(places: list[str]) -> tuple[str, ...]:
    """The lines of a kernel's own files, as far as they tell instructions apart."""
    texts = []
    for place in places:
        found = re.search(r"(cuda/sm[^:]*):(\d+)$", place)
        if found:
            texts.append((ROOT / found[1]).read_text().splitlines()[int(found[2]) - 1].strip())
    return tuple(texts[:3])


def sites(kernels: str) -> list[Site]:
    """The ordering instructions of those kernels whose names match."""
    from jax_flash_mla import _C_emulated

    return [
        Site(kernel, line, opcode, source_text(places))
        for kernel, line, opcode, places in _C_emulated.instructions()
        if re.search(kernels, kernel) and ORDERING.match(opcode)
    ]


class Target(typing.NamedTuple):
    """A kernel, and problems that between them come to all its instructions."""

    kernels: str  # matches its name
    module: typing.Any  # has Problem
    problems: tuple[dict, ...]
    run: str = "run_poisoned"  # of the module; of a problem and a poison
    sms: int = 4  # of the device: the same for all problems, since a process asks for it once
    capability: str = "9.0"  # likewise


# Thread blocks with several items, of which some blocks are partial; a piece of a request for each thread block,
# combined by several warps together; pieces of several requests, which different lanes find.
DENSE_DECODE = Target(
    r"dense_decode.*bfloat16",
    dense_decode_problem,
    (
        dict(lengths=[330, 70, 0, 200, 64, 90], h_q=20, s_q=4, causal=True, sink=True),
        dict(lengths=[1000], h_q=4),
        dict(lengths=[1000, 900], h_q=32),
    ),
)
TWO_CACHES = dict(
    b=6, topk=330, lengths=[330, 70, 0, 200, 64, 90], extra_topk=70, extra_lengths=[70, 0, 0, 7], sink=True
)
SPARSE_DECODE = Target(
    r"sparse_decode.*V32ELb0",
    sparse_decode_problem,
    (dict(TWO_CACHES, h_q=40), dict(b=1, topk=1000, h_q=4), dict(b=2, topk=1000, h_q=32)),
)
SPARSE_DECODE_PAIRS = Target(
    r"sparse_decode.*V32ELb1",
    sparse_decode_problem,
    (dict(TWO_CACHES, h_q=70), dict(b=2, topk=1000, h_q=70)),
    sms=8,
)
# Thread blocks with several items; queries with all, some and no keys, and tiles of heads that are partly there.
SPARSE_PREFILL = Target(
    r"sparse_prefill.*Li576",
    sparse_prefill_problem,
    (dict(s_q=7, h_q=70, topk=200, lengths=[200, 64, 70, 130, 0, 0, 40], sink=True), dict(s_q=9, h_q=3, topk=330)),
)
SPARSE_BACKWARD = Target(
    r"sparse_backward_kernel.*Li576ELb0",
    sparse_backward_problem,
    (dict(s_q=5, h_q=3, topk=150, lengths=[150, 0, 64, 70, 130], sink=True),),
)
# What the other instance leaves is summed by a kernel that orders nothing but by being launched after it.
ORDERED_SPARSE_BACKWARD = Target(
    r"sparse_backward_kernel.*Li576ELb1", sparse_backward_problem, SPARSE_BACKWARD.problems, "run_ordered"
)
MHA_PROBLEMS = (
    dict(q_lengths=[[300, 0], [70, 130]], kv_lengths=[[400, 50], [60, 0]], padding=5, h_q=2, causal=True),
    dict(q_lengths=[128] * 5, kv_lengths=[256] * 5),
)
MHA_FORWARD = Target(r"mha_forward.*bfloat16Li192", mha_problem, MHA_PROBLEMS)
# Items behind each other in a thread block, with one tile and with two, which see as many blocks or not.
MHA_FORWARD_SM100 = Target(
    r"mha_forward_sm100.*Li192",
    mha_problem,
    (
        *MHA_PROBLEMS,
        dict(q_lengths=[[152, 337]], kv_lengths=[[300, 337]], padding=3, h_q=1),
        dict(q_lengths=[600, 600], kv_lengths=[130, 90]),
        dict(q_lengths=[300, 300], kv_lengths=[300, 200], h_q=3, causal=True),
    ),
    sms=2,
    capability="10.0",
)
# What turns sums into results orders nothing but by being launched after it.
MHA_BACKWARD = Target(r"mha_backward_kernel.*bfloat16Li192", mha_problem, MHA_PROBLEMS, "run_backward_both_ways")
MHA_BACKWARD_128 = Target(
    r"mha_backward_kernel.*bfloat16Li128",
    mha_problem,
    tuple(dict(problem, d=128) for problem in MHA_PROBLEMS),
    "run_backward_both_ways",
)
TARGETS = (
    DENSE_DECODE,
    SPARSE_DECODE,
    SPARSE_DECODE_PAIRS,
    SPARSE_PREFILL,
    SPARSE_BACKWARD,
    ORDERED_SPARSE_BACKWARD,
    MHA_FORWARD,
    MHA_FORWARD_SM100,
    MHA_BACKWARD,
    MHA_BACKWARD_128,
)


def problem(target: int, number: int):
    made = TARGETS[target].module.Problem(np.random.default_rng(number), **TARGETS[target].problems[number])
    made.spoil_unused(np.nan)
    return made


def run(target: int, made, without: str = "", races: str = "1") -> list[np.ndarray]:
    """Results of a problem; `without`: the instruction that is left out."""
    settings = {"SMS": str(TARGETS[target].sms), "THREADS": "1", "PATIENCE": "20", "RACES": races, "WITHOUT": without}
    with mock.patch.dict(os.environ, {f"JAX_FLASH_MLA_EMULATOR_{name}": value for name, value in settings.items()}):
        return getattr(TARGETS[target].module, TARGETS[target].run)(made, np.nan, emulated=True)


@functools.cache
def expected(target: int, number: int) -> list[np.ndarray]:
    return run(target, problem(target, number))


def caught_by(target: int, site: Site) -> str:
    """What the emulator says of the kernel without it; empty where nothing is different."""
    for number in range(len(TARGETS[target].problems)):
        want = expected(target, number)
        try:
            got = run(target, problem(target, number), f"{site.kernel}:{site.line}")
        except Exception as error:
            report = str(error)
            return next((name for words, name in SUBJECTS.items() if words in report), report)
        if any(x.tobytes() != y.tobytes() for x, y in zip(got, want)):
            return "wrong results"
    return ""


def all_caught_by(target: Target) -> dict[Site, str]:
    """The same of all of a kernel's, by several processes: what is left out is said by the environment."""
    work = functools.partial(caught_by, TARGETS.index(target))
    context = multiprocessing.get_context("spawn")
    with (
        mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_CAPABILITY=target.capability),
        concurrent.futures.ProcessPoolExecutor(min(os.cpu_count() or 1, 4), context) as pool,
    ):
        chosen = pool.submit(sites, target.kernels).result()
        return dict(zip(chosen, pool.map(work, chosen, chunksize=4)))


def harmless(kernel: str) -> collections.Counter[tuple[str, str, str]]:
    """How many instructions of each key of a kernel nobody misses."""
    entries = [entry for entry in json.loads(HARMLESS.read_text()) if entry["kernel"] == kernel]
    return collections.Counter({(kernel, e["opcode"], " < ".join(e["source"])): e["count"] for e in entries})
