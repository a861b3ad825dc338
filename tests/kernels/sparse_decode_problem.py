"""Problems for the sparse decode kernel, and calls of it into poisoned buffers."""

import functools
import math
import re
from unittest import mock

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import oracle
from absl.testing import parameterized
from base import implementations_of, on_a_gpu

from jax_flash_mla import KVCacheFormat, _ffi, _support
from kernels.poison import call_into_poison, donating
from kernels.rounding import KernelTest

HAS_KERNEL = "cuda" in implementations_of("sparse_decode")
runs_the_kernel = on_a_gpu(HAS_KERNEL, "no GPU here has a sparse decode kernel")
D_V = 512
FORMATS = {"V32": KVCacheFormat.V32, "MODEL1": KVCacheFormat.MODEL1}
NAN_CODES = (0x7F, 0xFF)
# Of few bits and of many, tiny and huge, of either sign; and powers of two.
SCALES = (1.0, -0.7, 1e-3, 3.14159, 100.1, -129.7, 2.0**20 * 1.1, 7e35, 1e-30, 1.2e-38, 0.0)
POWERS = tuple(2.0**i for i in (-127, -126, -9, 0, 7, 118))


class Pool:
    """A paged cache, in parts that a test may change, and the tokens of it that are chosen."""

    def __init__(self, rng, fmt, tokens, *, pages, page_size, topk, lengths):
        """``tokens``: (b, s_q)."""
        slots = pages * page_size
        codes = rng.integers(0, 256, (slots, fmt.latent_dim)).astype(np.uint8)
        codes[np.isin(codes, NAN_CODES)] = 0
        self.fmt, self.shape, self.codes = fmt, (pages, page_size, 1), codes
        # With few bits, so that a code's value times a scale, rounded once, is the same however it is computed.
        scales = np.exp(0.5 * rng.standard_normal((slots, fmt.num_scales))) / 100
        self.scales = scales.astype(ml_dtypes.bfloat16).astype(np.float64)
        if fmt.planar:
            self.scales = 2.0 ** np.round(np.log2(scales))
        self.rope = rng.standard_normal((slots, fmt.rope_dim), np.float32).astype(ml_dtypes.bfloat16)
        self.indices = rng.integers(0, max(slots, 1), (*tokens, topk)).astype(np.int32)
        self.lengths = None if lengths is None else np.resize(np.asarray(lengths, np.int32), tokens)

    def __len__(self):
        return len(self.codes)

    def chosen(self, token):
        """The slots that a query token attends to; duplicates stand twice."""
        length = self.indices.shape[-1] if self.lengths is None else max(int(self.lengths[token]), 0)
        ids = self.indices[token][:length]
        return ids[(ids >= 0) & (ids < len(self))]

    def invalidate(self, rng, share):
        """Makes a share of the indices name nothing."""
        wrong = rng.choice([-1, -(2**31), 2**31 - 1, len(self)], self.indices.shape).astype(np.int32)
        self.indices = np.where(rng.random(self.indices.shape) < share, wrong, self.indices)

    def spoil_unused(self, value):
        """Scales and rotary dimensions of that value wherever no index points, and codes of NaN."""
        used = np.zeros(len(self), bool)
        for token in np.ndindex(self.indices.shape[:-1]):
            used[self.chosen(token)] = True
        self.codes[~used] = NAN_CODES[0]
        self.scales[~used] = value
        self.rope[~used] = value

    def cache(self):
        """The bytes, [pages, page_size, 1, bytes per token]."""
        rope = self.rope.view(np.uint8)
        if not self.fmt.planar:
            scales = self.scales.astype(np.float32).view(np.uint8)
            return np.concatenate([self.codes, scales, rope], -1).reshape(*self.shape, 656)
        exponents = np.where(np.isnan(self.scales), 128, np.log2(np.nan_to_num(self.scales, nan=1.0))) + 127
        scales = np.pad(exponents.astype(np.uint8), ((0, 0), (0, 1)), constant_values=255)
        records = np.concatenate([self.codes, rope], -1)
        planes = [x.reshape(self.shape[0], self.shape[1] * x.shape[1]) for x in (records, scales)]
        return np.concatenate(planes, -1).reshape(*self.shape, 584)

    def exact_latents(self):
        """Codes times scales, float64."""
        return oracle.E4M3[self.codes] * np.repeat(self.scales, self.fmt.scale_group, -1)

    def keys(self):
        """What the kernel multiplies: latents rounded to bfloat16, and rotary dimensions."""
        with np.errstate(invalid="ignore"):
            latents = self.exact_latents().astype(np.float32).astype(ml_dtypes.bfloat16)
        return np.concatenate([latents, self.rope], -1).astype(np.float64)


