"""``sharding.ring_attention`` on a mesh against the oracle on the whole sequence, and what it sends."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from base import GRADIENT_ARITHMETIC, OperationTest, for_each_implementation, over
from inspection import collectives, stage_calls
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from operations import normal

import jax_flash_mla as fm
from jax_flash_mla import sharding
from jax_flash_mla._check.operations import mha_batched

SAVE_OURS = jax.checkpoint_policies.save_only_these_names("jax_flash_mla.out", "jax_flash_mla.lse")
TOKENS = P(None, "cp")


def ring_cases(causals=(False, True)):
    """(label, operation on the whole sequence, layout); those of the sizes that kernels take at last."""
    cases = []
    for causal in causals:
        for layout, n_kv in (("zigzag", 2), ("contiguous", 4)):
            label = f"{'causal' if causal else 'full'}_{layout}"
            whole = mha_batched(label, n_q=4, n_kv=n_kv, causal=causal, t=48, s=48)
            cases.append((label, whole, layout))
            large = dict(b=1, t=64, s=64, d=192, e=128, kernel_sized=True)
            whole = mha_batched(f"{label}_192", n_q=4, n_kv=2, causal=causal, **large)
            cases.append((f"{label}_192", whole, layout))
    return cases


CAUSAL = ring_cases(causals=(True,))


class RingTest(OperationTest):
    """The whole sequence in, the whole sequence out; reordered and split between."""

    def mesh(self, most=8, least=2):
        return Mesh(self.devices(most=most, least=least), ("cp",))

    def ring(self, mesh, layout, causal, check_vma=True, specs=TOKENS, wrap=lambda f: f):
        n = mesh.shape["cp"]

        def local(q, k, v):
            taken = jnp.bfloat16 if self.implementation == "cuda" else q.dtype
            out, lse = sharding.ring_attention(
                *(x.astype(taken) for x in (q, k, v)),
                axis_name="cp",
                causal=causal,
                layout=layout,
                implementation=self.implementation,
            )
            return out.astype(q.dtype), lse

        mapped = jax.shard_map(
            wrap(local), mesh=mesh, in_specs=(specs,) * 3, out_specs=(specs, specs), check_vma=check_vma
        )

        def whole(q, k, v):
            if layout == "contiguous":
                return mapped(q, k, v)
            ordered = mapped(*(sharding.to_zigzag(x, n) for x in (q, k, v)))
            return tuple(sharding.from_zigzag(x, n) for x in ordered)

        return whole, mapped

    def assert_right(self, call, whole, operands):
        """Results and gradients of a call against the oracle of the whole sequence."""
        got, pull = jax.vjp(jax.jit(call), *operands)
        names = dict(zip("qkv", operands, strict=True))
        self.assert_all_close(got, whole.want(**names), terms=2)
        cotangents = cotangents_of(got)
        want = whole.gradients([np.asarray(x) for x in cotangents], **names)
        for name, gradient in zip("qkv", jax.jit(pull)(cotangents), strict=True):
            self.assert_close(gradient, want[name], arithmetic=GRADIENT_ARITHMETIC, what=f"gradient of {name}", terms=2)


def operands_of(whole, seed=0, dtype=jnp.float32):
    return tuple(whole.operands(np.random.default_rng(seed), dtype).values())


def cotangents_of(results, seed=1):
    """Numbers that bfloat16 holds too, to which kernels take them."""
    rng = np.random.default_rng(seed)
    return tuple(normal(rng, x.shape, jnp.bfloat16).astype(x.dtype) for x in results)


@for_each_implementation
class AgainstTheOracleTest(RingTest):
    @over(ring_cases())
    def test_results_and_gradients(self, whole, layout):
        causal = whole.name.startswith("causal")
        # Programs of many steps take long to compile: eight where most can go wrong.
        call, _ = self.ring(self.mesh(most=8 if causal and layout == "zigzag" else 4), layout, causal)
        self.assert_right(call, whole, operands_of(whole))

    @over(CAUSAL)
    def test_two_devices(self, whole, layout):
        """The first step that is not a device's own is the last one."""
        call, _ = self.ring(self.mesh(most=2), layout, True)
        self.assert_right(call, whole, operands_of(whole, seed=2))

    @over(CAUSAL)
    def test_one_device_is_flash_attn_func(self, whole, layout):
        call, _ = self.ring(self.mesh(most=1, least=1), layout, True)
        operands = operands_of(whole, seed=3)

        def plain(*operands):
            return whole.call(self.implementation, *operands)

        got, pull = jax.vjp(jax.jit(call), *operands)
        want, plain_pull = jax.vjp(jax.jit(plain), *operands)
        cotangents = cotangents_of(got)
        for a, b in zip((*got, *pull(cotangents)), (*want, *plain_pull(cotangents)), strict=True):
            np.testing.assert_array_equal(a, b)


