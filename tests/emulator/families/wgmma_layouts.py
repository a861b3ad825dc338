"""Operands of wgmma in all layouts: swizzles, K-major and MN-major, starts within an atom, base offsets."""

from collections.abc import Iterator

from families import Family
from families.wgmma import K0, K32, K64, K128, M0, M32, M64, M128, Product, family


def families() -> Iterator[Family]:
    # Of 16 bits: every layout for either operand.
    for a in (K0, K32, K64, K128, M0, M32, M64, M128):
        for b in (K128, M128):
            yield family(f"a.{label(a)}.b.{label(b)}", Product("bf16", "bf16", 64, a_layout=a, b_layout=b, chunks=4))
    for b in (K0, K32, K64, M0, M32, M64):
        for columns in (64, 128):
            name = f"b.{label(b)}.n{columns}"
            yield family(name, Product("f16", "f16", columns, a_layout=None, b_layout=b, chunks=2))
    for b in (M128, M64, M32, M0):
        columns = {128: 192, 64: 96, 32: 48, 0: 40}[b.swizzle]
        yield family(f"b.{label(b)}.n{columns}", Product("bf16", "bf16", columns, a_layout=b, b_layout=b, chunks=3))
    # Of 8 and of 32 bits: K-major.
    for kind in ("e4m3", "tf32", "s8"):
        for layout in (K0, K32, K64, K128):
            accumulator = "s32" if kind == "s8" else "f32"
            product = Product(kind, kind, 32, accumulator, a_layout=layout, b_layout=layout, chunks=4)
            yield family(f"{kind}.{label(layout)}", product)
    # Two atoms along K.
    for layout in (K128, K64, M128, K0):
        product = Product("bf16", "bf16", 16 if layout.k_major else 64, a_layout=layout, b_layout=layout, chunks=7)
        if layout.k_major:
            product = Product("bf16", "bf16", 16, a_layout=layout, b_layout=layout, chunks=8)
        yield family(f"long.{label(layout)}", product)
    # Atoms that begin within a period of the swizzle, which the base offset tells.
    for layout in (K128, K64, K32):
        for lead in (128, 384, 896):
            product = Product("bf16", "bf16", 24, a_layout=layout, b_layout=layout, chunks=1)
            yield family(f"base_offset.{label(layout)}.{lead}", product, lead=lead)


def label(layout) -> str:
    return ("k" if layout.k_major else "mn") + str(layout.swizzle)