class Problem:
    """Operands of one call, in host memory, for a test to change."""

    def __init__(
        self,
        rng,
        *,
        fmt="V32",
        b=2,
        s_q=1,
        h_q=64,
        topk=128,
        pages=5,
        page_size=64,
        lengths=None,
        extra_topk=None,
        extra_pages=3,
        extra_page_size=16,
        extra_lengths=None,
        sink=False,
    ):
        fmt = FORMATS[fmt]
        self.q = rng.standard_normal((b, s_q, h_q, fmt.d_qk), np.float32).astype(ml_dtypes.bfloat16)
        self.pools = [Pool(rng, fmt, (b, s_q), pages=pages, page_size=page_size, topk=topk, lengths=lengths)]
        if extra_topk is not None:
            sizes = dict(pages=extra_pages, page_size=extra_page_size, topk=extra_topk, lengths=extra_lengths)
            self.pools.append(Pool(rng, fmt, (b, s_q), **sizes))
        self.attn_sink = rng.standard_normal(h_q, np.float32) if sink else None
        self.scale = fmt.d_qk**-0.5

    @classmethod
    def random(cls, rng):
        """Of any size that the kernel takes, with a share of what is rare."""

        def lists():
            topk = int(rng.choice([rng.integers(1, 200), 64, 512, rng.integers(1, 2100)]))
            pages, page_size = int(rng.integers(1, 40)), int(rng.choice([1, 16, 64, rng.integers(1, 100)]))
            return topk, pages, page_size, rng.integers(0, topk + 1, 7) if rng.integers(2) else None

        topk, pages, page_size, lengths = lists()
        options = dict(topk=topk, pages=pages, page_size=page_size, lengths=lengths)
        if rng.integers(2):
            topk, pages, page_size, lengths = lists()
            options |= dict(extra_topk=topk, extra_pages=pages, extra_page_size=page_size, extra_lengths=lengths)
        problem = cls(
            rng,
            fmt=str(rng.choice(list(FORMATS))),
            b=int(rng.integers(1, 8)),
            s_q=int(rng.integers(1, 5)),
            h_q=int(rng.integers(1, 200)),
            sink=bool(rng.integers(2)),
            **options,
        )
        problem.invalidate(rng, float(rng.choice([0, 0, 0.1, 0.9, 1.0])))
        problem.spoil_unused(np.nan)
        return problem

    def invalidate(self, rng, share):
        for pool in self.pools:
            pool.invalidate(rng, share)

    def spoil_unused(self, value):
        for pool in self.pools:
            pool.spoil_unused(value)

    def arrays(self):
        """What the custom call takes: what has no rows is not given."""
        b, s_q, h_q, _ = self.q.shape
        none = np.zeros((0, 0), np.int32)
        operands = [self.q]
        for pool in self.pools:
            operands += [pool.cache(), pool.indices, none if pool.lengths is None else pool.lengths]
        if len(self.pools) == 1:
            size = self.pools[0].fmt.bytes_per_token
            operands += [np.zeros((0, 1, 1, size), np.uint8), np.zeros((b, s_q, 0), np.int32), none]
        operands.append(np.zeros((0, h_q), np.float32) if self.attn_sink is None else self.attn_sink[None])
        return [jnp.asarray(x) for x in operands]

    def want(self):
        """out, lse and spread."""
        b, s_q, h_q, d = self.q.shape
        ids, first = [], 0
        for pool in self.pools:
            counts = np.arange(pool.indices.shape[-1]) < (np.inf if pool.lengths is None else pool.lengths[..., None])
            there = counts & (pool.indices >= 0) & (pool.indices < len(pool))
            ids.append(np.where(there, pool.indices + first, -1).reshape(b * s_q, -1))
            first += len(pool)
        out, _, lse, spread = oracle.sparse_attention_large(
            self.q.reshape(-1, h_q, d),
            np.concatenate([pool.keys() for pool in self.pools]),
            np.concatenate(ids, -1),
            None,
            d_v=D_V,
            scale=self.scale,
            attn_sink=self.attn_sink,
        )
        sound = np.ones((b, s_q), bool)
        for pool in self.pools:
            if pool.lengths is not None:
                sound &= (pool.lengths >= 0) & (pool.lengths <= pool.indices.shape[-1])
        out, lse, spread = (x.reshape(b, s_q, *x.shape[1:]) for x in (out, lse, spread))
        out[~sound] = lse[~sound] = np.nan
        return out, lse.swapaxes(1, 2), spread


class SparseDecodeTest(KernelTest):
    """Tests of the kernel, on a GPU or emulated, against the float64 oracle."""

    def assert_right(self, problem, got):
        (out, lse), (want, want_lse, spread) = got, problem.want()
        self.assert_out(out, want, spread)
        self.assert_logits(lse, want_lse)


