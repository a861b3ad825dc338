"""jit, grad, jacrev, scan: right results and gradients, for every operation."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from base import GRADIENT_ARITHMETIC, OperationTest, for_each_implementation, over
from operations import ALL, ATTENTION, KERNEL_SIZED

import jax_flash_mla as fm


def cotangents_like(rng, results):
    """Exact in bfloat16, to which an operation may round them."""
    return tuple(jnp.asarray(rng.standard_normal(x.shape), jnp.bfloat16).astype(x.dtype) for x in results)


@for_each_implementation
class JitTest(OperationTest):
    @over(ALL + KERNEL_SIZED)
    def test_results(self, operation):
        rng = np.random.default_rng(0)
        for optional in ((), operation.optional):
            operands = operation.operands(rng, optional=optional)
            want = operation.want(**operands)
            got = jax.jit(lambda **kw: operation.call(self.implementation, **kw))(**operands)
            self.assert_all_close(got, want)

    @over(ALL + KERNEL_SIZED)
    def test_without_jit(self, operation):
        operands = operation.operands(np.random.default_rng(1), optional=operation.optional)
        self.assert_all_close(operation.call(self.implementation, **operands), operation.want(**operands))

    @over(ATTENTION + KERNEL_SIZED)
    def test_bfloat16_and_float16(self, operation):
        for seed, dtype in enumerate((jnp.bfloat16, jnp.float16)):
            operands = operation.operands(np.random.default_rng(seed), dtype, operation.optional)
            reason = fm.supports(operation.family, dtype=dtype) if self.implementation == "cuda" else None
            if reason:
                with self.assertRaisesRegex(NotImplementedError, re.escape(reason)):
                    operation.call(self.implementation, **operands)
                continue
            got = operation.call(self.implementation, **operands)
            self.assertEqual(got[0].dtype, dtype)
            self.assert_all_close(got, operation.want(**operands))


@for_each_implementation
class GradientTest(OperationTest):
    def check(self, operation, operands):
        names = [name for name in operation.differentiable if name in operands]
        rest = {name: x for name, x in operands.items() if name not in names}

        def call(*arrays):
            return operation.call(self.implementation, **rest, **dict(zip(names, arrays)))

        results, pull = jax.vjp(jax.jit(call), *(operands[name] for name in names))
        cotangents = cotangents_like(np.random.default_rng(7), results)
        want = operation.gradients(cotangents, **operands)
        for name, got in zip(names, pull(cotangents)):
            self.assertEqual(got.dtype, operands[name].dtype)
            self.assert_close(got, want[name], arithmetic=GRADIENT_ARITHMETIC, what=f"gradient of {name}")

    @over(ATTENTION + KERNEL_SIZED)
    def test_gradients(self, operation):
        rng = np.random.default_rng(2)
        for optional in ((), operation.optional):
            self.check(operation, operation.operands(rng, optional=optional))

    @over(ATTENTION + KERNEL_SIZED)
    def test_jacrev(self, operation):
        operands = operation.operands(np.random.default_rng(3))
        q = operands.pop("q")

        def some(q):
            return operation.call(self.implementation, q=q, **operands)[0][..., :2].reshape(-1)[:6]

        jacobian = jax.jacrev(some)(q)
        self.assertEqual(jacobian.shape, (6, *q.shape))
        for i in (0, 5):
            row = jax.grad(lambda q, i=i: some(q)[i])(q)
            self.assert_close(jacobian[i], np.asarray(row, np.float64))

    @over(ATTENTION + KERNEL_SIZED)
    def test_scan(self, operation):
        operands = operation.operands(np.random.default_rng(4))
        q = operands.pop("q")

        def layer(q, _):
            out, *_ = operation.call(self.implementation, q=q, **operands)
            return q + jnp.pad(out, [(0, 0)] * (q.ndim - 1) + [(0, q.shape[-1] - out.shape[-1])]), out.sum()

        def scanned(q):
            return jax.lax.scan(layer, q, None, length=3)[0].sum()

        def unrolled(q):
            for _ in range(3):
                q, _ = layer(q, None)
            return q.sum()

        for transform in (lambda f: f, jax.grad):
            got, want = jax.jit(transform(scanned))(q), jax.jit(transform(unrolled))(q)
            self.assert_close(got, np.asarray(want, np.float64), arithmetic=2e-5)

    @over(ATTENTION + KERNEL_SIZED)
    def test_forward_mode_is_refused(self, operation):
        operands = operation.operands(np.random.default_rng(5))
        q = operands.pop("q")
        with self.assertRaisesRegex(TypeError, "forward-mode"):
            jax.jvp(lambda q: operation.call(self.implementation, q=q, **operands)[0], (q,), (q,))
