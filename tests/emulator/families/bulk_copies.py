"""cp.async.bulk: bytes between all memories, to several CTAs, and reductions."""

from collections.abc import Iterator

import numpy as np
from devices import Input, Output
from writing import dump_shared, fill_shared, kernel, rng

from families import Family
from families.tensors import THREADS, WAIT, blank, floats

BAR = ".shared .align 8 .b64 bar;\n"
DONE = "mbarrier::complete_tx::bytes"
# What a policy for the cache adds: a line before, a modifier, an operand.
POLICY = "createpolicy.fractional.L2::evict_first.b64 %d9, 1.0;"
HINTED, PLAIN = (POLICY, ".L2::cache_hint", ", %d9"), ("", "", "")


def source(name: str, count: int) -> Input:
    return Input(rng(name).integers(0, 16, count, np.uint8) * 17)


def loads() -> Iterator[Family]:
    for name, middle, last in (
        ("cluster", "shared::cluster", ""),
        ("cta", "shared::cta", ""),
        ("hint", "shared::cluster", ", %d9"),
    ):
        hint = ".L2::cache_hint" if last else ""
        body = f"""
        {blank(2048)}
        {POLICY}
        @!%p101 bra DONE;
        mbarrier.arrive.expect_tx.shared.b64 _, [bar], {512 + 16 + 336};
        cp.async.bulk.prefetch.L2.global [%a], 1024;
        cp.async.bulk.{middle}.global.{DONE}{hint} [%r100], [%a+16], 512, [bar]{last};
        mov.b32 %r1, 336;
        cp.async.bulk.{middle}.global.{DONE}{hint} [%r100+1040], [%a+640], %r1, [bar]{last};
        cp.async.bulk.{middle}.global.{DONE}{hint} [%r100+2032], [%a], 16, [bar]{last};
        DONE:
        {WAIT}
        {dump_shared("out", 2048, THREADS)}
        """
        arguments = {"a": source("loads", 1024), "out": Output((2048,), np.uint8)}
        yield Family(f"load.{name}", kernel(arguments, body, shared=BAR, block=THREADS, dynamic_shared=2048))


def stores() -> Iterator[Family]:
    body = f"""
    {fill_shared("a", 1024, THREADS)}
    fence.proxy.async.shared::cta;
    bar.sync 0;
    setp.ne.u32 %p0, %thread, 0;
    @%p0 bra DONE;
    mov.u32 %r0, smem;
    cp.async.bulk.global.shared::cta.bulk_group [%out+32], [%r0+16], 480;
    cp.async.bulk.commit_group;
    {POLICY}
    mov.b32 %r1, 64;
    cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%out+1024], [%r0+512], %r1, %d9;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group.read 1;
    cp.async.bulk.wait_group 0;
    DONE:
    """
    arguments = {"a": source("stores", 1024), "out": Output((1536,), np.uint8, 0x5A)}
    yield Family("store", kernel(arguments, body, block=THREADS, dynamic_shared=1024))


# Parts of a type and of an operation: kinds in shared memory of the cluster, and in global memory.
SHARED_REDUCTIONS = (
    *((op, kind) for op in ("add", "min", "max") for kind in ("u32", "s32")),
    *((op, "u32") for op in ("inc", "dec")),
    *((op, "b32") for op in ("and", "or", "xor")),
    ("add", "u64"),
)
GLOBAL_REDUCTIONS = (
    *SHARED_REDUCTIONS,
    *((op, kind) for op in ("min", "max") for kind in ("u64", "s64")),
    *((op, "b64") for op in ("and", "or", "xor")),
    *(("add", kind) for kind in ("f32", "f64")),
    *((op, kind) for op in ("add.noftz", "min", "max") for kind in ("f16", "bf16")),
)
NAMES = {"f16": "float16", "bf16": "bfloat16", "f32": "float32"}


