"""Plain jit over sharded arrays: the batch and the heads stay split, without communication."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from base import OperationTest, devices_of, for_each_implementation
from inspection import collectives
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from operations import ATTENTION, KERNEL_SIZED, int32, named, normal

import jax_flash_mla as fm

# The batch axis of each operand, and of each result; None where it has none.
BATCH = {
    "dense_decode": dict(q=0, k_cache=None, block_table=0, cache_seqlens=0, attn_sink=None),
    "sparse_decode": dict(
        q=0,
        k_cache=None,
        indices=0,
        topk_length=0,
        extra_k_cache=None,
        extra_indices_in_kvcache=0,
        extra_topk_length=0,
        attn_sink=None,
    ),
    "sparse_prefill": dict(q=0, kv=None, indices=0, topk_length=0, attn_sink=None),
    "mha_batched": dict(q=0, k=0, v=0, q_seqlens=0, kv_seqlens=0),
}
HEADS = {
    "dense_decode_causal_grouped": dict(q=2, k_cache=2, attn_sink=0),
    "dense_decode": dict(q=2, attn_sink=0),
    "sparse_decode": dict(q=2, attn_sink=0),
    "sparse_prefill": dict(q=1, attn_sink=0),
    "mha": dict(q=-2, k=-2, v=-2),
}
DEVICES = 8


def axes_of(table, operation):
    return next((axes for family, axes in table.items() if operation.name.startswith(family)), None)


def split_at(x, axis, name):
    """The spec that splits one axis."""
    if axis is None:
        return P()
    spec = [None] * x.ndim
    spec[axis] = name
    return P(*spec)


def repeated(x, axis, times):
    return x if axis is None else jnp.concatenate([x] * times, axis=axis)


BATCHED = tuple(op for op in ATTENTION + KERNEL_SIZED if axes_of(BATCH, op))


@for_each_implementation
class ShardedJitTest(OperationTest):
    least_devices = DEVICES

    def setUp(self):
        self.mesh = Mesh(np.array(devices_of(self.implementation)[:DEVICES]), ("x",))

    def call(self, operation):
        return jax.jit(lambda kw: operation.call(self.implementation, **kw))

    def placed(self, operands, axes):
        return {
            n: jax.device_put(x, NamedSharding(self.mesh, split_at(x, axes.get(n), "x"))) for n, x in operands.items()
        }

    @parameterized.named_parameters(named(BATCHED))
    def test_batch(self, operation):
        axes = axes_of(BATCH, operation)
        operands = operation.operands(np.random.default_rng(0), optional=operation.optional)
        operands = {n: repeated(x, axes[n], DEVICES) for n, x in operands.items()}
        placed = self.placed(operands, axes)
        call = self.call(operation)
        compiled = call.lower(placed).compile()
        self.assertEqual(collectives(compiled), {})
        got = call(placed)
        for result in got:
            self.assertEqual(result.sharding.spec[0], "x")
        self.assert_all_close(got, operation.call(self.implementation, **operands))

        q = placed.pop("q")
        gradient = jax.jit(jax.grad(lambda q, kw: jnp.sum(operation.call(self.implementation, q=q, **kw)[0] ** 2)))
        self.assertEqual(gradient(q, placed).sharding.spec[0], "x")
        want = gradient(operands.pop("q"), operands)
        self.assert_close(gradient(q, placed), np.asarray(want, np.float64), arithmetic=1e-5)

    @parameterized.named_parameters(named(ATTENTION + KERNEL_SIZED))
    def test_heads(self, operation):
        axes = axes_of(HEADS, operation)
        operands = operation.operands(np.random.default_rng(1), optional=operation.optional)
        operands = {n: repeated(x, axes.get(n), DEVICES) for n, x in operands.items()}
        placed = self.placed(operands, axes)
        call = self.call(operation)
        self.assertEqual(collectives(call.lower(placed).compile()), {})
        got = call(placed)
        self.assertFalse(got[0].sharding.is_fully_replicated)
        self.assert_all_close(got, operation.call(self.implementation, **operands))

        names = [n for n in operation.differentiable if n in operands]

        def loss(arrays, kw):
            return jnp.sum(operation.call(self.implementation, **arrays, **kw)[0] ** 2)

        gradient = jax.jit(jax.grad(loss))
        got = gradient({n: placed.pop(n) for n in names}, placed)
        want = gradient({n: operands.pop(n) for n in names}, operands)
        for n in names:
            self.assert_close(got[n], np.asarray(want[n], np.float64), arithmetic=2e-5, what=n)

    @parameterized.named_parameters(named(BATCHED))
    def test_vmapped_batch(self, operation):
        """The mapped axis is the one that is split."""
        pools = {n for n, axis in axes_of(BATCH, operation).items() if axis is None and n != "attn_sink"}
        operands = operation.operands(np.random.default_rng(2), optional=operation.optional)
        operands = {
            n: x if n in pools else jnp.stack([x * (i + 1) if x.dtype == jnp.float32 else x for i in range(DEVICES)])
            for n, x in operands.items()
        }
        placed = self.placed(operands, {n: 0 for n in operands if n not in pools})
        in_axes = ({n: None if n in pools else 0 for n in operands},)
        call = jax.jit(jax.vmap(lambda kw: operation.call(self.implementation, **kw), in_axes=in_axes))
        self.assertEqual(collectives(call.lower(placed).compile()), {})
        self.assert_all_close(call(placed), call(operands))

    def test_shared_pool_gradient_is_summed_over_the_batch_shards(self):
        operation = next(op for op in ATTENTION if op.name == "dense_decode")
        axes = axes_of(BATCH, operation)
        operands = operation.operands(np.random.default_rng(3))
        operands = {n: repeated(x, axes[n], DEVICES) for n, x in operands.items()}
        placed = self.placed(operands, axes)

        def loss(pool, kw):
            return jnp.sum(operation.call(self.implementation, k_cache=pool, **kw)[0] ** 2)

        gradient = jax.jit(jax.grad(loss))
        pool = placed.pop("k_cache")
        self.assertEqual(collectives(gradient.lower(pool, placed).compile()), {"all-reduce": 1})
        got, want = gradient(pool, placed), gradient(operands.pop("k_cache"), operands)
        self.assert_close(got, np.asarray(want, np.float64), arithmetic=2e-5)

    def test_sharded_pool_is_gathered(self):
        rng = np.random.default_rng(4)
        pool = normal(rng, (DEVICES, 4, 1, 24), jnp.float32)
        q = normal(rng, (2, 1, 4, 24), jnp.float32)
        table, lengths = int32([[0, 7], [3, 5]]), int32([8, 5])

        @jax.jit
        def call(q, pool):
            return fm.flash_mla_with_kvcache(q, pool, table, lengths, 16, implementation=self.implementation)

        sharded = jax.device_put(pool, NamedSharding(self.mesh, P("x")))
        self.assertEqual(collectives(call.lower(q, sharded).compile()), {"all-gather": 1})
        self.assert_all_close(call(q, sharded), call(q, pool))

    def test_uneven_and_conflicting_shardings_are_right(self):
        operation = next(op for op in ATTENTION if op.name == "dense_decode")
        operands = operation.operands(np.random.default_rng(5), optional=operation.optional)
        axes = axes_of(BATCH, operation)
        operands = {n: repeated(x, axes[n], DEVICES) for n, x in operands.items()}
        call = self.call(operation)
        want = call(operands)
        conflicting = self.placed(operands, dict(q=3, block_table=0, k_cache=3))
        self.assert_all_close(call(conflicting), want)

        def uneven(kw):
            kw = dict(kw, q=kw["q"][:-1], block_table=kw["block_table"][:-1], cache_seqlens=kw["cache_seqlens"][:-1])
            return operation.call(self.implementation, **kw)

        got = jax.jit(uneven)(self.placed(operands, axes))
        self.assert_all_close(got, jax.jit(uneven)(operands))

    @parameterized.named_parameters(named(ATTENTION + KERNEL_SIZED))
    def test_part_of_the_mesh_manual(self, operation):
        """Inside a shard_map over one axis of two, the other left to the compiler."""
        mesh = Mesh(np.array(devices_of(self.implementation)[:4]).reshape(2, 2), ("x", "y"))
        operands = operation.operands(np.random.default_rng(6))
        spec = P()
        mapped = jax.shard_map(
            lambda kw: operation.call(self.implementation, **kw),
            mesh=mesh,
            in_specs=(spec,),
            out_specs=spec,
            axis_names={"x"},
        )
        self.assert_all_close(jax.jit(mapped)(operands), operation.want(**operands))


@for_each_implementation
class ExplicitMeshTest(OperationTest):
    least_devices = DEVICES

    def setUp(self):
        self.mesh = jax.make_mesh(
            (2,), ("x",), axis_types=(AxisType.Explicit,), devices=devices_of(self.implementation)[:2]
        )

    @parameterized.named_parameters(named(BATCHED))
    def test_sharded_operand_is_refused(self, operation):
        operands = operation.operands(np.random.default_rng(0))
        with jax.set_mesh(self.mesh):
            placed = {n: jax.device_put(x, NamedSharding(self.mesh, P())) for n, x in operands.items()}
            twice = jnp.concatenate([operands["q"]] * 2)
            placed["q"] = jax.device_put(twice, NamedSharding(self.mesh, P("x")))
            with self.assertRaisesRegex(ValueError, r"q is sharded .* jax\.shard_map"):
                operation.call(self.implementation, **placed)

    @parameterized.named_parameters(named(ATTENTION + KERNEL_SIZED))
    def test_replicated_operands(self, operation):
        operands = operation.operands(np.random.default_rng(1))
        with jax.set_mesh(self.mesh):
            placed = {n: jax.device_put(x, NamedSharding(self.mesh, P())) for n, x in operands.items()}
            got = jax.jit(lambda kw: operation.call(self.implementation, **kw))(placed)
            q = placed.pop("q")
            gradient = jax.jit(jax.grad(lambda q: operation.call(self.implementation, q=q, **placed)[0].sum()))(q)
        self.assert_all_close(got, operation.want(**operands))
        q = operands.pop("q")
        want = jax.grad(lambda q: operation.call(self.implementation, q=q, **operands)[0].sum())(q)
        self.assert_close(gradient, np.asarray(want, np.float64))
