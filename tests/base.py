"""The base of tests that run once for every implementation that this machine has."""

import sys

import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

# What can be tested here. A kernel's backend joins this list and every test below.
IMPLEMENTATIONS = ("xla",)

# Largest error of a result, relative to the largest magnitude of its array: float32
# arithmetic, plus half a unit in the last place of the result's own dtype.
ARITHMETIC = 4e-6
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


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
        """Every element within the rounding of ``dtype`` (default: got's); NaN, ±inf and integers exactly."""
        dtype = str(jnp.asarray(got).dtype) if dtype is None else jnp.dtype(dtype).name
        if dtype not in ROUNDING:
            np.testing.assert_array_equal(np.asarray(got), np.asarray(want), what)
            return
        got, want = np.asarray(got).astype(np.float64), np.asarray(want, np.float64)
        self.assertEqual(got.shape, want.shape, what)
        for name, test in (("NaN", np.isnan), ("+inf", np.isposinf), ("-inf", np.isneginf)):
            np.testing.assert_array_equal(test(got), test(want), f"{name} of {what}")
        finite = np.isfinite(want)
        got, want = got[finite], want[finite]
        if not want.size:
            return
        allowed = arithmetic * max(1.0, np.abs(want).max()) + ROUNDING[dtype] * np.abs(want)
        excess = np.abs(got - want) - allowed
        worst = int(excess.argmax())
        self.assertLessEqual(
            excess[worst], 0, f"{what}: got {got[worst]}, want {want[worst]}, allowed ±{allowed[worst]:.3g}"
        )

    def assert_all_close(self, got, want, **kwargs):
        """``assert_close`` for tuples of results."""
        self.assertEqual(len(got), len(want))
        for i, (g, w) in enumerate(zip(got, want)):
            self.assert_close(g, w, what=f"result {i}", **kwargs)
