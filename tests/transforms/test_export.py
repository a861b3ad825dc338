"""Export with symbolic shapes, and lowering for CUDA on a machine without a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
from base import OperationTest, for_each_implementation, over
from operations import ALL, ATTENTION, KERNEL_SIZED

import jax_flash_mla as fm

# Dimensions of each operand that a model leaves open. A letter stands for one size.
SYMBOLIC = {
    "dense_decode": dict(
        q="b, s, _, _", k_cache="pages, _, _, _", block_table="b, columns", cache_seqlens="b", attn_sink="_"
    ),
    "sparse_decode": dict(
        q="b, s, _, _",
        k_cache="pages, _, _, _",
        indices="b, s, k",
        topk_length="b, s",
        extra_k_cache="extra, _, _, _",
        extra_indices_in_kvcache="b, s, j",
        extra_topk_length="b",
        attn_sink="_",
    ),
    "sparse_prefill": dict(q="n, _, _", kv="m, _, _", indices="n, _, k", topk_length="n", attn_sink="_"),
    "mha_batched": dict(q="b, t, _, _", k="b, s, _, _", v="b, s, _, _", q_seqlens="b", kv_seqlens="b"),
    "mha_varlen": dict(q="t, _, _", k="s, _, _", v="s, _, _", cu_seqlens_qo="b+1", cu_seqlens_kv="b+1"),
    "quantize": dict(latent="p, t, _", rope="p, t, _"),
    "dequantize": dict(cache="p, t, _, _"),
    "append": dict(cache="p, _, _, _", latent="n, _", rope="n, _", slots="n"),
    "merge": dict(outs="k, a, b, _", lses="k, a, b"),
}


def symbolic_like(operation, operands):
    """Shapes of the operands with variables where a model leaves them open."""
    family = next(family for family in SYMBOLIC if operation.name.startswith(family))
    scope = jax.export.SymbolicScope()
    return {
        name: jax.ShapeDtypeStruct(
            jax.export.symbolic_shape(SYMBOLIC[family][name], scope=scope, like=x.shape), x.dtype
        )
        for name, x in operands.items()
    }


@for_each_implementation
class ExportTest(OperationTest):
    @over(ALL + KERNEL_SIZED)
    def test_symbolic_round_trip(self, operation):
        operands = operation.operands(np.random.default_rng(0), optional=operation.optional)

        def call(operands):
            return operation.call(self.implementation, **operands)

        shapes = symbolic_like(operation, operands)
        exported = jax.export.export(jax.jit(call), disabled_checks=fm.export_safety_checks())(shapes)
        restored = jax.export.deserialize(exported.serialize())
        self.assert_all_close(restored.call(operands), operation.want(**operands))

    @over(ATTENTION + KERNEL_SIZED)
    def test_gradient_round_trip(self, operation):
        operands = operation.operands(np.random.default_rng(1), optional=operation.optional)
        q = operands.pop("q")

        def loss(q, operands):
            return operation.call(self.implementation, q=q, **operands)[0].sum()

        shapes = symbolic_like(operation, dict(q=q, **operands))
        exported = jax.export.export(jax.jit(loss), disabled_checks=fm.export_safety_checks())(shapes.pop("q"), shapes)
        restored = jax.export.deserialize(exported.serialize(vjp_order=1))
        got = jax.grad(restored.call)(q, operands)
        self.assert_close(got, np.asarray(jax.grad(loss)(q, operands), np.float64))

    @over(ALL + KERNEL_SIZED)
    def test_lowering_for_cuda(self, operation):
        operands = operation.operands(np.random.default_rng(2), optional=operation.optional)

        def call(operands):
            return operation.call(self.implementation, **operands)

        traced = jax.jit(call).trace(operands)
        for platforms in (("cuda",), ("cpu", "cuda")):
            self.assertIn("func.func public @main", traced.lower(lowering_platforms=platforms).as_text())
        if operation.gradients is not None:
            gradient = jax.jit(jax.grad(lambda q, rest: jnp.sum(call(dict(rest, q=q))[0])))
            traced = gradient.trace(operands.pop("q"), operands)
            self.assertIn("func.func public @main", traced.lower(lowering_platforms=("cuda",)).as_text())
