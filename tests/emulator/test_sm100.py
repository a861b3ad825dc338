"""Instructions that SM100 brought, but for tensor memory's; and which device runs what."""

import os
from unittest import mock

import ml_dtypes
import numpy as np
from absl.testing import parameterized
from devices import Input, Kernel, Output, TensorMap
from sm100 import Sm100Test, wait_for_barrier
from writing import dump_shared, elementwise, kernel, rng

bf16 = ml_dtypes.bfloat16
BARRIER = ".shared .align 8 .b64 bar;\n.shared .align 16 .b128 response;\n"
NUMBERS = np.arange(64, dtype=np.uint32)


def plain(body: str, target: str = "sm_100a", shared: str = BARRIER, **more) -> Kernel:
    more.setdefault("arguments", {"a": Input(NUMBERS), "out": Output((64,), np.uint32)})
    return kernel(more.pop("arguments"), body, target=target, shared=shared, **more)


def floats(name: str, count: int = 256) -> np.ndarray:
    """Numbers of every magnitude, with zeros, infinities, NaNs and what is subnormal."""
    out = rng(name).integers(0, 1 << 32, count, dtype=np.uint32).view(np.float32)
    out[:12] = [0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 2.0**-127, 2.0**-126, 2.0**-149, 2.0**127, -(2.0**-130)]
    out[12 : count // 2] = rng(name + "small").normal(size=count // 2 - 12) * 4
    return out


class DeviceTest(Sm100Test):
    """Which code runs where."""

    WGMMA = "wgmma.fence.sync.aligned;"
    TCGEN05 = "tcgen05.fence::before_thread_sync;"

    def test_code_of_an_older_device(self):
        with self.assertRaisesRegex(ValueError, "The PTX is for sm_90a, and the device runs what is for sm_100"):
            self.emulator.run(plain("", target="sm_90a"))
        self.emulator.run(plain("", target="sm_90"))

    def test_code_of_a_newer_device(self):
        with mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_CAPABILITY="9.0"):
            for target in ("sm_100a", "sm_100f", "sm_100"):
                with self.assertRaisesRegex(ValueError, f"The PTX is for {target}, and the device runs .* for sm_90"):
                    self.emulator.run(plain("", target=target))

    @parameterized.parameters(("10.0", "sm_100f"), ("10.3", "sm_100f"), ("10.3", "sm_103a"), ("10.3", "sm_100"))
    def test_families(self, capability, target):
        with mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_CAPABILITY=capability):
            self.emulator.run(plain("" if target == "sm_100" else self.TCGEN05, target=target))

    def test_code_for_another_of_the_family(self):
        posing = mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_CAPABILITY="10.3")
        words = "The PTX is for sm_100a, and the device runs what is for sm_103"
        with posing, self.assertRaisesRegex(ValueError, words):
            self.emulator.run(plain("", target="sm_100a"))

    def test_wgmma(self):
        self.assert_refused(plain(self.WGMMA, block=128), "does not know 'wgmma.fence", "it needs sm_90a or its like")

    @parameterized.parameters("sm_90a", "sm_90")
    def test_tensor_memory_on_sm90(self, target):
        with mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_CAPABILITY="9.0"):
            self.assert_refused(plain(self.TCGEN05, target=target), "it needs sm_100a or its like", f"PTX for {target}")

    def test_tensor_memory_without_its_target(self):
        self.assert_refused(plain(self.TCGEN05, target="sm_100"), "it needs sm_100a or its like")

    @parameterized.parameters(
        "tcgen05.mma.cta_group::1.kind::mxf8f6f4.block_scale [%r0], %d0, %d1, %r1, [%r2], [%r3], %p0;",
        "tcgen05.mma.cta_group::1.kind::i8 [%r0], %d0, %d1, %r1, %p0;",
        "tcgen05.mma.sp.cta_group::1.kind::f16 [%r0], %d0, %d1, [%r2], %r1, %p0;",
        "tcgen05.mma.ws.cta_group::1.kind::f16 [%r0], %d0, %d1, %r1, %p0, %d2;",
        "tcgen05.cp.cta_group::1.128x256b.b8x16.b6x16_p32 [%r0], %d0;",
        "tcgen05.shift.cta_group::1.up [%r0];",
    )
    def test_unknown(self, instruction):
        self.assert_refused(plain(instruction), f"The emulator does not know '{instruction.split()[0]}'")


