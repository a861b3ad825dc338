"""Inputs: values at the edges of each type beside random ones, and pairs and triples of them."""

import ml_dtypes
import numpy as np
from writing import ARRAY_TYPES, rng

INTEGER_EDGES = (0, 1, 2, 3, 7, 8, 31, 32, 33, 63, 64, 100, -1, -2, -3, -8, -31, -100)

# Bits of floating-point numbers: zeros, subnormal and normal numbers at the ends, around 1, infinities, NaNs of all sorts.
HALF_EDGES = (
    *(0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x8400, 0x3C00, 0xBC00, 0x3C01, 0x3BFF, 0x3555, 0xC000),
    *(0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7C01, 0xFE00, 0x7FFF, 0x7D55, 0x6400, 0x1400, 0x0200, 0x4248, 0xB555, 0x57FF),
)
BFLOAT_EDGES = (
    *(0x0000, 0x8000, 0x0001, 0x8001, 0x007F, 0x807F, 0x0080, 0x8080, 0x3F80, 0xBF80, 0x3F81, 0x3F7F, 0x3EAB, 0xC000),
    *(0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7F81, 0xFFC0, 0x7FFF, 0x7FA5, 0x4B00, 0x2000, 0x0040, 0x4049, 0xBEAB, 0x60FF),
)
FLOAT_EDGES = (
    *(0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x807FFFFF, 0x00800000, 0x80800000, 0x3F800000),
    *(0xBF800000, 0x3F800001, 0x3F7FFFFF, 0x3EAAAAAB, 0xC0000000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000),
    *(0x7F800001, 0xFFC00000, 0x7FFFFFFF, 0x7FC12345, 0x4B800001, 0x33000000, 0x00400000, 0x40490FDB, 0xBF000000),
    *(0x7E800000, 0x01000000, 0x5F000000, 0x4F000000, 0xCF000000, 0x477FF000, 0x38800000, 0x337FFFFF),
)
DOUBLE_EDGES = (
    *(0x0000000000000000, 0x8000000000000000, 0x0000000000000001, 0x8000000000000001, 0x000FFFFFFFFFFFFF),
    *(0x0010000000000000, 0x8010000000000000, 0x3FF0000000000000, 0xBFF0000000000000, 0x3FF0000000000001),
    *(0x3FEFFFFFFFFFFFFF, 0x3FD5555555555555, 0xC000000000000000, 0x7FEFFFFFFFFFFFFF, 0xFFEFFFFFFFFFFFFF),
    *(0x7FF0000000000000, 0xFFF0000000000000, 0x7FF0000000000001, 0xFFF8000000000000, 0x7FFFFFFFFFFFFFFF),
    *(0x7FF8000012345678, 0x4340000000000001, 0x3CA0000000000000, 0x0008000000000000, 0x400921FB54442D18),
    *(0x7FD0000000000000, 0x0030000000000000, 0x43E0000000000000, 0xC3E0000000000000, 0x41E0000000000000),
    *(0x47EFFFFFE0000000, 0x47EFFFFFF0000000, 0x380FFFFFC0000000, 0x36A0000000000000, 0x3690000000000001),
)
EDGE_BITS = {"f16": HALF_EDGES, "bf16": BFLOAT_EDGES, "f32": FLOAT_EDGES, "f64": DOUBLE_EDGES}


def edges(kind: str) -> np.ndarray:
    """Of a type of PTX, in the type that it has in memory."""
    dtype = np.dtype(ARRAY_TYPES[kind])
    if kind in EDGE_BITS:
        return np.array(EDGE_BITS[kind], f"u{dtype.itemsize}").view(dtype)
    if kind in ("f16x2", "bf16x2"):
        halves = edges(kind[:-2]).view(np.uint16).astype(np.uint32)
        return halves | np.roll(halves, 5) << 16
    bits = 8 * dtype.itemsize
    ends = (1 << bits - 1, (1 << bits - 1) - 1, (1 << bits - 1) + 1, (1 << bits) - 1, 0xA5A5A5A5A5A5A5A5, 1 << bits - 4)
    values = [value % (1 << bits) for value in (*INTEGER_EDGES, *ends)]
    return np.array(values, f"u{dtype.itemsize}").view(dtype)


def random(generator: np.random.Generator, kind: str, count: int) -> np.ndarray:
    """Any bits for integers; floating-point numbers of which half are near 1, the others anywhere."""
    dtype = np.dtype(ARRAY_TYPES[kind])
    bits = generator.integers(0, 256, count * dtype.itemsize, np.uint8).view(dtype)
    if kind in ("f16x2", "bf16x2"):
        halves = random(generator, kind[:-2], 2 * count)
        return halves.view(np.uint32)
    near = (generator.standard_normal(count) * 4).astype(dtype) if kind in EDGE_BITS else bits
    if dtype.kind in "iu":
        # Of the integers some are small, so that shifts and quotients are of all sizes.
        small = bits >> generator.integers(0, 8 * dtype.itemsize, count).astype(dtype)
        return np.where(generator.random(count) < 0.5, bits, small)
    return np.where(generator.random(count) < 0.5, near, bits)


def mixed(name: str, kinds: tuple[str, ...], count: int = 320) -> list[np.ndarray]:
    """Arrays of these types, so many elements each: edges against edges first, then one of either and random ones."""
    generator = rng(name)
    sets = [edges(kind) for kind in kinds]
    if len(kinds) == 1:
        (only,) = sets
        return [np.concatenate([only, random(generator, kinds[0], max(count - only.size, 16))])]
    arrays = []
    for kind, some in zip(kinds, sets):
        use = generator.random(count)
        array = np.where(use < 0.5, generator.choice(some, count), random(generator, kind, count))
        arrays.append(array.astype(some.dtype))
    # Pairs of the most particular edges of the first two: a part of the square of them.
    few = [some[:: max(1, some.size // 12)][:12] for some in sets[:2]]
    pairs = np.stack(np.meshgrid(np.arange(few[0].size), np.arange(few[1].size))).reshape(2, -1)
    pairs = pairs[:, generator.permutation(pairs.shape[1])[: count // 2]]
    for array, some, index in zip(arrays, few, pairs):
        array[: index.size] = some[index]
    return arrays


def float_type(kind: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if kind == "bf16" else ARRAY_TYPES[kind])
