"""Copies of boxes of tensors (TMA): ranks, swizzles, strides, what is outside, multicast, reductions."""

from collections.abc import Iterator, Sequence

import numpy as np
from devices import Input, Output, TensorMap
from writing import dump_shared, fill_shared, kernel, rng

from families import Family

THREADS = 64
BAR = ".shared .align 8 .b64 bar;\n"
PATTERN = 0x5EC0DE11  # of shared memory before the copies

Coordinates = Sequence[tuple[int, ...]]


def strides_of(dims: Sequence[int], size: int, padding: int = 0) -> tuple[int, ...]:
    """Bytes from one element to the next of dimensions 1, 2, …; rows are padded to multiples of 16 bytes and more."""
    strides, step = [], -(-dims[0] * size // 16) * 16 + padding
    for extent in dims[1:]:
        strides.append(step)
        step *= extent
    return tuple(strides)


def bytes_of(dims: Sequence[int], strides: Sequence[int], size: int) -> int:
    last = sum((extent - 1) * stride for extent, stride in zip(dims[1:], strides))
    return -(-(last + dims[0] * size) // 16) * 16


def numbers(name: str, count: int) -> np.ndarray:
    """Bytes of few values: what comes back is kept, and compresses well."""
    return rng(name).integers(0, 16, count, np.uint8) * 17


def slot_bytes(box: Sequence[int], size: int, steps: Sequence[int] | None, swizzle: int) -> tuple[int, int]:
    """What a box takes of shared memory, and what its barrier is told of."""
    rows = 1
    for extent, step in zip(box[1:], (steps or [1] * len(box))[1:]):
        rows *= -(-extent // step)
    row = box[0] * size
    pitch = max(row, (0, 32, 64, 128)[swizzle])
    return rows * pitch, rows * row


def blank(bytes_: int) -> str:
    """Fills shared memory with the pattern, and lets copies see it."""
    return f"""
    mov.u32 %r100, smem;
    shl.b32 %r101, %thread, 2;
    BLANK:
    setp.ge.u32 %p100, %r101, {bytes_};
    @%p100 bra BLANKED;
    add.u32 %r102, %r100, %r101;
    st.shared.b32 [%r102], {PATTERN};
    add.u32 %r101, %r101, {4 * THREADS};
    bra BLANK;
    BLANKED:
    fence.proxy.async.shared::cta;
    setp.eq.u32 %p101, %thread, 0;
    @%p101 mbarrier.init.shared.b64 [bar], 1;
    @%p101 fence.mbarrier_init.release.cluster;
    bar.sync 0;
    """


WAIT = """
    WAIT:
    mbarrier.try_wait.parity.shared.b64 %p102, [bar], 0;
    @!%p102 bra WAIT;
"""


def aligned(place: Sequence[int], size: int) -> tuple[int, ...]:
    """A place whose innermost coordinate is a multiple of 16 bytes: hardware refuses to copy from elsewhere."""
    elements = 16 // size
    return (place[0] // elements * elements, *place[1:])


def coordinates(values: Sequence[int], first: int = 60) -> tuple[str, str]:
    """Puts them into registers; and the operand."""
    text = "\n".join(f"mov.b32 %r{first + i}, {value};" for i, value in enumerate(values))
    return text, "{" + ", ".join(f"%r{first + i}" for i in range(len(values))) + "}"


POLICY = "createpolicy.fractional.L2::evict_last.b64 %d90, 1.0;"


def loads(
    name: str,
    tensor: TensorMap,
    size: int,
    where: Coordinates,
    contents: np.ndarray | None = None,
    *,
    into: str = "shared::cluster",
    hint: bool = False,
    prefetched: bool = False,
    **more,
) -> Family:
    """A box from each of several places, one behind the other in shared memory. `hint`: with a policy for the cache."""
    slot, told = slot_bytes(tensor.box, size, tensor.element_strides, tensor.swizzle)
    slot = -(-slot // 1024) * 1024 if tensor.swizzle else -(-slot // 128) * 128
    total = slot * len(where)
    rank = len(tensor.dims)
    body = [blank(total), "@!%p101 bra DONE;", f"mbarrier.arrive.expect_tx.shared.b64 _, [bar], {told * len(where)};"]
    hinted, policy = (".L2::cache_hint", ", %d90") if hint else ("", "")
    body += [POLICY] if hint else []
    for i, place in enumerate(where):
        text, operand = coordinates(aligned(place, size))
        body += [text, f"add.u32 %r80, %r100, {i * slot};"]
        if prefetched:
            body.append(f"cp.async.bulk.prefetch.tensor.{rank}d.L2.global.tile{hinted} [%map, {operand}]{policy};")
        body += [
            f"cp.async.bulk.tensor.{rank}d.{into}.global.tile.mbarrier::complete_tx::bytes{hinted} "
            f"[%r80], [%map, {operand}], [bar]{policy};"
        ]
    body += ["DONE:", WAIT, dump_shared("out", total, THREADS)]
    if contents is None:
        contents = numbers(name, bytes_of(tensor.dims, tensor.strides, size) + tensor.offset)
    arguments = {"data": Input(contents), "out": Output((total,), np.uint8), "map": tensor}
    made = kernel(arguments, "\n".join(body), shared=BAR, block=THREADS, dynamic_shared=total)
    return Family(name, made, **more)


def ranks() -> Iterator[Family]:
    dims = (40, 9, 7, 5, 4)
    boxes = ((24,), (24, 3), (24, 3, 2), (16, 3, 2, 2), (16, 2, 2, 3, 2))
    for rank in range(1, 6):
        extents = dims[:rank]
        tensor = TensorMap("data", "uint16", extents, strides_of(extents, 2, 32), boxes[rank - 1])
        middle = tuple([8, 2, 3, 1, 1][:rank])
        where = [middle, (0,) * rank, (-5,) * rank, tuple(e - 1 for e in extents), tuple([33, -1, 6, -1, 3][:rank])]
        where.append(tuple([100, 3, 3, 3, 3][:rank]))
        where.append(tuple([-100, 3, -100, 3, 3][:rank]))
        yield loads(f"load.{rank}d", tensor, 2, where)


def swizzles() -> Iterator[Family]:
    for swizzle, widths in ((0, (8, 32, 64)), (1, (8, 16)), (2, (8, 24, 32)), (3, (8, 40, 64))):
        for width in widths:
            tensor = TensorMap("data", "bfloat16", (80, 24), strides_of((80, 24), 2), (width, 16), swizzle=swizzle)
            yield loads(f"load.swizzle{swizzle}.{width}", tensor, 2, [(8, 3), (-3, -2), (70, 15)])


def shapes() -> Iterator[Family]:
    """Strides of tensors and within boxes, offsets, boxes of the largest extent, hints."""
    odd = TensorMap("data", "uint8", (37, 11, 3), (48, 48 * 11 + 112), (32, 4, 2), offset=32)
    yield loads("load.strides", odd, 1, [(0, 0, 0), (-7, 8, 1), (16, -2, 2)])
    transposed = TensorMap("data", "float32", (8, 6, 5), (160, 32), (8, 3, 4))
    yield loads("load.transposed", transposed, 4, [(0, 0, 0), (-4, 4, 3)], numbers("transposed", 960))
    overlapping = TensorMap("data", "float16", (16, 20), (16,), (16, 8))
    yield loads("load.overlapping", overlapping, 2, [(0, 0), (4, 15)], numbers("overlapping", 19 * 16 + 32))
    for steps, box in (((1, 2), (16, 8)), ((1, 3, 2), (16, 8, 5)), ((1, 8), (16, 24)), ((2, 2), (16, 7))):
        dims = (30, 25, 9)[: len(box)]
        tensor = TensorMap("data", "uint16", dims, strides_of(dims, 2), box, element_strides=steps)
        where = [(4, 5, 1)[: len(box)], (-2, -3, -1)[: len(box)], (20, 19, 6)[: len(box)]]
        yield loads("load.steps" + "".join(f".{s}" for s in steps), tensor, 2, where)
    wide = TensorMap("data", "uint8", (300, 3), (304,), (256, 2))
    yield loads("load.wide", wide, 1, [(44, 1), (-200, -1)])
    tall = TensorMap("data", "uint8", (16, 300), (16,), (16, 256), l2_promotion=2)
    yield loads("load.tall", tall, 1, [(0, 40), (0, -250)])


def stores(
    name: str,
    tensor: TensorMap,
    size: int,
    where: Coordinates,
    operation: str = "",
    contents=None,
    *,
    hint: bool = False,
    **more,
) -> Family:
    """Boxes from shared memory into a tensor; `operation`: of a reduction; `hint`: with a policy for the cache."""
    slot, _ = slot_bytes(tensor.box, size, tensor.element_strides, tensor.swizzle)
    slot = -(-slot // 1024) * 1024 if tensor.swizzle else -(-slot // 128) * 128
    total = slot * len(where)
    rank = len(tensor.dims)
    words = "cp.reduce" if operation else "cp"
    tail = f".{operation}" if operation else ""
    hinted, policy = (".L2::cache_hint", ", %d90") if hint else ("", "")
    body = [
        fill_shared("boxes", total, THREADS),
        "mov.u32 %r100, smem;",
        "fence.proxy.async.shared::cta;",
        "bar.sync 0;",
    ]
    body += ["setp.ne.u32 %p0, %thread, 0;", "@%p0 bra DONE;"]
    body += [POLICY] if hint else []
    for i, place in enumerate(where):
        text, operand = coordinates(aligned(place, size))
        body += [text, f"add.u32 %r80, %r100, {i * slot};"]
        body.append(
            f"{words}.async.bulk.tensor.{rank}d.global.shared::cta{tail}.tile.bulk_group{hinted} "
            f"[%map, {operand}], [%r80]{policy};"
        )
        # Boxes may overlap: in order, please.
        body += [
            "cp.async.bulk.commit_group;",
            f"cp.async.bulk.wait_group{'.read' if i % 2 and not operation else ''} 0;",
        ]
        body += ["cp.async.bulk.wait_group 0;"]
    body.append("DONE:")
    bytes_ = bytes_of(tensor.dims, tensor.strides, size) + tensor.offset
    boxes, before = contents or (numbers(name, total), numbers(name + " before", bytes_))
    arguments = {"boxes": Input(boxes), "data": Output((bytes_,), np.uint8, before), "map": tensor}
    made = kernel(arguments, "\n".join(body), block=THREADS, dynamic_shared=total)
    return Family(name, made, **more)


def all_stores() -> Iterator[Family]:
    dims = (40, 9, 7, 5, 4)
    boxes = ((24,), (24, 3), (24, 3, 2), (16, 3, 2, 2), (16, 2, 2, 3, 2))
    for rank in range(1, 6):
        extents = dims[:rank]
        tensor = TensorMap("data", "uint16", extents, strides_of(extents, 2, 16), boxes[rank - 1])
        # Hardware refuses to store to negative coordinates, though it loads from them.
        where = [tuple([8, 2, 3, 1, 1][:rank]), tuple(e - 1 for e in extents), tuple([33, 1, 5, 3, 2][:rank])]
        yield stores(f"store.{rank}d", tensor, 2, [*where, (0,) * rank, (99,) * rank])
    for swizzle, width in ((1, 8), (1, 16), (2, 24), (3, 64), (3, 40)):
        tensor = TensorMap("data", "bfloat16", (80, 24), strides_of((80, 24), 2), (width, 16), swizzle=swizzle)
        yield stores(f"store.swizzle{swizzle}.{width}", tensor, 2, [(8, 3), (70, 15)])
    tensor = TensorMap("data", "uint16", (30, 25), strides_of((30, 25), 2), (16, 8), element_strides=(1, 3))
    yield stores("store.steps", tensor, 2, [(4, 5), (0, 2), (20, 20)])


def padded() -> Iterator[Family]:
    """Tensors whose rows end within 16 bytes that no other row begins in: how far boxes that reach over the end write."""
    for kind, size, width, operation in (
        ("uint8", 1, 45, ""),
        ("uint16", 2, 25, ""),
        ("uint16", 2, 30, ""),
        ("float16", 2, 29, "add"),
        ("uint32", 4, 26, "add"),
        ("int32", 4, 13, "min"),
    ):
        dims, box = (width, 6), (32 // size, 2)
        tensor = TensorMap("data", kind, dims, strides_of(dims, size, 32), box)
        name = f"{'reduce' if operation else 'store'}.padded.{kind}.{width}"
        generator = rng(name)
        sizes = 128, bytes_of(dims, tensor.strides, size)  # a box of 64 bytes takes 128
        contents = [generator.integers(0, 256, n, np.uint8) for n in sizes]
        if kind == "float16":
            contents = [floats(generator, kind, n // size) for n in sizes]
        yield stores(name, tensor, size, [((width - 1) * size // 16 * 16 // size, 3)], operation, contents)


REDUCTIONS = (
    *(("uint32", 4, op) for op in ("add", "min", "max", "inc", "dec", "and", "or", "xor")),
    *(("int32", 4, op) for op in ("add", "min", "max")),
    *(("uint64", 8, op) for op in ("add", "min", "max", "and", "or", "xor")),
    *(("int64", 8, op) for op in ("min", "max")),
    *((kind, 2, op) for kind in ("float16", "bfloat16") for op in ("add", "min", "max")),
    ("float32", 4, "add"),
)


def reductions() -> Iterator[Family]:
    for kind, size, operation in REDUCTIONS:
        name = f"reduce.{operation}.{kind}"
        tensor = TensorMap("data", kind, (24, 6), strides_of((24, 6), size), (16, 4))
        contents = operands(name, kind, operation, (2 * 64 * size, bytes_of((24, 6), tensor.strides, size)))
        yield stores(name, tensor, size, [(4, 1), (20, 4)], operation, contents)


def operands(name: str, kind: str, operation: str, sizes: Sequence[int]) -> list[np.ndarray]:
    """Arrays of so many bytes for a reduction."""
    generator = rng(name)
    size = np.dtype(kind.replace("bfloat", "float")).itemsize
    contents = [generator.integers(0, 256, n, np.uint8) for n in sizes]
    if "float" in kind:
        # Numbers near 1: what overflows or is subnormal has a family of its own.
        contents = [floats(generator, kind, n // size) for n in sizes]
    elif operation in ("inc", "dec"):
        contents = [generator.integers(0, 5, n // 4).astype(np.uint32).view(np.uint8) for n in sizes]
    return contents


def floats(generator: np.random.Generator, kind: str, count: int) -> np.ndarray:
    import ml_dtypes

    dtype = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}[kind]
    return (generator.standard_normal(count) * 4).astype(dtype).view(np.uint8)


def multicast() -> Iterator[Family]:
    """Two CTAs of four each bring a box to three of them, the others one to a single one: two for each."""
    tensor = TensorMap("data", "uint16", (64, 20), (128,), (64, 8), swizzle=3)
    told = 64 * 8 * 2
    body = f"""
    {blank(3 * told)}
    mov.u32 %r0, %cluster_ctarank;
    @%p101 mbarrier.arrive.expect_tx.shared.b64 _, [bar], {2 * told};
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    @!%p101 bra DONE;
    mov.b32 %r60, 0;
    mad.lo.u32 %r61, %r0, 3, 1;
    setp.eq.u32 %p0, %r0, 0;
    setp.eq.u32 %p1, %r0, 2;
    mov.u16 %h0, 0xB;
    mov.u16 %h1, 0xD;
    add.u32 %r3, %r100, {told};
    add.u32 %r4, %r100, {2 * told};
    @%p0 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster
      [%r100], [%map, {{%r60, %r61}}], [bar], %h0;
    @%p1 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster
      [%r3], [%map, {{%r60, %r61}}], [bar], %h1;
    setp.eq.u32 %p2, %r0, 3;
    mov.u16 %h2, 0x2;
    @%p2 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster
      [%r4], [%map, {{%r60, %r61}}], [bar], %h2;
    setp.eq.u32 %p3, %r0, 1;
    mov.u16 %h3, 0x4;
    @%p3 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster
      [%r4], [%map, {{%r60, %r61}}], [bar], %h3;
    DONE:
    {WAIT}
    mov.u32 %r5, %ctaid.x;
    mul.wide.u32 %d0, %r5, {3 * told};
    add.u64 %out, %out, %d0;
    {dump_shared("out", 3 * told, THREADS)}
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    """
    arguments = {"data": Input(numbers("multicast", 128 * 20)), "out": Output((4, 3 * told), np.uint8), "map": tensor}
    made = kernel(arguments, body, shared=BAR, block=THREADS, grid=4, cluster=4, dynamic_shared=3 * told)
    yield Family("load.multicast", made)


def others() -> Iterator[Family]:
    """Prefetches, and a copy in another form: into the own CTA, with a policy."""
    tensor = TensorMap("data", "uint16", (64, 20), (128,), (64, 8))
    told = 64 * 8 * 2
    body = f"""
    {blank(2 * told)}
    @!%p101 bra DONE;
    mov.b32 %r60, 0;
    mov.b32 %r61, 5;
    mov.b32 %r62, 8;
    createpolicy.fractional.L2::evict_last.b64 %d1, 1.0;
    prefetch.tensormap [%map];
    prefetch.param.tensormap [map];
    cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%map, {{%r60, %r61}}];
    cp.async.bulk.prefetch.tensor.2d.L2.global.tile.L2::cache_hint [%map, {{%r60, %r61}}], %d1;
    mbarrier.arrive.expect_tx.shared.b64 _, [bar], {2 * told};
    cp.async.bulk.tensor.2d.shared::cta.global.tile.mbarrier::complete_tx::bytes
      [%r100], [%map, {{%r60, %r61}}], [bar];
    add.u32 %r101, %r100, {told};
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint
      [%r101], [%map, {{%r62, %r60}}], [bar], %d1;
    DONE:
    {WAIT}
    {dump_shared("out", 2 * told, THREADS)}
    """
    arguments = {"data": Input(numbers("others", 128 * 20)), "out": Output((2 * told,), np.uint8), "map": tensor}
    yield Family("load.hints", kernel(arguments, body, shared=BAR, block=THREADS, dynamic_shared=2 * told))


def families() -> Iterator[Family]:
    yield from ranks()
    yield from swizzles()
    yield from shapes()
    yield from all_stores()
    yield from padded()
    yield from reductions()
    yield from multicast()
    yield from others()