class MemoryTest(Sm100Test):
    def test_vectors_of_256_bits(self):
        body = """
        ld.global.L2::evict_last.v8.b32 {%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7}, [%a+32];
        st.global.v8.b32 [%out], {%r7, %r6, %r5, %r4, %r3, %r2, %r1, %r0};
        ld.global.nc.L1::no_allocate.L2::evict_normal.L2::256B.v4.b64 {%d0, %d1, %d2, %d3}, [%a+128];
        st.global.v4.b64 [%out+32], {%d3, %d2, %d1, %d0};
        ld.global.v8.f32 {%f0, _, %f2, %f3, %f4, %f5, %f6, %f7}, [%a];
        st.global.v8.f32 [%out+64], {%f2, %f2, %f3, %f4, %f5, %f6, %f7, %f0};
        """
        (out,) = self.emulator.run(plain(body, block=1))
        want = [*range(15, 7, -1), 38, 39, 36, 37, 34, 35, 32, 33, 2, 2, 3, 4, 5, 6, 7, 0]
        np.testing.assert_array_equal(out[:24], want)

    @parameterized.parameters(
        ("ld.global.v8.b32 {%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7}, [%a+16];", "no multiple of 32"),
        ("st.global.v4.b64 [%out+240], {%d0, %d0, %d0, %d0};", "no multiple of 32"),
        ("ld.global.v8.b32 {%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7}, [%a+256];", "Cannot read 32 bytes"),
        ("ld.shared.v8.b32 {%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7}, [bar];", "does not know 'ld.shared.v8.b32'"),
        ("ld.global.v8.b64 {%d0, %d1, %d2, %d3, %d4, %d5, %d6, %d7}, [%a];", "does not know 'ld.global.v8.b64'"),
        ("ld.global.v8.b16 {%h0, %h1, %h2, %h3, %h4, %h5, %h6, %h7}, [%a];", "does not know 'ld.global.v8.b16'"),
    )
    def test_misuse_of_vectors(self, instruction, words):
        self.assert_refused(plain(instruction), words)

    def test_bulk_store(self):
        body = f"""
        mov.u32 %r0, 7;
        mov.u64 %d0, smem;
        mad.wide.u32 %d0, %thread, 4, %d0;
        st.shared.b32 [%d0], %r0;
        bar.sync 0;
        setp.eq.u32 %p0, %thread, 0;
        mov.u64 %d1, smem;
        @%p0 st.bulk.weak.shared::cta [%d1+16], 24, 0;
        cvta.shared.u64 %d1, %d1;
        mov.u64 %d2, 8;
        @%p0 st.bulk [%d1+128], %d2, 0;
        {dump_shared("out", 256, 64)}
        """
        (out,) = self.emulator.run(plain(body, block=64, dynamic_shared=256))
        want = np.full(64, 7)
        want[4:10] = want[32:34] = 0
        np.testing.assert_array_equal(out, want)

    @parameterized.parameters(
        ("st.bulk.weak.shared::cta [%d0], 20, 0;", "fill 20 bytes, no multiple of 8"),
        ("st.bulk.weak.shared::cta [%d0+4], 8, 0;", "The destination at 0x404 is not aligned to 8"),
        ("st.bulk.weak.shared::cta [%d0], 264, 0;", "outside of the 256 bytes"),
        ("st.bulk [%a], 8, 0;", "st.bulk fills what is not shared memory"),
    )
    def test_misuse_of_bulk_store(self, instruction, words):
        self.assert_refused(plain(f"mov.u64 %d0, smem;\n{instruction}", shared="", dynamic_shared=256), words)


