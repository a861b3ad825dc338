"""Atomic operations: alone at an address, where the old value comes back; and by many at once, where only the end counts."""

from collections.abc import Iterator

import numpy as np
from devices import Input, Output
from writing import ARRAY_TYPES, REGISTER_BITS, kernel, rng, vector

from families import Family
from families.clusters import MEET
from families.numbers import mixed

REGISTERS = {16: "%h", 32: "%r", 64: "%d"}

# Of atom and red, by the types that they have.
OPERATIONS = (
    *((op, kind) for op in ("add", "min", "max") for kind in ("u32", "s32", "u64")),
    *((op, "s64") for op in ("min", "max")),
    *((op, kind) for op in ("and", "or", "xor") for kind in ("b32", "b64")),
    *((op, "u32") for op in ("inc", "dec")),
    *(("exch", kind) for kind in ("b32", "b64")),
    *(("cas", kind) for kind in ("b16", "b32", "b64")),
    *(("add", kind) for kind in ("f32", "f64")),
)
HALVES = tuple(
    (op, kind) for kind in ("f16", "bf16", "f16x2", "bf16x2") for op in ("add.noftz", "min.noftz", "max.noftz")
)


MIDDLES = {"": "", "global": ".global", "shared": ".shared", "relaxed": ".acq_rel.gpu.global"}
MIDDLES |= {"cluster": ".shared::cluster"}


def alone(operation: str, kind: str, space: str, count: int = 64, instruction: str = "atom") -> Family:
    """Each thread changes a word of its own: what was there, if the instruction tells, and what is there after.

    `space` "cluster": the words are in the shared memory of the CTA 0, the threads in the CTA 1.
    """
    name = f"{instruction}.{space}.{operation}.{kind}".replace("..", ".")
    bits = REGISTER_BITS[kind]
    size, pre = bits // 8, REGISTERS[bits]
    before, value, other = mixed(name, (kind,) * 3, count)
    if operation in ("inc", "dec"):
        before, value = (v % 7 for v in (before, value))
    if operation == "cas":
        # The second is what is expected: half of the time it is there.
        value = np.where(np.arange(count) % 2 == 0, before, value)
    if operation == "add" and kind in ("f32", "f64"):
        before, value = finite(before), finite(value)
    tells = instruction == "atom"
    places = ("value", "other", "before", "old", "data") if tells else ("value", "other", "before", "data")
    body = [f"mad.wide.u32 %d{50 + number}, %thread, {size}, %{place};" for number, place in enumerate(places)]
    data = f"%d{49 + len(places)}"
    body += [
        f"ld.global.b{bits} {pre}0, [%d50];",
        f"ld.global.b{bits} {pre}1, [%d51];",
        f"ld.global.b{bits} {pre}2, [%d52];",
    ]
    operands = f"{pre}0, {pre}1" if operation == "cas" else f"{pre}0"
    change = f"{instruction}{MIDDLES[space]}.{operation}.{kind} {f'{pre}3, ' if tells else ''}[{{}}], {operands};"
    keep_old = [f"st.global.b{bits} [%d53], {pre}3;"] if tells else []
    if space in ("shared", "cluster"):
        body += [
            "mov.u64 %d40, smem;",
            f"mad.wide.u32 %d41, %thread, {size}, %d40;",
            f"st.shared.b{bits} [%d41], {pre}2;",
        ]
        if space == "cluster":
            body += [MEET, "mapa.shared::cluster.u64 %d42, %d41, 0;", "mov.u32 %r100, %cluster_ctarank;"]
            body += ["setp.eq.u32 %p0, %r100, 1;", "@!%p0 bra OWNER;", change.format("%d42"), *keep_old]
            body += ["OWNER:", MEET, f"@!%p0 ld.shared.b{bits} {pre}4, [%d41];"]
            body += [f"@!%p0 st.global.b{bits} [{data}], {pre}4;"]
        else:
            body += [change.format("%d41"), f"ld.shared.b{bits} {pre}4, [%d41];"]
            body += [f"st.global.b{bits} [{data}], {pre}4;", *keep_old]
    else:
        body += [f"st.global.b{bits} [{data}], {pre}2;"]
        body += [f"cvta.global.u64 %d42, {data};"] if space == "" else []
        body += [change.format("%d42" if space == "" else data), *keep_old]
    dtype = ARRAY_TYPES[kind]
    arguments = {name_: Input(array) for name_, array in (("value", value), ("other", other), ("before", before))}
    arguments |= {"old": Output((count,), dtype)} if tells else {}
    arguments |= {"data": Output((count,), dtype)}
    ctas = 2 if space == "cluster" else 1
    has_shared = space in ("shared", "cluster")
    made = kernel(
        arguments, body, block=count, grid=ctas, cluster=ctas, dynamic_shared=size * count if has_shared else 0
    )
    return Family(name, made)


def finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, 1.5).astype(values.dtype)


def contended() -> Iterator[Family]:
    """All of 2 · 96 threads change few words, by atom and by red, in global and in shared memory."""
    for operation, kind in OPERATIONS:
        if operation in ("exch", "cas"):
            continue
        bits = REGISTER_BITS[kind]
        size, pre = bits // 8, REGISTERS[bits]
        name = f"red.{operation}.{kind}"
        generator = rng(name)
        values = mixed(name, (kind,), 192)[0][:192]
        if kind[0] == "f":
            # Sums of small integers are the same in every order.
            values = generator.integers(-20, 20, 192).astype(values.dtype)
        dtype = ARRAY_TYPES[kind]
        if operation in ("inc", "dec"):
            # Round and round: all wrap at the same number.
            values = np.full(192, 40, np.uint32)
        body = [
            f"""
        mov.u32 %r50, %ctaid.x;
        mad.lo.u32 %r51, %r50, 96, %thread;
        mad.wide.u32 %d50, %r51, {size}, %a;
        ld.global.b{bits} {pre}0, [%d50];
        and.b32 %r52, %thread, 3;
        mad.wide.u32 %d51, %r52, {size}, %out;
        mov.u64 %d52, smem;
        mad.wide.u32 %d53, %r52, {size}, %d52;
        mov.u64 %d54, 0;
        setp.lt.u32 %p0, %thread, 4;
        mov.b{bits} {pre}2, 0;
        @%p0 st.shared.b{bits} [%d53], {pre}2;
        bar.sync 0;
        red.global.{operation}.{kind} [%d51], {pre}0;
        atom.global.{operation}.{kind} {pre}1, [%d51+{4 * size}], {pre}0;
        red.relaxed.cta.shared.{operation}.{kind} [%d53], {pre}0;
        cvta.shared.u64 %d55, %d53;
        red.{operation}.{kind} [%d55], {pre}0;
        bar.sync 0;
        ld.shared.b{bits} {pre}3, [%d53];
        mad.lo.u32 %r53, %r50, 4, %r52;
        mad.wide.u32 %d56, %r53, {size}, %out;
        @%p0 st.global.b{bits} [%d56+{8 * size}], {pre}3;
        """
        ]
        initial = np.array([3, 7, 1, 5] * 4).astype(dtype)
        arguments = {"a": Input(values), "out": Output((16,), dtype, initial)}
        yield Family(name, kernel(arguments, body, block=96, grid=2, dynamic_shared=64))


def exchanges() -> Iterator[Family]:
    """Sums by compare-and-swap in loops, and of 128 bits."""
    body = """
    and.b32 %r0, %thread, 3;
    mad.wide.u32 %d0, %r0, 4, %out;
    mad.lo.u32 %r1, %thread, 31, 7;
    ld.global.b32 %r2, [%d0];
    AGAIN:
    add.u32 %r3, %r2, %r1;
    atom.global.cas.b32 %r4, [%d0], %r2, %r3;
    setp.eq.u32 %p0, %r4, %r2;
    mov.b32 %r2, %r4;
    @!%p0 bra AGAIN;
    """
    yield Family("cas.loop", kernel({"out": Output((4,), np.uint32, 0)}, with_zeros(body), block=96))
    body = """
    mad.wide.u32 %d0, %thread, 16, %a;
    mad.wide.u32 %d1, %thread, 16, %out;
    mad.wide.u32 %d2, %thread, 16, %old;
    ld.global.v2.b64 {%d3, %d4}, [%d0];
    mov.b128 %q0, {%d3, %d4};
    st.global.v2.b64 [%d1], {%d4, %d3};
    mov.b128 %q1, {%d4, %d3};
    and.b32 %r0, %thread, 1;
    setp.eq.u32 %p0, %r0, 0;
    @%p0 bra EXCHANGE;
    atom.global.cas.b128 %q2, [%d1], %q1, %q0;
    bra MEET;
    EXCHANGE:
    atom.global.exch.b128 %q2, [%d1], %q0;
    MEET:
    mov.b128 {%d5, %d6}, %q2;
    st.global.v2.b64 [%d2], {%d5, %d6};
    """
    values = rng("b128").integers(0, 256, 512, np.uint8)
    arguments = {"a": Input(values), "out": Output((64,), np.uint64), "old": Output((64,), np.uint64)}
    yield Family("b128", kernel(arguments, body))


