"""What every operation must compute, in float64 NumPy.

Written from the formulas, with loops and whole score matrices, sharing nothing with
the code under test. Arrays of any float dtype come in; float64 goes out. Rows that the
operations leave undefined on purpose (padding, nothing to attend to, out-of-range
lengths) follow the documented semantics.
"""

import numpy as np

LN2 = float(np.log(2.0))


def f64(x):
    return np.asarray(x).astype(np.float64)


# --------------------------------------------------------------------------------------
# One row of attention


def attend_row(q, keys, values, scale, sink=None):
    """One query over a list of keys: out, max logit, natural log-sum-exp."""
    if len(keys) == 0:
        return np.zeros(values.shape[-1]), -np.inf, -np.inf
    with np.errstate(all="ignore"):
        logits = scale * (keys @ q)
        top = logits.max()
        if not np.isfinite(top):
            return np.full(values.shape[-1], np.nan), np.nan, np.nan
        weights = np.exp(logits - top)
        lse = top + np.log(weights.sum())
        out = weights @ values / weights.sum()
        if sink is not None:
            out = out * keys_share(lse, sink)
    return out, top, lse


def keys_share(lse, sink):
    """e^lse / (e^lse + e^sink)."""
    if sink == np.inf:
        return 0.0
    if sink == -np.inf:
        return 1.0
    top = max(lse, sink)
    return np.exp(lse - top) / (np.exp(lse - top) + np.exp(sink - top))


def attend_row_gradient(q, keys, values, scale, sink, d_out, d_lse):
    """Gradients of ``attend_row`` in q, keys, values and sink, by the Jacobian of softmax.

    The sink is an extra key of logit ``sink`` and value zero for ``out``; the log-sum-exp
    does without it.
    """
    n = len(keys)
    if n == 0:
        return np.zeros_like(q), np.zeros_like(keys), np.zeros_like(values), 0.0
    logits = scale * (keys @ q)
    plain = np.exp(logits - logits.max())
    plain = plain / plain.sum()
    lse = logits.max() + np.log(np.exp(logits - logits.max()).sum())
    share = 1.0 if sink is None else keys_share(lse, sink)
    probabilities = np.append(share * plain, 1.0 - share)
    all_values = np.vstack([values, np.zeros((1, values.shape[1]))])
    d_probabilities = all_values @ d_out
    d_logits = probabilities * (d_probabilities - probabilities @ d_probabilities)
    d_values = np.outer(probabilities[:n], d_out)
    d_scores = d_logits[:n] + plain * d_lse
    return scale * (d_scores @ keys), scale * np.outer(d_scores, q), d_values, d_logits[n]


# --------------------------------------------------------------------------------------
# Dense decode