class ArithmeticTest(Sm100Test):
    def compute(self, instruction: str, inputs: dict, result: str) -> np.ndarray:
        (out,) = self.emulator.run(elementwise(instruction, inputs, {"d": result}, target="sm_100a"))
        return out

    @parameterized.product(name=("min", "max"), absolute=(False, True), nan=(False, True))
    def test_extreme_of_three(self, name, absolute, nan):
        values = [np.roll(floats("three"), shift) for shift in (0, 5, 77)]
        inputs = {key: ("f32", array) for key, array in zip("abc", values)}
        modifiers = (".NaN" if nan else "") + (".abs" if absolute else "")
        got = self.compute(f"{name}{modifiers}.f32 {{d}}, {{a}}, {{b}}, {{c}};", inputs, "f32")
        stacked = np.abs(values) if absolute else np.array(values)
        with np.errstate(all="ignore"):
            function = getattr(np, f"{name}imum" if nan else f"f{name}")
            want = function.reduce(stacked, axis=0)
        np.testing.assert_array_equal(got, want)
        self.assertTrue((got.view(np.uint32)[np.isnan(got)] == 0x7FFFFFFF).all())

    @parameterized.product(kind=("f16", "bf16"), rounding=("rn", "rz", "rm", "rp"), saturated=(False, True))
    def test_floats_with_halves(self, kind, rounding, saturated):
        dtype = np.float16 if kind == "f16" else bf16
        random = rng(f"mixed {kind}")
        a, b = (random.normal(size=256).astype(dtype) for _ in range(2))
        c = (random.normal(size=256) * 2.0 ** random.integers(-12, 3, 256)).astype(np.float32)
        inputs = {"a": (kind, a), "b": (kind, b), "c": ("f32", c)}
        wide_a, wide_b, wide_c = (x.astype(np.float64) for x in (a, b, c))
        tail = f"{rounding}{'.sat' if saturated else ''}.f32.{kind}"
        for text, exact in (
            (f"add.{tail} {{d}}, {{a}}, {{c}};", wide_a + wide_c),
            (f"sub.{tail} {{d}}, {{a}}, {{c}};", wide_a - wide_c),
            (f"fma.{tail} {{d}}, {{a}}, {{b}}, {{c}};", wide_a * wide_b + wide_c),
        ):
            got = self.compute(text, inputs, "f32")
            want = round_to_float(exact, rounding)
            np.testing.assert_array_equal(got, np.clip(want, 0, 1) if saturated else want)

    def test_reductions(self):
        """Of floats, over all lanes and over some."""
        values = floats("redux", 32)
        lines = ["mov.u32 %r1, 0xFF00FF00;", "mad.wide.u32 %d0, %thread, 4, %a;", "ld.global.f32 %f0, [%d0];"]
        lines += ["mad.wide.u32 %d0, %thread, 4, %out;", "shl.b32 %r0, 1, %thread;", "and.b32 %r0, %r0, %r1;"]
        lines += ["shr.u32 %r2, %thread, 3;", "and.b32 %r2, %r2, 1;", "setp.ne.u32 %p0, %r2, 0;"]
        forms = [(n, m) for n in ("min", "max") for m in ("", ".abs", ".NaN", ".abs.NaN")]
        for i, (name, modifiers) in enumerate(forms):
            lines += [f"redux.sync.{name}{modifiers}.f32 %f1, %f0, -1;", f"st.global.f32 [%d0+{256 * i}], %f1;"]
            lines += [f"@!%p0 bra OTHERS{i};", f"redux.sync.{name}{modifiers}.f32 %f1, %f0, 0xFF00FF00;"]
            lines += [f"st.global.f32 [%d0+{256 * i + 128}], %f1;", f"OTHERS{i}:"]
        given = {"a": Input(values), "out": Output((len(forms), 2, 32), np.float32, initial=0)}
        (out,) = self.emulator.run(plain("\n".join(lines), arguments=given))
        members = np.arange(32) // 8 % 2 == 1
        for i, (name, modifiers) in enumerate(forms):
            used = np.abs(values) if ".abs" in modifiers else values
            function = getattr(np, name if ".NaN" in modifiers else f"nan{name}")
            np.testing.assert_array_equal(out[i, 0], np.full(32, function(used)))
            np.testing.assert_array_equal(out[i, 1][members], np.full(16, function(used[members])))


