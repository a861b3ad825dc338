"""red, and what atom does to several elements at once and to the shared memory of another CTA."""

from collections.abc import Iterator

import numpy as np
from devices import Input, Output
from writing import ARRAY_TYPES, REGISTER_BITS, kernel, rng, vector

from families import Family
from families.atomics import OPERATIONS, REGISTERS, alone, side_by_side
from families.clusters import MEET

SEMANTICS = ("", ".relaxed", ".release", ".acquire", ".acq_rel")
SCOPES = ("", ".cta", ".cluster", ".gpu", ".sys")
NARROW = ("f16", "bf16", "f16x2", "bf16x2")


def orders() -> Iterator[Family]:
    """All orders and scopes, in global and in shared memory: a word for each, to which all threads add."""
    every = [(semantics, scope) for semantics in SEMANTICS for scope in SCOPES]
    for instruction in ("red", "atom"):
        forms = [f"{s}{scope}" for s, scope in every if instruction == "atom" or s not in (".acquire", ".acq_rel")]
        body = ["mad.lo.u32 %r0, %thread, 7, 1;", "mov.u32 %r1, smem;", "mad.lo.u32 %r2, %thread, 4, %r1;"]
        body += ["st.shared.b32 [%r2], %thread;", "bar.sync 0;"]
        for i, form in enumerate(forms):
            result = "%r3, " if instruction == "atom" else ""
            body += [f"{instruction}{form}.global.add.u32 {result}[%out+{4 * i}], %r0;", "add.u32 %r0, %r0, 3;"]
            body.append(f"{instruction}{form}.shared.max.s32 {result}[%r1+{4 * i}], %r0;")
        body += ["bar.sync 0;", "ld.shared.b32 %r4, [%r2];", "mad.wide.u32 %d0, %thread, 4, %out;"]
        body.append("st.global.b32 [%d0+256], %r4;")
        arguments = {"out": Output((2, 64), np.uint32, rng("orders").integers(0, 99, (2, 64), np.uint32))}
        yield Family(f"{instruction}.orders", kernel(arguments, body, block=64, dynamic_shared=256))


def hints() -> Iterator[Family]:
    """With a policy for the cache."""
    types = (("u32", "add"), ("s32", "min"), ("u64", "max"), ("b32", "xor"), ("f32", "add"), ("f64", "add"))
    for instruction in ("red", "atom"):
        body = ["createpolicy.fractional.L2::evict_first.b64 %d60, 1.0;"]
        body += ["mad.wide.u32 %d50, %thread, 8, %a;", f"mad.wide.u32 %d51, %thread, {16 * len(types)}, %out;"]
        for i, (kind, operation) in enumerate(types):
            bits = REGISTER_BITS[kind]
            pre = REGISTERS[bits]
            result = f"{pre}1, " if instruction == "atom" else ""
            body += [f"ld.global.b{bits} {pre}0, [%d50];"]
            body.append(
                f"{instruction}.global.{operation}.L2::cache_hint.{kind} {result}[%d51+{16 * i}], {pre}0, %d60;"
            )
            if result:
                body.append(f"st.global.b{bits} [%d51+{16 * i + 8}], {pre}1;")
        # Both halves of a word are floats near 1, and the whole is one.
        values = rng("hints").standard_normal(64).astype(np.float32)
        before = np.tile(np.array([1.5, -2.25], np.float32), 32 * 2 * len(types)).reshape(32, -1)
        arguments = {"a": Input(values), "out": Output(before.shape, np.float32, before)}
        yield Family(f"{instruction}.hints", kernel(arguments, body))


def vectors() -> Iterator[Family]:
    most = {"f32": 4, "f16": 8, "bf16": 8, "f16x2": 4, "bf16x2": 4}
    for kind, largest in most.items():
        for operation in ("add",) if kind == "f32" else ("add.noftz", "min.noftz", "max.noftz"):
            for elements in (2, 4, 8):
                if elements > largest:
                    continue
                yield side_by_side(operation, kind, elements, "red")
                # Others are among the atomics.
                if operation[:3] != "add" and (elements != 4 or "x2" in kind):
                    yield side_by_side(operation, kind, elements)
    for kind in ("f32", "f16", "bf16x2"):
        for form in ("generic", "hint"):
            for instruction in ("red", "atom"):
                yield side_by_side("add" if kind == "f32" else "add.noftz", kind, 4, instruction, form)


