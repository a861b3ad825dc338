"""The tables: which rows there are, what peers reach on them, and what is wanted.

Peers' shares are of cuBLAS, or of a streaming read, in the same rounds on the same card;
``PROVENANCE`` says whose and where.
"""

from __future__ import annotations

import dataclasses
import itertools

from jax_flash_mla._bench.problems import (
    DenseDecode,
    Mha,
    MhaBackward,
    Problem,
    SparseBackward,
    SparseDecode,
    SparsePrefill,
)

PROVENANCE = {
    "card": "one NVIDIA H200 (700 W), driver 580.159, CUDA 13.0",
    "timing": "CUDA events, the rounds of docs/benchmarks.md",
    "FlashMLA": "commit 9241ae3",
    "FA4": "FlashAttention-4, CuTe DSL SM90 path, PyTorch",
    "cuDNN": "9.19, PyTorch",
    "cudnn-frontend": "1.32, CuTe DSL, PyTorch",
}


@dataclasses.dataclass(frozen=True)
class Peer:
    """What another library reaches.

    Attributes:
      name: a key of ``PROVENANCE``.
      cublas: share of the rate of cuBLAS.
      read: share of the rate of a streaming read, where memory is the limit.
      ms: time of a call, where it is known.
    """

    name: str
    cublas: float
    read: float | None = None
    ms: float | None = None


@dataclasses.dataclass(frozen=True)
class Target:
    """What a row is to reach: at least a share of ``"cublas"`` or ``"read"``, or at most so many ``"us"``."""

    of: str
    value: float

    def __str__(self):
        return f"≤ {self.value:g} µs" if self.of == "us" else f"{self.of} {self.value:.2f}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table; ``name`` is unique within the preset."""

    name: str
    problem: Problem
    peers: tuple[Peer, ...] = ()
    target: Target | None = None


def _dense(batch, s_q, h_q, s_k, ms, cublas, read, of, target, **options):
    words = {"varlen": "varlen", "causal": "causal", "metadata_each_call": "meta each call"}
    name = " ".join([f"b={batch} sq={s_q} hq={h_q} sk={s_k}", *(words[option] for option in options)])
    peer = Peer("FlashMLA", cublas, read, ms)
    return Row(name, DenseDecode(batch, s_q, h_q, s_k, **options), (peer,), Target(of, target))


DENSE_DECODE = (
    _dense(128, 1, 128, 4096, 0.2356, 0.784, 0.65, "cublas", 0.86),
    _dense(128, 1, 128, 4096, 0.2636, 0.699, 0.58, "cublas", 0.86, metadata_each_call=True),
    _dense(128, 2, 128, 4096, 0.4429, 0.840, 0.36, "cublas", 0.90),
    _dense(132, 2, 128, 32768, 3.4128, 0.919, 0.32, "cublas", 0.95),
    _dense(128, 1, 128, 32768, 1.7279, 0.857, 0.62, "cublas", 0.91),
    _dense(128, 1, 16, 8192, 0.3190, 0.145, 0.87, "read", 0.95),
    _dense(1, 1, 128, 65536, 0.0663, 0.348, 0.44, "read", 0.60),
    _dense(64, 1, 64, 8192, 0.1781, 0.518, 0.82, "read", 0.92),
    _dense(128, 1, 128, 4096, 0.2438, 0.713, 0.59, "cublas", 0.82, varlen=True),
    _dense(128, 2, 128, 4096, 0.4674, 0.838, 0.36, "cublas", 0.90, varlen=True),
    _dense(128, 2, 128, 4096, 0.4370, 0.847, 0.37, "cublas", 0.91, causal=True),
    _dense(128, 1, 32, 8192, 0.3197, 0.289, 0.87, "read", 0.95),
)


def _sparse(batch, s_q, h_q, topk, ms, cublas, read, of, target, s_k=32768):
    name = f"b={batch} sq={s_q} hq={h_q} topk={topk} sk={s_k}"
    peer = Peer("FlashMLA", cublas, read, ms)
    return Row(name, SparseDecode(batch, s_q, h_q, topk, s_k), (peer,), Target(of, target))


SPARSE_DECODE = (
    _sparse(128, 1, 128, 2048, 0.1905, 0.483, 0.31, "cublas", 0.66),
    _sparse(128, 2, 128, 2048, 0.3688, 0.501, 0.28, "cublas", 0.68),
    _sparse(1, 1, 128, 2048, 0.0220, 0.033, 0.30, "us", 12),
    _sparse(128, 2, 64, 2048, 0.2341, 0.396, 0.40, "cublas", 0.60),
    _sparse(1, 1, 64, 2048, 0.0220, 0.016, 0.31, "us", 12),
    _sparse(148, 2, 128, 16384, 3.2347, 0.532, 0.17, "cublas", 0.70),
)


def _prefill(s_kv, h_q, topk, ms, cublas, target, s_q=4096):
    name = f"sq={s_q} skv={s_kv} hq={h_q} topk={topk}"
    return Row(name, SparsePrefill(s_q, s_kv, h_q, topk), (Peer("FlashMLA", cublas, ms=ms),), Target("cublas", target))


SPARSE_PREFILL = (
    _prefill(8192, 128, 2048, 4.0115, 0.776, 0.85),
    _prefill(32768, 128, 2048, 4.0866, 0.773, 0.86),
    _prefill(131072, 128, 2048, 4.3392, 0.751, 0.84),
    _prefill(32768, 64, 2048, 1.8936, 0.785, 0.84),
    _prefill(32768, 128, 512, 1.1232, 0.657, 0.77),
    _prefill(32768, 64, 512, 0.5875, 0.630, 0.70),
)

