"""Sweeps: rows over the sizes that models have, without peers and targets.

A row's name is its sizes, ``name=value``; ``curves.py`` reads them from there.
"""

from __future__ import annotations

import itertools

from jax_flash_mla._bench.problems import (
    DenseDecode,
    Mha,
    MhaBackward,
    SparseBackward,
    SparseDecode,
    SparsePrefill,
)
from jax_flash_mla._bench.rows import Row

HEADS = (8, 16, 32, 64, 128)
TOKENS = 4096  # queries of a prompt
PACKED = 16384  # tokens of a batch of sequences that are shorter


def _dense_decode():
    for h_q, batch, s_k, s_q in itertools.product(
        HEADS, (1, 4, 16, 64, 128, 256), (1024, 4096, 16384, 65536), (1, 2, 4)
    ):
        yield Row(f"b={batch} sq={s_q} hq={h_q} sk={s_k}", DenseDecode(batch, s_q, h_q, s_k))


def _sparse_decode():
    for h_q, batch, topk in itertools.product(HEADS, (1, 16, 64, 128, 256), (64, 256, 1024, 2048, 8192, 32768)):
        yield Row(f"b={batch} hq={h_q} topk={topk}", SparseDecode(batch, 1, h_q, topk, max(topk, 16384)))
    # The layouts beside each other, with as many keys.
    for h_q, topk, extra_topk in ((64, 128, 512), (128, 128, 1024)):
        keys = topk + extra_topk
        yield Row(f"V32 b=128 hq={h_q} topk={keys}", SparseDecode(128, 1, h_q, keys, 16384))
        planar = SparseDecode(128, 1, h_q, topk, 16384, planar=True, extra_topk=extra_topk)
        yield Row(f"MODEL1 b=128 hq={h_q} topk={topk} extra={extra_topk}", planar)


def _sparse_prefill():
    for h_q, s_kv, topk in itertools.product((16, 32, 64, 128), (8192, 32768, 131072, 262144), (128, 512, 2048, 8192)):
        yield Row(f"hq={h_q} skv={s_kv} topk={topk} valid=100", SparsePrefill(TOKENS, s_kv, h_q, topk))
    for valid, topk in itertools.product((0, 10, 50), (512, 2048)):
        problem = SparsePrefill(TOKENS, 32768, 128, topk, valid=valid)
        yield Row(f"hq=128 skv=32768 topk={topk} valid={valid}", problem)


def _sparse_backward():
    for h_q, topk in itertools.product((16, 32, 64, 128), (128, 512, 1024, 2048)):
        for deterministic in (False, True):
            name = f"hq={h_q} s={TOKENS} topk={topk}{' deterministic' if deterministic else ''}"
            yield Row(name, SparseBackward(TOKENS, TOKENS, h_q, topk, deterministic=deterministic))


def _mha(problem):
    for d_qk, h, group, causal, s in itertools.product(
        (128, 192), (8, 32, 128), (1, 8), (True, False), (1024, 4096, 16384, 65536)
    ):
        batch = max(1, PACKED // s)
        name = f"d={d_qk} h={h} hkv={h // group} s={s} b={batch}{' causal' if causal else ''}"
        yield Row(name, problem(d_qk, 128, batch, s, h, causal, h // group))


SWEEPS: dict[str, tuple[Row, ...]] = {
    "sweep_dense_decode": tuple(_dense_decode()),
    "sweep_sparse_decode": tuple(_sparse_decode()),
    "sweep_sparse_prefill": tuple(_sparse_prefill()),
    "sweep_sparse_backward": tuple(_sparse_backward()),
    "sweep_mha_forward": tuple(_mha(Mha)),
    "sweep_mha_backward": tuple(_mha(MhaBackward)),
}
