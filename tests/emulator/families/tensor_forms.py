"""Copies of boxes in all ranks: into several CTAs, into the own one, reduced, fetched ahead, with policies for the cache."""

from collections.abc import Iterator

import numpy as np
from devices import Input, Output, TensorMap
from writing import dump_shared, kernel

from families import Family
from families.tensors import (
    BAR,
    POLICY,
    THREADS,
    WAIT,
    blank,
    bytes_of,
    coordinates,
    loads,
    numbers,
    operands,
    slot_bytes,
    stores,
    strides_of,
)

OUTER = (6, 4, 3, 2)  # extents of the other dimensions
# Boxes by rank; rows as wide as the swizzle, which is 32, 64 or 128 bytes of 16-bit elements.
BOXES = {
    1: ((16,), (32,), (64,)),
    2: ((16, 5), (32, 4), (64, 3)),
    3: ((16, 3, 2), (32, 3, 2), (64, 4, 1)),
    4: ((16, 2, 2, 2), (32, 2, 1, 2), (64, 1, 3, 1)),
    5: ((16, 2, 2, 1, 2), (32, 2, 1, 2, 1), (64, 1, 2, 1, 2)),
}
ROTATION = ((1, 0), (2, 1), (3, 2))  # swizzles, and which of the boxes


def tensor_of(rank: int, swizzle: int, box: tuple[int, ...], kind: str = "uint16", size: int = 2) -> TensorMap:
    dims = (box[0] + 16 // size, *OUTER[: rank - 1])
    return TensorMap("data", kind, dims, strides_of(dims, size, 16), box, swizzle=swizzle)


def places(rank: int) -> list[tuple[int, ...]]:
    """One within the tensor, one that reaches beyond its end."""
    return [(0, 1, 2, 1, 0)[:rank], (16, 3, 3, 2, 1)[:rank]]


def all_loads() -> Iterator[Family]:
    for rank in range(1, 6):
        for swizzle, number in ((0, 0), *ROTATION):
            tensor = tensor_of(rank, swizzle, BOXES[rank][number])
            name = f"{rank}d.swizzle{swizzle}"
            if swizzle != 2:
                yield loads(f"load.cta.{name}", tensor, 2, places(rank), into="shared::cta", hint=swizzle == 3)
            if swizzle != 1:
                yield loads(f"load.hint.{name}", tensor, 2, places(rank), hint=True, prefetched=swizzle == 2)
        tensor = tensor_of(rank, 0, BOXES[rank][1])
        yield loads(f"load.prefetched.{rank}d", tensor, 2, places(rank), prefetched=True)


def multicast(rank: int, swizzle: int, box: tuple[int, ...], hint: bool) -> Family:
    """Each of four CTAs brings a box to one or three of them, so that each gets two."""
    tensor = tensor_of(rank, swizzle, box)
    slot, told = slot_bytes(box, 2, None, swizzle)
    slot = -(-slot // 1024) * 1024
    text, operand = coordinates((8, 1, 0, 1, 0)[:rank])
    # Another place for each, along the last dimension; the last ones are beyond the end.
    step = 8 if rank == 1 else 1
    hinted, policy = (".L2::cache_hint", ", %d90") if hint else ("", "")
    body = f"""
    {blank(4 * slot)}
    mov.u32 %r0, %cluster_ctarank;
    @%p101 mbarrier.arrive.expect_tx.shared.b64 _, [bar], {2 * told};
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    @!%p101 bra DONE;
    {POLICY if hint else ""}
    {text}
    mul.lo.u32 %r{60 + rank - 1}, %r0, {step};
    mad.lo.u32 %r1, %r0, {slot}, %r100;
    shl.b32 %r2, %r0, 2;
    shr.u32 %r3, {0x2D4B}, %r2;
    and.b32 %r3, %r3, 15;
    cvt.u16.u32 %h0, %r3;
    cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster{hinted}
      [%r1], [%map, {operand}], [bar], %h0{policy};
    DONE:
    {WAIT}
    mul.wide.u32 %d0, %r0, {4 * slot};
    add.u64 %out, %out, %d0;
    {dump_shared("out", 4 * slot, THREADS)}
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    """
    name = f"multicast.{rank}d.swizzle{swizzle}{'.hint' if hint else ''}"
    contents = numbers(name, bytes_of(tensor.dims, tensor.strides, 2))
    arguments = {"data": Input(contents), "out": Output((4, 4 * slot), np.uint8), "map": tensor}
    made = kernel(arguments, body, shared=BAR, block=THREADS, grid=4, cluster=4, dynamic_shared=4 * slot)
    return Family(name, made)


# In other ranks than two: types, their bytes, operations.
REDUCTIONS = (
    *(("uint32", 4, "add"), ("int32", 4, "min"), ("uint64", 8, "max"), ("float16", 2, "add")),
    *(("uint32", 4, "inc"), ("bfloat16", 2, "max"), ("float32", 4, "add"), ("int64", 8, "min")),
    *(("uint64", 8, "xor"), ("bfloat16", 2, "add"), ("uint32", 4, "dec"), ("float16", 2, "min")),
)


def reductions() -> Iterator[Family]:
    for number, (kind, size, operation) in enumerate(REDUCTIONS):
        rank = (1, 3, 4, 5)[number % 4]
        swizzle = number % 3 + 1
        box = (16 << swizzle - 1) * 2 // size  # elements of a row
        extents = (box, *BOXES[rank][swizzle - 1][1:])
        tensor = tensor_of(rank, swizzle, extents, kind, size)
        name = f"reduce.{rank}d.{operation}.{kind}"
        where = places(rank)
        slot = -(-slot_bytes(extents, size, None, swizzle)[0] // 1024) * 1024
        contents = operands(name, kind, operation, (slot * len(where), bytes_of(tensor.dims, tensor.strides, size)))
        yield stores(name, tensor, size, where, operation, contents, hint=number % 2 == 0)


def all_stores() -> Iterator[Family]:
    for rank in range(1, 6):
        swizzle, number = ROTATION[rank % 3]
        tensor = tensor_of(rank, swizzle, BOXES[rank][number])
        yield stores(f"store.hint.{rank}d.swizzle{swizzle}", tensor, 2, places(rank), hint=True)


def families() -> Iterator[Family]:
    yield from all_loads()
    for rank in range(1, 6):
        for swizzle, number in ((0, 0), ROTATION[rank % 3]):
            for hint in (False, True):
                yield multicast(rank, swizzle, BOXES[rank][number], hint)
    yield from reductions()
    yield from all_stores()