def round_to_float(exact: np.ndarray, rounding: str) -> np.ndarray:
    nearest = exact.astype(np.float32)
    wide = nearest.astype(np.float64)
    down = np.where(wide > exact, np.nextafter(nearest, np.float32(-np.inf)), nearest)
    up = np.where(wide < exact, np.nextafter(nearest, np.float32(np.inf)), nearest)
    return {"rn": nearest, "rm": down, "rp": up, "rz": np.where(exact < 0, up, down)}[rounding]


class ConversionTest(ArithmeticTest):
    SMALL = {"e2m1x2": ml_dtypes.float4_e2m1fn, "e2m3x2": ml_dtypes.float6_e2m3fn, "e3m2x2": ml_dtypes.float6_e3m2fn}

    @parameterized.product(kind=list(SMALL), relu=(False, True))
    def test_small_numbers(self, kind, relu):
        a, b = floats(f"{kind} a"), floats(f"{kind} b")
        dtype = self.SMALL[kind]
        largest = float(ml_dtypes.finfo(dtype).max)
        half = {"e2m1x2": 4}.get(kind, 8)

        def codes(x):
            x = np.where(np.isnan(x), np.float32(largest), np.clip(x, -largest, largest))
            if relu:
                x = np.where(x > 0, x, np.float32(0))
            return x.astype(dtype).view(np.uint8).astype(np.uint32)

        modifiers = ".relu" if relu else ""
        if half == 4:  # in a register of 8 bits
            text = f"cvt.rn.satfinite{modifiers}.{kind}.f32 %byte, {{a}}, {{b}};\ncvt.u32.u8 {{d}}, %byte;"
            declare = ".reg .b8 %byte;\n"
        else:
            text = f"cvt.rn.satfinite{modifiers}.{kind}.f32 %half, {{a}}, {{b}};\ncvt.u32.u16 {{d}}, %half;"
            declare = ".reg .b16 %half;\n"
        got = self.compute(declare + text, {"a": ("f32", a), "b": ("f32", b)}, "u32")
        np.testing.assert_array_equal(got, codes(a) << half | codes(b))

    @parameterized.product(kind=list(SMALL), relu=(False, True))
    def test_from_small_numbers(self, kind, relu):
        bits = 4 if kind == "e2m1x2" else 6
        pitch = 4 if bits == 4 else 8
        first, second = np.divmod(np.arange(1 << 2 * bits, dtype=np.uint32), 1 << bits)
        packed = (first << pitch | second).astype(np.uint32)
        register = ".b8 %small" if bits == 4 else ".b16 %small"
        narrow = "cvt.u8.u32" if bits == 4 else "cvt.u16.u32"
        text = f".reg {register};\n{narrow} %small, {{a}};\n"
        text += f"cvt.rn{'.relu' if relu else ''}.f16x2.{kind} {{d}}, %small;"
        got = self.compute(text, {"a": ("u32", packed)}, "b32")

        def halves(codes):
            values = codes.astype(np.uint8).view(self.SMALL[kind]).astype(np.float16)
            values = np.where(values > 0, values, np.float16(0)) if relu else values
            return values.view(np.uint16).astype(np.uint32)

        np.testing.assert_array_equal(got, halves(first) << 16 | halves(second))

    @parameterized.product(rounding=("rz", "rp"), finite=(False, True), source=("f32", "bf16x2"))
    def test_scales(self, rounding, finite, source):
        a, b = floats("scale a"), floats("scale b")
        if source == "bf16x2":
            with np.errstate(over="ignore"):
                a, b = (x.astype(bf16).astype(np.float32) for x in (a, b))

        def codes(x):
            with np.errstate(all="ignore"):
                exponent = np.log2(np.abs(x).astype(np.float64))
            exponent = (np.ceil if rounding == "rp" else np.floor)(exponent)
            code = np.clip(np.nan_to_num(exponent, nan=300, posinf=300, neginf=-300) + 127, 0, 255)
            code = np.where(np.isnan(x), 255, np.minimum(code, 254) if finite else code)
            return code.astype(np.uint32)

        text = f"cvt.{rounding}{'.satfinite' if finite else ''}.ue8m0x2.{source} %half, "
        if source == "f32":
            inputs, text = {"a": ("f32", a), "b": ("f32", b)}, text + "{a}, {b};"
        else:
            pair = a.astype(bf16).view(np.uint16).astype(np.uint32) << 16 | b.astype(bf16).view(np.uint16)
            inputs, text = {"a": ("b32", pair.astype(np.uint32))}, text + "{a};"
        got = self.compute(f".reg .b16 %half;\n{text}\ncvt.u32.u16 {{d}}, %half;", inputs, "u32")
        np.testing.assert_array_equal(got, codes(a) << 8 | codes(b))

    def test_from_scales(self):
        codes = np.arange(256, dtype=np.uint32)
        packed = (codes << 8 | codes[::-1]).astype(np.uint32)
        text = ".reg .b16 %half;\ncvt.u16.u32 %half, {a};\ncvt.rn.bf16x2.ue8m0x2 {d}, %half;"
        got = self.compute(text, {"a": ("u32", packed)}, "b32")
        powers = 2.0 ** (np.minimum(codes, 254).astype(np.float64) - 127)
        values = powers.astype(bf16).view(np.uint16).astype(np.uint32)
        values[255] = 0x7FFF
        np.testing.assert_array_equal(got, values << 16 | values[::-1])


