"""The same calls again and again: as replays of a captured graph, and from threads.

A result that moves is a race.
"""

import concurrent.futures
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from kernels.poison import POISONS, bits


def as_integers(results):
    """Arrays on a device as arrays of their bits, which compare equal where they are the same."""
    return [jax.lax.bitcast_convert_type(x, f"int{8 * x.dtype.itemsize}") for x in results]


def any_differs(got, want):
    return jnp.any(jnp.stack([jnp.any(x != y) for x, y in zip(got, want, strict=True)]))


def different_replays(call, kinds, replays, differs=any_differs):
    """How many calls of a loop, which XLA runs as replays of one captured graph, give something else than single ones.

    Args:
      call: one array → results, whose bits are compared as integers unless ``differs`` does otherwise.
      kinds: what it is called with in turn, stacked.
    """
    single = jax.jit(call)
    want = [jnp.stack(x) for x in zip(*[single(x) for x in kinds])]

    @jax.jit
    def replay(kinds, want):
        def step(i, different):
            kind = i % len(kinds)
            return different + differs(call(kinds[kind]), [x[kind] for x in want])

        return jax.lax.fori_loop(0, replays, step, jnp.int32(0))

    return int(replay(jnp.asarray(kinds), want))


def same_bits(got, want):
    return all(np.array_equal(x, y) for x, y in zip(bits(got), bits(want), strict=True))


def same_calls_of_threads(problems, run, calls, same=same_bits):
    """Of as many threads as problems, how many of their ``calls`` of ``run(problem, poison)`` give the same."""
    want = [run(problem, 0.0) for problem in problems]

    def work(problem, want):
        poisons = itertools.islice(itertools.cycle(POISONS.values()), calls)
        return sum(same(run(problem, poison), want) for poison in poisons)

    with concurrent.futures.ThreadPoolExecutor(len(problems)) as pool:
        return list(pool.map(work, problems, want))