def _dense_keys(k_cache, block_table, cache_seqlens, request):
    """Places (page, slot) of a request's keys; None where they cannot be had."""
    num_pages, page_size = k_cache.shape[:2]
    length = int(cache_seqlens[request])
    if length < 0 or length > block_table.shape[1] * page_size:
        return None
    places = []
    for position in range(length):
        page = int(block_table[request, position // page_size])
        if not 0 <= page < num_pages:
            return None
        places.append((page, position % page_size))
    return places


def dense_decode(q, k_cache, block_table, cache_seqlens, *, head_dim_v, scale, causal=False, attn_sink=None):
    """out [b, s_q, h_q, d_v], lse [b, h_q, s_q]."""
    b, s_q, h_q, _ = q.shape
    out, lse = np.zeros((b, s_q, h_q, head_dim_v)), np.zeros((b, h_q, s_q))
    for i, s, h, row, keys, _ in _dense_rows(q, k_cache, block_table, cache_seqlens, causal):
        if keys is None:
            out[i, s, h] = lse[i, h, s] = np.nan
            continue
        sink = None if attn_sink is None else float(attn_sink[h])
        out[i, s, h], _, lse[i, h, s] = attend_row(row, keys, keys[:, :head_dim_v], scale, sink)
    return out, lse


def dense_decode_gradient(
    q, k_cache, block_table, cache_seqlens, d_out, d_lse, *, head_dim_v, scale, causal=False, attn_sink=None
):
    """d_q, d_k_cache, d_attn_sink (None without one)."""
    d_q, d_cache = np.zeros(q.shape), np.zeros(k_cache.shape)
    d_sink = None if attn_sink is None else np.zeros(q.shape[2])
    h_kv = k_cache.shape[2]
    for i, s, h, row, keys, places in _dense_rows(q, k_cache, block_table, cache_seqlens, causal):
        if keys is None:
            d_q[i, s, h] = np.nan
            continue
        sink = None if attn_sink is None else float(attn_sink[h])
        d_row, d_keys, d_values, d_s = attend_row_gradient(
            row, keys, keys[:, :head_dim_v], scale, sink, f64(d_out[i, s, h]), float(d_lse[i, h, s])
        )
        d_q[i, s, h] = d_row
        d_keys[:, :head_dim_v] += d_values
        for place, d_key in zip(places, d_keys):
            d_cache[(*place, h * h_kv // q.shape[2])] += d_key
        if d_sink is not None:
            d_sink[h] += d_s
    return d_q, d_cache, d_sink


def dense_decode_large(q, k_cache, block_table, cache_seqlens, *, head_dim_v, scale, causal=False, attn_sink=None):
    """``dense_decode`` by matrix products, for problems that are long to do row by row.

    Returns:
      out, lse, and spread: √Σ (probability · value)² for each element of out. Where
      weights are rounded, each with an error of its own, the error of out is of that
      size, times the error of one.
    """
    b, s_q, h_q, _ = q.shape
    h_kv = k_cache.shape[2]
    out, lse = np.zeros((b, s_q, h_q, head_dim_v)), np.zeros((b, h_q, s_q))
    spread = np.zeros_like(out)
    for i in range(b):
        places = _dense_keys(k_cache, block_table, cache_seqlens, i)
        if places is None:
            out[i] = lse[i] = np.nan
            continue
        pages, slots = (np.array(x, int) for x in zip(*places)) if places else (np.zeros(0, int),) * 2
        for g in range(h_kv):
            keys = f64(k_cache[pages, slots, g])
            heads = slice(g * h_q // h_kv, (g + 1) * h_q // h_kv)
            logits = scale * (f64(q[i, :, heads]) @ keys.T)
            if causal:
                seen = len(places) - (s_q - 1 - np.arange(s_q))
                logits[np.broadcast_to(np.arange(len(places)) >= seen[:, None, None], logits.shape)] = -np.inf
            top = logits.max(-1, keepdims=True, initial=-np.inf)
            weights = np.exp(logits - np.where(np.isfinite(top), top, 0))
            total = weights.sum(-1, keepdims=True)
            with np.errstate(divide="ignore"):
                log_sum = (top + np.log(total))[..., 0]
            share = np.ones_like(log_sum)
            if attn_sink is not None:
                share = np.vectorize(keys_share)(log_sum, f64(attn_sink[heads])) * np.isfinite(log_sum)
            weights *= (share / np.where(total == 0, 1, total)[..., 0])[..., None]
            out[i, :, heads] = weights @ keys[:, :head_dim_v]
            spread[i, :, heads] = np.sqrt(weights**2 @ keys[:, :head_dim_v] ** 2)
            lse[i, heads] = log_sum.T
    return out, lse, spread


def _dense_rows(q, k_cache, block_table, cache_seqlens, causal):
    """Every query row with the keys it sees; keys None for unsound requests."""
    b, s_q, h_q, _ = q.shape
    h_kv = k_cache.shape[2]
    q, k_cache = f64(q), f64(k_cache)
    for i in range(b):
        places = _dense_keys(k_cache, block_table, cache_seqlens, i)
        if places is not None:
            keys = np.array([k_cache[place] for place in places]).reshape(len(places), *k_cache.shape[2:])
        for s in range(s_q):
            for h in range(h_q):
                if places is None:
                    yield i, s, h, q[i, s, h], None, None
                    continue
                seen = max(0, len(places) - (s_q - 1 - s)) if causal else len(places)
                yield i, s, h, q[i, s, h], keys[:seen, h * h_kv // h_q], places[:seen]


# --------------------------------------------------------------------------------------
# Sparse attention


def flat_fetch(kv):
    """Keys of a flat pool [s_kv, d] by id; None for an id outside."""
    kv = f64(kv)
    return lambda i: kv[i] if 0 <= i < len(kv) else None


def paged_fetch(cache, fmt=None):
    """Keys of a paged cache by id: FP8 bytes of a format ("V32", "MODEL1"), or floats."""
    num_pages, page_size = cache.shape[:2]

    def fetch(i):
        if not 0 <= i < num_pages * page_size:
            return None
        page, slot = divmod(i, page_size)
        if fmt is None:
            return f64(cache[page, slot, 0])
        return np.concatenate(dequantize_token(cache, fmt, page, slot))

    return fetch


def sparse_attention(q, lists, *, d_v, scale, attn_sink=None):
    """Query rows [n, h, d] over lists of keys: out, max logits, lse, natural.

    ``lists`` holds (fetch, ids [n, topk], lengths [n] or None).
    """
    n, h, _ = q.shape
    out, top, lse = np.zeros((n, h, d_v)), np.zeros((n, h)), np.zeros((n, h))
    for i in range(n):
        chosen = _chosen(lists, i, q.shape[-1])
        for j in range(h):
            if chosen is None:
                out[i, j] = top[i, j] = lse[i, j] = np.nan
                continue
            keys = chosen[0]
            sink = None if attn_sink is None else float(attn_sink[j])
            out[i, j], top[i, j], lse[i, j] = attend_row(f64(q[i, j]), keys, keys[:, :d_v], scale, sink)
    return out, top, lse


def sparse_attention_large(q, kv, indices, topk_length, *, d_v, scale, attn_sink=None):
    """``sparse_attention`` over one flat pool [s_kv, d], by matrix products.

    A key chosen several times is one of as many times the weight: its weights are all rounded alike, and what
    rounding does to them does not even out.

    Returns:
      out, max logits and lse, natural, and spread, as ``dense_decode_large``.
    """
    n, h, _ = q.shape
    out, spread = np.zeros((n, h, d_v)), np.zeros((n, h, d_v))
    top, lse = np.full((n, h), -np.inf), np.full((n, h), -np.inf)
    for i in range(n):
        length = indices.shape[1] if topk_length is None else int(topk_length[i])
        if not 0 <= length <= indices.shape[1]:
            out[i] = top[i] = lse[i] = np.nan
            continue
        chosen = indices[i, :length]
        chosen, counts = np.unique(chosen[(chosen >= 0) & (chosen < len(kv))], return_counts=True)
        if len(chosen) == 0:
            continue
        keys = f64(kv[chosen])
        logits = scale * (f64(q[i]) @ keys.T)
        top[i] = logits.max(-1)
        weights = counts * np.exp(logits - top[i, :, None])
        lse[i] = top[i] + np.log(weights.sum(-1))
        share = np.ones(h) if attn_sink is None else np.vectorize(keys_share)(lse[i], f64(attn_sink))
        weights *= (share / weights.sum(-1))[:, None]
        out[i] = weights @ keys[:, :d_v]
        spread[i] = np.sqrt(weights**2 @ keys[:, :d_v] ** 2)
    return out, top, lse, spread


def sparse_gradient(q, lists, sizes, d_out, d_lse, *, d_v, scale, attn_sink=None):
    """d_q, the gradient of each pool [size, d], d_sink (None without one)."""
    n, h, d = q.shape
    d_q, d_pools = np.zeros(q.shape), [np.zeros((size, d)) for size in sizes]
    d_sink = None if attn_sink is None else np.zeros(h)
    for i in range(n):
        chosen = _chosen(lists, i, d)
        for j in range(h):
            if chosen is None:
                d_q[i, j] = np.nan
                continue
            keys, places = chosen
            sink = None if attn_sink is None else float(attn_sink[j])
            d_row, d_keys, d_values, d_s = attend_row_gradient(
                f64(q[i, j]), keys, keys[:, :d_v], scale, sink, f64(d_out[i, j]), float(d_lse[i, j])
            )
            d_q[i, j] = d_row
            d_keys[:, :d_v] += d_values
            for (pool, index), d_key in zip(places, d_keys):
                d_pools[pool][index] += d_key
            if d_sink is not None:
                d_sink[j] += d_s
    return d_q, d_pools, d_sink


def _chosen(lists, i, d):
    """Keys that query token i attends to, and where they are; None if its lengths are out of range."""
    keys, places = [], []
    for pool, (fetch, ids, lengths) in enumerate(lists):
        topk = ids.shape[1]
        length = topk if lengths is None else int(lengths[i])
        if not 0 <= length <= topk:
            return None
        for index in ids[i, :length]:
            key = fetch(int(index))
            if key is not None:
                keys.append(key)
                places.append((pool, int(index)))
    return np.array(keys).reshape(len(keys), d), places


# --------------------------------------------------------------------------------------
# Multi-head attention


def mha(q, k, v, q_ranges, kv_ranges, *, scale, causal=False):
    """Packed attention: out [total_q, n, e], lse [total_q, n].

    ``q_ranges`` and ``kv_ranges`` are lists of (start, end), one a sequence, or None for
    both of an unsound sequence; see ``ranges``.
    """
    out, lse = np.zeros((*q.shape[:2], v.shape[-1])), np.full(q.shape[:2], -np.inf)
    for i, h, row, keys, values, _ in _mha_rows(q, k, v, q_ranges, kv_ranges, causal):
        out[i, h], _, lse[i, h] = attend_row(row, keys, values, scale)
    return out, lse


def mha_gradient(q, k, v, q_ranges, kv_ranges, d_out, d_lse, *, scale, causal=False):
    """d_q, d_k, d_v."""
    d_q, d_k, d_v = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    for i, h, row, keys, values, (first, g) in _mha_rows(q, k, v, q_ranges, kv_ranges, causal):
        d_row, d_keys, d_values, _ = attend_row_gradient(
            row, keys, values, scale, None, f64(d_out[i, h]), float(d_lse[i, h])
        )
        d_q[i, h] = d_row
        d_k[first : first + len(keys), g] += d_keys
        d_v[first : first + len(keys), g] += d_values
    return d_q, d_k, d_v


def _mha_rows(q, k, v, q_ranges, kv_ranges, causal):
    q, k, v = f64(q), f64(k), f64(v)
    group = q.shape[1] // k.shape[1]
    for q_range, kv_range in zip(q_ranges, kv_ranges):
        if q_range is None:
            continue
        (q_start, q_end), (k_start, k_end) = q_range, kv_range
        offset = (k_end - k_start) - (q_end - q_start)
        for i in range(q_start, q_end):
            end = min(k_end, k_start + i - q_start + offset + 1) if causal else k_end
            for h in range(q.shape[1]):
                g = h // group
                rows = slice(k_start, max(k_start, end))
                yield i, h, q[i, h], k[rows, g], v[rows, g], (k_start, g)


def ranges(cu_q, total_q, cu_kv, total_kv):
    """Sound sequences of two arrays of cumulative lengths, and the tokens spoiled by the others.

    Returns: lists of (start, end) or None, for each side; sets of spoiled tokens, for
    each side.
    """
    cu_q, cu_kv = [int(x) for x in cu_q], [int(x) for x in cu_kv]
    sound = [a and b for a, b in zip(_sound(cu_q, total_q), _sound(cu_kv, total_kv))]
    sides = []
    for cu, total in ((cu_q, total_q), (cu_kv, total_kv)):
        pairs = list(zip(cu[:-1], cu[1:]))
        kept = [pair if ok else None for pair, ok in zip(pairs, sound)]
        end_of_all = min(max(cu[-1], 0), total)
        owned = {t for pair in kept if pair for t in range(*pair)}
        spoiled = set()
        for pair, ok in zip(pairs, sound):
            if not ok:
                spoiled |= set(range(max(pair[0], 0), min(pair[1], end_of_all)))
        sides.append((kept, spoiled - owned))
    (q_ranges, q_spoiled), (kv_ranges, kv_spoiled) = sides
    return q_ranges, kv_ranges, q_spoiled, kv_spoiled


def _sound(cu, total):
    """Which sequences stay within the tokens, do not decrease, and do not run into an earlier one."""
    verdicts, reached = [], 0
    for start, end in zip(cu[:-1], cu[1:]):
        usable = 0 <= start <= end <= total
        verdicts.append(usable and start >= reached)
        if usable:
            reached = max(reached, end)
    return verdicts


# --------------------------------------------------------------------------------------
# FP8 caches

FORMATS = {
    # latent dims, dims of a scale, bytes of a token
    "V32": (512, 128, 656),
    "MODEL1": (448, 64, 584),
}


def e4m3(code):
    """The value of an e4m3fn code: 1 sign, 4 exponent (bias 7), 3 mantissa bits; no infinities."""
    code = int(code)
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = (code >> 3) & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return np.nan
    if exponent == 0:
        return sign * mantissa * 2.0**-9
    return sign * (8 + mantissa) * 2.0 ** (exponent - 10)


E4M3 = np.array([e4m3(code) for code in range(256)])


def token_bytes(cache, fmt, page, slot):
    """The parts of a token: codes, scale bytes, RoPE bytes."""
    latent, group, _ = FORMATS[fmt]
    page_size = cache.shape[1]
    data = np.asarray(cache[page]).view(np.uint8).reshape(-1)
    if fmt == "V32":
        token = data[656 * slot : 656 * (slot + 1)]
        return token[:512], token[512:528], token[528:]
    token = data[576 * slot : 576 * (slot + 1)]
    scales = data[576 * page_size + 8 * slot :][: latent // group]
    return token[:latent], scales, token[latent:]


def dequantize_token(cache, fmt, page, slot):
    """Latent and RoPE of one token, float64."""
    _, group, _ = FORMATS[fmt]
    codes, scales, rope = token_bytes(cache, fmt, page, slot)
    if fmt == "V32":
        scales = scales.copy().view("<f4").astype(np.float64)
    else:
        scales = np.array([np.nan if s == 255 else 2.0 ** (int(s) - 127) for s in scales])
    rope = (rope.copy().view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return E4M3[codes] * np.repeat(scales, group), rope


def quantize_token(latent, rope, fmt, power_of_two_scales=False):
    """The parts of a token as bytes: codes, scale bytes, RoPE bytes.

    float32 arithmetic step by step, as the layout defines it; rounding to e4m3 picks the
    nearest of all codes, the even one of two.
    """
    dims, group, _ = FORMATS[fmt]
    x = np.asarray(latent).astype(np.float32).reshape(dims // group, group)
    amax = np.abs(x).max(axis=1)
    scale = np.maximum(amax / np.float32(448), np.float32(1e-4)).astype(np.float32)
    if power_of_two_scales or fmt == "MODEL1":
        mantissa, exponent = np.frexp(scale)
        scale = np.ldexp(np.float32(1), np.where(mantissa == 0.5, exponent - 1, exponent)).astype(np.float32)
    quotient = np.clip((x / scale[:, None]).astype(np.float32), np.float32(-448), np.float32(448))
    codes = _nearest_e4m3(quotient.reshape(-1))
    scales = scale.view(np.uint8) if fmt == "V32" else (np.log2(scale).astype(int) + 127).astype(np.uint8)
    return codes, scales, _bfloat16_bytes(rope)


def _nearest_e4m3(x):
    magnitudes = E4M3[:127]
    above = np.searchsorted(magnitudes, np.abs(x).astype(np.float64))
    above = np.minimum(above, 126)
    below = np.maximum(above - 1, 0)
    to_above = magnitudes[above] - np.abs(x)
    to_below = np.abs(x) - magnitudes[below]
    take_below = (to_below < to_above) | ((to_below == to_above) & (below % 2 == 0))
    code = np.where(take_below, below, above)
    return (code | np.where(np.signbit(x), 0x80, 0)).astype(np.uint8)


def _bfloat16_bytes(x):
    bits = np.asarray(x).astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2").view(np.uint8)


# --------------------------------------------------------------------------------------
# Merging


def merge(outs, lses, base=np.e):
    """out [..., d], lse [...] of k parts."""
    outs, lses = f64(outs), f64(lses) * np.log(base)
    out, lse = np.zeros(outs.shape[1:]), np.full(lses.shape[1:], -np.inf)
    for i in np.ndindex(lse.shape):
        column = lses[(slice(None), *i)]
        known = [j for j in range(len(column)) if column[j] != -np.inf]
        if not known:
            continue
        top = max(column[j] for j in known)
        weights = np.array([np.exp(column[j] - top) for j in known])
        lse[i] = top + np.log(weights.sum())
        parts = np.array([outs[(j, *i)] for j in known])
        out[i] = weights @ parts / weights.sum()
    return out, lse / np.log(base)