class RowsTest(Sm100Test):
    """cp.async.bulk.tensor of four rows, and of pairs of CTAs."""

    MATRIX = np.arange(20 * 64, dtype=np.uint16).reshape(20, 64)

    def gather(self, rows, column=0, width=64, swizzle=0, cluster=1, box_rows=1, extra="", group="") -> Kernel:
        words = width * 2 // 4
        given = {
            "matrix": Input(self.MATRIX),
            "tensor": TensorMap("matrix", "uint16", (64, 20), (128,), (width, box_rows), swizzle=swizzle),
            "out": Output((cluster, 4 * words), np.uint32),
        }
        coordinates = ", ".join(map(str, (column, *rows)))
        kind = "shared::cluster" if cluster > 1 else "shared::cta"
        sync = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;"
        body = f"""
        .reg .pred %done;
        mov.u32 %r5, %ctaid.x;
        setp.eq.u32 %p0, %thread, 0;
        @%p0 mbarrier.init.shared::cta.b64 [bar], 1;
        fence.mbarrier_init.release.cluster;
        @%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], {8 * width};
        {sync}
        mov.u32 %r0, smem;
        mov.u32 %r1, bar;
        {extra}
        @%p0 cp.async.bulk.tensor.2d{group}.{kind}.global.tile::gather4.mbarrier::complete_tx::bytes{
            "" if not group else ".multicast::cluster"
        } [%r0], [%tensor, {{{coordinates}}}], [%r1]{", %h0" if group else ""};
        {wait_for_barrier("WAIT")}
        mad.wide.u32 %d0, %r5, {16 * words}, %out;
        {dump_shared("d0", 16 * words, 32)}
        {sync}
        """
        shape = {"grid": cluster, "cluster": cluster}
        return plain(body, arguments=given, dynamic_shared=8 * width, **shape)

    @parameterized.parameters(
        ((3, 17, 0, 3), 0, 64, 0), ((19, 20, -1, 5), 8, 32, 2), ((1, 2, 3, 4), 48, 32, 0), ((7, 6, 5, 4), 0, 64, 3)
    )
    def test_gather(self, rows, column, width, swizzle):
        (out,) = self.emulator.run(self.gather(rows, column, width, swizzle))
        want = np.zeros((4, width), np.uint16)
        for i, row in enumerate(rows):
            if 0 <= row < 20:
                part = self.MATRIX[row, column : column + width]
                want[i, : len(part)] = part
        bytes_ = want.view(np.uint8).reshape(-1)
        at = np.arange(len(bytes_))
        mask = {0: 0, 2: 3, 3: 7}[swizzle]
        swizzled = np.zeros_like(bytes_)
        swizzled[at ^ ((at >> 7 & mask) << 4)] = bytes_
        np.testing.assert_array_equal(out[0].view(np.uint8), swizzled)

    def test_gather_of_more_than_rows(self):
        self.assert_refused(self.gather((1, 2, 3, 4), box_rows=2), "have 2 rows each by their map, which must say one")

    def test_scatter(self):
        rows = (5, 0, 19, 20)
        target = np.full((20, 64), 9, np.uint16)
        given = {
            "matrix": Output((20, 64), np.uint16, initial=target),
            "tensor": TensorMap("matrix", "uint16", (64, 20), (128,), (32, 1)),
        }
        body = f"""
        mov.u32 %r0, smem;
        shl.b32 %r1, %thread, 2;
        add.u32 %r0, %r0, %r1;
        st.shared.b32 [%r0], %thread;
        st.shared.b32 [%r0+128], %thread;
        fence.proxy.async.shared::cta;
        bar.sync 0;
        setp.eq.u32 %p0, %thread, 0;
        mov.u32 %r0, smem;
        @%p0 cp.async.bulk.tensor.2d.global.shared::cta.tile::scatter4.bulk_group
            [%tensor, {{16, {", ".join(map(str, rows))}}}], [%r0];
        cp.async.bulk.commit_group;
        cp.async.bulk.wait_group 0;
        """
        (out,) = self.emulator.run(plain(body, arguments=given, dynamic_shared=256, block=32))
        words = np.concatenate([np.arange(32), np.arange(32)]).astype(np.uint32).view(np.uint16).reshape(4, 32)
        for i, row in enumerate(rows[:3]):
            target[row, 16:48] = words[i]
        np.testing.assert_array_equal(out, target)

    def test_barriers_of_a_pair(self):
        """What two pairs get is told to the CTAs of odd rank, or to those of even rank."""
        for parity in range(2):
            extra = f"""
            mov.b16 %h0, 15;
            setp.eq.u32 %p1, %r5, {2 + parity};
            and.pred %p0, %p0, %p1;
            mapa.shared::cluster.u32 %r1, %r1, {2 + parity};
            mapa.shared::cluster.u32 %r0, %r0, {2 + parity};
            """
            made = self.gather((1, 2, 3, 4), cluster=4, extra=extra, group=".cta_group::2")
            # Each barrier of that parity hears of two boxes; the others of none.
            doubled = made.ptx.replace(
                f"@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], {8 * 64};",
                f"""
                and.b32 %r6, %r5, 1;
                setp.eq.u32 %p2, %r6, {parity};
                and.pred %p3, %p0, %p2;
                @%p3 mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], {16 * 64};
                not.pred %p2, %p2;
                and.pred %p3, %p0, %p2;
                @%p3 mbarrier.arrive.shared::cta.b64 _, [bar];
                """,
            )
            # Who hears of nothing looks when all others have heard.
            doubled = doubled.replace(
                "mad.wide.u32 %d0, %r5",
                "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\nmad.wide.u32 %d0, %r5",
            )
            made = Kernel(doubled, made.entry, made.arguments, made.grid, made.block, made.cluster, made.dynamic_shared)
            (out,) = self.emulator.run(made)
            want = self.MATRIX[1:5].reshape(-1).view(np.uint32)
            for cta in range(4):
                np.testing.assert_array_equal(out[cta], want)

    def test_barrier_of_another_cta(self):
        extra = "mapa.shared::cluster.u32 %r1, %r1, 1;\nsetp.eq.u32 %p1, %r5, 0;\nand.pred %p0, %p0, %p1;"
        self.assert_refused(self.gather((1, 2, 3, 4), cluster=2, extra=extra), "and its mbarrier in another.")


