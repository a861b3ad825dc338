"""shard_map with check_vma=True: right results and gradients, and no psum of the user's."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from base import OperationTest, devices_of, for_each_implementation
from inspection import collectives
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from operations import ATTENTION, KERNEL_SIZED, OTHER, int32, named, normal

import jax_flash_mla as fm


def mesh(implementation, **axes):
    size = int(np.prod(list(axes.values())))
    return Mesh(np.array(devices_of(implementation)[:size]).reshape(tuple(axes.values())), tuple(axes))


@for_each_implementation
class DataParallelTest(OperationTest):
    """Each device runs the operation on its own operands; some are shared by all."""

    # What devices share: the other operands differ from device to device.
    SHARED = {"k_cache", "kv", "k", "v", "attn_sink", "extra_k_cache"}

    def setUp(self):
        self.replicas = min(4, len(devices_of(self.implementation)))

    def mesh(self):
        return mesh(self.implementation, data=self.replicas)

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

    @parameterized.named_parameters(named(ATTENTION + OTHER + KERNEL_SIZED))
    def test_results(self, operation):
        operands, specs, members = self.split(operation)
        mapped = jax.shard_map(
            lambda kw: self.local(operation, kw), mesh=self.mesh(), in_specs=(specs,), out_specs=P("data")
        )
        compiled = jax.jit(mapped).lower(operands).compile()
        self.assertEqual(collectives(compiled), {})
        want = [operation.want(**m) for m in members]
        self.assert_all_close(jax.jit(mapped)(operands), [np.stack(x) for x in zip(*want)])

    @parameterized.named_parameters(named(ATTENTION + KERNEL_SIZED))
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
            return jax.shard_map(local, mesh=self.mesh(), in_specs=specs_in, out_specs=P("data"))(
                arrays, rest, weight
            ).sum()

        got = jax.jit(jax.grad(loss))({n: operands[n] for n in names}, rest, weight)
        zero = [np.zeros(x.shape) for x in operation.want(**members[0])[1:]]
        want = [operation.gradients([np.asarray(w), *zero], **m) for m, w in zip(members, weight)]
        for n in names:
            each = np.stack([w[n] for w in want])
            each = each.sum(0) if n in self.SHARED else each
            self.assert_close(got[n], each, arithmetic=2e-5, what=f"gradient of {n}")

    @parameterized.named_parameters(named(ATTENTION + KERNEL_SIZED))
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
            mapped = jax.shard_map(local, mesh=self.mesh(), in_specs=(specs,), out_specs=P("data"), check_vma=check_vma)
            return jax.jit(jax.value_and_grad(lambda q: mapped(dict(operands, q=q)).sum()))(operands["q"])

        for checked, unchecked in zip(run(True), run(False)):
            self.assert_close(checked, np.asarray(unchecked, np.float64))


@for_each_implementation
class TensorParallelTest(OperationTest):
    """Query heads split over devices, the latent cache on all of them."""

    CASES = (
        (
            "dense_decode",
            "k_cache",
            dict(q=P(None, None, "tp"), attn_sink=P("tp")),
            (P(None, None, "tp"), P(None, "tp")),
        ),
        (
            "sparse_decode_float",
            "k_cache",
            dict(q=P(None, None, "tp"), attn_sink=P("tp")),
            (P(None, None, "tp"), P(None, "tp")),
        ),
        ("sparse_prefill", "kv", dict(q=P(None, "tp"), attn_sink=P("tp")), (P(None, "tp"),) * 3),
    )

    @parameterized.named_parameters((name, *case) for name, *case in ((c[0], *c) for c in CASES))
    def test_one_all_reduce_in_the_backward(self, name, pool, split, out_specs):
        operation = next(op for op in ATTENTION if op.name == name)
        rng = np.random.default_rng(2)
        operands = operation.operands(rng, optional=("attn_sink",))
        if operands["q"].shape[-2] % 2:
            # Three heads become six.
            operands["q"] = jnp.concatenate([operands["q"]] * 2, axis=-2)
            operands["attn_sink"] = jnp.concatenate([operands["attn_sink"]] * 2)
        specs = {n: split.get(n, P()) for n in operands}
        tp = mesh(self.implementation, tp=2)
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

    def test_merge_is_the_only_communication(self):
        rng = np.random.default_rng(3)
        shards, b, s_q, h_q, d, d_v, pages, page_size = 4, 2, 2, 4, 24, 16, 3, 4
        cp = mesh(self.implementation, cp=shards)
        q = normal(rng, (b, s_q, h_q, d), jnp.float32)
        pool = normal(rng, (shards * pages, page_size, 1, d), jnp.float32)
        table = int32(rng.permuted(np.tile(np.arange(pages), (shards, b, 1)), axis=2))
        lengths = int32(rng.integers(0, pages * page_size + 1, (shards, b)))
        lengths = lengths.at[0].set(0)

        def attend(q, pool, table, lengths):
            out, lse = fm.flash_mla_with_kvcache(
                q, pool, table[0], lengths[0], d_v, softmax_scale=0.2, implementation=self.implementation
            )
            outs = jax.lax.all_gather(out, "cp")
            lses = jax.lax.all_gather(jnp.swapaxes(lse, 1, 2), "cp")
            out, lse = fm.merge_attention_states(outs, lses)
            # Equal on every device, which the type of an all_gather does not say.
            return out[None], lse[None]

        mapped = jax.jit(
            jax.shard_map(attend, mesh=cp, in_specs=(P(), P("cp"), P("cp"), P("cp")), out_specs=(P("cp"), P("cp")))
        )
        self.assertEqual(collectives(mapped.lower(q, pool, table, lengths).compile()), {"all-gather": 2})
        out, lse = mapped(q, pool, table, lengths)

        # One device with all pages: each shard's keys one after another.
        slots = [
            [
                (shard * pages + int(table[shard, i, p // page_size])) * page_size + p % page_size
                for shard in range(shards)
                for p in range(int(lengths[shard, i]))
            ]
            for i in range(b)
        ]
        longest = max(map(len, slots))
        ids = np.full((b, s_q, longest), -1, np.int32)
        for i, row in enumerate(slots):
            ids[i, :, : len(row)] = row
        want_out, want_lse = fm.flash_mla_with_kvcache(
            q, pool, None, None, d_v, softmax_scale=0.2, indices=int32(ids), implementation=self.implementation
        )
        for shard in range(shards):
            self.assert_close(out[shard], np.asarray(want_out, np.float64))
            self.assert_close(lse[shard], np.asarray(jnp.swapaxes(want_lse, 1, 2), np.float64))
