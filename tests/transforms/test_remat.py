"""jax.checkpoint: a policy that saves our names spares the second forward call."""

import jax
import numpy as np
from base import OperationTest, for_each_implementation, over
from inspection import stage_calls
from operations import ATTENTION, KERNEL_SIZED

SAVE_OURS = jax.checkpoint_policies.save_only_these_names("jax_flash_mla.out", "jax_flash_mla.lse")


@for_each_implementation
class RematTest(OperationTest):
    @over(ATTENTION + KERNEL_SIZED)
    def test_forward_calls(self, operation):
        operands = operation.operands(np.random.default_rng(0), optional=operation.optional)
        q = operands.pop("q")

        def loss(q):
            return (operation.call(self.implementation, q=2 * q, **operands)[0] ** 2).sum()

        def gradient(**options):
            return jax.grad(jax.checkpoint(loss, **options))

        calls = {
            label: stage_calls(jax.make_jaxpr(gradient(**options))(q), operation.stage)
            for label, options in (("everything recomputed", {}), ("ours saved", {"policy": SAVE_OURS}))
        }
        self.assertEqual(calls, {"everything recomputed": 2, "ours saved": 1})
        plain = jax.jit(jax.grad(loss))(q)
        for options in ({}, {"policy": SAVE_OURS}):
            self.assert_close(jax.jit(gradient(**options))(q), np.asarray(plain, np.float64))

    @over(ATTENTION + KERNEL_SIZED)
    def test_scan_over_layers(self, operation):
        operands = operation.operands(np.random.default_rng(1))
        q = operands.pop("q")

        def loss(q, wrap):
            def layer(q, _):
                out = operation.call(self.implementation, q=q, **operands)[0]
                return q * (1 + out.mean(-1, keepdims=True)), None

            return jax.lax.scan(wrap(layer), q, None, length=2)[0].sum()

        wrapped = jax.jit(jax.grad(lambda q: loss(q, lambda f: jax.checkpoint(f, policy=SAVE_OURS))))(q)
        plain = jax.jit(jax.grad(lambda q: loss(q, lambda f: f)))(q)
        self.assert_close(wrapped, np.asarray(plain, np.float64))