def every_code_and_scale(rng, fmt, scales):
    """A problem whose outputs are its keys: a query token attends to one token each, and scales go round."""
    problem = Problem(rng, fmt=fmt, b=64, h_q=1, topk=1, pages=64, page_size=1)
    problem.q[:] = 0
    pool = problem.pools[0]
    pool.codes[:] = np.resize(np.setdiff1d(np.arange(256), NAN_CODES), pool.codes.shape)
    pool.scales[:] = np.resize(np.asarray(scales, np.float64), pool.scales.shape)
    pool.indices[:, 0, 0] = rng.permutation(64)
    return problem


def assert_rounded_once(out, problem):
    """Outputs of ``every_code_and_scale`` within one rounding to bfloat16 of code times scale, and a tenth.

    Near the smallest numbers the part of a scale that bfloat16 does not hold counts to half of their step.
    """
    pool = problem.pools[0]
    want = pool.exact_latents()[pool.indices[:, 0, 0]]
    rounding = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(want), 2.0**-126))) - 8)
    error = np.abs(out[:, 0, 0].astype(np.float64) - want) / (1.1 * rounding + 2.0**-134)
    assert error.max() <= 1, f"{error.max()} times the allowed error, of {want.reshape(-1)[error.argmax()]}"


class HandlerTest(parameterized.TestCase):
    """What a handler that runs kernels makes of calls that it must not, or need not, launch anything for."""

    __test__ = False
    emulated = False

    def call(self, *arrays):
        return jax.block_until_ready(_ffi.sparse_decode(*arrays, d_v=D_V, scale=0.1, emulated=self.emulated))

    def assert_refused(self, text, *arrays):
        with self.assertRaisesRegex(jax.errors.JaxRuntimeError, f"INVALID_ARGUMENT.*sparse_decode: {text}"):
            self.call(*arrays)

    def test_bad_calls_are_errors(self):
        """What Python would refuse comes back as an error, and the process lives on."""
        problem = Problem(np.random.default_rng(0), lengths=[100], extra_topk=10, sink=True)
        arrays = q, cache, indices, lengths, extra, extra_indices, extra_lengths, sink = problem.arrays()
        misfit = "the shapes do not fit together, got q "
        for text, changes in (
            ("q must be BF16, got F32", {0: q.astype(jnp.float32)}),
            ("keys of 656 bytes have 576 dimensions and values 512, got 512 and 512", {0: q[..., :512]}),
            ("a token must have 656 or 584 bytes, got 600", {1: cache[..., :600], 4: extra[..., :600]}),
            ("heads, their dimensions and the slots of a page must be at least 1, got q ", {1: cache[:, :0]}),
            (misfit + re.escape(str(list(q.shape))), {1: cache[..., :584]}),
            (misfit, {2: indices[:1]}),
            (misfit, {3: lengths[:1]}),
            (misfit, {6: jnp.zeros((2, 2), jnp.int32)}),
            (misfit, {7: sink[:, :3]}),
        ):
            self.assert_refused(text, *(changes.get(i, x) for i, x in enumerate(arrays)))
        out, _ = self.call(*arrays)
        self.assertTrue(np.isfinite(np.asarray(out, np.float32)).all())

    def test_other_scratch_is_refused(self):
        """An extension of another build."""
        arrays = Problem(np.random.default_rng(1)).arrays()
        partial_out, partial_lse = _support.WORKSPACES["sparse_decode"](D_V)
        small = jax.ShapeDtypeStruct((1, *partial_lse.shape[1:]), partial_lse.dtype)
        counts = [math.prod(x.shape) for x in (partial_out, partial_lse)]
        text = "scratch must have {0} and {1} elements, got {0} and {2}".format(*counts, small.size)
        with mock.patch.dict(_support.WORKSPACES, sparse_decode=lambda d_v: (partial_out, small)):
            self.assert_refused(text, *arrays)

    @parameterized.parameters((0, 1), (2, 0), (0, 0))
    def test_no_results(self, b, s_q):
        q, cache, indices, lengths, extra, extra_indices, _, sink = Problem(np.random.default_rng(2)).arrays()
        arrays = (q[:b, :s_q], cache, indices[:b, :s_q], lengths, extra, extra_indices[:b, :s_q], lengths, sink)
        out, lse = self.call(*arrays)
        self.assertEqual((out.shape, lse.shape), ((b, s_q, 64, D_V), (b, 64, s_q)))


@functools.lru_cache(maxsize=64)
def _call(scale, emulated):
    options = dict(d_v=D_V, scale=scale, emulated=emulated)
    return donating(functools.partial(_ffi.sparse_decode_with_scratch, **options), operands=8, results=4)


def run_poisoned(problem, poison, emulated=False):
    """Out and lse, from a call into results and scratch full of the bits of one value."""
    return call_into_poison(_call(problem.scale, emulated), problem.arrays(), 4, poison)[:2]
