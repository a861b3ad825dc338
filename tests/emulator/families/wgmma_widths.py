"""Matrix products of warpgroups in all widths, and of halves in all forms.

A kernel multiplies the same A by the first 8, 16, … columns of the same B. Of the products some rows are kept, of each
warp another one of its first eight and the one eight below it, with all columns.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from devices import Input, Output
from writing import fill_shared, kernel, rng, vector

from families import Family
from families.wgmma import (
    K32,
    M32,
    M64,
    M128,
    ROWS,
    THREADS,
    Layout,
    Product,
    descriptor,
    draw,
    fragments,
    registers_of,
)
from families.wgmma import family as one_product

WIDTHS = tuple(range(8, 257, 8))
WIDTHS_OF_INTEGERS = (8, 16, 24, *range(32, 257, 16))
PER_KERNEL = 4
KEPT = 16  # threads: four of each warp
DTYPES = {"f32": np.float32, "f16": np.float16, "s32": np.int32}


def family(name: str, product: Product, widths: Sequence[int]) -> Family:
    """`product`, whose columns do not matter, in each of some widths. One chunk of K is multiplied."""
    assert product.chunks == 1
    generator = rng(name)
    most = max(widths)
    a = draw(generator, product.a, (ROWS, product.k), True)
    b = draw(generator, product.b, (most, product.k), True)
    dtype = DTYPES[product.accumulator]
    before = fragments(generator.integers(-50, 50, (ROWS, most)).astype(dtype))
    b_place, b_leading, b_stride = product.b_layout.place(b)
    shared = np.pad(b_place, (0, -b_place.size % 1024))
    arguments = {"before": Input(before)}
    a_operand = vector("%r", 130, 4)
    body = []
    if product.a_layout:
        a_place, leading, stride = product.a_layout.place(a)
        a_operand = "%d4"
        body.append(f"add.u64 %d4, %d3, {descriptor(product.a_layout, leading, stride) + shared.size // 16};")
        shared = np.concatenate([shared, a_place])
    else:
        arguments["a"] = Input(registers_of(a))
        body.append("mad.wide.u32 %d2, %thread, 4, %a;")
        body += [f"ld.global.b32 %r{130 + i}, [%d2+{4 * THREADS * i}];" for i in range(4)]
    body.append(f"add.u64 %d5, %d3, {descriptor(product.b_layout, b_leading, b_stride)};")
    arguments["data"] = Input(shared)
    body += [f"mad.wide.u32 %d0, %thread, {before.strides[0]}, %before;"]
    for columns in widths:
        this = dataclasses.replace(product, columns=columns)
        output = arguments[f"n{columns}"] = Output((KEPT, columns // 2), dtype)
        words = range(this.registers)
        body += [f"ld.global.b32 %r{i}, [%d0+{4 * i}];" for i in words]
        body += ["wgmma.fence.sync.aligned;", this.line(a_operand, "%d5", "%p0")]
        body += ["wgmma.commit_group.sync.aligned;", "wgmma.wait_group.sync.aligned 0;"]
        body.append(f"mad.wide.u32 %d1, %r140, {output.contents().strides[0]}, %n{columns};")
        body += [f"@%p1 st.global.b32 [%d1+{4 * i}], %r{i};" for i in words]
    head = f"""
    {fill_shared("data", shared.size, THREADS)}
    fence.proxy.async.shared::cta;
    bar.sync 0;
    mov.u64 %d3, smem;
    shr.u64 %d3, %d3, 4;
    setp.eq.u32 %p0, 0, 0;
    // Of the warp w the row 3 w + 1 modulo 8: four lanes.
    shr.u32 %r141, %thread, 5;
    mad.lo.u32 %r142, %r141, 3, 1;
    and.b32 %r142, %r142, 7;
    bfe.u32 %r143, %thread, 2, 3;
    setp.eq.u32 %p1, %r142, %r143;
    and.b32 %r140, %thread, 3;
    mad.lo.u32 %r140, %r141, 4, %r140;
    """
    made = kernel(arguments, head + "\n".join(body), block=THREADS, dynamic_shared=shared.size)
    return Family(name, made)


def in_widths(a: str, b: str, accumulator: str, widths: Sequence[int]) -> Iterator[Family]:
    """Some kernels; A is in registers in every other one."""
    for number, first in enumerate(range(0, len(widths), PER_KERNEL)):
        some = widths[first : first + PER_KERNEL]
        product = Product(a, b, 0, accumulator, 1, None if number % 2 else K32, K32)
        yield family(f"{a}.{b}.{accumulator}.n{some[0]}-{some[-1]}", product, some)


def all_widths() -> Iterator[Family]:
    for a, accumulator in (("bf16", "f32"), ("f16", "f32"), ("f16", "f16")):
        yield from in_widths(a, a, accumulator, WIDTHS)
    # The four mixes share the widths.
    mixes = [(a, b) for a in ("e4m3", "e5m2") for b in ("e4m3", "e5m2")]
    for number, (a, b) in enumerate(mixes):
        yield from in_widths(a, b, "f32", WIDTHS[number::4])
        yield from in_widths(a, b, "f16", WIDTHS[3 - number :: 4])
    yield from in_widths("tf32", "tf32", "f32", WIDTHS[1::4])
    yield from in_widths("s8", "s8", "s32", WIDTHS_OF_INTEGERS[::4])
    yield from in_widths("u8", "s8", "s32", WIDTHS_OF_INTEGERS[2::4])


def signs() -> Iterator[Family]:
    for a, b, accumulator, where in (
        ("f16", "f16", "f32", K32),
        ("f16", "f16", "f32", None),
        ("f16", "f16", "f16", K32),
        ("f16", "f16", "f16", None),
        ("bf16", "bf16", "f32", None),
        ("e4m3", "e5m2", "f16", K32),
        ("e4m3", "e4m3", "f32", None),
    ):
        for one, two in ((-1, 1), (1, -1), (-1, -1)):
            product = Product(a, b, 8, accumulator, 2, where, K32, exact=False, scale_a=one, scale_b=two)
            name = f"{a}.{b}.{accumulator}.signs{one:+d}{two:+d}{'' if where else '.registers'}"
            yield one_product(name, product)


def transposed() -> Iterator[Family]:
    """Halves, A or B or both MN-major."""
    for accumulator in ("f32", "f16"):
        for a, b, columns in (
            (M128, K32, 8),
            (M64, M32, 16),
            (M32, M64, 32),
            (K32, M128, 64),
            (None, M64, 32),
            (M128, M128, 64),
        ):
            product = Product("f16", "f16", columns, accumulator, 1, a, b)
            name = f"f16.{accumulator}.a.{label(a)}.b.{label(b)}"
            yield family(name, product, [columns])
    # As the kernels multiply probabilities by values.
    for kind in ("bf16", "f16"):
        for a in (K32, None):
            product = Product(kind, kind, 256, "f32", 1, a, M128)
            yield family(f"{kind}.f32.a.{label(a)}.b.mn128.n256", product, [256])


def label(layout: Layout | None) -> str:
    if layout is None:
        return "registers"
    return ("k" if layout.k_major else "mn") + str(layout.swizzle)


def families() -> Iterator[Family]:
    yield from all_widths()
    yield from signs()
    yield from transposed()
