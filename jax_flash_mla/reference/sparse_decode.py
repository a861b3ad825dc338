"""Sparse decode: query tokens over chosen tokens of one or two paged caches."""

from __future__ import annotations

import jax.numpy as jnp

from jax_flash_mla.reference import sparse
from jax_flash_mla.reference.paged_tokens import read_tokens
from jax_flash_mla.reference.softmax import sink_gradient, sink_per_problem
from jax_flash_mla.reference.tiles import nonempty


def _flat(x):
    """[b, s_q, ...] → [b · s_q, ...]."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _source(fmt, cache, indices, lengths):
    num_pages, page_size = cache.shape[:2]
    pool = nonempty(nonempty(cache))
    slots_per_page = pool.shape[1]

    def fetch(ids):
        return read_tokens(pool, fmt, ids // slots_per_page, ids % slots_per_page)

    return sparse.Source(fetch, num_pages * page_size, _flat(indices), None if lengths is None else _flat(lengths))


def _sources(config, k_cache, indices, topk_length, extra_k_cache, extra_indices, extra_topk_length):
    sources = [_source(config.fmt, k_cache, indices, topk_length)]
    if extra_k_cache is not None:
        sources.append(_source(config.fmt, extra_k_cache, extra_indices, extra_topk_length))
    return sources


def _sinks(attn_sink, b, s_q):
    """[m, h] → [b · s_q, h]."""
    rows = sink_per_problem(attn_sink, b)
    return _flat(jnp.broadcast_to(rows[:, None], (b, s_q, rows.shape[1])))


def forward(config, *, q, attn_sink, **lists):
    """Attention of each query token over the cached tokens that its indices name.

    Args:
      config: has ``head_dim_v``, ``scale``, ``fmt`` (None for a float cache).
      q: [b, s_q, h_q, d].
      attn_sink: float32 [m, h_q] or None.
      **lists: ``k_cache`` [pages, page_size, 1, width]; ``indices`` int32 [b, s_q, topk];
        ``topk_length`` int32 [b, s_q] or None; and the same three of a second cache,
        ``extra_k_cache``, ``extra_indices``, ``extra_topk_length``, or None.

    Returns:
      out [b, s_q, h_q, head_dim_v] of q's dtype and lse float32 [b, h_q, s_q].
    """
    b, s_q, h_q, _ = q.shape
    sinks = None if attn_sink is None else _sinks(attn_sink, b, s_q)
    sources = _sources(config, **lists)
    out, _, lse = sparse.forward(config.scale, config.head_dim_v, _flat(q), sources, sinks)
    return out.reshape(b, s_q, h_q, config.head_dim_v), jnp.swapaxes(lse.reshape(b, s_q, h_q), 1, 2)


def backward(config, *, q, attn_sink, out, lse, d_out, d_lse, **lists):
    """Gradients of ``forward`` in q, in float caches, and in attn_sink.

    Those of caches and sink are float32; FP8 caches have none.
    """
    b, s_q, _, _ = q.shape
    d_q, d_pools, d_sinks = sparse.backward(
        config.scale,
        config.head_dim_v,
        _flat(q),
        _sources(config, **lists),
        _sinks(attn_sink, b, s_q),
        _flat(out),
        _flat(jnp.swapaxes(lse, 1, 2)),
        _flat(d_out),
        _flat(jnp.swapaxes(d_lse, 1, 2)),
        pool_gradients=config.fmt is None,
    )
    caches = (lists["k_cache"], lists["extra_k_cache"])
    d_caches = [d.reshape(cache.shape) for d, cache in zip(d_pools, caches) if d is not None]
    d_sinks = sink_gradient(d_sinks.reshape(b, s_q, attn_sink.shape[1]).sum(1), attn_sink.shape[0])
    return (d_q.reshape(q.shape), *d_caches, d_sinks)
