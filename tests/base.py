"""The base of tests that run once for every implementation that this machine has."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from jax_flash_mla._check.tolerance import ARITHMETIC, error_ratio

# What can be tested here. A kernel's backend joins this list and every test below.
IMPLEMENTATIONS = ("xla",)
# Gradients add up more rounding errors than results do.
GRADIENT_ARITHMETIC = 1e-5


def for_each_implementation(cls):
    """Class decorator: a copy of the test class for each implementation."""
    module = sys.modules[cls.__module__]
    for name in IMPLEMENTATIONS:
        copy = type(cls)(f"{cls.__name__}_{name}", (cls,), {"implementation": name, "__module__": cls.__module__})
        copy.__test__ = True
        setattr(module, copy.__name__, copy)
    cls.__test__ = False
    return cls


class OperationTest(parameterized.TestCase):
    """Tests of one implementation against the oracle."""

    __test__ = False
    implementation: str

    def assert_close(self, got, want, dtype=None, arithmetic=ARITHMETIC, what="result"):
        """Every element as close as ``error_ratio`` has it."""
        self.assertEqual(np.shape(got), np.shape(want), what)
        ratio = error_ratio(got, want, dtype, arithmetic)
        if ratio > 1:
            got, want = (np.asarray(x).astype(np.float64) for x in (got, want))
            with np.errstate(invalid="ignore"):
                off = np.where(
                    np.isnan(got) & np.isnan(want) | (got == want), 0, np.nan_to_num(np.abs(got - want), nan=np.inf)
                )
            at = np.unravel_index(off.argmax(), off.shape)
            self.fail(f"{what} is {ratio:.3g} times as far off as allowed: at {at} got {got[at]}, want {want[at]}")

    def assert_all_close(self, got, want, **kwargs):
        """``assert_close`` for tuples of results."""
        self.assertEqual(len(got), len(want))
        for i, (g, w) in enumerate(zip(got, want)):
            self.assert_close(g, w, what=f"result {i}", **kwargs)


class ProblemTest(OperationTest):
    """Tests over problems: objects with ``call``, ``arrays``, ``want`` and ``want_gradients``.

    ``call(implementation, *arrays)`` runs the operation, with other values for the
    differentiable operands that ``arrays()`` lists; ``want_gradients(d_out, d_lse)`` are the
    oracle's gradients of those.
    """

    def check(self, problem, arithmetic=ARITHMETIC):
        """Compares the results with the oracle, and returns them."""
        got = problem.call(self.implementation)
        self.assert_all_close(got, problem.want(), arithmetic=arithmetic)
        return got

    def check_gradients(self, problem, arithmetic=GRADIENT_ARITHMETIC):
        """Compares the gradients with the oracle; results between out and lse have none."""
        (out, *between, lse), pull = jax.vjp(functools.partial(problem.call, self.implementation), *problem.arrays())
        rng = np.random.default_rng(99)
        d_out, d_lse = (jnp.asarray(rng.standard_normal(x.shape), x.dtype) for x in (out, lse))
        got = pull((d_out, *(jnp.full_like(x, 1e3) for x in between), d_lse))
        for i, (g, w) in enumerate(zip(got, problem.want_gradients(d_out, d_lse), strict=True)):
            self.assert_close(g, w, arithmetic=arithmetic, what=f"gradient {i}")
