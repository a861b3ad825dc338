"""Memory and time of the references at lengths that people use."""

import time

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from operations import V32

import jax_flash_mla as fm

SHORT, LONG = 8 * 1024, 128 * 1024


def shape(*dims, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(dims, dtype)


def nbytes(shapes):
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(shapes))


def dense_decode(n):
    return (
        lambda q, k, t, n: fm.flash_mla_with_kvcache(q, k, t, n, causal=True),
        (
            shape(1, 16, 128, 576),
            shape(n // 64, 64, 1, 576),
            shape(1, n // 64, dtype=jnp.int32),
            shape(1, dtype=jnp.int32),
        ),
    )


def sparse_decode(n):
    return (
        lambda q, k, i: fm.flash_mla_with_kvcache(q, k, None, None, is_fp8_kvcache=True, indices=i),
        (
            shape(1, 2, 128, 576),
            shape(n // 64, 64, 1, V32.bytes_per_token, dtype=jnp.uint8),
            shape(1, 2, n, dtype=jnp.int32),
        ),
    )


def sparse_prefill(n):
    return (
        lambda q, kv, i: fm.flash_mla_sparse_fwd(q, kv, i, 0.1),
        (shape(n, 16, 576), shape(n, 1, 576), shape(n, 1, 512, dtype=jnp.int32)),
    )


def mha_batched(n):
    return (
        lambda q, k, v: fm.flash_attn_func(q, k, v, causal=True),
        (shape(1, n, 8, 192), shape(1, n, 2, 192), shape(1, n, 2, 128)),
    )


def mha_varlen(n):
    return (
        lambda q, k, v, cu: fm.flash_attn_varlen_func(q, k, v, cu, cu),
        (shape(n, 8, 128), shape(n, 8, 128), shape(n, 8, 128), shape(9, dtype=jnp.int32)),
    )


def backward(make):
    def made(n):
        call, operands = make(n)
        floats = tuple(i for i, x in enumerate(operands) if jnp.issubdtype(x.dtype, jnp.floating))

        def gradient(*operands):
            return jax.grad(lambda *a: call(*a)[0].astype(jnp.float32).sum(), floats)(*operands)

        return gradient, operands

    return made


CASES = [(make.__name__, make) for make in (dense_decode, sparse_decode, sparse_prefill, mha_batched, mha_varlen)]
CASES += [(f"{name}_backward", backward(make)) for name, make in CASES if not name.startswith("sparse_decode")]


class MemoryTest(parameterized.TestCase):
    @parameterized.named_parameters(CASES)
    def test_temporaries_follow_the_operands(self, make):
        """From 8k to 128k tokens they grow with operands and results, not with s_q × s_kv."""
        temporaries, operands = {}, {}
        for n in (SHORT, LONG):
            call, shapes = make(n)
            memory = jax.jit(call).lower(*shapes).compile().memory_analysis()
            temporaries[n] = memory.temp_size_in_bytes
            operands[n] = nbytes(shapes) + memory.output_size_in_bytes
        # Float32 accumulators of bfloat16 operands, and copies of both.
        share = 4 * (operands[LONG] - operands[SHORT])
        self.assertLessEqual(temporaries[LONG] - temporaries[SHORT], share, f"{temporaries} against {operands}")


class TimeTest(parameterized.TestCase):
    def test_a_long_context_decodes_in_seconds(self):
        rng = np.random.default_rng(0)
        n, page_size = LONG, 64
        pool = jnp.asarray(rng.standard_normal((n // page_size, page_size, 1, 576), np.float32), jnp.bfloat16)
        q = jnp.asarray(rng.standard_normal((1, 1, 128, 576)), jnp.bfloat16)
        table = jnp.asarray(rng.permutation(n // page_size)[None], jnp.int32)
        start = time.monotonic()
        out, lse = jax.jit(fm.flash_mla_with_kvcache)(q, pool, table, jnp.asarray([n], jnp.int32))
        jax.block_until_ready(out)
        self.assertLess(time.monotonic() - start, 20)
        self.assertTrue(np.isfinite(np.asarray(lse)).all())
