"""Matrix products of warpgroups: types, widths, where A comes from, transposition, scales.

Small integers, whose sums are exact, and random numbers, of whose sums hardware cuts off bits that are too low: all come
out bit for bit.
"""

import dataclasses
from collections.abc import Iterator

import ml_dtypes
import numpy as np
from devices import Input, Output
from writing import fill_shared, kernel, rng, vector

from families import Family

THREADS = 128
ROWS = 64
TF32 = "tf32"
DTYPES = {
    **{"f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16), "tf32": np.dtype(np.float32)},
    **{"e4m3": np.dtype(ml_dtypes.float8_e4m3fn), "e5m2": np.dtype(ml_dtypes.float8_e5m2)},
    **{"s8": np.dtype(np.int8), "u8": np.dtype(np.uint8)},
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an operand lies in shared memory: 0 for no swizzle, else the bytes that are swizzled; K-major or MN-major."""

    swizzle: int = 128
    k_major: bool = True

    @property
    def mode(self) -> int:
        return {0: 0, 128: 1, 64: 2, 32: 3}[self.swizzle]

    def place(self, values: np.ndarray) -> tuple[np.ndarray, int, int]:
        """Bytes of an operand of [rows, k], and the two offsets of its descriptor: leading and stride."""
        size = values.itemsize
        rows, k = values.shape
        row, column = np.indices(values.shape)
        if not self.k_major:
            row, column, rows, k = column, row, k, rows  # row: along k; column: along M or N
        byte = column * size
        if self.swizzle == 0:
            # Cores of eight rows of 16 bytes; those of the same rows one behind the other.
            cores = k * size // 16
            leading, stride = (128, 128 * cores) if self.k_major else (128 * cores, 128)
            extent = rows // 8 * 128 * cores
            at = row // 8 * 128 * cores + byte // 16 * 128 + row % 8 * 16 + byte % 16
        else:
            # Lines of so many bytes, eight to an atom; atoms of the same columns one behind the other.
            width = self.swizzle
            atoms = rows // 8
            stride, leading = 8 * width, atoms * 8 * width
            extent = -(-k * size // width) * leading
            at = byte // width * leading + row // 8 * stride + row % 8 * width + byte % width
            at ^= (at >> 7 & width // 16 - 1) << 4
        out = np.zeros(extent, np.uint8)
        bytes_ = values.view(np.uint8).reshape(*values.shape, size)
        for i in range(size):
            out[at + i] = bytes_[..., i]
        return out, leading, stride

    def step(self, k_bytes: int, leading: int, stride: int, size: int) -> int:
        """How far the next chunk of 32 bytes of K is, if it is the one number `k_bytes // 32`."""
        elements = k_bytes // size
        if self.k_major:
            if self.swizzle == 0:
                return k_bytes // 16 * leading
            return k_bytes // self.swizzle * leading + k_bytes % self.swizzle
        return elements // 8 * (leading if self.swizzle == 0 else stride)


K128, K64, K32, K0 = (Layout(swizzle) for swizzle in (128, 64, 32, 0))
M128, M64, M32, M0 = (Layout(swizzle, False) for swizzle in (128, 64, 32, 0))


@dataclasses.dataclass(frozen=True)
class Product:
    """An instruction, done for all chunks of K."""

    a: str
    b: str
    columns: int
    accumulator: str = "f32"
    chunks: int = 2
    a_layout: Layout | None = K128  # None: A is in registers
    b_layout: Layout = K128
    exact: bool = True
    scale_d: bool = True  # adds to what was there before
    scale_a: int = 1
    scale_b: int = 1
    saturated: bool = False

    @property
    def size(self) -> int:
        return DTYPES[self.a].itemsize

    @property
    def k(self) -> int:
        return self.chunks * 32 // self.size

    @property
    def instruction(self) -> str:
        middle = ".satfinite" if self.saturated else ""
        shape = f"m64n{self.columns}k{32 // self.size}"
        return f"wgmma.mma_async.sync.aligned.{shape}{middle}.{self.accumulator}.{self.a}.{self.b}"

    def line(self, a: str, b: str, scale: str) -> str:
        """The instruction with these operands; its accumulator is in %r0 and those after it."""
        operands = [vector("%r", 0, self.registers), a, b, scale]
        if self.accumulator != "s32":
            operands += [str(self.scale_a), str(self.scale_b)]
        if self.size == 2:
            layouts = (self.a_layout, self.b_layout) if self.a_layout else (self.b_layout,)
            operands += [str(int(not layout.k_major)) for layout in layouts]
        return f"{self.instruction} {', '.join(operands)};"

    @property
    def registers(self) -> int:
        return self.columns // 2 // (2 if self.accumulator == "f16" else 1)


def draw(generator: np.random.Generator, kind: str, shape: tuple[int, int], exact: bool) -> np.ndarray:
    """Small integers, or anything near 1."""
    dtype = DTYPES[kind]
    if kind in ("s8", "u8"):
        low = -128 if kind == "s8" else 0
        return generator.integers(low, low + 256, shape).astype(dtype)
    if exact:
        return generator.integers(-3, 4, shape).astype(dtype)
    values = generator.standard_normal(shape).astype(np.float32)
    if kind == TF32:
        return (values.view(np.uint32) & 0xFFFFE000).view(np.float32)
    return values.astype(dtype)


def registers_of(values: np.ndarray) -> np.ndarray:
    """A [64, k] as the registers of 128 threads: [chunks, 4, 128] words."""
    size = values.itemsize
    chunks = values.shape[1] * size // 32
    words = values.view(np.uint8).reshape(ROWS, chunks * 8, 4).view(np.uint32)[..., 0]
    thread = np.arange(THREADS)
    row = thread // 32 * 16 + thread % 32 // 4
    out = np.empty((chunks, 4, THREADS), np.uint32)
    for chunk in range(chunks):
        for register in range(4):
            out[chunk, register] = words[row + register % 2 * 8, chunk * 8 + register // 2 * 4 + thread % 4]
    return out


def descriptor(layout: Layout, leading: int, stride: int, base_offset: int = 0) -> int:
    return (leading >> 4) << 16 | (stride >> 4) << 32 | base_offset << 49 | layout.mode << 62


def family(name: str, product: Product, *, seed: str | None = None, lead: int = 0) -> Family:
    """`lead`: bytes of shared memory before the operands, beyond a multiple of 1024."""
    generator = rng(seed or name)
    a = draw(generator, product.a, (ROWS, product.k), product.exact)
    b = draw(generator, product.b, (product.columns, product.k), product.exact)
    shape = (ROWS, product.columns)
    before = generator.integers(-50, 50, shape) if product.exact else generator.standard_normal(shape)
    if product.saturated:
        before = generator.choice([2**31 - 1, -(2**31), 0], shape)
    dtype = {"f32": np.float32, "f16": np.float16, "s32": np.int32}[product.accumulator]
    before = before.astype(dtype)

    parts, arguments = [np.full(lead, 0xEE, np.uint8)], {}
    a_bytes = 0
    if product.a_layout:
        a_place, a_leading, a_stride = product.a_layout.place(a)
        a_bytes = -(-a_place.size // 1024) * 1024
        parts.append(np.pad(a_place, (0, a_bytes - a_place.size)))
    else:
        arguments["a"] = Input(registers_of(a))
    b_place, b_leading, b_stride = product.b_layout.place(b)
    parts.append(b_place)
    shared = np.concatenate(parts)
    shared = np.pad(shared, (0, -shared.size % 16))
    # The registers of the accumulator, as the instruction has them.
    arguments |= {
        "data": Input(shared),
        "before": Input(fragments(before)),
        "out": Output(fragments(before).shape, dtype),
    }
    base_offset = lead // 128 % 8

    body = [fill_shared("data", shared.size, THREADS), "fence.proxy.async.shared::cta;", "bar.sync 0;"]
    count = product.registers
    stride = 4 * count
    body += [f"mad.wide.u32 %d0, %thread, {stride}, %before;", f"mad.wide.u32 %d1, %thread, {stride}, %out;"]
    body += [f"ld.global.b32 %r{i}, [%d0+{4 * i}];" for i in range(count)]
    if not product.a_layout:
        body.append("mad.wide.u32 %d2, %thread, 4, %a;")
        for i in range(4 * product.chunks):
            body.append(f"ld.global.b32 %r{130 + i}, [%d2+{4 * THREADS * i}];")
    body += ["mov.u64 %d3, smem;", "shr.u64 %d3, %d3, 4;", f"setp.ne.u32 %p0, {int(product.scale_d)}, 0;"]
    body += ["setp.eq.u32 %p1, 0, 0;", "wgmma.fence.sync.aligned;"]
    for chunk in range(product.chunks):
        if product.a_layout:
            at = lead + product.a_layout.step(32 * chunk, a_leading, a_stride, product.size)
            body.append(
                f"add.u64 %d4, %d3, {descriptor(product.a_layout, a_leading, a_stride, base_offset) + at // 16};"
            )
        at = lead + a_bytes + product.b_layout.step(32 * chunk, b_leading, b_stride, product.size)
        body.append(f"add.u64 %d5, %d3, {descriptor(product.b_layout, b_leading, b_stride, base_offset) + at // 16};")
        a_operand = "%d4" if product.a_layout else vector("%r", 130 + 4 * chunk, 4)
        body.append(product.line(a_operand, "%d5", "%p0" if chunk == 0 else "%p1"))
    body += ["wgmma.commit_group.sync.aligned;", "wgmma.wait_group.sync.aligned 0;"]
    body += [f"st.global.b32 [%d1+{4 * i}], %r{i};" for i in range(count)]
    made = kernel(arguments, body, block=THREADS, dynamic_shared=shared.size)
    return Family(name, made)


def fragments(d: np.ndarray) -> np.ndarray:
    """[64, n] as [128 threads, n / 2 elements] of their registers in order."""
    rows, columns = d.shape
    # Rows: warp, half, lane / 4. Columns: group of 8, lane % 4, odd.
    parts = d.reshape(4, 2, 8, columns // 8, 4, 2)
    return np.ascontiguousarray(parts.transpose(0, 2, 4, 3, 1, 5).reshape(THREADS, columns // 2))


TYPES = (("bf16", "bf16"), ("f16", "f16"), ("tf32", "tf32"), ("e4m3", "e4m3"), ("e5m2", "e5m2"), ("e4m3", "e5m2"))
INTEGERS = (("s8", "s8"), ("u8", "u8"), ("s8", "u8"), ("u8", "s8"))


def families() -> Iterator[Family]:
    for a, b in TYPES:
        for columns in (8, 24, 64):
            for where, layout in (("", K128), (".registers", None)):
                product = Product(a, b, columns, a_layout=layout, chunks=2 if columns < 64 else 4)
                yield family(f"{a}.{b}.n{columns}{where}", product)
        for columns in (16, 40):
            product = Product(a, b, columns, exact=False, chunks=4, a_layout=K128 if columns == 16 else None)
            yield family(f"{a}.{b}.n{columns}.random", product)
    for a, columns in (("bf16", 128), ("bf16", 256), ("e4m3", 128), ("f16", 192), ("tf32", 96)):
        yield family(f"{a}.n{columns}.wide", Product(a, a, columns, chunks=1))
    for a, b in (("f16", "f16"), ("e4m3", "e4m3"), ("e5m2", "e4m3")):
        for columns in (8, 32):
            for where, layout in (("", K128), (".registers", None)):
                product = Product(a, b, columns, "f16", a_layout=layout)
                yield family(f"{a}.{b}.n{columns}.to_f16{where}", product)
        yield family(f"{a}.{b}.n16.to_f16.random", Product(a, b, 16, "f16", exact=False))
    for a, b in INTEGERS:
        for columns in (8, 24, 32):
            yield family(f"{a}.{b}.n{columns}", Product(a, b, columns, "s32", a_layout=K128 if columns != 24 else None))
        yield family(f"{a}.{b}.n16.satfinite", Product(a, b, 16, "s32", saturated=True))
    for a, accumulator in (("bf16", "f32"), ("f16", "f16"), ("tf32", "f32"), ("e4m3", "f32"), ("s8", "s32")):
        yield family(f"{a}.{accumulator}.scale_d", Product(a, a, 16, accumulator, scale_d=False))
    for signs in ((-1, 1), (1, -1), (-1, -1)):
        for a, layout in (("bf16", K128), ("tf32", None), ("e5m2", K128)):
            product = Product(a, a, 16, a_layout=layout, scale_a=signs[0], scale_b=signs[1])
            yield family(f"{a}.signs{signs[0]:+d}{signs[1]:+d}", product)
