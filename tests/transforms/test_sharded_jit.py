"""Plain jit over sharded arrays: the batch and the heads stay split, without communication."""

import jax
import jax.numpy as jnp
import numpy as np
from base import OperationTest, for_each_implementation, over
from inspection import collectives
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from operations import ATTENTION, KERNEL_SIZED

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
# Where one of each size is enough.
DENSE_DECODE = tuple(op for op in ATTENTION + KERNEL_SIZED if op.name in ("dense_decode", "dense_decode_of_latents"))


@for_each_implementation
class ShardedJitTest(OperationTest):
    def split_over(self, least=1):
        """How many devices the mesh has from now on."""
        self.mesh = Mesh(self.devices(most=8, least=least), ("x",))
        return self.mesh.size

    def assert_split(self, x):
        """Each device has its part of the first axis."""
        self.assertEqual(x.sharding.shard_shape(x.shape)[0], x.shape[0] // self.mesh.size)

    def call(self, operation):
        return jax.jit(lambda kw: operation.call(self.implementation, **kw))

    def placed(self, operands, axes):
        return {
            n: jax.device_put(x, NamedSharding(self.mesh, split_at(x, axes.get(n), "x"))) for n, x in operands.items()
        }

    @over(BATCHED)
    def test_batch(self, operation):
        devices, axes = self.split_over(), axes_of(BATCH, operation)
        operands = operation.operands(np.random.default_rng(0), optional=operation.optional)
        operands = {n: repeated(x, axes[n], devices) for n, x in operands.items()}
        placed = self.placed(operands, axes)
        call = self.call(operation)
        compiled = call.lower(placed).compile()
        self.assertEqual(collectives(compiled), {})
        got = call(placed)
        for result in got:
            self.assert_split(result)
        self.assert_all_close(got, operation.call(self.implementation, **operands))

        q = placed.pop("q")
        gradient = jax.jit(jax.grad(lambda q, kw: jnp.sum(operation.call(self.implementation, q=q, **kw)[0] ** 2)))
        self.assert_split(gradient(q, placed))
        want = gradient(operands.pop("q"), operands)
        self.assert_close(gradient(q, placed), np.asarray(want, np.float64), arithmetic=1e-5)

    @over(ATTENTION + KERNEL_SIZED)
    def test_heads(self, operation):
        devices, axes = self.split_over(), axes_of(HEADS, operation)
        operands = operation.operands(np.random.default_rng(1), optional=operation.optional)
        operands = {n: repeated(x, axes.get(n), devices) for n, x in operands.items()}
        placed = self.placed(operands, axes)
        call = self.call(operation)
        self.assertEqual(collectives(call.lower(placed).compile()), {})
        got = call(placed)
        self.assertEqual(got[0].sharding.is_fully_replicated, devices == 1)
        self.assert_all_close(got, operation.call(self.implementation, **operands))

        names = [n for n in operation.differentiable if n in operands]

        def loss(arrays, kw):
            return jnp.sum(operation.call(self.implementation, **arrays, **kw)[0] ** 2)

        gradient = jax.jit(jax.grad(loss))
        got = gradient({n: placed.pop(n) for n in names}, placed)
        want = gradient({n: operands.pop(n) for n in names}, operands)
        for n in names:
            self.assert_close(got[n], np.asarray(want[n], np.float64), arithmetic=2e-5, what=n)

    @over(BATCHED)
    def test_vmapped_batch(self, operation):
        """The mapped axis is the one that is split."""
        devices = self.split_over()
        pools = {n for n, axis in axes_of(BATCH, operation).items() if axis is None and n != "attn_sink"}
        operands = operation.operands(np.random.default_rng(2), optional=operation.optional)
        operands = {
            n: x if n in pools else jnp.stack([x * (i + 1) if x.dtype == jnp.float32 else x for i in range(devices)])
            for n, x in operands.items()
        }
        placed = self.placed(operands, {n: 0 for n in operands if n not in pools})
        in_axes = ({n: None if n in pools else 0 for n in operands},)
        call = jax.jit(jax.vmap(lambda kw: operation.call(self.implementation, **kw), in_axes=in_axes))
        self.assertEqual(collectives(call.lower(placed).compile()), {})
        self.assert_all_close(call(placed), call(operands))

    @over(DENSE_DECODE)
    def test_shared_pool_gradient_is_summed_over_the_batch_shards(self, operation):
        devices, axes = self.split_over(least=2), axes_of(BATCH, operation)
        operands = operation.operands(np.random.default_rng(3))
        operands = {n: repeated(x, axes[n], devices) for n, x in operands.items()}
        placed = self.placed(operands, axes)

        def loss(pool, kw):
            return jnp.sum(operation.call(self.implementation, k_cache=pool, **kw)[0] ** 2)

        gradient = jax.jit(jax.grad(loss))
        pool = placed.pop("k_cache")
        self.assertEqual(collectives(gradient.lower(pool, placed).compile()), {"all-reduce": 1})
        got, want = gradient(pool, placed), gradient(operands.pop("k_cache"), operands)
        self.assert_close(got, np.asarray(want, np.float64), arithmetic=2e-5)

    @over(DENSE_DECODE)
    def test_sharded_pool_is_gathered(self, operation):
        devices = self.split_over(least=2)
        operands = operation.operands(np.random.default_rng(4))
        # As many times the pool, and table entries all over it.
        table, pages = operands["block_table"], operands["k_cache"].shape[0]
        operands["k_cache"] = repeated(operands["k_cache"], 0, devices)
        operands["block_table"] = table + pages * (
            jnp.arange(table.size, dtype=table.dtype).reshape(table.shape) % devices
        )
        call, placed = self.call(operation), self.placed(operands, dict(k_cache=0))
        self.assertEqual(collectives(call.lower(placed).compile()), {"all-gather": 1})
        self.assert_all_close(call(placed), operation.want(**operands))

    @over(DENSE_DECODE)
    def test_uneven_and_conflicting_shardings_are_right(self, operation):
        devices, axes = self.split_over(least=2), axes_of(BATCH, operation)
        operands = operation.operands(np.random.default_rng(5), optional=operation.optional)
        operands = {n: repeated(x, axes[n], devices) for n, x in operands.items()}
        call = self.call(operation)
        want = call(operands)
        conflicting = self.placed(operands, dict(q=3, block_table=0, k_cache=3))
        self.assert_all_close(call(conflicting), want)

        def uneven(kw):
            kw = dict(kw, q=kw["q"][:-1], block_table=kw["block_table"][:-1], cache_seqlens=kw["cache_seqlens"][:-1])
            return operation.call(self.implementation, **kw)

        got = jax.jit(uneven)(self.placed(operands, axes))
        self.assert_all_close(got, jax.jit(uneven)(operands))

    @over(ATTENTION + KERNEL_SIZED)
    def test_part_of_the_mesh_manual(self, operation):
        """Inside a shard_map over one axis of two, the other left to the compiler."""
        devices = np.array(self.devices(most=4))
        operands = operation.operands(np.random.default_rng(6))
        for left in {1, min(2, devices.size)}:
            mapped = jax.shard_map(
                lambda kw: operation.call(self.implementation, **kw),
                mesh=Mesh(devices.reshape(-1, left), ("x", "y")),
                in_specs=(P(),),
                out_specs=P(),
                axis_names={"x"},
            )
            self.assert_all_close(jax.jit(mapped)(operands), operation.want(**operands))


@for_each_implementation
class ExplicitMeshTest(OperationTest):
    def setUp(self):
        devices = self.devices(most=2)
        self.mesh = jax.make_mesh((len(devices),), ("x",), axis_types=(AxisType.Explicit,), devices=devices)

    @over(BATCHED)
    def test_sharded_operand_is_refused(self, operation):
        operands = operation.operands(np.random.default_rng(0))
        with jax.set_mesh(self.mesh):
            placed = {n: jax.device_put(x, NamedSharding(self.mesh, P())) for n, x in operands.items()}
            twice = jnp.concatenate([operands["q"]] * 2)
            placed["q"] = jax.device_put(twice, NamedSharding(self.mesh, P("x")))
            with self.assertRaisesRegex(ValueError, r"q is sharded .* jax\.shard_map"):
                operation.call(self.implementation, **placed)

    @over(ATTENTION + KERNEL_SIZED)
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
