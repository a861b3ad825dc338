"""shard_map with check_vma=True: right results and gradients, and no psum of the user's."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
from base import OperationTest, for_each_implementation, over
from inspection import collectives
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from operations import ATTENTION, KERNEL_SIZED, OTHER, normal

import jax_flash_mla as fm


@for_each_implementation
class DataParallelTest(OperationTest):
    """Each device runs the operation on its own operands; some are shared by all."""

    # What devices share: the other operands differ from device to device.
    SHARED = {"k_cache", "kv", "k", "v", "attn_sink", "extra_k_cache"}

    def setUp(self):
        self.mesh = Mesh(self.devices(most=4), ("data",))
        self.replicas = self.mesh.size

    def split(self, operation):
        rng = np.random.default_rng(0)
        draws = [operation.operands(rng, optional=operation.optional) for _ in range(self.replicas)]
        members = [{n: draws[0][n] if n in self.SHARED else d[n] for n in d} for d in draws]
        names = tuple(draws[0])
        operands = {n: members[0][n] if n in self.SHARED else jnp.stack([m[n] for m in members]) for n in names}
        specs = {n: P() if n in self.SHARED else P("data") for n in names}
        return operands, specs, members

    def local(self, operation, operands):
        own = {n: x if n in self.SHARED else x[0] for n, x in operands.items()}
        return tuple(x[None] for x in operation.call(self.implementation, **own))

    @over(ATTENTION + OTHER + KERNEL_SIZED)
    def test_results(self, operation):
        operands, specs, members = self.split(operation)
        mapped = jax.shard_map(
            lambda kw: self.local(operation, kw), mesh=self.mesh, in_specs=(specs,), out_specs=P("data")
        )
        compiled = jax.jit(mapped).lower(operands).compile()
        self.assertEqual(collectives(compiled), {})
        want = [operation.want(**m) for m in members]
        self.assert_all_close(jax.jit(mapped)(operands), [np.stack(x) for x in zip(*want)])

    @over(ATTENTION + KERNEL_SIZED)
    def test_gradients(self, operation):
        operands, specs, members = self.split(operation)
        names = [n for n in operation.differentiable if n in operands]
        rest = {n: x for n, x in operands.items() if n not in names}
        rest_specs = {n: specs[n] for n in rest}
        shape = operation.want(**members[0])[0].shape
        weight = normal(np.random.default_rng(1), (self.replicas, *shape), jnp.float32)

        def loss(arrays, rest, weight):
            def local(arrays, rest, weight):
                out = self.local(operation, {**arrays, **rest})[0]
                return jnp.sum(weight * out)[None]

            specs_in = ({n: specs[n] for n in names}, rest_specs, P("data"))
            return jax.shard_map(local, mesh=self.mesh, in_specs=specs_in, out_specs=P("data"))(
                arrays, rest, weight
            ).sum()

        got = jax.jit(jax.grad(loss))({n: operands[n] for n in names}, rest, weight)
        zero = [np.zeros(x.shape) for x in operation.want(**members[0])[1:]]
        want = [operation.gradients([np.asarray(w), *zero], **m) for m, w in zip(members, weight)]
        for n in names:
            each = np.stack([w[n] for w in want])
            each = each.sum(0) if n in self.SHARED else each
            self.assert_close(got[n], each, arithmetic=2e-5, what=f"gradient of {n}")

    @over(ATTENTION + KERNEL_SIZED)
    def test_scan_and_remat_inside(self, operation):
        """The carry of a scan keeps its type, under checkpoint too."""
        operands, specs, _ = self.split(operation)

        def local(operands):
            own = {n: x if n in self.SHARED else x[0] for n, x in operands.items()}
            q = own.pop("q")

            @jax.checkpoint
            def layer(q, _):
                out = operation.call(self.implementation, q=q, **own)[0]
                return q * (1 + out.mean(-1, keepdims=True)), None

            return jax.lax.scan(layer, q, None, length=2)[0][None]

        def run(check_vma):
            mapped = jax.shard_map(local, mesh=self.mesh, in_specs=(specs,), out_specs=P("data"), check_vma=check_vma)
            return jax.jit(jax.value_and_grad(lambda q: mapped(dict(operands, q=q)).sum()))(operands["q"])

        for checked, unchecked in zip(run(True), run(False)):
            self.assert_close(checked, np.asarray(unchecked, np.float64))


DECODE_SPECS = dict(q=P(None, None, "tp"), attn_sink=P("tp")), (P(None, None, "tp"), P(None, "tp"))
PREFILL_SPECS = dict(q=P(None, "tp"), attn_sink=P("tp")), (P(None, "tp"),) * 3
# Tensor parallelism: the operand on all devices, specs of the operands that are split, specs of the results.
SPLIT_HEADS = {
    "dense_decode": ("k_cache", *DECODE_SPECS),
    "dense_decode_of_latents": ("k_cache", *DECODE_SPECS),
    "sparse_decode_float": ("k_cache", *DECODE_SPECS),
    "sparse_prefill": ("kv", *PREFILL_SPECS),
    "sparse_prefill_deterministic": ("kv", *PREFILL_SPECS),
    "sparse_prefill_of_latents": ("kv", *PREFILL_SPECS),
    "sparse_prefill_of_latents_deterministic": ("kv", *PREFILL_SPECS),
}


@for_each_implementation
class TensorParallelTest(OperationTest):
    """Query heads split over devices, the latent cache on all of them."""

    @over([(op.name, op, *SPLIT_HEADS[op.name]) for op in ATTENTION + KERNEL_SIZED if op.name in SPLIT_HEADS])
    def test_one_all_reduce_in_the_backward(self, operation, pool, split, out_specs):
        rng = np.random.default_rng(2)
        operands = operation.operands(rng, optional=("attn_sink",))
        if operands["q"].shape[-2] % 2:
            # Three heads become six.
            operands["q"] = jnp.concatenate([operands["q"]] * 2, axis=-2)
            operands["attn_sink"] = jnp.concatenate([operands["attn_sink"]] * 2)
        specs = {n: split.get(n, P()) for n in operands}
        tp = Mesh(self.devices(most=2, least=2), ("tp",))
        mapped = jax.shard_map(
            lambda kw: operation.call(self.implementation, **kw), mesh=tp, in_specs=(specs,), out_specs=out_specs
        )
        placed = {n: jax.device_put(x, NamedSharding(tp, specs[n])) for n, x in operands.items()}
        self.assertEqual(collectives(jax.jit(mapped).lower(placed).compile()), {})
        self.assert_all_close(jax.jit(mapped)(placed), operation.call(self.implementation, **operands))

        weight = normal(rng, operation.call(self.implementation, **operands)[0].shape, jnp.float32)

        def loss(call, kw, pool_value):
            return jnp.sum(weight * call(**dict(kw, **{pool: pool_value}))[0])

        gradient = jax.jit(jax.grad(lambda kw, p: loss(lambda **x: mapped(x), kw, p), argnums=1))
        pool_value = placed.pop(pool)
        self.assertEqual(collectives(gradient.lower(placed, pool_value).compile()), {"all-reduce": 1})
        want = jax.grad(lambda p: loss(lambda **x: operation.call(self.implementation, **x), operands, p))(
            operands[pool]
        )
        self.assert_close(gradient(placed, pool_value), np.asarray(want, np.float64), arithmetic=1e-5)


@for_each_implementation
class ContextParallelTest(OperationTest):
    """Pages split over devices: each attends to its own, and the states are merged."""

    @over([op for op in ATTENTION + KERNEL_SIZED if op.name in ("dense_decode", "dense_decode_of_latents")])
    def test_merge_is_the_only_communication(self, operation):
        cp = Mesh(self.devices(most=4, least=2), ("cp",))
        rng = np.random.default_rng(3)
        shards = [operation.operands(rng) for _ in range(cp.size)]
        shards[0]["cache_seqlens"] = jnp.zeros_like(shards[0]["cache_seqlens"])
        q = shards[0]["q"]
        pool = jnp.concatenate([shard["k_cache"] for shard in shards])
        table, lengths = (jnp.stack([shard[name] for shard in shards]) for name in ("block_table", "cache_seqlens"))

        def attend(q, pool, table, lengths):
            out, lse = operation.call(
                self.implementation, q=q, k_cache=pool, block_table=table[0], cache_seqlens=lengths[0]
            )
            outs = jax.lax.all_gather(out, "cp")
            lses = jax.lax.all_gather(jnp.swapaxes(lse, 1, 2), "cp")
            out, lse = fm.merge_attention_states(outs, lses)
            # Equal on every device, which the type of an all_gather does not say.
            return out[None], lse[None]

        mapped = jax.jit(
            jax.shard_map(attend, mesh=cp, in_specs=(P(), P("cp"), P("cp"), P("cp")), out_specs=(P("cp"), P("cp")))
        )
        found = collectives(mapped.lower(q, pool, table, lengths).compile())
        self.assertEqual(list(found), ["all-gather"])
        self.assertLessEqual(found["all-gather"], 2)  # a compiler may join the two
        out, lse = mapped(q, pool, table, lengths)

        states = [operation.want(**dict(shard, q=q)) for shard in shards]
        want_out, want_lse = oracle.merge(
            np.stack([out for out, _ in states]), np.stack([lse.swapaxes(1, 2) for _, lse in states])
        )
        for shard in range(cp.size):
            self.assert_close(out[shard], want_out)
            self.assert_close(lse[shard], want_lse)