@for_each_implementation
class CommunicationTest(RingTest):
    @over(ring_cases())
    def test_collectives(self, whole, layout):
        """Keys and values n − 1 times each; in the backward pass these again, and their gradients."""
        mesh = self.mesh(most=4)
        hops = mesh.size - 1
        _, mapped = self.ring(mesh, layout, whole.name.startswith("causal"))
        operands = operands_of(whole)

        def gradients(*operands):
            out, pull = jax.vjp(mapped, *operands)
            return pull(out)

        for function, sent in ((mapped, 2 * hops), (gradients, 6 * hops)):
            text = jax.jit(function).lower(*operands).as_text()
            self.assertEqual(len(re.findall(r"stablehlo\.collective_permute", text)), sent)
            for other in ("all_gather", "all_reduce", "all_to_all", "reduce_scatter", "collective_broadcast"):
                self.assertNotIn(f"stablehlo.{other}", text)
            found = collectives(jax.jit(function).lower(*operands).compile())
            self.assertEqual(list(found), ["collective-permute"])
            self.assertLessEqual(found["collective-permute"], sent)  # a compiler may join some

    @over(CAUSAL)
    def test_policy_spares_the_second_forward_ring(self, whole, layout):
        mesh = self.mesh(most=4)
        operands = operands_of(whole)

        def traced(**options):
            def wrap(local):
                def scaled(q, k, v):
                    return local(2 * q, k, v)

                return jax.checkpoint(scaled, **options)

            call, _ = self.ring(mesh, layout, True, wrap=wrap)
            return jax.make_jaxpr(jax.grad(lambda q, k, v: (call(q, k, v)[0] ** 2).sum(), argnums=(0, 1, 2)))(*operands)

        for options, rings in (({}, 2), ({"policy": SAVE_OURS}, 1)):
            jaxpr = traced(**options)
            self.assertEqual(stage_calls(jaxpr, "mha_forward"), rings * mesh.size)
            self.assertEqual(stage_calls(jaxpr, "mha_backward"), mesh.size)


