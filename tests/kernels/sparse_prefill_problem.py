"""Problems for the sparse prefill kernel, and calls of it into poisoned buffers."""

import functools
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import oracle
from absl.testing import parameterized
from base import implementations_of, on_a_gpu

from jax_flash_mla import _ffi
from kernels.poison import call_into_poison, donating
from kernels.rounding import KernelTest

HAS_KERNEL = "cuda" in implementations_of("sparse_prefill")
runs_the_kernel = on_a_gpu(HAS_KERNEL, "no GPU here has a sparse prefill kernel")
D_V = 512


class Problem:
    """Operands of one call, in host memory, for a test to change."""

    def __init__(self, rng, *, s_q=3, s_kv=300, h_q=64, topk=128, d_qk=576, lengths=None, sink=False, base=2):
        self.q = rng.standard_normal((s_q, h_q, d_qk), np.float32).astype(ml_dtypes.bfloat16)
        self.kv = rng.standard_normal((s_kv, d_qk), np.float32).astype(ml_dtypes.bfloat16)
        self.indices = rng.integers(0, max(s_kv, 1), (s_q, topk)).astype(np.int32)
        self.topk_length = None if lengths is None else np.resize(np.asarray(lengths, np.int32), s_q)
        self.attn_sink = rng.standard_normal(h_q, np.float32) if sink else None
        self.scale, self.base = d_qk**-0.5, base

    @classmethod
    def random(cls, rng):
        """Of any size that the kernel takes, with a share of what is rare."""
        s_q, topk = int(rng.integers(1, 40)), int(rng.choice([rng.integers(1, 200), 64, 512, rng.integers(1, 2100)]))
        problem = cls(
            rng,
            s_q=s_q,
            s_kv=int(rng.choice([1, 100, 5000, 40_000])),
            h_q=int(rng.integers(1, 200)),
            topk=topk,
            d_qk=int(rng.choice([576, 512])),
            lengths=rng.integers(0, topk + 1, s_q) if rng.integers(2) else None,
            sink=bool(rng.integers(2)),
            base=(2, "e")[int(rng.integers(2))],
        )
        problem.invalidate(rng, float(rng.choice([0, 0, 0.1, 0.9, 1.0])))
        problem.spoil_unused(rng.choice([np.nan, np.inf, 1.0]))
        return problem

    def invalidate(self, rng, share):
        """Makes a share of the indices name nothing."""
        wrong = rng.choice([-1, -(2**31), 2**31 - 1, len(self.kv)], self.indices.shape).astype(np.int32)
        self.indices = np.where(rng.random(self.indices.shape) < share, wrong, self.indices)

    def chosen(self, query):
        """The keys that a query token attends to; duplicates stand twice."""
        length = self.indices.shape[1] if self.topk_length is None else max(int(self.topk_length[query]), 0)
        ids = self.indices[query, :length]
        return ids[(ids >= 0) & (ids < len(self.kv))]

    def spoil_unused(self, value):
        """Anything where no index points."""
        used = np.zeros(len(self.kv), bool)
        for query in range(len(self.q)):
            used[self.chosen(query)] = True
        self.kv[~used] = value

    def arrays(self):
        """What the custom call takes: what has no rows is not given."""
        sink = np.zeros((0, self.q.shape[1]), np.float32) if self.attn_sink is None else self.attn_sink[None]
        lengths = np.zeros(0, np.int32) if self.topk_length is None else self.topk_length
        return [jnp.asarray(x) for x in (self.q, self.kv, self.indices, lengths, sink)]

    def want(self):
        out, top, lse, spread = oracle.sparse_attention_large(
            self.q, self.kv, self.indices, self.topk_length, d_v=D_V, scale=self.scale, attn_sink=self.attn_sink
        )
        unit = 1 / oracle.LN2 if self.base == 2 else 1.0
        return out, top * unit, lse * unit, spread


class SparsePrefillTest(KernelTest):
    """Tests of the kernel, on a GPU or emulated, against the float64 oracle."""

    def assert_right(self, problem, got):
        (out, top, lse), (want, want_top, want_lse, spread) = got, problem.want()
        self.assert_out(out, want, spread)
        self.assert_logits(top, want_top)
        self.assert_logits(lse, want_lse)


class HandlerTest(parameterized.TestCase):
    """What a handler that runs kernels makes of calls that it must not launch anything for."""

    __test__ = False
    emulated = False

    def call(self, *arrays):
        return jax.block_until_ready(
            _ffi.sparse_prefill(*arrays, d_v=D_V, scale=0.1, lse_base=2, emulated=self.emulated)
        )

    def test_bad_calls_are_errors(self):
        """What Python would refuse comes back as an error, and the process lives on."""
        q, kv, indices, lengths, sink = Problem(np.random.default_rng(0), lengths=[100], sink=True).arrays()
        shapes = [re.escape(str(list(x.shape))) for x in (q, kv, indices, lengths, sink)]
        given = "q {}, kv {}, indices {}, topk_length {}, attn_sink {}".format
        misfit = "the shapes do not fit together, got "
        single = kv.astype(jnp.float32)
        for text, *arrays in (
            ("kv and out must have q's element type, F32, got BF16 and F32", q.astype(single.dtype), kv),
            ("q must be BF16, got F32", q.astype(single.dtype), single),
            ("keys must have 576 or 512 dimensions and values 512, got 544 and 512", q[..., :544], kv[:, :544]),
            (misfit + given(*shapes[:2], r"\[1, 128\]", *shapes[3:]), q, kv, indices[:1]),
            (misfit + given(*shapes[:3], r"\[2\]", shapes[4]), q, kv, indices, lengths[:2]),
            (misfit + given(*shapes[:4], r"\[1, 3\]"), q, kv, indices, lengths, sink[:, :3]),
        ):
            arrays += (q, kv, indices, lengths, sink)[len(arrays) :]
            with self.assertRaisesRegex(jax.errors.JaxRuntimeError, f"INVALID_ARGUMENT.*sparse_prefill: {text}"):
                self.call(*arrays)
        out, *_ = self.call(q, kv, indices, lengths, sink)
        self.assertTrue(np.isfinite(np.asarray(out, np.float32)).all())


@functools.lru_cache(maxsize=64)
def _call(scale, base, emulated):
    options = dict(d_v=D_V, scale=scale, lse_base=base, emulated=emulated)
    return donating(functools.partial(_ffi.sparse_prefill, **options), operands=5, results=3)


def run_poisoned(problem, poison, emulated=False):
    """Out, max_logits and lse, from a call into results full of the bits of one value."""
    return call_into_poison(_call(problem.scale, problem.base, emulated), problem.arrays(), 3, poison)
