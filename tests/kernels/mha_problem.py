"""Problems for the forward kernel of multi-head attention, and calls of it into poisoned buffers."""

import functools
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import oracle
from absl.testing import parameterized
from base import implementations_of, on_a_gpu

from jax_flash_mla import _ffi, _support
from jax_flash_mla._mha_ranges import sequence_ranges
from kernels.poison import call_into_poison, donating
from kernels.rounding import KernelTest

HAS_KERNEL = "cuda" in implementations_of("mha")
runs_the_kernel = on_a_gpu(HAS_KERNEL, "no GPU here has a kernel of multi-head attention")
HAS_GRADIENTS = _support.of_gradients("mha", "cuda") == "cuda"
DTYPES = [x for x in (ml_dtypes.bfloat16, np.float16) if _support.supports("mha", dtype=x) is None or not HAS_KERNEL]
D_V = 128


def bounds_of(lengths):
    """Cumulative lengths of packs, int32 [packs, n + 1]."""
    return np.pad(np.cumsum(np.atleast_2d(lengths), axis=1), ((0, 0), (1, 0))).astype(np.int32)


class Problem:
    """Operands of one call, in host memory, for a test to change: packs of sequences."""

    def __init__(
        self, rng, *, q_lengths, kv_lengths, padding=0, h_q=2, h_kv=1, d=192, causal=False, dtype=ml_dtypes.bfloat16
    ):
        """``q_lengths``, ``kv_lengths``: [n], or [packs, n]; ``padding``: tokens behind the longest pack."""
        self.cu_q, self.cu_kv = bounds_of(q_lengths), bounds_of(kv_lengths)
        packs = len(self.cu_q)
        tokens_q, tokens_kv = (int(cu[:, -1].max(initial=0)) + padding for cu in (self.cu_q, self.cu_kv))

        def normal(*shape):
            return rng.standard_normal(shape, np.float32).astype(dtype)

        self.q = normal(packs, tokens_q, h_q, d)
        self.k, self.v = normal(packs, tokens_kv, h_kv, d), normal(packs, tokens_kv, h_kv, D_V)
        self.causal, self.scale = causal, d**-0.5

    @classmethod
    def random(cls, rng):
        """Of any size that the kernel takes, with a share of what is rare."""
        h_kv = int(rng.choice([1, 1, 2, 5]))
        packs, n = int(rng.integers(1, 4)), int(rng.choice([1, 1, 2, 5, 40]))
        longest = int(rng.choice([10, 200, 700, 2000])) // (1 if n < 5 else 4)

        def lengths():
            made = rng.integers(0, longest + 1, (packs, n))
            return np.where(rng.random((packs, n)) < 0.1, 0, made)

        q_lengths = lengths()
        problem = cls(
            rng,
            q_lengths=q_lengths,
            kv_lengths=q_lengths if rng.integers(2) else lengths(),
            padding=int(rng.choice([0, 3, 200])),
            h_kv=h_kv,
            h_q=h_kv * int(rng.choice([1, 1, 2, 3, 8])),
            d=int(rng.choice([192, 128])),
            causal=bool(rng.integers(2)),
            dtype=DTYPES[int(rng.integers(len(DTYPES)))],
        )
        problem.spoil_unused(rng.choice([np.nan, np.inf, 1.0]))
        return problem

    def spoil_unused(self, value):
        """Anything in padding."""
        for cu, arrays in ((self.cu_q, (self.q,)), (self.cu_kv, (self.k, self.v))):
            for pack, bounds in enumerate(cu):
                for x in arrays:
                    x[pack, bounds[-1] :] = value

    def arrays(self):
        """What the custom call takes."""
        cu_q, cu_kv = jnp.asarray(self.cu_q), jnp.asarray(self.cu_kv)
        ranges = sequence_ranges(cu_q, self.q.shape[1], cu_kv, self.k.shape[1])
        return [*map(jnp.asarray, (self.q, self.k, self.v)), ranges, cu_q]

    def sequences(self):
        """The sound sequences: (pack, (first query, end), (first key, end), which keys each query sees)."""
        for p in range(len(self.q)):
            q_ranges, kv_ranges, *_ = self.ranges(p)
            for (q0, q1), (k0, k1) in zip(filter(None, q_ranges), filter(None, kv_ranges)):
                reach = np.full((q1 - q0, 1), k1)
                if self.causal:
                    reach = np.arange(q1 - q0)[:, None] + (k1 - k0) - (q1 - q0)
                yield p, slice(q0, q1), slice(k0, k1), np.arange(k1 - k0) <= reach

    def ranges(self, pack):
        return oracle.ranges(self.cu_q[pack], self.q.shape[1], self.cu_kv[pack], self.k.shape[1])

    def poison(self, side, *arrays):
        """NaN where unsound sequences claim tokens; ``side`` 0 for queries, 1 for keys."""
        for p in range(len(self.q)):
            tokens = sorted(self.ranges(p)[2 + side])
            for x in arrays:
                x[p, tokens] = np.nan

    def want(self):
        """out, lse and spread."""
        rows = self.q.shape[:3]
        out, spread, lse = np.zeros((*rows, D_V)), np.zeros((*rows, D_V)), np.full(rows, -np.inf)
        group = self.q.shape[2] // self.k.shape[2]
        for p, queries, keys, visible in self.sequences():
            sees = np.flatnonzero(visible.any(-1))
            for h in range(self.q.shape[2]) if len(sees) else ():
                k, v = (oracle.f64(x[p, keys, h // group]) for x in (self.k, self.v))
                logits = np.where(visible, self.scale * (oracle.f64(self.q[p, queries, h]) @ k.T), -np.inf)[sees]
                top = logits.max(-1)
                weights = np.exp(logits - top[:, None])
                total = weights.sum(-1)
                place = queries.start + sees
                lse[p, place, h] = top + np.log(total)
                weights /= total[:, None]
                out[p, place, h] = weights @ v
                spread[p, place, h] = np.sqrt(weights**2 @ v**2)
        self.poison(0, out, lse)
        return out, lse, spread

    def want_gradients(self, d_out, d_lse):
        """Of q, k and v, and the spread of what each is the sum of; with ``delta``, what the kernels are given."""
        out, lse, _ = self.want()
        delta = (out * oracle.f64(d_out)).sum(-1) - d_lse
        gradients = [np.zeros(x.shape) for x in (self.q, self.k, self.v)]
        squares = [np.zeros(x.shape) for x in (self.q, self.k, self.v)]
        group = self.q.shape[2] // self.k.shape[2]
        for p, queries, keys, visible in self.sequences():
            for h in range(self.q.shape[2]) if visible.any() else ():
                q, d_o = (oracle.f64(x[p, queries, h]) for x in (self.q, d_out))
                k, v = (oracle.f64(x[p, keys, h // group]) for x in (self.k, self.v))
                exponents = np.where(visible, self.scale * (q @ k.T) - lse[p, queries, h][:, None], -np.inf)
                weights = np.exp(exponents)
                d_scores = self.scale * weights * (d_o @ v.T - delta[p, queries, h][:, None])
                d_scores[~visible] = 0
                for x, square, place, left, right in (
                    (gradients[0], squares[0], (p, queries, h), d_scores, k),
                    (gradients[1], squares[1], (p, keys, h // group), d_scores.T, q),
                    (gradients[2], squares[2], (p, keys, h // group), weights.T, d_o),
                ):
                    x[place] += left @ right
                    square[place] += left**2 @ right**2
        self.poison(0, gradients[0])
        self.poison(1, *gradients[1:])
        return gradients, [np.sqrt(x) for x in squares], delta


class MhaTest(KernelTest):
    """Tests of the kernel, on a GPU or emulated, against the float64 oracle."""

    def assert_right(self, problem, got):
        (out, lse), (want, want_lse, spread) = got, problem.want()
        self.assert_out(out, want, spread)
        self.assert_logits(lse, want_lse)

    def assert_gradients_right(self, problem, rng, run):
        """Of random cotangents; ``run(d_out, lse, delta)`` calls the kernels."""
        _, lse, _ = problem.want()
        d_out = rng.standard_normal((*problem.q.shape[:3], D_V), np.float32).astype(problem.q.dtype)
        d_lse = rng.standard_normal(lse.shape)
        want, spreads, delta = problem.want_gradients(d_out, d_lse)
        got = run(d_out, lse.astype(np.float32), delta.astype(np.float32))
        for x, wanted, spread in zip(got, want, spreads):
            self.assert_out(x, wanted, spread)


class HandlerTest(parameterized.TestCase):
    """What a handler that runs kernels makes of calls that it must not launch anything for."""

    __test__ = False
    emulated = False

    def call(self, *arrays):
        return jax.block_until_ready(_ffi.mha_forward(*arrays, scale=0.1, causal=True, emulated=self.emulated))

    def test_bad_calls_are_errors(self):
        """What Python would refuse comes back as an error, and the process lives on."""
        arrays = q, k, v, ranges, cu_q = Problem(
            np.random.default_rng(0), q_lengths=[5, 3], kv_lengths=[5, 3], h_q=4, h_kv=2
        ).arrays()
        misfit = "the shapes do not fit together, got q " + re.escape(str(list(q.shape)))
        single = [x.astype(jnp.float32) for x in (q, k, v)]
        for text, changes in (
            ("k, v and out must have q's element type, BF16, got F32", {1: single[1]}),
            ("q must be BF16 or F16, got F32", dict(enumerate(single))),
            ("keys must have 192 or 128 dimensions and values 128, got 64 and 128", {0: q[..., :64], 1: k[..., :64]}),
            ("heads and their dimensions must be at least 1, got ", {1: k[:, :, :0]}),
            ("the shapes do not fit together", {0: q[:, :, :3]}),
            (misfit, {1: k[..., :128]}),
            (misfit, {2: v[:, :3]}),
            (misfit, {3: ranges[..., :5]}),
            (misfit, {4: cu_q[:, :2]}),
        ):
            with self.assertRaisesRegex(jax.errors.JaxRuntimeError, f"INVALID_ARGUMENT.*mha_forward: {text}"):
                self.call(*(changes.get(i, x) for i, x in enumerate(arrays)))
        out, _ = self.call(*arrays)
        self.assertTrue(np.isfinite(np.asarray(out, np.float32)).all())


@functools.lru_cache(maxsize=64)
def _call(scale, causal, emulated):
    options = dict(scale=scale, causal=causal, emulated=emulated)
    return donating(functools.partial(_ffi.mha_forward, **options), operands=5, results=2)


def run_poisoned(problem, poison, emulated=False):
    """Out and lse, from a call into results full of the bits of one value."""
    return call_into_poison(_call(problem.scale, problem.causal, emulated), problem.arrays(), 2, poison)


@functools.lru_cache(maxsize=64)
def _backward_call(scale, causal, deterministic, emulated):
    options = dict(scale=scale, causal=causal, deterministic=deterministic, emulated=emulated)
    return donating(functools.partial(_ffi.mha_backward_with_scratch, **options), operands=10, results=5)


def run_backward_poisoned(problem, d_out, lse, delta, poison, deterministic=False, emulated=False):
    """Gradients of q, k and v, from a call into results and scratch full of the bits of one value."""
    q, k, v, q_ranges, cu_q = problem.arrays()
    cu_kv = jnp.asarray(problem.cu_kv)
    kv_ranges = sequence_ranges(cu_kv, k.shape[1], cu_q, q.shape[1])
    operands = [q, k, v, *map(jnp.asarray, (d_out, lse, delta)), q_ranges, cu_q, kv_ranges, cu_kv]
    call = _backward_call(problem.scale, problem.causal, deterministic, emulated)
    return call_into_poison(call, operands, 5, poison)[:3]


def run_backward_alone(problem, poison, deterministic=False, emulated=False):
    """The same of any cotangents, for a log-sum-exp and a delta that are right or not."""
    rng = np.random.default_rng(0)
    rows = problem.q.shape[:3]
    d_out = rng.standard_normal((*rows, D_V), np.float32).astype(problem.q.dtype)
    lse, delta = (rng.standard_normal(rows, np.float32) for _ in range(2))
    return run_backward_poisoned(problem, d_out, lse + 3, delta, poison, deterministic, emulated)


def run_backward_both_ways(problem, poison, emulated=False):
    """What is the same in any schedule of those with ``deterministic``, and without."""
    in_one_order, in_any = (
        run_backward_alone(problem, poison, deterministic, emulated) for deterministic in (True, False)
    )
    return [*in_one_order, *in_any[1:]]