def with_zeros(body: str) -> str:
    """The output of these begins as zeros that the kernel writes."""
    return (
        "setp.lt.u32 %p9, %thread, 4;\nmad.wide.u32 %d9, %thread, 4, %out;\n@%p9 st.global.b32 [%d9], 0;\nbar.sync 0;\n"
        + body
    )


def side_by_side(operation: str, kind: str, elements: int, instruction: str = "atom", form: str = "global") -> Family:
    """A vector for each thread. `form`: of global memory, also by a generic address or with a policy for the cache."""
    bits = REGISTER_BITS[kind]
    pre = REGISTERS[bits]
    count = 32 * elements
    name = f"{instruction}.{form}.v{elements}.{operation}.{kind}"
    before, value = (v[:count] for v in mixed(name, (kind,) * 2, max(count, 64)))
    if kind == "f32":
        before, value = finite(before), finite(value)
    size = bits // 8 * elements
    tells = instruction == "atom"
    places = ("value", "data", "old") if tells else ("value", "data")
    body = [f"mad.wide.u32 %d{50 + n}, %thread, {size}, %{p};" for n, p in enumerate(places)]
    body += [f"ld.global.b{bits} {pre}{i}, [%d50+{i * bits // 8}];" for i in range(elements)]
    if form == "generic":
        body.append("cvta.global.u64 %d51, %d51;")
    if form == "hint":
        body.append("createpolicy.fractional.L2::evict_last.b64 %d60, 1.0;")
    middle, last = {"global": (".global", ""), "generic": ("", ""), "hint": (".global", ", %d60")}[form]
    words = f"{instruction}{middle}.{operation}{'.L2::cache_hint' if last else ''}.v{elements}.{kind}"
    result = f"{vector(pre, 10, elements)}, " if tells else ""
    body.append(f"{words} {result}[%d51], {vector(pre, 0, elements)}{last};")
    if tells:
        body += [f"st.global.b{bits} [%d52+{i * bits // 8}], {pre}{10 + i};" for i in range(elements)]
    dtype = ARRAY_TYPES[kind]
    arguments = {"value": Input(value), "data": Output((count,), dtype, before)}
    arguments |= {"old": Output((count,), dtype)} if tells else {}
    return Family(name, kernel(arguments, body))


def vectors() -> Iterator[Family]:
    for operation, kind, elements in (
        *(("add", "f32", v) for v in (2, 4)),
        *(("add.noftz", kind, v) for kind in ("f16", "bf16") for v in (2, 4, 8)),
        *((f"{op}.noftz", kind, 4) for kind in ("f16", "bf16") for op in ("min", "max")),
        *(("add.noftz", kind, v) for kind in ("f16x2", "bf16x2") for v in (2, 4)),
    ):
        yield side_by_side(operation, kind, elements)


def families() -> Iterator[Family]:
    for operation, kind in OPERATIONS:
        for space in ("global", "shared", ""):
            yield alone(operation, kind, space)
        if kind == "u32":
            yield alone(operation, kind, "relaxed")
    for operation, kind in HALVES:
        if operation[:3] == "add":
            for space in ("global", "shared", ""):
                yield alone(operation, kind, space)
    yield from contended()
    yield from exchanges()
    yield from vectors()