def crowds() -> Iterator[Family]:
    """Vectors that many threads add to: small integers, whose sums are the same in every order."""
    for kind, elements in (("f32", 4), ("f16", 8), ("bf16", 8), ("f16x2", 4), ("bf16x2", 4)):
        bits = REGISTER_BITS[kind]
        pre, size = REGISTERS[bits], bits // 8 * elements
        scalar = kind.removesuffix("x2")
        halves = 2 if scalar != kind else 1
        operation = "add" if kind == "f32" else "add.noftz"
        values = rng(f"crowd {kind}").integers(-2, 3, 64 * elements * halves).astype(ARRAY_TYPES[scalar])
        body = ["mov.u32 %r90, %ctaid.x;", "mad.lo.u32 %r91, %r90, 32, %thread;", "and.b32 %r92, %thread, 3;"]
        body += [f"mad.wide.u32 %d50, %r91, {size}, %a;", f"mad.wide.u32 %d51, %r92, {size}, %out;"]
        body += [f"ld.global.b{bits} {pre}{i}, [%d50+{i * bits // 8}];" for i in range(elements)]
        body.append(f"red.relaxed.gpu.global.{operation}.v{elements}.{kind} [%d51], {vector(pre, 0, elements)};")
        initial = np.arange(4 * elements * halves).astype(values.dtype)
        arguments = {"a": Input(values), "out": Output(initial.shape, initial.dtype, initial)}
        yield Family(f"red.crowd.{kind}", kernel(arguments, body, grid=2))


def wide() -> Iterator[Family]:
    """128 bits: exchanged, or compared and swapped, half of the time successfully."""
    for space in (".shared", ".shared::cluster", ""):
        address = {".shared": "%d0", ".shared::cluster": "%d1", "": "%d2"}[space]
        body = f"""
        mov.u32 %r0, %cluster_ctarank;
        xor.b32 %r1, %r0, 1;
        mov.u64 %d0, smem;
        mad.wide.u32 %d0, %thread, 16, %d0;
        mapa.shared::cluster.u64 %d1, %d0, %r1;
        cvta.shared.u64 %d2, %d0;
        mapa.u64 %d2, %d2, %r1;
        mad.lo.u32 %r2, %r0, 32, %thread;
        mad.wide.u32 %d3, %r2, 16, %a;
        mad.wide.u32 %d4, %r2, 64, %out;
        ld.global.v2.b64 {{%d5, %d6}}, [%d3];
        st.shared.v2.b64 [%d0], {{%d5, %d6}};
        {MEET}
        // What the word is expected to be: what it is, or in one of four threads with a bit less.
        ld.shared::cluster.v2.b64 {{%d7, %d8}}, [{"%d0" if space == ".shared" else "%d1"}];
        and.b32 %r3, %thread, 3;
        setp.eq.u32 %p0, %r3, 2;
        @%p0 xor.b64 %d8, %d8, 1024;
        mov.b128 %q0, {{%d7, %d8}};
        mov.b128 %q1, {{%d6, %d7}};
        mov.b128 %q2, {{%d8, %d5}};
        {MEET}
        atom{space}.cas.b128 %q3, [{address}], %q0, %q1;
        atom{space}.exch.b128 %q4, [{address}], %q2;
        {MEET}
        mov.b128 {{%d10, %d11}}, %q3;
        mov.b128 {{%d12, %d13}}, %q4;
        ld.shared.v2.b64 {{%d14, %d15}}, [%d0];
        st.global.v2.b64 [%d4], {{%d10, %d11}};
        st.global.v2.b64 [%d4+16], {{%d12, %d13}};
        st.global.v2.b64 [%d4+32], {{%d14, %d15}};
        """
        arguments = {"a": Input(rng(f"wide {space}").integers(0, 256, 1024, np.uint8))}
        arguments |= {"out": Output((64, 8), np.uint64)}
        made = kernel(arguments, body, grid=2, cluster=2, dynamic_shared=512)
        yield Family(f"atom{space or '.generic'}.b128", made)


def families() -> Iterator[Family]:
    yield from orders()
    yield from hints()
    yield from vectors()
    yield from crowds()
    yield from wide()
    # Without pairs: an H200 adds those as integers.
    for operation, kind in (*OPERATIONS, *(("add.noftz", kind) for kind in NARROW if "x2" not in kind)):
        yield alone(operation, kind, "cluster", 32)
        if operation not in ("exch", "cas"):
            yield alone(operation, kind, "cluster", 32, "red")
    for kind in NARROW:
        for space in ("global", "shared", ""):
            yield alone("add.noftz", kind, space, 64, "red")