@for_each_implementation
class TransformationTest(RingTest):
    @over(CAUSAL)
    def test_scan_over_layers(self, whole, layout):
        """With checkpoints, with and without checks of types: the same numbers."""
        mesh = self.mesh(most=2)
        operands = operands_of(whole)

        def run(check_vma, checkpoint):
            def wrap(local):
                def layers(q, k, v):
                    def layer(carry, _):
                        q, _ = carry
                        out, lse = local(q, k, v)
                        return (q * (1 + out.mean(-1, keepdims=True)), lse), None

                    start = (q, jnp.zeros_like(q[..., 0], jnp.float32))
                    return jax.lax.scan(checkpoint(layer), start, None, length=2)[0]

                return layers

            call, _ = self.ring(mesh, layout, True, check_vma=check_vma, wrap=wrap)
            return jax.jit(jax.grad(lambda *x: sum(y.sum() for y in call(*x)), argnums=(0, 1, 2)))(*operands)

        def single(*operands):
            q, k, v = operands
            for _ in range(2):
                out, lse = whole.call(self.implementation, q, k, v)
                q = q * (1 + out.mean(-1, keepdims=True))
            return q.sum() + lse.sum()

        want = jax.jit(jax.grad(single, argnums=(0, 1, 2)))(*operands)
        policy = functools.partial(jax.checkpoint, policy=SAVE_OURS)
        for check_vma, checkpoint in ((True, lambda f: f), (True, policy), (False, policy)):
            for got, one_device in zip(run(check_vma, checkpoint), want, strict=True):
                self.assert_close(got, np.asarray(one_device, np.float64), arithmetic=1e-4, terms=4)

    @over(CAUSAL)
    def test_vmap(self, whole, layout):
        mesh = self.mesh(most=2)
        call, _ = self.ring(mesh, layout, True)
        members = [operands_of(whole, seed) for seed in (4, 5)]
        stacked = tuple(jnp.stack(x) for x in zip(*members))

        def gradients(q, k, v):
            return jax.grad(lambda *x: (call(*x)[0] ** 2).sum(), argnums=(0, 1, 2))(q, k, v)

        got = jax.jit(jax.vmap(gradients))(*stacked)
        for i, member in enumerate(members):
            for mapped, alone in zip(got, jax.jit(gradients)(*member), strict=True):
                self.assert_close(mapped[i], np.asarray(alone, np.float64), arithmetic=GRADIENT_ARITHMETIC)

    @over(CAUSAL[:1])
    def test_other_axes(self, whole, layout):
        """Sequences over data, heads over tensor, tokens over the ring."""
        mesh = Mesh(np.array(self.devices(most=8, least=8)).reshape(2, 2, 2), ("data", "tp", "cp"))
        spec = P("data", "cp", "tp")
        call, mapped = self.ring(mesh, layout, True, specs=spec)
        operands = operands_of(whole, seed=6)
        names = dict(zip("qkv", operands, strict=True))
        got, pull = jax.vjp(jax.jit(call), *operands)
        self.assert_all_close(got, whole.want(**names))
        cotangents = cotangents_of(got)
        want = whole.gradients([np.asarray(x) for x in cotangents], **names)
        for name, gradient in zip("qkv", jax.jit(pull)(cotangents), strict=True):
            self.assert_close(gradient, want[name], arithmetic=GRADIENT_ARITHMETIC, what=f"gradient of {name}")
        self.assertEqual(list(collectives(jax.jit(mapped).lower(*operands).compile())), ["collective-permute"])


