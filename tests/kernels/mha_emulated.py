"""What the forward kernels of multi-head attention have to do in the emulator, whatever the architecture."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import jax_flash_mla as fm
from kernels.mha_problem import MhaTest, Problem
from kernels.poison import POISONS, bits

FEATURES = parameterized.named_parameters(
    (f"{name}_{d}{'_causal' if causal else ''}", dict(options, d=d, causal=causal))
    for d in (192, 128)
    for causal in (False, True)
    for name, options in (
        ("one_tile", dict(q_lengths=[128], kv_lengths=[128])),
        ("partial", dict(q_lengths=[70], kv_lengths=[50])),
        ("several_blocks", dict(q_lengths=[200], kv_lengths=[400])),
        ("more_queries_than_keys", dict(q_lengths=[300], kv_lengths=[130])),
        ("packed", dict(q_lengths=[60, 0, 130, 7], kv_lengths=[90, 30, 0, 7], h_q=4, h_kv=2)),
        ("padded", dict(q_lengths=[[60], [0], [130]], kv_lengths=[[90], [30], [0]], padding=5)),
    )
)


def call_under_vmap(*operands):
    """Packed attention by the kernel, of stacked operands."""

    @jax.jit
    @jax.vmap
    def call(*operands):
        return fm.flash_attn_varlen_func(*operands, implementation="emulated")

    return [np.asarray(x) for x in call(*map(jnp.asarray, operands))]


class ForwardTest(MhaTest):
    """Tests of one architecture's kernel."""

    __test__ = False

    def call(self, problem, poison):
        """Out and lse of a problem, from results full of the bits of one value."""
        raise NotImplementedError

    def call_function(self, function, *arguments):
        """What a function returns where the kernel runs."""
        return function(*arguments)

    def check_gradients(self, problem):
        """Where there are kernels for them."""

    def check(self, problem):
        got = self.call(problem, np.nan)
        self.assert_right(problem, got)
        return got

    @FEATURES
    def test_feature(self, options):
        problem = Problem(np.random.default_rng(0), **options)
        problem.spoil_unused(np.nan)
        self.check(problem)

    def test_many_sequences(self):
        """More than a warp looks at together, over several packs."""
        lengths = np.random.default_rng(2).integers(0, 9, (3, 40))
        problem = Problem(np.random.default_rng(3), q_lengths=lengths, kv_lengths=lengths, h_q=1, causal=True)
        self.check(problem)
        self.check_gradients(problem)

    def test_more_tiles_than_thread_blocks(self):
        self.check(Problem(np.random.default_rng(4), q_lengths=[[20] * 3] * 20, kv_lengths=[[30] * 3] * 20, h_q=3))

    @parameterized.parameters(False, True)
    def test_bounds_that_make_no_sense(self, keys):
        problem = Problem(np.random.default_rng(5), q_lengths=[[9] * 5] * 4, kv_lengths=[[9] * 5] * 4, padding=3)
        cu = problem.cu_kv if keys else problem.cu_q
        cu[0, 2] = 3  # decreases
        cu[1, 3] = 2**31 - 1  # leaves the tokens
        cu[2, 1] = -5
        cu[3, 5] = 60
        self.check(problem)
        self.check_gradients(problem)

    def test_nothing_is_there(self):
        for q_lengths, kv_lengths in (([0], [5]), ([5], [0]), ([0, 0], [0, 0]), (np.zeros((0, 1)), np.zeros((0, 1)))):
            for padding in (0, 4):
                rng = np.random.default_rng(6)
                problem = Problem(rng, q_lengths=q_lengths, kv_lengths=kv_lengths, padding=padding)
                self.check(problem)
                self.check_gradients(problem)

    @parameterized.parameters(0.0, -0.3, 3.0)
    def test_scales(self, scale):
        problem = Problem(np.random.default_rng(7), q_lengths=[40], kv_lengths=[150], causal=True)
        problem.scale = scale
        self.check(problem)
        self.check_gradients(problem)

    def test_growing_logits(self):
        """Each block's maximum passes the one before by much, or by little."""
        for step in (0.01, 3.0):
            problem = Problem(np.random.default_rng(8), q_lengths=[40], kv_lengths=[500], h_q=1)
            problem.q[..., 191] = 24.0
            problem.k[..., 191] = -np.arange(500)[:, None] * step / 16
            self.check(problem)

    def test_nan_stays_in_its_sequence(self):
        problem = Problem(np.random.default_rng(9), q_lengths=[40, 30, 50], kv_lengths=[40, 30, 50], h_q=1)
        problem.k[0, 45] = problem.v[0, 45] = np.nan
        out, lse = self.call(problem, 0.0)
        touched = (np.arange(120) >= 40) & (np.arange(120) < 70)
        for x in (out.astype(np.float32), lse):
            self.assertTrue(np.isfinite(x[:, ~touched]).all() and np.isnan(x[:, touched]).all())

    def test_nan_does_not_reach_queries_without_keys(self):
        problem = Problem(np.random.default_rng(13), q_lengths=[60], kv_lengths=[20], h_q=1, causal=True)
        problem.k[0, 5] = problem.v[0, 5] = np.nan
        out, lse = self.call(problem, np.nan)
        self.assertTrue((out[:, :40] == 0).all() and np.isneginf(lse[:, :40]).all())

    def test_same_bits_whatever_was_there_before(self):
        problem = Problem(np.random.default_rng(10), q_lengths=[150], kv_lengths=[300], padding=4, causal=True)
        first, *others = (bits(self.call(problem, poison)) for poison in POISONS.values())
        for other in others:
            for x, y in zip(first, other):
                np.testing.assert_array_equal(x, y)

    def test_under_jit_and_vmap(self):
        rng = np.random.default_rng(11)
        problems = [Problem(rng, q_lengths=[20, 30], kv_lengths=[30, 40], d=128) for _ in range(2)]
        operands = [np.stack([getattr(p, name)[0] for p in problems]) for name in ("q", "k", "v", "cu_q", "cu_kv")]
        results = self.call_function(call_under_vmap, *operands)
        for i, problem in enumerate(problems):
            self.assert_right(problem, [x[i : i + 1] for x in results])
