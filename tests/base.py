"""The base of tests that run once for every implementation that this machine has."""

import functools
import sys
import unittest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from results_file import TooFewDevices

from jax_flash_mla import _support
from jax_flash_mla._check.operations import Operation
from jax_flash_mla._check.tolerance import ARITHMETIC, KERNEL_ARITHMETIC, STORED_OUT_ARITHMETIC, error_ratio


def implementations_of(operation):
    """What can be tested here: XLA; in test builds the custom call on the CPU; the kernels, where every GPU has one."""
    host = (_support.HOST,) if operation in _support.HOST_OPERATIONS else ()
    kernel = ("cuda",) if _support.local_architectures() and _support.supports(operation) is None else ()
    return ("xla", *host, *kernel)


# Gradients add up more rounding errors than results do.
GRADIENT_ARITHMETIC = 1e-5


def devices_of(implementation):
    """The devices that it runs on: simulated ones, or this machine's GPUs."""
    try:
        return jax.devices("cuda" if implementation == "cuda" else "cpu")
    except RuntimeError:
        return []


def on_a_gpu(has_kernel, reason):
    """Class decorator: tests that run a kernel on a GPU, or are skipped."""
    return lambda cls: pytest.mark.cuda(unittest.skipUnless(has_kernel, reason)(cls))


def for_each_implementation_of(operation):
    """Class decorator: a copy of the test class for each implementation of one operation.

    The tests are small, and their sizes not a kernel's: the kernels have tests of their own.
    """

    def decorate(cls):
        for implementation in implementations_of(operation):
            if implementation != "cuda":
                _copy(cls, implementation)
        return cls

    return decorate


def over(cases):
    """Test decorator: the test runs for each case, by each implementation that the case's operation has.

    A case is an operation, or ``(label, operation, *others)``; the test gets what follows the label.
    """

    def mark(test):
        test.cases = [(case.name, case) if isinstance(case, Operation) else case for case in cases]
        return test

    return mark


def for_each_implementation(cls):
    """Class decorator: a copy of a test class for each implementation, with the cases that it has.

    All tests of the class say what they are ``over``.
    """
    tests = {name: test for name, test in vars(cls).items() if name.startswith("test")}
    for name in tests:
        delattr(cls, name)  # what stays would be inherited
    for implementation in ("xla", _support.HOST, "cuda"):
        cases = {name: [case for case in test.cases if _runs(implementation, case[1])] for name, test in tests.items()}
        attributes = {
            name: parameterized.named_parameters(*cases[name])(test) for name, test in tests.items() if cases[name]
        }
        if attributes:
            _copy(cls, implementation, attributes)
    return cls


def _runs(implementation, operation):
    if operation.family is None:
        return implementation == "xla"
    fits = operation.kernel_sized == (implementation == "cuda")
    return fits and implementation in implementations_of(operation.family)


def _copy(cls, implementation, attributes=()):
    attributes = dict(attributes, implementation=implementation, __module__=cls.__module__, __test__=True)
    copy = type(cls)(f"{cls.__name__}_{implementation}", (cls,), attributes)
    if implementation == "cuda":
        copy = pytest.mark.cuda(copy)
    setattr(sys.modules[cls.__module__], copy.__name__, copy)
    cls.__test__ = False


class OperationTest(parameterized.TestCase):
    """Tests of one implementation against the oracle."""

    __test__ = False
    implementation = "xla"

    def devices(self, most, least=1):
        """So many of the devices that the implementation runs on, or fewer, where there are fewer.

        A power of two, for sizes to be split by. Where there is not even the least number the
        test is skipped: what it looks at is not there.
        """
        found = devices_of(self.implementation)
        if len(found) < least:
            raise TooFewDevices(f"needs {least} devices, and there {'is' if len(found) == 1 else 'are'} {len(found)}")
        return found[: 1 << min(most, len(found)).bit_length() - 1]

    def assert_close(self, got, want, dtype=None, arithmetic=ARITHMETIC, what="result", terms=1):
        """Every element as close as ``error_ratio`` has it; of kernels, for a sum of so many results."""
        self.assertEqual(np.shape(got), np.shape(want), what)
        if self.implementation == "cuda":
            # Weights and outputs are rounded to bfloat16, and gradients start from rounded outputs.
            arithmetic = terms * (STORED_OUT_ARITHMETIC if arithmetic > ARITHMETIC else KERNEL_ARITHMETIC)
            if dtype is None and got.dtype == np.float32:
                dtype = "bfloat16"  # before it was given the operands' type
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
        """``assert_close`` for tuples of results; those after the first are of their own type from the start."""
        self.assertEqual(len(got), len(want))
        for i, (g, w) in enumerate(zip(got, want)):
            self.assert_close(g, w, dtype=g.dtype if i else None, what=f"result {i}", **kwargs)


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