class EdgesTest(OperationTest):
    """In pure JAX: what the bounds of sequences make of blocks does not depend on the implementation."""

    __test__ = True

    def setUp(self):
        self.cp = Mesh(jax.devices("cpu")[:4], ("cp",))

    def mapped(self, in_specs=(TOKENS,) * 3, **options):
        def local(q, k, v):
            return sharding.ring_attention(q, k, v, axis_name="cp", **options)

        return jax.jit(jax.shard_map(local, mesh=self.cp, in_specs=in_specs, out_specs=(TOKENS, TOKENS)))

    def draw(self, seed=0, t=16, s=16, dtype=jnp.float32):
        rng = np.random.default_rng(seed)
        return tuple(normal(rng, shape, dtype) for shape in ((2, t, 4, 12), (2, s, 2, 12), (2, s, 2, 8)))

    def test_more_keys_than_queries(self):
        q, k, v = self.draw(t=12, s=20)
        got = self.mapped()(q, k, v)
        self.assert_all_close(got, [np.asarray(x, np.float64) for x in fm.flash_attn_func(q, k, v)])

    def test_shared_keys_are_met_once_from_each_device(self):
        """Their gradient is summed by JAX."""
        q, k, v = self.draw(s=4)
        mapped = self.mapped(in_specs=(TOKENS, P(), P()))

        def loss(k, call):
            out, lse = call(k)
            return (out**2).sum() + lse.sum()

        def single(k):
            return fm.flash_attn_func(q, jnp.concatenate([k] * 4, axis=1), jnp.concatenate([v] * 4, axis=1))

        got = jax.jit(jax.grad(lambda k: loss(k, lambda k: mapped(q, k, v))))(k)
        want = jax.jit(jax.grad(lambda k: loss(k, single)))(k)
        self.assert_close(got, np.asarray(want, np.float64), arithmetic=GRADIENT_ARITHMETIC)

    @parameterized.product(causal=[False, True], layout=sharding.LAYOUTS)
    def test_nan_reaches_those_that_attend_to_it(self, causal, layout):
        """A NaN in a key: in the queries of its own sequence that see it, and nowhere else."""
        q, k, v = self.draw(seed=1)
        place = 6
        k = k.at[0, place].set(jnp.nan)
        operands = (q, k, v) if layout == "contiguous" else [sharding.to_zigzag(x, 4) for x in (q, k, v)]
        results = self.mapped(causal=causal, layout=layout)(*operands)
        if layout == "zigzag":
            results = [sharding.from_zigzag(x, 4) for x in results]
        for x in results:
            spoiled = np.isnan(np.asarray(x)).reshape(2, 16, -1)
            first = place if causal else 0
            self.assertTrue(spoiled[0, first:].all())
            self.assertFalse(spoiled[0, :first].any() or spoiled[1].any())

    @parameterized.parameters(1e-4, 30.0)
    def test_magnitudes(self, magnitude):
        """Weights of the parts from all alike to all but one zero; logits to ±900 and beyond."""
        q, k, v = self.draw(seed=2)
        q, k = magnitude * q, magnitude * k
        call = self.mapped(causal=True, layout="contiguous")
        got, pull = jax.vjp(call, q, k, v)
        whole = mha_batched("whole", n_q=4, n_kv=2, causal=True, t=16, s=16)
        self.assert_all_close(got, whole.want(q, k, v), arithmetic=1e-5 if magnitude < 1 else 1e-3)
        for x in jax.jit(pull)(cotangents_of(got)):
            self.assertTrue(np.isfinite(x).all())

    @parameterized.parameters(jnp.bfloat16, jnp.float16)
    def test_dtypes(self, dtype):
        """Results and gradients are of the operands' type; parts are rounded to it before they are merged."""
        operands = self.draw(seed=3, dtype=dtype)
        got, pull = jax.vjp(self.mapped(causal=True, layout="contiguous"), *operands)
        whole = mha_batched("whole", n_q=4, n_kv=2, causal=True, t=16, s=16)
        out, lse = whole.want(*operands)
        eps = float(jnp.finfo(dtype).eps)
        self.assertEqual((got[0].dtype, got[1].dtype), (dtype, jnp.float32))
        np.testing.assert_allclose(np.asarray(got[0], np.float64), out, atol=eps * 4)
        np.testing.assert_allclose(got[1], lse, atol=1e-5)
        cotangents = cotangents_of(got)
        want = whole.gradients([np.asarray(x, np.float64) for x in cotangents], *operands)
        for name, x in zip("qkv", jax.jit(pull)(cotangents), strict=True):
            self.assertEqual(x.dtype, dtype)
            scale = np.abs(want[name]).max()
            np.testing.assert_allclose(np.asarray(x, np.float64), want[name], atol=4 * eps * scale)

    def test_work_is_equal(self):
        """Pairs of a query and a key that a device scores at each step, by the bounds that it gives."""
        t, n = 8, 4
        q = jnp.zeros((1, n * t, 1, 1))

        def pairs(layout):
            config = fm._mha.Config(1.0, True, False, "xla")
            ring = sharding._Ring(config, "cp", n, layout)

            def local(q):
                found = []
                for step in range(1, n):
                    bounds = ring.bounds(step, q, q)
                    lengths = [jnp.diff(bounds[name], axis=1) for name in ("cu_seqlens_qo", "cu_seqlens_kv")]
                    found.append((lengths[0] * lengths[1]).sum())
                return jnp.stack(found)[None]

            return jax.jit(jax.shard_map(local, mesh=self.cp, in_specs=TOKENS, out_specs=P("cp")))(q)

        np.testing.assert_array_equal(pairs("zigzag"), np.full((n, n - 1), t * t // 2))
        want = [[t * t if device >= step else 0 for step in range(1, n)] for device in range(n)]
        np.testing.assert_array_equal(pairs("contiguous"), want)


class ZigzagTest(parameterized.TestCase):
    def test_order(self):
        """Of 16 tokens on four devices, two chunks of two each."""
        want = [0, 1, 14, 15, 2, 3, 12, 13, 4, 5, 10, 11, 6, 7, 8, 9]
        np.testing.assert_array_equal(sharding.zigzag_permutation(16, 4), want)

    @parameterized.product(axis=[0, 1, -1], n=[1, 2, 3])
    def test_there_and_back(self, axis, n):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((12, 24, 36)))
        there = sharding.to_zigzag(x, n, axis=axis)
        order = sharding.zigzag_permutation(x.shape[axis], n)
        np.testing.assert_array_equal(there, np.take(np.asarray(x), order, axis=axis))
        np.testing.assert_array_equal(sharding.from_zigzag(there, n, axis=axis), x)

    def test_one_device_keeps_the_order(self):
        np.testing.assert_array_equal(sharding.zigzag_permutation(6, 1), np.arange(6))


def refuse(error, text, mesh_axis="cp", t=8, s=None, **changes):
    return error, text, mesh_axis, t, s if s is not None else t, changes


class RefusalTest(parameterized.TestCase):
    def setUp(self):
        self.cp = Mesh(jax.devices("cpu")[:2], ("cp",))

    @parameterized.named_parameters(
        ("axis", *refuse(ValueError, "axis_name must be a mesh axis .* maps, here 'cp', got 'tp'", axis_name="tp")),
        ("axis_type", *refuse(TypeError, "axis_name must be a str, got .* of type tuple", axis_name=("cp",))),
        (
            "layout",
            *refuse(ValueError, "layout must be one of 'zigzag', 'contiguous', got 'striped'", layout="striped"),
        ),
        (
            "odd",
            *refuse(ValueError, 'q must have an even number of tokens .* layout="zigzag", got 3', t=6, causal=True),
        ),
        (
            "lengths",
            *refuse(ValueError, "k must have as many tokens as q where causal=True, 4, got 2", s=4, causal=True),
        ),
        ("causal", *refuse(TypeError, "causal must be a bool, got 1", causal=1)),
        ("scale", *refuse(ValueError, "softmax_scale must be finite in float32", softmax_scale=float("inf"))),
        ("kernel", *refuse(NotImplementedError, '"cuda" was asked for, but', implementation="cuda")),
    )
    def test_refused(self, error, text, mesh_axis, t, s, changes):
        q, k = jnp.zeros((2, t, 4, 12), jnp.float32), jnp.zeros((2, s, 4, 12), jnp.float32)
        options = dict(axis_name="cp") | changes

        def local(q, k):
            return sharding.ring_attention(q, k, k, **options)

        with self.assertRaisesRegex(error, text) as caught:
            jax.shard_map(local, mesh=self.cp, in_specs=TOKENS, out_specs=TOKENS)(q, k)
        self.assertIs(type(caught.exception), error)
        self.assertEqual(str(caught.exception).count("\n"), 0)
        self.assertTrue(str(caught.exception).endswith("."))

    def test_outside_shard_map(self):
        x = jnp.zeros((2, 4, 4, 12), jnp.float32)
        with self.assertRaisesRegex(ValueError, "axis_name must be a mesh axis .* maps, here none, got 'cp'"):
            sharding.ring_attention(x, x, x, axis_name="cp")
        with self.assertRaisesRegex(ValueError, "axis_name must be a mesh axis .* maps, here none, got 'cp'"):
            jax.vmap(lambda x: sharding.ring_attention(x, x, x, axis_name="cp"), axis_name="cp")(x[None])

    @parameterized.parameters(
        (ValueError, r"length must be a multiple of 2 · n = 8, got 12", lambda: sharding.zigzag_permutation(12, 4)),
        (TypeError, "n must be an int", lambda: sharding.zigzag_permutation(16, 4.0)),
        (ValueError, "n must be at least 1, got 0", lambda: sharding.zigzag_permutation(16, 0)),
        (
            ValueError,
            "the size of x along axis 1 must be a multiple of 2 · n = 8, got 12",
            lambda: sharding.to_zigzag(jnp.zeros((2, 12)), 4),
        ),
        (
            ValueError,
            "axis must be below the number of dimensions of x, 1, got 1",
            lambda: sharding.from_zigzag(jnp.zeros(16), 4),
        ),
        (TypeError, "x must be an array", lambda: sharding.to_zigzag([1, 2], 1)),
    )
    def test_order_refused(self, error, text, call):
        with self.assertRaisesRegex(error, text):
            call()
