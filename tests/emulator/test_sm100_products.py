"""tcgen05.mma: all shapes of accumulators, types, layouts, and what else the instruction says."""

import dataclasses

import ml_dtypes
import numpy as np
from absl.testing import parameterized
from sm100 import (
    B_AT,
    LANES,
    NO_SWIZZLE,
    PAIRS,
    SHARED,
    SWIZZLE_32,
    SWIZZLE_64,
    SWIZZLE_128,
    Placing,
    Sm100Test,
    put,
    tensor_kernel,
)
from writing import rng, vector

bf16, e4m3, e5m2 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
K_BYTES = 32
D_AT, A_AT = 0, 256  # columns of tensor memory
# Of the types, their kind and number in it.
KINDS = {
    np.float16: ("f16", 0),
    bf16: ("f16", 1),
    np.float32: ("tf32", 2),
    e4m3: ("f8f6f4", 0),
    e5m2: ("f8f6f4", 1),
    ml_dtypes.float6_e2m3fn: ("f8f6f4", 3),
    ml_dtypes.float6_e3m2fn: ("f8f6f4", 4),
    ml_dtypes.float4_e2m1fn: ("f8f6f4", 5),
}
NARROW_BITS = {ml_dtypes.float6_e2m3fn: 6, ml_dtypes.float6_e3m2fn: 6, ml_dtypes.float4_e2m1fn: 4}


def name_of(dtype) -> str:
    return np.dtype(dtype).name


