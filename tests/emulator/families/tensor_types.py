"""Tensors of every type of elements: what is outside of them, as zeros and as NaNs; and maps that a kernel changes."""

from collections.abc import Iterator

import numpy as np
from devices import TENSOR_TYPES, Input, Output, TensorMap
from writing import dump_shared, kernel, rng

from families import Family
from families.numbers import edges
from families.tensors import BAR, THREADS, WAIT, blank, floats, loads, numbers, stores, strides_of

SIZES = {"uint8": 1, "uint16": 2, "float16": 2, "bfloat16": 2, "uint64": 8, "int64": 8, "float64": 8}
FLOATS = ("float16", "float32", "float64", "bfloat16", "float32_ftz", "tfloat32", "tfloat32_ftz")
ROUNDED = ("float32_ftz", "tfloat32", "tfloat32_ftz")


def contents(kind: str, bytes_: int) -> np.ndarray:
    """Numbers of all sorts for those that are changed on their way; NaNs among them."""
    if kind not in ROUNDED:
        return numbers(kind, bytes_)
    generator = rng(kind)
    values = generator.standard_normal(bytes_ // 4).astype(np.float32)
    known = edges("f32")
    values[: known.size] = known
    small = generator.integers(0, 1 << 23, 32).astype(np.uint32).view(np.float32)
    values[known.size : known.size + 32] = small
    return values.view(np.uint8)


def types() -> Iterator[Family]:
    for kind in TENSOR_TYPES:
        size = SIZES.get(kind, 4)
        dims, box = (20, 10), (16 if size < 8 else 8, 6)
        for fill in (0, 1) if kind in FLOATS else (0,):
            tensor = TensorMap("data", kind, dims, strides_of(dims, size), box, fill=fill)
            values = contents(kind, (9 * tensor.strides[0] + 20 * size + 15) // 16 * 16)
            name = f"type.{kind}" + (".nan" if fill else "")
            yield loads(name, tensor, size, [(0, 0), (-3, -2), (11, 6)], values)


def ties() -> Iterator[Family]:
    """Numbers just between two of tf32, beside their neighbours: to even, away, or neither."""
    for kind in ("tfloat32", "tfloat32_ftz"):
        generator = rng(f"ties {kind}")
        codes = generator.integers(0, 1 << 19, 160).astype(np.uint32) << 13 | 0x1000
        codes[1::4] -= 1
        codes[2::4] += 1
        codes[:16:4] = (0x00001000, 0x80003000, 0x007FF000, 0x7F7FF000)
        tensor = TensorMap("data", kind, (16, 10), (64,), (16, 10))
        yield loads(f"ties.{kind}", tensor, 4, [(0, 0)], codes.view(np.uint8))


def written() -> Iterator[Family]:
    """Boxes of the types that are rounded where they are loaded, on their way back."""
    for kind in ROUNDED:
        tensor = TensorMap("data", kind, (20, 10), (80,), (16, 6))
        pair = contents(kind, 6 * 64), contents(kind, 10 * 80)
        yield stores(f"store.{kind}", tensor, 4, [(4, 1)], "", pair)
        # Minima and maxima of these are illegal instructions on an H200.
        name = f"reduce.add.{kind}"
        pair = floats(rng(name), "float32", 6 * 16), floats(rng(name + " before"), "float32", 10 * 20)
        yield stores(name, tensor, 4, [(4, 1)], "add", pair)


def swizzled_nans() -> Iterator[Family]:
    for swizzle in (1, 3):
        tensor = TensorMap("data", "bfloat16", (40, 12), (80,), (16 * swizzle, 8), swizzle=swizzle, fill=1)
        yield loads(f"nan.swizzle{swizzle}", tensor, 2, [(-5, -3), (30, 7)])


def replaced() -> Iterator[Family]:
    """The kernel takes a map, changes all that it can, and puts it into global memory."""
    tensor = TensorMap("data", "uint8", (48, 4), (48,), (16, 2))
    told = 32 * 4 * 2
    body = f"""
    {blank(1024)}
    setp.ge.u32 %p0, %thread, 32;
    @%p0 bra WAIT;
    mov.u32 %r1, smem;
    shl.b32 %r2, %thread, 2;
    add.u32 %r1, %r1, %r2;
    mad.wide.u32 %d0, %thread, 4, %map;
    ld.b32 %r3, [%d0];
    st.shared.b32 [%r1+512], %r3;
    bar.warp.sync -1;
    mov.u64 %d1, smem;
    add.u64 %d1, %d1, 512;
    add.u64 %d2, %data, 64;
    cvta.global.u64 %d2, %d2;
    cvta.global.u64 %d4, %place;
    @!%p101 bra CHANGED;
    tensormap.replace.tile.global_address.shared::cta.b1024.b64 [%d1], %d2;
    tensormap.replace.tile.rank.shared::cta.b1024.b32 [%d1], 1;
    tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [%d1], 0, 32;
    tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [%d1], 1, 4;
    tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [%d1], 0, 50;
    tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [%d1], 1, 7;
    mov.b64 %d3, 112;
    tensormap.replace.tile.global_stride.shared::cta.b1024.b64 [%d1], 0, %d3;
    tensormap.replace.tile.element_stride.shared::cta.b1024.b32 [%d1], 0, 1;
    tensormap.replace.tile.element_stride.shared::cta.b1024.b32 [%d1], 1, 1;
    tensormap.replace.tile.elemtype.shared::cta.b1024.b32 [%d1], 1;
    tensormap.replace.tile.interleave_layout.shared::cta.b1024.b32 [%d1], 0;
    tensormap.replace.tile.swizzle_mode.shared::cta.b1024.b32 [%d1], 2;
    tensormap.replace.tile.fill_mode.shared::cta.b1024.b32 [%d1], 0;
    CHANGED:
    bar.warp.sync -1;
    tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%place], [%d1], 128;
    fence.proxy.tensormap::generic.acquire.gpu [%d4], 128;
    @!%p101 bra WAIT;
    mbarrier.arrive.expect_tx.shared.b64 _, [bar], {told};
    mov.b32 %r4, 32;
    mov.b32 %r5, 2;
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
      [%r100], [%d4, {{%r4, %r5}}], [bar];
    {WAIT}
    {dump_shared("out", 512, THREADS)}
    """
    arguments = {
        "data": Input(numbers("replaced", 64 + 6 * 112 + 112)),
        "other": Input(np.zeros(16, np.uint8)),
        "place": Output((128,), np.uint8, kept=False),
        "out": Output((512,), np.uint8),
        "map": tensor,
    }
    yield Family("tensormap.replace", kernel(arguments, body, shared=BAR, block=THREADS, dynamic_shared=1024))


def families() -> Iterator[Family]:
    yield from types()
    yield from ties()
    yield from written()
    yield from swizzled_nans()
    yield from replaced()
