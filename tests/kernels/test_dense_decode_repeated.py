"""The dense decode kernel again and again: replayed, from two threads, beside other work.

A result that moves is a race. All comparisons here are of bits.
"""

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from jax_flash_mla import _ffi
from kernels.dense_decode_problem import D_V, Problem, run_poisoned, runs_the_kernel
from kernels.device_load import loaded_device
from kernels.poison import POISONS, bits
from kernels.repeated import any_differs, as_integers, same_calls_of_threads

REPLAYS = 10_000
CALLS = 200  # of each thread


def is_captured(kind, listing):
    """Whether a thunk of a kind stands within a command buffer, in XLA's indented listing of thunks."""
    depth = None
    for line in listing.splitlines():
        indent = len(line) - len(line.lstrip())
        if depth is not None and indent > depth and kind in line:
            return True
        if "kCommandBuffer" in line:
            depth = indent
        elif depth is not None and line.strip() and indent <= depth:
            depth = None
    return False


@runs_the_kernel
class RepeatedTest(parameterized.TestCase):
    def test_replays_with_changing_lengths(self):
        """Iterations of a loop that XLA runs as replays of one captured graph."""
        rng = np.random.default_rng(0)
        problem = Problem(rng, lengths=[3000] * 6, s_q=2, h_q=64, causal=True)
        q, k_cache, table, _, sink = problem.arrays()
        kinds = 16
        lengths = rng.integers(0, 3001, (kinds, 6)).astype(np.int32)
        lengths[0] = 0
        lengths[1, 2] = 4000  # more than the table covers: NaN

        def call(lengths):
            out, lse = _ffi.dense_decode(q, k_cache, table, lengths, sink, d_v=D_V, scale=problem.scale, causal=True)
            return as_integers((out, lse))

        single = jax.jit(call)
        want = [single(jnp.asarray(x)) for x in lengths]
        want = [jnp.stack(x) for x in zip(*want)]
        order = jnp.asarray(rng.integers(0, kinds, REPLAYS), jnp.int32)

        @jax.jit
        def replay(lengths, order, want):
            def step(i, different):
                kind = order[i]
                return different + any_differs(call(lengths[kind]), [x[kind] for x in want])

            return jax.lax.fori_loop(0, REPLAYS, step, jnp.int32(0))

        operands = (jnp.asarray(lengths), order, want)
        with tempfile.TemporaryDirectory() as folder:
            options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
            compiled = replay.lower(*operands).compile(compiler_options=options)
            (listing,) = pathlib.Path(folder).glob("*thunk_sequence_after_thunk_passes*")
            self.assertTrue(is_captured("kCustomCall", listing.read_text()), "the call is not in a command buffer")
        self.assertEqual(int(compiled(*operands)), 0)

    def test_two_threads(self):
        rng = np.random.default_rng(1)
        problems = [Problem(rng, lengths=rng.integers(0, 4000, 5), h_q=64 * (i + 1), s_q=i + 1) for i in range(2)]
        self.assertEqual(same_calls_of_threads(problems, run_poisoned, CALLS), [CALLS] * len(problems))

    def test_beside_another_stream(self):
        """The same bits while another stream loads the card, with all scratch poisoned."""
        rng = np.random.default_rng(2)
        problems = [
            Problem(rng, lengths=[20_000], h_q=128),
            Problem(rng, lengths=rng.integers(0, 3000, 70), h_q=16, s_q=2, causal=True),
            Problem(rng, lengths=[5000, 64, 9000], h_q=24, h_kv=3, page_size=16),
        ]
        want = [bits(run_poisoned(p, 0.0)) for p in problems]
        with loaded_device():
            for i in range(100):
                for problem, expected in zip(problems, want):
                    got = bits(run_poisoned(problem, list(POISONS.values())[i % len(POISONS)]))
                    for x, y in zip(got, expected):
                        np.testing.assert_array_equal(x, y)
