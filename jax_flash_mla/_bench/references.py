"""The calls that a round is made of beside the operation: a fill, cuBLAS, a streaming read."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jax_flash_mla._bench.segments import MeasurementError

FILL_BYTES = 1 << 30
MATMUL_SIZE = 8192
# Rows of the array that is read, in uint32; every way of reading divides it.
READ_ROW = 16384


@dataclasses.dataclass(frozen=True)
class Call:
    """A compiled program and its arguments on the device; calling it queues it."""

    name: str
    program: Callable
    arguments: tuple

    def __call__(self):
        """Queues the program and returns its results, which may not be there yet."""
        return self.program(*self.arguments)


def compiled(name: str, function, arguments: tuple, **compiler_options) -> Call:
    """Compiles ahead of time, so that queueing is all that a call does."""
    options = compiler_options or None
    return Call(name, jax.jit(function).lower(*arguments).compile(compiler_options=options), arguments)


def fill(size: int = FILL_BYTES) -> Call:
    """Writes ``size`` bytes in one kernel, so that nothing useful is left in the L2 cache.

    What it writes, bit counts, gives the kernel a name that no operation's kernel has.
    """

    def write(value):
        return jax.lax.population_count(jax.lax.iota(jnp.uint32, size // 4) ^ value)

    return compiled("fill", write, (jnp.uint32(0x5EED),))


def matmul(size: int = MATMUL_SIZE) -> Call:
    """The product of two random bfloat16 matrices, neither transposed, by cuBLAS.

    Raises:
      MeasurementError: on a GPU, XLA took something else for it.
    """
    a, b = (jax.random.normal(key, (size, size), jnp.bfloat16) for key in jax.random.split(jax.random.key(7)))
    call = compiled("cublas", jnp.matmul, (a, b), xla_gpu_enable_triton_gemm=False)
    if jax.default_backend() == "gpu" and "__cublas" not in call.program.as_text():
        raise MeasurementError("XLA did not compile the reference product to a call of cuBLAS.")
    return call


def matmul_flop(size: int = MATMUL_SIZE) -> float:
    """Floating-point operations of ``matmul``."""
    return 2.0 * size**3


@dataclasses.dataclass(frozen=True)
class Read:
    """A way to read an array once: sums over ``width`` numbers of the xor of ``parts`` parts.

    XLA makes one kernel of it. How near it comes to what the memory gives depends on both
    numbers, so the fastest is looked for on the card itself.
    """

    parts: int
    width: int

    def __str__(self):
        return f"xor of {self.parts}, sums over {self.width}"

    def __call__(self, x):
        """Reads uint32 [n]."""
        x = x.reshape(self.parts, -1, self.width)
        return functools.reduce(operator.xor, [x[i] for i in range(self.parts)]).sum(-1, dtype=jnp.uint32)


READS = tuple(Read(parts, width) for parts in (1, 2, 4) for width in (1024, 2048, 4096))


def read_bytes(size: int) -> int:
    """``size`` rounded up to whole rows: what ``read`` reads."""
    return READ_ROW * 4 * max(1, math.ceil(size / (READ_ROW * 4)))


def read(way: Read, size: int) -> Call:
    """Reads at least ``size`` bytes of noise once."""
    rows = read_bytes(size) // (READ_ROW * 4)

    @jax.jit
    def noise():
        row, column = (jax.lax.broadcasted_iota(jnp.uint32, (rows, READ_ROW), axis) for axis in (0, 1))
        x = row * jnp.uint32(0x9E3779B1) + column * jnp.uint32(0x85EBCA77)
        x = (x ^ (x >> 15)) * jnp.uint32(0x2C1B3C6D)
        return (x ^ (x >> 12)).reshape(-1)

    return compiled("read", way, (noise(),))
