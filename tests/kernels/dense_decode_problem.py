"""Problems for the dense decode kernel, and calls of it into poisoned buffers."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import oracle
from absl.testing import parameterized
from base import implementations_of

from jax_flash_mla import _ffi
from jax_flash_mla._check.tolerance import ARITHMETIC, ROUNDING

HAS_KERNEL = "cuda" in implementations_of("dense_decode")
D_QK, D_V = 576, 512
POISONS = dict(nan=np.nan, ones=np.uint32(0xFFFFFFFF).view(np.float32), large=1e30)


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
        """What the custom call takes."""
        sink = np.full(self.q.shape[2], -np.inf, np.float32) if self.attn_sink is None else self.attn_sink
        return [jnp.asarray(x) for x in (self.q, self.k_cache, self.block_table, self.cache_seqlens, sink[None])]

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


class DenseDecodeTest(parameterized.TestCase):
    """Tests of the kernel, on a GPU or emulated, against the float64 oracle."""

    def assert_right(self, problem, got):
        """Every element within what the rounding of weights and of the result allows.

        Rounded weights have errors of half a unit in the last place at most, which spread
        over the interval: four times the spread is more than six standard deviations, and no
        less than the largest error possible with 16 keys or fewer.
        """
        (out, lse), (want, want_lse, spread) = got, problem.want()
        for x, w in ((out.astype(np.float64), want), (lse.astype(np.float64), want_lse)):
            np.testing.assert_array_equal(np.isnan(x), np.isnan(w))
            np.testing.assert_array_equal(np.isinf(x) * np.sign(x), np.isinf(w) * np.sign(w))
        rounding = ROUNDING[out.dtype.name]
        finite = np.isfinite(want)
        largest = max(1.0, np.abs(want[finite]).max(initial=0))
        allowed = ARITHMETIC * largest + rounding * (np.abs(want) + 4 * spread)
        error = np.abs(out.astype(np.float64) - want)[finite] / allowed[finite]
        self.assertLessEqual(error.max(initial=0), 1)
        finite = np.isfinite(want_lse)
        largest = max(1.0, np.abs(want_lse[finite]).max(initial=0))
        self.assertLessEqual(np.abs(lse[finite] - want_lse[finite]).max(initial=0), ARITHMETIC * largest)


@functools.lru_cache(maxsize=64)
def custom_call(scale, causal, emulated):
    """The call on operands and five buffers that become its results."""

    def run(q, k_cache, block_table, cache_seqlens, attn_sink, *buffers):
        del buffers
        return _ffi.dense_decode_with_scratch(
            q, k_cache, block_table, cache_seqlens, attn_sink, d_v=D_V, scale=scale, causal=causal, emulated=emulated
        )

    return jax.jit(run, donate_argnums=range(5, 10), keep_unused=True)


def run_poisoned(problem, poison, emulated=False):
    """Out and lse, from a call into buffers full of one value."""
    arrays = problem.arrays()
    call = custom_call(problem.scale, problem.causal, emulated)
    empty = [jnp.zeros((), jnp.float32)] * 5
    shapes = jax.eval_shape(call, *arrays, *empty)
    buffers = [jnp.full(x.shape, poison if x.dtype != jnp.int32 else 0x7FFFFFFF, x.dtype) for x in shapes]
    places = [x.unsafe_buffer_pointer() for x in buffers]
    results = call(*arrays, *buffers)
    assert [x.unsafe_buffer_pointer() for x in results] == places, "the results are not in the poisoned buffers"
    return [np.asarray(x) for x in results[:2]]


def bits(results):
    return [x.view(np.uint8) for x in results]
