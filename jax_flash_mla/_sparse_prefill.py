"""``flash_mla_sparse_fwd``: sparse attention over a flat pool of latent tokens."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jax_flash_mla import _ffi, _support, _vma
from jax_flash_mla import _validation as check
from jax_flash_mla._derivative import attention
from jax_flash_mla._stage import Pool
from jax_flash_mla.reference import sparse
from jax_flash_mla.reference import sparse_prefill as reference
from jax_flash_mla.reference.softmax import sink_gradient, sink_per_problem
from jax_flash_mla.reference.tiles import nonempty


def _kernel(config, **operands):
    """``reference.forward`` by the custom call, where what has no rows is not given."""
    if operands["attn_sink"] is None:
        operands["attn_sink"] = jnp.zeros((0, operands["q"].shape[1]), jnp.float32)
    if operands["topk_length"] is None:
        operands["topk_length"] = jnp.zeros((0,), jnp.int32)
    return _ffi.sparse_prefill(
        **operands,
        d_v=config.d_v,
        scale=config.scale,
        lse_base=config.lse_base,
        emulated=config.implementation == _support.EMULATED,
    )


# Places of indices are counted in int32.
MOST_PLACES = 2**31 - 1


def order_of_places(indices, topk_length, size):
    """Where the indices stand that name a token, for sums in one order.

    Args:
      indices: int32 [s_q, topk]; topk_length: int32 [s_q] or None.
      size: number of tokens.

    Returns:
      order: int32 [s_q · topk], the places of the tokens' indices, token by token, those of
        a token ascending; behind them those of indices that do not count.
      starts: int32 [size + 1], where each token's begin.

    Raises:
      NotImplementedError: there are more places than int32 counts.
    """
    n, topk = indices.shape
    if not check.is_symbolic(n * topk) and n * topk > MOST_PLACES:
        raise NotImplementedError(
            f"deterministic=True needs at most {MOST_PLACES} indices in all, got {n} query tokens with {topk}."
        )
    counts = (indices >= 0) & (indices < size)
    if topk_length is not None:
        lengths = jnp.where((topk_length >= 0) & (topk_length <= topk), topk_length, 0)
        counts &= jnp.arange(topk, dtype=jnp.int32) < lengths[:, None]
    tokens, order = sparse.order_by_id(jnp.where(counts, indices, size).reshape(-1))
    return order, _first_places(tokens, size)


def _first_places(tokens, size):
    """Where 0 … size would stand in ``tokens``, which ascend: int32 [size + 1].

    ``jnp.searchsorted`` does not know dimension variables.
    """
    steps = 31 if check.is_symbolic(tokens.shape[0]) else tokens.shape[0].bit_length()
    wanted = jnp.arange(size + 1, dtype=jnp.int32)
    begin, end = jnp.zeros_like(wanted), jnp.full_like(wanted, tokens.shape[0])
    tokens = nonempty(tokens)

    def halve(_, bounds):
        begin, end = bounds
        middle = begin + (end - begin) // 2
        is_behind = tokens.at[middle].get(mode="clip") < wanted
        is_open = begin < end
        return jnp.where(is_open & is_behind, middle + 1, begin), jnp.where(is_open & ~is_behind, middle, end)

    return jax.lax.fori_loop(0, steps, halve, _vma.vary_like((begin, end), tokens))[0]


def _backward_kernel(config, q, kv, indices, topk_length, attn_sink, out, lse, d_out, d_lse):
    """``reference.backward`` by the custom call; what is of rows alone by XLA."""
    unit = reference.LOG2_E if config.lse_base == 2 else 1.0
    lse, d_lse = lse / unit, d_lse * unit
    sound = sparse.all_sound([reference.source_of(kv, indices, topk_length)], q.shape[0])
    sinks = sink_per_problem(attn_sink, q.shape[0])
    share, delta, d_sinks = sparse.row_terms(sound, sinks, out, lse, d_out)
    ordered = order_of_places(indices, topk_length, kv.shape[0]) if config.deterministic else ()
    d_q, d_kv = _ffi.sparse_backward(
        q,
        kv,
        indices,
        jnp.zeros((0,), jnp.int32) if topk_length is None else topk_length,
        d_out,
        lse,
        share,
        share * delta - d_lse,
        *ordered,
        scale=config.scale,
        emulated=config.implementation == _support.EMULATED,
    )
    return d_q, d_kv, sink_gradient(d_sinks, attn_sink.shape[0])


ATTENTION = attention(
    "sparse_prefill",
    reference,
    operands={
        "q": "b h d",
        "kv": "p d",
        "indices": "b k",
        "topk_length": "b",
        "attn_sink": "m h",
    },
    results=("b h v", "b h", "b h"),
    differentiable=("q", "kv", "attn_sink"),
    pools={"kv": Pool(ids="indices", axes=1)},
    kernel=_kernel,
    backward_kernel=_backward_kernel,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Static options of a call."""

    d_v: int
    scale: float
    lse_base: int | str
    deterministic: bool
    implementation: str