K128, K64, K32, K_PLAIN = (Placing("k", swizzle) for swizzle in (SWIZZLE_128, SWIZZLE_64, SWIZZLE_32, NO_SWIZZLE))
MN128, MN64, MN32, MN_PLAIN, MN_PAIRS = (
    Placing("mn", swizzle) for swizzle in (SWIZZLE_128, SWIZZLE_64, SWIZZLE_32, NO_SWIZZLE, PAIRS)
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A product D = ±A ±Bᵀ (+ D · 2^-scale), of A [m, k] and B [n, k]."""

    m: int = 128
    n: int = 64
    a: type = bf16
    b: type | None = None
    half: bool = False  # accumulator
    group: int = 1
    ws: bool = False
    a_placing: Placing | None = K128  # None: in tensor memory
    b_placing: Placing = K128
    adds: bool = True
    negates: tuple[bool, bool] = (False, False)
    scale: int | None = None
    masks: tuple[int, ...] | None = None
    lane: int = 0
    collector: str = ""
    b_bits: int = 0  # of B's descriptor, that are other than they should be

    @property
    def b_type(self) -> type:
        return self.b or self.a

    @property
    def k(self) -> int:
        return K_BYTES // np.dtype(self.a).itemsize

    def descriptor(self) -> int:
        a_major = self.a_placing is not None and self.a_placing.major == "mn"
        out = (0 if self.half else 1) << 4 | KINDS[self.a][1] << 7 | KINDS[self.b_type][1] << 10
        out |= self.negates[0] << 13 | self.negates[1] << 14 | a_major << 15 | (self.b_placing.major == "mn") << 16
        return out | self.n // 8 << 17 | self.m // 16 << 24

    # --- Which lanes hold what, as the PTX ISA draws it

    def row_and_columns(self, lane: int) -> tuple[int, slice] | None:
        """Of a lane of tensor memory: the row of its CTA, and the columns of D that it has."""
        rows = self.m // self.group
        if rows == 128:
            return lane, slice(0, self.n)
        if rows == 64 and not self.ws and self.group == 1:
            within = lane - self.lane
            return (within // 32 * 16 + within % 32, slice(0, self.n)) if within % 32 in range(16) else None
        part = self.n * rows // LANES
        return lane % rows, slice(lane // rows * part, (lane // rows + 1) * part)


def values_for(dtype, shape, random: np.random.Generator) -> np.ndarray:
    """Numbers whose sums are exact in float64."""
    values = random.integers(-8, 9, shape) * 2.0 ** random.integers(-2, 3, shape)
    return values.astype(dtype)


def as_bytes(matrix: np.ndarray) -> np.ndarray:
    """A matrix as shared memory has it: of 6 and 4 bits, sixteen numbers side by side at the beginning of 16 bytes."""
    bits = NARROW_BITS.get(matrix.dtype.type)
    if bits is None:
        return matrix
    codes = matrix.view(np.uint8).reshape(-1, 16)
    out = np.zeros((len(codes), 16), np.uint8)
    for i in range(16 * bits):
        out[:, i // 8] |= (codes[:, i // bits] >> i % bits & 1) << i % 8
    return out.reshape(matrix.shape)


def as_cells(row: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(row).view(np.uint32)


class Problem:
    """A case with its numbers: what is given to the kernel, and what it is to give."""

    def __init__(self, case: Case):
        random = rng(repr(case))
        self.case = case
        a = values_for(case.a, (case.m, case.k), random)
        b = values_for(case.b_type, (case.n, case.k), random)
        before = values_for(np.float16 if case.half else np.float32, (case.m, case.n), random)
        rows, columns = case.m // case.group, case.n // case.group
        self.image = np.zeros((case.group, SHARED), np.uint8)
        # What nothing refers to may be anything.
        self.cells = random.integers(0, 1 << 32, (case.group, LANES, 288), dtype=np.uint32)
        wide = [-x if negated else x for x, negated in zip((a, b), case.negates)]
        wide_a, wide_b = (x.astype(np.float64) for x in wide)
        sums = wide_a @ wide_b.T
        if case.adds:
            sums += before.astype(np.float64) * 2.0 ** -(case.scale or 0)
        sums = sums.astype(before.dtype)
        self.want = self.cells[:, :, :256].copy()
        self.is_result = np.zeros(self.want.shape, bool)
        for cta in range(case.group):
            if case.a_placing:
                put(self.image[cta], 0, as_bytes(a[cta * rows : (cta + 1) * rows]), case.a_placing)
            put(self.image[cta], B_AT, as_bytes(b[cta * columns : (cta + 1) * columns]), case.b_placing)
            for lane in range(LANES):
                held = case.row_and_columns(lane)
                if held is None:
                    continue
                row, part = held[0] + cta * rows, held[1]
                if not case.a_placing:
                    self.cells[cta, lane, A_AT : A_AT + 8] = as_cells(a[row])
                bits = np.uint16 if case.half else np.uint32
                self.cells[cta, lane, : part.stop - part.start] = before[row, part].view(bits)
                is_left = case.masks and case.masks[(cta * LANES + lane) // 32] >> lane % 32 & 1
                new = before if is_left else sums
                self.want[cta, lane, : part.stop - part.start] = new[row, part].view(bits)
                self.is_result[cta, lane, : part.stop - part.start] = True

    def kernel(self):
        case = self.case
        kind = KINDS[case.a][0]
        operands = [f"[%r0], {'%a_desc' if case.a_placing else '[%r1]'}, %b_desc, {case.descriptor()}"]
        masks = case.masks or ()
        if masks:
            operands.append(vector("%r", 100, len(masks)))
        operands.append("%done")
        if case.scale is not None:
            operands.append(str(case.scale))
        a = case.a_placing.descriptor(0, case.k, K_BYTES // case.k) if case.a_placing else 0
        b = case.b_placing.descriptor(B_AT, case.k, K_BYTES // case.k) ^ case.b_bits
        operation = f"""
        add.u64 %a_desc, %base, {a};
        add.u64 %b_desc, %base, {b};
        add.u32 %r0, %tmem, {case.lane << 16 | D_AT};
        add.u32 %r1, %tmem, {case.lane << 16 | A_AT};
        setp.ne.u32 %done, {int(case.adds)}, 0;
        {"".join(f"mov.b32 %r{100 + i}, {mask};" for i, mask in enumerate(masks))}
        tcgen05.mma{".ws" if case.ws else ""}.cta_group::{case.group}.kind::{kind}{case.collector} {", ".join(operands)};
        """
        return tensor_kernel(operation, cells=self.cells, image=self.image, group=case.group, halves=case.half)


def named(*cases: Case) -> list[tuple[str, Case]]:
    out = []
    for case in cases:
        given = [f for f in dataclasses.fields(Case) if getattr(case, f.name) != f.default]
        parts = []
        for f in given:
            value = getattr(case, f.name)
            if isinstance(value, Placing):
                value = f"{value.major}{value.swizzle}"
            elif isinstance(value, type):
                value = name_of(value)
            parts.append(f"{f.name}_{value}")
        out.append(("_".join(parts) or "plain", case))
    return out


class ProductTest(Sm100Test):
    def check(self, case: Case) -> None:
        problem = Problem(case)
        (out,) = self.emulator.run(problem.kernel())
        got = out[:, :, :256]
        np.testing.assert_array_equal(
            got[problem.is_result], problem.want.astype(got.dtype)[problem.is_result], strict=True
        )
        if not case.half:  # halves that share a cell with what was dumped are nobody's
            np.testing.assert_array_equal(got[~problem.is_result], problem.want[~problem.is_result])

    @parameterized.named_parameters(
        *named(
            *(Case(m, n) for m in (64, 128) for n in (8, 24, 256)),
            *(Case(m, n, ws=True) for m in (32, 64, 128) for n in (64, 128, 256)),
            *(Case(m, n, group=2) for m in (128, 256) for n in (16, 48, 256)),
            Case(64, 32, lane=16),
        )
    )
    def test_shape(self, case):
        self.check(case)

    @parameterized.named_parameters(
        *named(
            *(Case(m, a_placing=None) for m in (64, 128)),
            Case(64, lane=16, a_placing=None),
            *(Case(m, ws=True, a_placing=None) for m in (32, 64, 128)),
            *(Case(m, group=2, a_placing=None) for m in (128, 256)),
            *(Case(a=a, a_placing=None) for a in (np.float16, np.float32, e4m3)),
        )
    )
    def test_factor_in_tensor_memory(self, case):
        self.check(case)

    @parameterized.named_parameters(
        *named(
            *(Case(a=a) for a in KINDS),
            *(Case(a=a, half=True) for a in (np.float16, e4m3, e5m2)),
            Case(a=e4m3, b=e5m2),
            Case(a=ml_dtypes.float4_e2m1fn, b=e4m3),
            Case(a=e5m2, b=ml_dtypes.float6_e3m2fn, half=True),
            Case(64, a=np.float16, half=True, adds=False),
        )
    )
    def test_types(self, case):
        self.check(case)

    @parameterized.named_parameters(
        *named(
            *(Case(a_placing=p, b_placing=p) for p in (K32, K64, K_PLAIN, MN128, MN64, MN32, MN_PLAIN)),
            Case(a_placing=K_PLAIN, b_placing=MN128),
            Case(a_placing=MN64, b_placing=K32),
            *(Case(a=e4m3, a_placing=p, b_placing=q) for p, q in ((K64, MN128), (MN32, K_PLAIN), (MN_PLAIN, MN64))),
            Case(a=np.float32, a_placing=MN_PAIRS, b_placing=K32),
            Case(a=np.float32, n=96, a_placing=K64, b_placing=MN_PAIRS),
            Case(a=bf16, a_placing=MN_PAIRS, b_placing=MN_PAIRS),
            Case(256, group=2, a_placing=MN64, b_placing=MN128, n=128),
            Case(64, 256, ws=True, a_placing=K_PLAIN, b_placing=MN128),
        )
    )
    def test_layouts(self, case):
        self.check(case)

    @parameterized.named_parameters(
        *named(
            Case(adds=False),
            *(Case(negates=n) for n in ((True, False), (False, True), (True, True))),
            *(Case(scale=s, a=a) for s in (0, 3, 15) for a in (bf16, np.float32)),
            Case(scale=4, adds=False),
            Case(masks=(0, 0xFFFFFFFF, 0x80000001, 0x0F0F0F0F)),
            Case(64, masks=(1, 2, 4, 0x8000)),
            Case(256, group=2, masks=(0, 1, 0, 2, 4, 0, 0xFFFFFFFF, 8)),
            Case(128, group=2, masks=(0, 1, 0, 2, 4, 0, 0xFFFFFFFF, 8)),
            *(Case(collector=f".collector::a::{c}") for c in ("fill", "use", "lastuse", "discard")),
            Case(64, ws=True, collector=".collector::b2::fill"),
        )
    )
    def test_modifiers(self, case):
        self.check(case)

    def test_sums_are_rounded_once(self):
        """Whatever the order, and with what is lost in between: 2^40 + 1 - 2^40 + 2^-30 and the like."""
        case = Case(n=8, b_placing=K_PLAIN, a_placing=K_PLAIN, adds=True)
        problem = Problem(case)
        random = rng("once")
        a = np.zeros((case.m, case.k), bf16)
        a[:, 0], a[:, 1], a[:, 2] = 2.0**60, -(2.0**60), 1
        a[:, 3:] = random.integers(-255, 256, (case.m, case.k - 3)) * 2.0**-20
        b = np.ones((case.n, case.k), bf16)
        before = np.full((case.m, case.n), 2.0**-24, np.float32)
        put(problem.image[0], 0, a, case.a_placing)
        put(problem.image[0], B_AT, b, case.b_placing)
        problem.cells[0, :, :8] = before.view(np.uint32)
        (out,) = self.emulator.run(problem.kernel())
        # Without the two that cancel each other, a float64 holds the sum.
        want = (a[:, 2:].astype(np.float64).sum(-1) + 2.0**-24).astype(np.float32)
        np.testing.assert_array_equal(out[0, :, :8].view(np.float32), np.repeat(want[:, None], 8, 1))

    def test_what_is_not_finite(self):
        case = Case(n=8, adds=False, a_placing=K_PLAIN, b_placing=K_PLAIN)
        problem = Problem(case)
        a, b = np.zeros((case.m, case.k), bf16), np.ones((case.n, case.k), bf16)
        a[0, 3], a[1, 4], a[2, 5], a[2, 6], a[3, 1] = np.inf, np.nan, np.inf, -np.inf, 2.0**127
        b[1, 1], b[2, 3] = 2.0**10, 0
        put(problem.image[0], 0, a, case.a_placing)
        put(problem.image[0], B_AT, b, case.b_placing)
        (out,) = self.emulator.run(problem.kernel())
        got = out[0, :, :8]
        infinity, nan = 0x7F800000, 0x7FFFFFFF
        np.testing.assert_array_equal(got[0, :3], [infinity, infinity, nan])  # inf · 0
        np.testing.assert_array_equal(got[1, :3], [nan] * 3)
        np.testing.assert_array_equal(got[2, :3], [nan] * 3)
        np.testing.assert_array_equal(got[3, :2], [0x7F000000, infinity])  # too large
        np.testing.assert_array_equal(got[4:], 0)

    @parameterized.named_parameters(
        ("m", Case(96), "There is no product of 96 x 64 of .cta_group::1"),
        ("n", Case(n=264), "There is no product of 128 x 264"),
        ("n_of_two", Case(256, 24, group=2), "There is no product of 256 x 24 of .cta_group::2"),
        ("ws", Case(64, 32, ws=True), "There is no product of 64 x 32 by .ws"),
        ("half_of_bfloats", Case(half=True), "a type of accumulator that does not go with"),
        ("lane", Case(lane=16), "An accumulator of this shape begins in lane 0 of tensor memory, not in lane 16"),
        ("chunks", Case(n=24, a=e4m3, b_placing=MN128), "The 24 columns of B", "no multiple of 16"),
        ("chunks_of_two", Case(256, 16, a=e5m2, b_placing=MN64, group=2), "The 8 columns of B", "no multiple of 16"),
        ("pairs", Case(b_bits=(SWIZZLE_128 ^ PAIRS) << 61), "swizzled in chunks of 32 bytes, which it cannot be"),
        ("no_swizzle", Case(b_bits=1 << 61), "names no swizzle"),
        ("version", Case(b_bits=1 << 46), "does not have 1 in its bits 46 to 48"),
        ("fixed_bits", Case(b_bits=1 << 55), "has some of its bits 53 to 60 set"),
        ("absolute", Case(b_bits=1 << 52), "does not know descriptors of matrices whose leading offset is an address"),
        ("tf32", Case(a=np.float32, b_placing=MN128), "The emulator knows matrices of tf32", "only if"),
        (
            "narrow",
            Case(a=ml_dtypes.float6_e2m3fn, a_placing=MN128),
            "Matrices of 6 and 4 bits are contiguous along K",
        ),
        (
            "narrow_in_tensor_memory",
            Case(a=ml_dtypes.float4_e2m1fn, a_placing=None),
            "does not know factors of 6 and 4 bits in tensor memory",
        ),
    )
    def test_refused(self, case, *words):
        # The data of a case that there is.
        problem = Problem(dataclasses.replace(case, m=case.group * 128, n=64, half=False, ws=False, lane=0))
        problem.case = case
        self.assert_refused(problem.kernel(), *words, "'tcgen05.mma")

    @parameterized.named_parameters(
        ("sparse", 1 << 2, "does not know products of sparse matrices"),
        ("saturated", 1 << 3, "has bits set that floating-point ones do not have"),
        ("type", 5 << 7, "names types that its kind does not have"),
        ("mixed", 1 << 10, "does not know products of a half and a bfloat16"),
        ("shifted", 1 << 30, "does not know products whose B is shifted"),
    )
    def test_bits_of_the_descriptor(self, bits, words):
        case = Case(a=np.float16)
        problem = Problem(case)
        made = problem.kernel()
        changed = made.ptx.replace(str(case.descriptor()), str(case.descriptor() | bits))
        self.assertNotEqual(changed, made.ptx)
        self.assert_refused(dataclasses.replace(made, ptx=changed), words)