class ClusterLaunchControlTest(Sm100Test):
    LOOP = """
    .reg .pred %done, %first, %more;
    .reg .b32 %x, %y, %z, %parity;
    mov.u32 %x, %ctaid.x;
    mov.u32 %y, %ctaid.y;
    mov.u32 %parity, 0;
    setp.eq.u32 %first, %thread, 0;
    @%first mbarrier.init.shared::cta.b64 [bar], 1;
    bar.sync 0;
    AGAIN:
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 16;
    @%first clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.b128 [response], [bar];
    mad.lo.u32 %r0, %y, {width}, %x;
    mad.wide.u32 %d0, %r0, 4, %out;
    @%first red.global.add.u32 [%d0], 1;
    WAIT:
    mbarrier.try_wait.parity.shared::cta.b64 %done, [bar], %parity;
    @!%done bra WAIT;
    xor.b32 %parity, %parity, 1;
    ld.shared.b128 %q0, [response];
    clusterlaunchcontrol.query_cancel.is_canceled.pred.b128 %more, %q0;
    @!%more bra END;
    clusterlaunchcontrol.query_cancel.get_first_ctaid::y.b32.b128 %y, %q0;
    clusterlaunchcontrol.query_cancel.get_first_ctaid.v4.b32.b128 {{%x, _, %z, _}}, %q0;
    bar.sync 0;
    bra AGAIN;
    END:
    """

    def test_every_cluster_is_done_once(self):
        """By itself, or by one that took it over."""
        given = {"out": Output((6, 50), np.uint32, initial=np.zeros((6, 50)))}
        with mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_SMS="2"):
            made = plain(self.LOOP.format(width=50), arguments=given, grid=(50, 6, 1))
            (out,) = self.emulator.run(made)
        np.testing.assert_array_equal(out, np.ones((6, 50)))

    def test_all_ctas_of_a_cluster_hear_of_it(self):
        text = self.LOOP.format(width=40)
        text = text.replace(
            ".shared::cta.mbarrier::complete_tx::bytes.b128",
            ".mbarrier::complete_tx::bytes.multicast::cluster::all.b128",
        ).replace("[response], [bar];", "[%d1], [%d2];", 1)
        addresses = "mov.u64 %d1, response;\ncvta.shared.u64 %d1, %d1;\nmov.u64 %d2, bar;\ncvta.shared.u64 %d2, %d2;\n"
        sync = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;"
        text = text.replace("bar.sync 0;", sync)
        # The first CTA asks for both, and each goes on with its own part of the new cluster.
        text = text.replace("@%first clusterlaunchcontrol", "@%p0 clusterlaunchcontrol")
        text = text.replace("{%x, _, %z, _}, %q0;", "{%x, _, %z, _}, %q0;\nadd.u32 %x, %x, %r9;")
        rank = "mov.u32 %r9, %cluster_ctarank;\nsetp.eq.u32 %p0, %r9, 0;\nsetp.eq.u32 %p1, %thread, 0;\n"
        rank += "and.pred %p0, %p0, %p1;\n"
        # Nobody may leave before all have heard.
        text = text.replace("END:", f"END:\n{sync}")
        given = {"out": Output((1, 40), np.uint32, initial=np.zeros((1, 40)))}
        made = plain(addresses + rank + text, arguments=given, grid=40, cluster=2)
        (out,) = self.emulator.run(made)
        np.testing.assert_array_equal(out, np.ones((1, 40)))

    def test_asking_again(self):
        body = (
            self.LOOP.format(width=1)
            + """
        @%first clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.b128 [response], [bar];
        """
        )
        given = {"out": Output((1, 1), np.uint32, initial=np.zeros((1, 1)))}
        self.assert_refused(plain(body, arguments=given), "after it was told that there is none left")
