"""Problems for the dense decode kernel, and calls of it into poisoned buffers."""

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

from jax_flash_mla import _ffi, _support
from kernels.poison import call_into_poison, donating
from kernels.rounding import KernelTest

HAS_KERNEL = "cuda" in implementations_of("dense_decode")
runs_the_kernel = on_a_gpu(HAS_KERNEL, "no GPU here has a dense decode kernel")
D_QK, D_V = 576, 512


class Problem:
    """Operands of one call, in host memory, for a test to change."""

    def __init__(
        self, rng, *, lengths, s_q=1, h_q=16, h_kv=1, page_size=64, dtype=ml_dtypes.bfloat16, causal=False, sink=False
    ):
        lengths = np.asarray(lengths, np.int32)
        b, columns = len(lengths), max(1, -(-int(lengths.max()) // page_size)) + int(rng.integers(2))
        pages = b * columns + int(rng.integers(1, 4))
        self.q = rng.standard_normal((b, s_q, h_q, D_QK), np.float32).astype(dtype)
        self.k_cache = rng.standard_normal((pages, page_size, h_kv, D_QK), np.float32).astype(dtype)
        self.block_table = rng.permutation(pages)[: b * columns].reshape(b, columns).astype(np.int32)
        self.cache_seqlens = lengths
        self.attn_sink = rng.standard_normal(h_q, np.float32) if sink else None
        self.causal = causal
        self.scale = D_QK**-0.5

    @classmethod
    def random(cls, rng):
        """Of any size that the kernel takes, with a share of what is rare."""
        h_kv = int(rng.choice([1, 1, 1, 2, 3, 8]))
        b = int(rng.integers(1, 6))
        longest = int(rng.choice([64, 700, 5000, 20000]))
        lengths = rng.integers(0, longest + 1, b)
        lengths[rng.random(b) < 0.1] = 0
        problem = cls(
            rng,
            lengths=lengths,
            s_q=int(rng.integers(1, 9)),
            h_kv=h_kv,
            h_q=h_kv * int(rng.integers(1, 128 // h_kv + 1)),
            page_size=16 * int(rng.integers(1, 17)),
            dtype=(ml_dtypes.bfloat16, np.float16)[int(rng.integers(2))],
            causal=bool(rng.integers(2)),
            sink=bool(rng.integers(2)),
        )
        problem.spoil_unused(rng.choice([np.nan, np.inf, 1.0]))
        return problem

    def used(self):
        """bool [pages, page_size]: slots that some request attends to."""
        used = np.zeros(self.k_cache.shape[:2], bool)
        size = used.shape[1]
        for row, length in zip(self.block_table, self.cache_seqlens):
            position = np.arange(length)
            used[row[position // size], position % size] = True
        return used

    def spoil_unused(self, value):
        """Anything where no request looks: in slots, and in the table's unused entries."""
        self.k_cache[~self.used()] = value
        for row, length in zip(self.block_table, self.cache_seqlens):
            row[-(-int(length) // self.k_cache.shape[1]) :] = 2**31 - 1

    def arrays(self):
        """What the custom call takes: a sink without rows is none."""
        sink = np.zeros((0, self.q.shape[2]), np.float32) if self.attn_sink is None else self.attn_sink[None]
        return [jnp.asarray(x) for x in (self.q, self.k_cache, self.block_table, self.cache_seqlens, sink)]

    def want(self):
        with np.errstate(invalid="ignore"):
            return oracle.dense_decode_large(
                self.q,
                self.k_cache,
                self.block_table,
                self.cache_seqlens,
                head_dim_v=D_V,
                scale=self.scale,
                causal=self.causal,
                attn_sink=self.attn_sink,
            )


class DenseDecodeTest(KernelTest):
    """Tests of the kernel, on a GPU or emulated, against the float64 oracle."""

    def assert_right(self, problem, got):
        (out, lse), (want, want_lse, spread) = got, problem.want()
        self.assert_out(out, want, spread)
        self.assert_logits(lse, want_lse)


class HandlerTest(parameterized.TestCase):
    """What a handler that runs kernels makes of calls that it must not, or need not, launch anything for."""

    __test__ = False
    emulated = False

    def call(self, *arrays):
        return jax.block_until_ready(
            _ffi.dense_decode(*arrays, d_v=D_V, scale=0.1, causal=False, emulated=self.emulated)
        )

    def assert_refused(self, text, *arrays):
        with self.assertRaisesRegex(jax.errors.JaxRuntimeError, f"INVALID_ARGUMENT.*dense_decode: {text}"):
            self.call(*arrays)

    def test_bad_calls_are_errors(self):
        """What Python would refuse comes back as an error, and the process lives on."""
        q, k_cache, table, lengths, sink = Problem(np.random.default_rng(0), lengths=[100, 50], sink=True).arrays()
        shapes = [re.escape(str(list(x.shape))) for x in (q, k_cache, table, lengths, sink)]
        given = "q {}, k_cache {}, block_table {}, cache_seqlens {}, attn_sink {}".format
        misfit = "the shapes do not fit together, got "
        half, single = k_cache[..., :512], k_cache.astype(jnp.float32)
        for text, *arrays in (
            ("k_cache and out must have q's element type, F32, got BF16 and F32", q.astype(single.dtype), k_cache),
            ("q must be BF16 or F16, got F32", q.astype(single.dtype), single),
            ("keys must have 576 dimensions and values 512, got 512 and 512", q[..., :512], half),
            ("the page size must be a multiple of 16, got 24", q, k_cache[:, :24]),
            ("heads, their dimensions and the slots of a page must be at least 1, got q ", q, k_cache[:, :, :0]),
            (misfit + given(*shapes[:2], rf"\[1, {table.shape[1]}\]", *shapes[3:]), q, k_cache, table[:1]),
            (misfit + given(*shapes[:4], r"\[1, 3\]"), q, k_cache, table, lengths, sink[:, :3]),
        ):
            self.assert_refused(text, *arrays, *(q, k_cache, table, lengths, sink)[len(arrays) :])
        out, _ = self.call(q, k_cache, table, lengths, sink)
        self.assertTrue(np.isfinite(np.asarray(out, np.float32)).all())

    def test_other_scratch_is_refused(self):
        """An extension of another build."""
        arrays = Problem(np.random.default_rng(1), lengths=[100]).arrays()
        partial_out, partial_lse = _support.WORKSPACES["dense_decode"](D_V)
        small = jax.ShapeDtypeStruct((1, *partial_lse.shape[1:]), partial_lse.dtype)
        counts = [math.prod(x.shape) for x in (partial_out, partial_lse)]
        text = "scratch must have {0} and {1} elements, got {0} and {2}".format(*counts, small.size)
        with mock.patch.dict(_support.WORKSPACES, dense_decode=lambda d_v: (partial_out, small)):
            self.assert_refused(text, *arrays)

    @parameterized.parameters((0, 1), (2, 0), (0, 0))
    def test_no_results(self, b, s_q):
        q, k_cache, table, lengths, sink = Problem(np.random.default_rng(2), lengths=[10, 5], sink=True).arrays()
        out, lse = self.call(q[:b, :s_q], k_cache, table[:b], lengths[:b], sink)
        self.assertEqual((out.shape, lse.shape), ((b, s_q, 16, D_V), (b, 16, s_q)))

    @parameterized.named_parameters(("pool", 1, 0), ("table", 2, 1))
    def test_no_pages(self, operand, axis):
        """Nothing to attend to, or a length that is out of range."""
        problem = Problem(np.random.default_rng(3), lengths=[0, 5, 0])
        arrays = problem.arrays()
        arrays[operand] = jax.lax.slice_in_dim(arrays[operand], 0, 0, axis=axis)
        out, lse = (np.asarray(x, np.float32) for x in self.call(*arrays))
        self.assertTrue(np.isnan(out[1]).all() and np.isnan(lse[1]).all())
        self.assertTrue((out[::2] == 0).all() and np.isneginf(lse[::2]).all())


@functools.lru_cache(maxsize=64)
def _call(scale, causal, emulated):
    options = dict(d_v=D_V, scale=scale, causal=causal, emulated=emulated)
    return donating(functools.partial(_ffi.dense_decode_with_scratch, **options), operands=5, results=4)


def run_poisoned(problem, poison, emulated=False):
    """Out and lse, from a call into results and scratch full of the bits of one value."""
    call = _call(problem.scale, problem.causal, emulated)
    return call_into_poison(call, problem.arrays(), 4, poison)[:2]