# d_qk, d_v, batch, s, causal; then for forward and for backward: FA4's ms and share, cuDNN's share, the target.
_MHA = (
    (128, 128, 4, 4096, True, (0.918, 0.755, 0.727, 0.78), (2.583, 0.697, 0.595, 0.72)),
    (128, 128, 4, 4096, False, (1.605, 0.868, 0.817, 0.90), (4.750, 0.763, 0.667, 0.80)),
    (128, 128, 1, 16384, True, (3.464, 0.829, 0.766, 0.86), (9.165, 0.819, 0.680, 0.84)),
    (128, 128, 1, 16384, False, (6.461, 0.909, 0.824, 0.94), (17.875, 0.831, 0.704, 0.86)),
    (192, 128, 4, 4096, True, (1.111, 0.786, 0.743, 0.81), (4.091, 0.556, 0.544, 0.62)),
    (192, 128, 4, 4096, False, (1.873, 0.958, 0.831, 0.98), (7.517, 0.612, 0.393, 0.68)),
    (192, 128, 1, 16384, True, (4.267, 0.899, 0.770, 0.92), (14.382, 0.634, 0.622, 0.70)),
    (192, 128, 1, 16384, False, (7.551, 1.028, 0.794, 1.04), (28.292, 0.652, 0.398, 0.72)),
)


def _mha(make, d_qk, d_v, batch, s, causal, figures, h=32):
    ms, fa4, cudnn, target = figures
    name = f"{d_qk}/{d_v} b={batch} s={s} h={h}{' causal' if causal else ''}"
    return Row(
        name,
        make(d_qk, d_v, batch, s, h, causal),
        (Peer("FA4", fa4, ms=ms), Peer("cuDNN", cudnn)),
        Target("cublas", target),
    )


MHA_FORWARD = tuple(_mha(Mha, *shape, forward) for *shape, forward, _ in _MHA)
MHA_BACKWARD = tuple(_mha(MhaBackward, *shape, backward) for *shape, _, backward in _MHA)


def _backward(s, h_q, d_qk, ms, cublas, target, topk=2048):
    name = f"s={s} H={h_q} D={d_qk} topk={topk}"
    peer = Peer("cudnn-frontend", cublas, ms=ms)
    return Row(name, SparseBackward(s, s, h_q, topk, d_qk), (peer,), Target("cublas", target))


SPARSE_BACKWARD = (
    _backward(4096, 128, 576, 14.085, 0.532, 0.58),
    _backward(8192, 128, 576, 27.969, 0.538, 0.58),
    _backward(4096, 128, 512, 12.948, 0.536, 0.58),
    _backward(4096, 64, 576, 7.018, 0.533, 0.58),
)

# Gradients of kv that are the same bit for bit, each beside what it may take 1.5 times the time of.
DETERMINISTIC = tuple(
    Row(
        f"s=4096 skv={s_kv} H={h_q} D=576 topk={topk}{' deterministic' if deterministic else ''}",
        SparseBackward(4096, s_kv, h_q, topk, 576, deterministic=deterministic),
    )
    for s_kv, h_q, topk in ((4096, 128, 2048), (4096, 64, 2048), (32768, 128, 2048), (4096, 128, 512))
    for deterministic in (False, True)
)

SWEEP = tuple(
    Row(f"b={batch} sq={s_q} hq={h_q} sk={s_k}", DenseDecode(batch, s_q, h_q, s_k))
    for h_q, batch, s_k, s_q in itertools.product(
        (8, 16, 32, 64, 128), (1, 4, 16, 64, 128, 256), (1024, 4096, 16384, 65536), (1, 2, 4)
    )
)

PRESETS: dict[str, tuple[Row, ...]] = {
    "dense_decode": DENSE_DECODE,
    "sparse_decode": SPARSE_DECODE,
    "sparse_prefill": SPARSE_PREFILL,
    "mha_forward": MHA_FORWARD,
    "mha_backward": MHA_BACKWARD,
    "sparse_backward": SPARSE_BACKWARD,
    "deterministic": DETERMINISTIC,
    "sweep": SWEEP,
}
# What "all" stands for: the rows that peers have.
TABLES = tuple(name for name in PRESETS if name not in ("deterministic", "sweep"))

# What can be timed at sizes of one's own.
OPERATIONS: dict[str, type[Problem]] = {
    "dense_decode": DenseDecode,
    "sparse_decode": SparseDecode,
    "sparse_prefill": SparsePrefill,
    "mha_forward": Mha,
    "mha_backward": MhaBackward,
    "sparse_backward": SparseBackward,
}
_BOOLS = {"true": True, "false": False}


def row_of(operation: str, sizes: str) -> Row:
    """A row of one's own, from text such as ``"batch=8 s_q=1 h_q=128 s_k=4096"``.

    Raises:
      ValueError: a name that the operation does not have, one that is missing, or no number where one belongs.
    """
    problem = OPERATIONS[operation]
    fields = {field.name: field for field in dataclasses.fields(problem)}
    given = {}
    for word in sizes.split():
        name, _, value = word.partition("=")
        if name not in fields:
            raise ValueError(f"{operation} has no size {name!r}; it has {', '.join(fields)}.")
        if fields[name].type in (bool, "bool"):
            if value not in _BOOLS:
                raise ValueError(f"{name} must be true or false, got {value!r}.")
            given[name] = _BOOLS[value]
        elif not value.isdecimal() or int(value) < 1:
            raise ValueError(f"{name} must be a positive number, got {value!r}.")
        else:
            given[name] = int(value)
    missing = [name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in given]
    if missing:
        raise ValueError(f"{operation} needs {', '.join(missing)} in {sizes!r}.")
    return Row(sizes, problem(**given))