def flash_mla_sparse_fwd(
    q,
    kv,
    indices,
    sm_scale,
    d_v=512,
    *,
    attn_sink=None,
    topk_length=None,
    lse_base=2,
    deterministic=False,
    implementation=None,
):
    """Attention of each query token over the key tokens that its indices name.

    Dimensions: s_q query tokens, s_kv key tokens, h_q query heads over one key head,
    d_qk dimensions of a key. Sequences of a batch are concatenated, their indices
    offset by the caller; or the function is mapped with ``jax.vmap``.

    Args:
      q: [s_q, h_q, d_qk], bfloat16, float16 or float32.
      kv: [s_kv, 1, d_qk] of q's dtype; values are its first ``d_v`` dimensions.
      indices: int32 [s_q, 1, topk]. A value below 0 or from s_kv on names nothing; one
        that stands twice counts twice.
      sm_scale: static float, finite; multiplies q·k.
      d_v: static int, at most d_qk.
      attn_sink: float32 [h_q]; a logit per head with value zero, in natural units, not
        scaled. It scales ``out`` by e^lse / (e^lse + e^sink) and leaves ``lse`` alone.
      topk_length: int32 [s_q]; only so many leading indices of a query token count.
      lse_base: static; 2 (FlashMLA's published contract) or "e": the unit of
        ``max_logits`` and ``lse``.
      deterministic: static bool; whether gradients must be equal bit for bit from run to
        run. On a GPU the gradient of kv is then a sum in one order, which takes longer and
        up to 1 GiB; the kernel rounds each addend to q's dtype.
      implementation: static; None (a kernel where there is one, else XLA), "cuda" or
        "xla".

    Returns:
      ``(out, max_logits, lse)``: out [s_q, h_q, d_v] of q's dtype; max_logits and lse
      float32 [s_q, h_q]. With P = sm_scale · q·k · log2(e) for base 2 and without the
      last factor for base e, max_logits is max P and lse is log Σ base^P. A query token
      with nothing to attend to has out 0 and −inf in the others; one whose
      ``topk_length`` is negative or above topk has NaN in all three.

    Raises:
      TypeError: a wrong dtype, an argument that is not an array, a traced value for a
        static argument, or a bool for ``sm_scale``.
      ValueError: shapes that do not fit together, or a value that is not allowed.
      NotImplementedError: ``implementation="cuda"`` where no kernel runs these arguments; or,
        when differentiated with ``deterministic``, 2³¹ indices or more in all.

    Differentiable in q, kv and attn_sink, through out and lse, in reverse mode; the
    gradient of max_logits is zero. The gradient of kv sums over queries in float32. The
    result names for ``jax.checkpoint`` policies are ``jax_flash_mla.out`` and
    ``jax_flash_mla.lse``.
    """
    scale = check.static_scale("sm_scale", sm_scale)
    d_v = check.static_int("d_v", d_v, 1)
    lse_base = check.static_choice("lse_base", lse_base, (2, "e"))
    deterministic = check.static_bool("deterministic", deterministic)
    shapes = check.Shapes()
    q = shapes.array("q", q, "s_q h_q d_qk", check.FLOATS)
    kv = shapes.array("kv", kv, "s_kv 1 d_qk", check.FLOATS)
    check.same_dtype("kv", kv, "q", q)
    indices = shapes.array("indices", indices, "s_q 1 topk", check.INT32)
    check.host_lengths_within("topk_length", topk_length, "topk", shapes["topk"])
    topk_length = shapes.optional("topk_length", topk_length, "s_q", check.INT32)
    attn_sink = shapes.optional("attn_sink", attn_sink, "h_q", check.FLOAT32)
    check.at_least("q", "a number of heads", shapes["h_q"], 1)
    check.at_most("d_v", d_v, "the head dimension of kv", shapes["d_qk"])
    chosen = _support.resolve(
        "sparse_prefill",
        implementation,
        dtype=q.dtype,
        **{name: shapes[name] for name in ("h_q", "d_qk", "topk")},
        d_v=d_v,
        deterministic=deterministic,
    )
    out, max_logits, lse = ATTENTION(
        Config(d_v, scale, lse_base, deterministic, chosen),
        q=q,
        kv=kv[:, 0],
        indices=indices[:, 0],
        topk_length=topk_length,
        attn_sink=None if attn_sink is None else attn_sink[None],
    )
    return out, jax.lax.stop_gradient(max_logits), lse