def operands(name: str, operation: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    generator = rng(name)
    if kind in NAMES:
        return tuple(floats(generator, NAMES[kind], 512 // (4 if kind == "f32" else 2)) for _ in range(2))
    if kind == "f64":
        return tuple(generator.standard_normal(64).view(np.uint8) for _ in range(2))
    if operation in ("inc", "dec"):
        return tuple(generator.integers(0, 5, 128).astype(np.uint32).view(np.uint8) for _ in range(2))
    return tuple(generator.integers(0, 256, 512, np.uint8) for _ in range(2))


HINTED_REDUCTIONS = (("add", "u32"), ("min", "s64"), ("add.noftz", "f16"), ("add", "f32"))


def reductions() -> Iterator[Family]:
    forms = [(*reduction, "", PLAIN) for reduction in GLOBAL_REDUCTIONS]
    forms += [(*reduction, ".hint", HINTED) for reduction in HINTED_REDUCTIONS]
    for operation, kind, suffix, (policy, hint, last) in forms:
        name = f"reduce.global.{operation}.{kind}{suffix}"
        values, before = operands(name, operation, kind)
        body = f"""
        {fill_shared("a", 512, THREADS)}
        fence.proxy.async.shared::cta;
        bar.sync 0;
        setp.ne.u32 %p0, %thread, 0;
        @%p0 bra DONE;
        {policy}
        mov.u32 %r0, smem;
        cp.reduce.async.bulk.global.shared::cta.bulk_group{hint}.{operation}.{kind} [%out+16], [%r0+32], 256{last};
        cp.async.bulk.commit_group;
        cp.async.bulk.wait_group 0;
        DONE:
        """
        arguments = {"a": Input(values), "out": Output((512,), np.uint8, before)}
        yield Family(name, kernel(arguments, body, block=THREADS, dynamic_shared=512))
    for operation, kind in SHARED_REDUCTIONS:
        name = f"reduce.shared.{operation}.{kind}"
        values, before = operands(name, operation, kind)
        # The CTA 0 changes what the CTA 1 has.
        body = f"""
        mov.u32 %r20, %cluster_ctarank;
        setp.eq.u32 %p9, %r20, 0;
        selp.b64 %a, %a, %b, %p9;
        {fill_shared("a", 512, THREADS)}
        setp.eq.u32 %p101, %thread, 0;
        @%p101 mbarrier.init.shared.b64 [bar], 1;
        @%p101 fence.mbarrier_init.release.cluster;
        @%p101 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 256;
        fence.proxy.async.shared::cta;
        barrier.cluster.arrive.aligned;
        barrier.cluster.wait.aligned;
        mov.u32 %r0, smem;
        mov.u32 %r1, bar;
        mov.b32 %r2, 1;
        mapa.shared::cluster.u32 %r3, %r0, %r2;
        mapa.shared::cluster.u32 %r4, %r1, %r2;
        and.pred %p0, %p9, %p101;
        @%p0 cp.reduce.async.bulk.shared::cluster.shared::cta.{DONE}.{operation}.{kind} [%r3+16], [%r0+32], 256, [%r4];
        @%p9 bra AWAY;
        {WAIT}
        {dump_shared("out", 512, THREADS)}
        AWAY:
        barrier.cluster.arrive.aligned;
        barrier.cluster.wait.aligned;
        """
        arguments = {"a": Input(values), "b": Input(before), "out": Output((512,), np.uint8)}
        made = kernel(arguments, body, block=THREADS, dynamic_shared=512, shared=BAR, grid=2, cluster=2)
        yield Family(name, made)


def between_ctas() -> Iterator[Family]:
    """Each CTA copies a part of its memory to each of the others."""
    body = f"""
    mov.u32 %r20, %cluster_ctarank;
    {blank(2048)}
    mul.wide.u32 %d0, %r20, 512;
    add.u64 %d1, %a, %d0;
    mad.wide.u32 %d2, %thread, 8, %d1;
    mad.lo.u32 %r1, %thread, 8, %r100;
    ld.global.b64 %d3, [%d2];
    st.shared.b64 [%r1], %d3;
    @%p101 mbarrier.arrive.expect_tx.shared.b64 _, [bar], {3 * 128};
    fence.proxy.async;
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    @!%p101 bra DONE;
    mov.u32 %r2, 1;
    mov.u32 %r3, bar;
    NEXT:
    add.u32 %r4, %r20, %r2;
    and.b32 %r4, %r4, 3;
    mapa.shared::cluster.u32 %r5, %r100, %r4;
    mapa.shared::cluster.u32 %r6, %r3, %r4;
    mad.lo.u32 %r7, %r20, 256, %r5;
    mad.lo.u32 %r8, %r2, 128, %r100;
    cp.async.bulk.shared::cluster.shared::cta.{DONE} [%r7+1024], [%r8], 128, [%r6];
    add.u32 %r2, %r2, 1;
    setp.lt.u32 %p0, %r2, 4;
    @%p0 bra NEXT;
    DONE:
    {WAIT}
    mul.wide.u32 %d4, %r20, 2048;
    add.u64 %out, %out, %d4;
    {dump_shared("out", 2048, THREADS)}
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    """
    arguments = {"a": source("between", 2048), "out": Output((4, 2048), np.uint8)}
    made = kernel(arguments, body, shared=BAR, block=THREADS, grid=4, cluster=4, dynamic_shared=2048)
    yield Family("between_ctas", made)


def multicast(name: str, hinted: tuple[str, str, str]) -> Family:
    """Two of four CTAs send to three each, themselves included or not."""
    policy, hint, last = hinted
    copy = f"cp.async.bulk.shared::cluster.global.{DONE}.multicast::cluster{hint}"
    body = f"""
    mov.u32 %r20, %cluster_ctarank;
    {blank(1024)}
    setp.eq.u32 %p2, %r20, 0;
    setp.eq.u32 %p3, %r20, 3;
    mov.b32 %r2, 448;
    @%p2 mov.b32 %r2, 192;
    @%p3 mov.b32 %r2, 256;
    @%p101 mbarrier.arrive.expect_tx.shared.b64 _, [bar], %r2;
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    mov.u16 %h0, 0x7;
    mov.u16 %h1, 0xE;
    and.pred %p2, %p2, %p101;
    and.pred %p3, %p3, %p101;
    {policy}
    @%p2 {copy} [%r100+64], [%a], 192, [bar], %h0{last};
    @%p3 {copy} [%r100+512], [%a+256], 256, [bar], %h1{last};
    {WAIT}
    mul.wide.u32 %d4, %r20, 1024;
    add.u64 %out, %out, %d4;
    {dump_shared("out", 1024, THREADS)}
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    """
    arguments = {"a": source("multicast", 512), "out": Output((4, 1024), np.uint8)}
    made = kernel(arguments, body, shared=BAR, block=THREADS, grid=4, cluster=4, dynamic_shared=1024)
    return Family(name, made)


def families() -> Iterator[Family]:
    yield from loads()
    yield from stores()
    yield from reductions()
    yield from between_ctas()
    yield multicast("multicast", PLAIN)
    yield multicast("multicast.hint", HINTED)
