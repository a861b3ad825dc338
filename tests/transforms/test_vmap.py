"""vmap: every mix of mapped operands gives what the members give one by one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from base import OperationTest, for_each_implementation, over
from operations import ALL, ATTENTION, KERNEL_SIZED

MEMBERS = 3


def stacked(operation, rng, optional, mapped, members=MEMBERS):
    """Operands in which those in ``mapped`` have a leading axis, and the members one by one."""
    draws = [operation.operands(rng, optional=optional) for _ in range(members)]
    members = [{name: d[name] if name in mapped else draws[0][name] for name in d} for d in draws]
    batch = {name: jnp.stack([m[name] for m in members]) if name in mapped else draws[0][name] for name in draws[0]}
    return batch, members


def mixes(names):
    """All nonempty subsets."""
    return [subset for size in range(1, len(names) + 1) for subset in itertools.combinations(names, size)]


REQUIRED = [(f"{op}_{'_'.join(mapped)}", op, mapped) for op in ALL + KERNEL_SIZED for mapped in mixes(op.required)]
OPTIONAL = [(f"{op}_{name}", op, (name,)) for op in ALL + KERNEL_SIZED for name in op.optional]


@for_each_implementation
class VmapTest(OperationTest):
    def check(self, operation, mapped, optional):
        batch, members = stacked(operation, np.random.default_rng(len(mapped)), optional, set(mapped))
        names = tuple(batch)

        def call(*arrays):
            return operation.call(self.implementation, **dict(zip(names, arrays)))

        axes = tuple(0 if name in mapped else None for name in names)
        got = jax.jit(jax.vmap(call, in_axes=axes))(*batch.values())
        want = [operation.want(**member) for member in members]
        self.assert_all_close(got, [np.stack(x) for x in zip(*want)])

    @over(REQUIRED)
    def test_required(self, operation, mapped):
        self.check(operation, mapped, ())

    @over(OPTIONAL)
    def test_optional_alone(self, operation, mapped):
        self.check(operation, mapped, operation.optional)

    @over(ALL + KERNEL_SIZED)
    def test_all_together(self, operation):
        self.check(operation, (*operation.required, *operation.optional), operation.optional)

    @over(ALL + KERNEL_SIZED)
    def test_nested(self, operation):
        """Two levels; the first operand is mapped by the inner one alone, the last by both."""
        rng = np.random.default_rng(11)
        names = (*operation.required, *operation.optional)
        inner, both = names[0], names[-1] if len(names) > 1 else None
        rows = []
        for _ in range(2):
            batch, members = stacked(operation, rng, operation.optional, {inner, both})
            rows.append((batch, members))
        operands = {name: rows[0][0][name] for name in rows[0][0]}
        if both is not None:
            operands[both] = jnp.stack([batch[both] for batch, _ in rows])
        ordered = tuple(operands)

        def call(*arrays):
            return operation.call(self.implementation, **dict(zip(ordered, arrays)))

        inner_axes = tuple(0 if name in (inner, both) else None for name in ordered)
        outer_axes = tuple(0 if name == both else None for name in ordered)
        mapped = jax.vmap(call, in_axes=inner_axes)
        if both is not None:
            mapped = jax.vmap(mapped, in_axes=outer_axes)
        got = jax.jit(mapped)(*operands.values())
        want = []
        for i in range(2 if both is not None else 1):
            row = []
            for j in range(MEMBERS):
                member = dict(rows[0][1][j])
                if both is not None:
                    member[both] = operands[both][i, j]
                row.append(operation.want(**member))
            want.append([np.stack(x) for x in zip(*row)])
        want = [np.stack(x) for x in zip(*want)] if both is not None else want[0]
        self.assert_all_close(got, want)

    @over(ALL + KERNEL_SIZED)
    def test_no_members(self, operation):
        batch, members = stacked(operation, np.random.default_rng(4), operation.optional, operation.required, 1)
        axes = {n: 0 if n in operation.required else None for n in batch}
        none = {n: x[:0] if axes[n] == 0 else x for n, x in batch.items()}

        def call(kw):
            return operation.call(self.implementation, **kw)

        got = jax.jit(jax.vmap(call, in_axes=(axes,)))(none)
        want = operation.want(**members[0])
        self.assertEqual([x.shape for x in got], [(0, *np.shape(x)) for x in want])
        if operation.gradients is None:
            return
        names = [n for n in operation.differentiable if n in batch]

        def total(arrays):
            return jax.vmap(call, in_axes=(axes,))(none | arrays)[0].sum()

        for name, x in jax.jit(jax.grad(total))({n: none[n] for n in names}).items():
            np.testing.assert_array_equal(x, np.zeros(none[name].shape), name)

    @over(ATTENTION + KERNEL_SIZED)
    def test_other_axes(self, operation):
        """in_axes and out_axes need not be the leading ones."""
        operands = operation.operands(np.random.default_rng(3))
        q = operands.pop("q")
        queries = jnp.stack([q, 2 * q], axis=-1)

        def call(q):
            return operation.call(self.implementation, q=q, **operands)[0]

        got = jax.vmap(call, in_axes=-1, out_axes=1)(queries)
        want = [operation.want(q=x, **operands)[0] for x in (q, 2 * q)]
        self.assert_close(got, np.stack(want, axis=1))


@for_each_implementation
class VmapGradientTest(OperationTest):
    """Derivatives of vmap and vmap of derivatives, with shared and with mapped operands."""

    def members(self, operation, mapped):
        batch, members = stacked(operation, np.random.default_rng(5), operation.optional, mapped)
        names = [name for name in operation.differentiable if name in batch]
        rest = [name for name in batch if name not in names]

        def loss(arrays, others, weight):
            results = operation.call(self.implementation, **arrays, **others)
            # Finite logits only: rows with nothing to attend to are −inf.
            logits = jnp.where(jnp.isfinite(results[-1]), results[-1], 0.0)
            return jnp.sum(weight * results[0]) + jnp.sum(logits)

        weight = jnp.asarray(
            np.random.default_rng(6).standard_normal(operation.want(**members[0])[0].shape), jnp.float32
        )

        def split(x):
            return {n: x[n] for n in names}, {n: x[n] for n in rest}

        def want(member):
            arrays, others = split(member)
            results = operation.want(**member)
            cotangents = [np.asarray(weight), *(np.isfinite(x).astype(float) for x in results[1:])]
            gradients = operation.gradients(cotangents, **arrays, **others)
            return {n: gradients[n] for n in names}

        axes = tuple({n: 0 if n in mapped else None for n in part} for part in (names, rest))
        return split(batch), [want(m) for m in members], loss, weight, axes

    @over(
        [(f"{op}_{label}", op, label) for op in ATTENTION + KERNEL_SIZED for label in ("queries_mapped", "all_mapped")]
    )
    def test_both_orders(self, operation, label):
        everything = {*operation.required, *operation.optional}
        mapped = {"q"} if label == "queries_mapped" else everything
        (arrays, others), want, loss, weight, axes = self.members(operation, mapped)

        inside = jax.vmap(jax.grad(loss), in_axes=(*axes, None))
        got = jax.jit(inside)(arrays, others, weight)
        for name, x in got.items():
            self.assert_close(x, np.stack([w[name] for w in want]), arithmetic=2e-5, what=f"vmap(grad) {name}")

        def total(arrays, others):
            return jax.vmap(loss, in_axes=(*axes, None))(arrays, others, weight).sum()

        got = jax.jit(jax.grad(total))(arrays, others)
        for name, x in got.items():
            expected, terms = np.stack([w[name] for w in want]), 1
            if name not in mapped:
                expected, terms = expected.sum(0), len(want)
            self.assert_close(x, expected, arithmetic=2e-5, what=f"grad(vmap) {name}", terms=terms)
