"""Sparse prefill: query tokens over a flat pool of latent tokens."""

from __future__ import annotations

from jax_flash_mla.reference import sparse
from jax_flash_mla.reference.softmax import sink_gradient, sink_per_problem
from jax_flash_mla.reference.tiles import nonempty

LOG2_E = 1.4426950408889634


def source_of(kv, indices, topk_length):
    """The operands of ``forward`` that name keys."""
    pool = nonempty(kv)
    return sparse.Source(lambda ids: pool.at[ids].get(mode="clip"), kv.shape[0], indices, topk_length)


def forward(config, *, q, kv, indices, topk_length, attn_sink):
    """Attention of each query token over the tokens of ``kv`` that its indices name.

    Args:
      config: has ``d_v``, ``scale``, ``lse_base``, ``deterministic``.
      q: [s_q, h_q, d]; kv: [s_kv, d]; indices: int32 [s_q, topk].
      topk_length: int32 [s_q] or None; attn_sink: float32 [m, h_q] or None.

    Returns:
      out [s_q, h_q, d_v] of q's dtype; max_logits and lse, float32 [s_q, h_q], in units
      of ``lse_base``.
    """
    sinks = None if attn_sink is None else sink_per_problem(attn_sink, q.shape[0])
    source = source_of(kv, indices, topk_length)
    out, max_logits, lse = sparse.forward(config.scale, config.d_v, q, [source], sinks)
    unit = LOG2_E if config.lse_base == 2 else 1.0
    return out, max_logits * unit, lse * unit


def backward(config, *, q, kv, indices, topk_length, attn_sink, out, lse, d_out, d_lse):
    """Gradients of ``forward`` in q, kv and attn_sink; those of kv and the sink in float32."""
    unit = LOG2_E if config.lse_base == 2 else 1.0
    d_q, (d_kv,), d_sinks = sparse.backward(
        config.scale,
        config.d_v,
        q,
        [source_of(kv, indices, topk_length)],
        sink_per_problem(attn_sink, q.shape[0]),
        out,
        lse / unit,
        d_out,
        d_lse * unit,
        pool_gradients=True,
        deterministic=config.deterministic,
    )
    return d_q, d_kv, sink_gradient(d_sinks, attn_sink.shape[0])
