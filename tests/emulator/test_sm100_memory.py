"""Tensor memory: who gets it, who reaches what of it, and how it is filled."""

import os
from unittest import mock

import numpy as np
from absl.testing import parameterized
from devices import Input, Kernel, Output
from sm100 import (
    K_LAYOUTS,
    LANES,
    SHARED,
    Placing,
    Sm100Test,
    put,
    tensor_kernel,
    wait_for_barrier,
)
from sm100_warps import AFTER, ALLOCATE, FREE, LOAD, SYNC_WARP, WarpsTest, in_warp, warps_kernel
from writing import kernel, rng, vector

COLUMNS = 288


def random_cells(name: str, ctas: int = 1) -> np.ndarray:
    return rng(name).integers(0, 1 << 32, (ctas, LANES, COLUMNS), dtype=np.uint32)


class AddressTest(Sm100Test):
    def test_a_register_and_a_number_wrap_together(self):
        """A shared address is of 32 bits, and so is what the compiler adds to one that it has made too small before."""
        body = """
        mov.u32 %r0, smem;
        sub.u32 %r0, %r0, 65536;
        st.shared.b32 [%r0+65600], 7;
        ld.shared.b32 %r1, [smem+64];
        st.global.b32 [%out], %r1;
        """
        made = kernel({"out": Output((1,), np.uint32)}, body, block=1, dynamic_shared=128, target="sm_100a")
        (out,) = self.emulator.run(made)
        np.testing.assert_array_equal(out, 7)


# ----------------------------------------------------------------------------------------------------------------------
# ld, st


def cells_of(shape: str, lane: int, reg: int) -> tuple[int, int]:
    """Row and column that a register of a lane of a warp has, as the PTX ISA's figures have it."""
    if shape == "32x32b":
        return lane, reg
    if shape == "16x64b":  # pairs of lanes are eight rows apart, pairs of pairs side by side
        return lane // 4 + 8 * (lane % 2), 2 * reg + lane // 2 % 2
    quad, within = divmod(lane, 4)
    if shape == "16x128b":
        return quad + 8 * (reg % 2), 4 * (reg // 2) + within
    assert shape == "16x256b"
    return quad + 8 * (reg // 2 % 2), 8 * (reg // 4) + 2 * within + reg % 2


REGISTERS = {"32x32b": 1, "16x64b": 1, "16x128b": 2, "16x256b": 4, "16x32bx2": 1}
WIDTHS = {"32x32b": 1, "16x64b": 2, "16x128b": 4, "16x256b": 8, "16x32bx2": 2}  # columns
MOST = {"32x32b": 128, "16x64b": 128, "16x128b": 64, "16x256b": 32, "16x32bx2": 128}
FORMS = [
    (shape, times, packed)
    for shape in REGISTERS
    for times in (1, 2, 4, 8, 16, 32, 64, 128)
    for packed in (False, True)
    if times in (1, 4, 32, MOST[shape]) and times * WIDTHS[shape] * (2 if packed else 1) <= 256
]


def places(shape: str, times: int, packed: bool, offset: int) -> np.ndarray:
    """[lane, register, 2 cells]: row · COLUMNS + column, from where the address points."""
    out = np.zeros((32, times * REGISTERS[shape], 2), np.int64)
    for lane in range(32):
        for reg in range(out.shape[1]):
            if shape == "16x32bx2":
                row, column, add = lane % 16, reg, offset if lane >= 16 else 0
            else:
                (row, column), add = cells_of(shape, lane, reg), 0
            column = column * (2 if packed else 1) + add
            out[lane, reg] = row * COLUMNS + column, row * COLUMNS + column + packed
    return out


class MoveTest(Sm100Test):
    def setUp(self):
        super().setUp()
        self.at = 8  # column

    def form(self, shape, times, packed, kind):
        half = 0
        if shape == "16x32bx2":  # where the columns of the upper lanes begin: behind the others, or further on
            half = times * (2 if packed else 1) + (5 if times == 4 else 0)
        lane = 16 if shape != "32x32b" and times == 4 else 0
        registers = vector("%r", 0, times * REGISTERS[shape])
        pack = f".{'' if kind == 'ld' else 'un'}pack::16b" if packed else ""
        address = f"add.u32 %cell, %mine, {(lane << 16) + self.at};"
        where = f"[%cell]{f', {half}' if shape == '16x32bx2' else ''}"
        operands = f"{registers}, {where}" if kind == "ld" else f"{where}, {registers}"
        return half, lane, f"{address}\ntcgen05.{kind}.sync.aligned.{shape}.x{times}{pack}.b32 {operands};"

    @parameterized.parameters(*FORMS)
    def test_load(self, shape, times, packed):
        cells = random_cells(f"{shape} {times} {packed}")
        half, lane, text = self.form(shape, times, packed, "ld")
        count = times * REGISTERS[shape]
        finish = f"{text}\ntcgen05.wait::ld.sync.aligned;\nmad.wide.u32 %row, %thread, {4 * count}, %registers;\n"
        finish += "\n".join(f"st.global.b32 [%row+{4 * i}], %r{i};" for i in range(count))
        given = {"registers": Output((LANES, count), np.uint32)}
        got, _ = self.emulator.run(tensor_kernel("", cells=cells, arguments=given, finish=finish))
        where = places(shape, times, packed, half) + lane * COLUMNS + self.at
        for warp in range(4):
            of_warp = cells[0, 32 * warp : 32 * warp + 32].reshape(-1)
            want = of_warp[where[..., 0]]
            if packed:
                want = (want & 0xFFFF) | of_warp[where[..., 1]] << 16
            np.testing.assert_array_equal(got[32 * warp : 32 * warp + 32], want)

    @parameterized.parameters(*FORMS)
    def test_store(self, shape, times, packed):
        cells = random_cells(f"store {shape} {times} {packed}")
        half, lane, text = self.form(shape, times, packed, "st")
        count = times * REGISTERS[shape]
        values = rng(f"values {shape} {times} {packed}").integers(0, 1 << 32, (LANES, count), dtype=np.uint32)
        finish = f"mad.wide.u32 %row, %thread, {4 * count}, %values;\n"
        finish += "\n".join(f"ld.global.b32 %r{i}, [%row+{4 * i}];" for i in range(count))
        # Each thread then shows its lane: of packed cells, only halves have something in them.
        finish += f"\n{text}\ntcgen05.wait::st.sync.aligned;\nmad.wide.u32 %row, %thread, {4 * COLUMNS}, %after;\n"
        loads = []
        for column in range(0, COLUMNS, 2):
            loads += [f"add.u32 %cell, %mine, {column};"]
            if packed:
                loads += ["tcgen05.ld.sync.aligned.32x32b.x1.pack::16b.b32 {%r0}, [%cell];"]
            else:
                loads += ["tcgen05.ld.sync.aligned.32x32b.x2.b32 {%r0, %r1}, [%cell];"]
            loads += ["tcgen05.wait::ld.sync.aligned;", f"st.global.b32 [%row+{4 * column}], %r0;"]
            loads += [] if packed else [f"st.global.b32 [%row+{4 * column + 4}], %r1;"]
        given = {"values": Input(values), "after": Output((LANES, COLUMNS), np.uint32, initial=0)}
        made = tensor_kernel("", cells=cells, arguments=given, finish=finish + "\n".join(loads))
        got, _ = self.emulator.run(made)
        want = cells[0].copy()
        where = places(shape, times, packed, half) + lane * COLUMNS + self.at
        for warp in range(4):
            of_warp = want[32 * warp : 32 * warp + 32].reshape(-1)
            part = values[32 * warp : 32 * warp + 32]
            of_warp[where[..., 0]] = part & 0xFFFF if packed else part
            if packed:
                of_warp[where[..., 1]] = part >> 16
        if packed:
            want[:, ::2] = (want[:, ::2] & 0xFFFF) | want[:, 1::2] << 16
            want[:, 1::2] = 0
        np.testing.assert_array_equal(got, want)


# ----------------------------------------------------------------------------------------------------------------------
# cp

FILLS = {
    "128x256b": (128, 32, [[(lane, lane) for lane in range(128)]]),
    "128x128b": (128, 16, [[(lane, lane) for lane in range(128)]]),
    "4x256b": (4, 32, [[(row, 32 * row) for row in range(4)]]),
    "64x128b.warpx2::02_13": (64, 16, [[(row, row) for row in range(64)], [(row, 64 + row) for row in range(64)]]),
    "64x128b.warpx2::01_23": (
        64,
        16,
        [[(row, row % 32 + 64 * (row // 32) + 32 * twice) for row in range(64)] for twice in range(2)],
    ),
    "32x128b.warpx4": (32, 16, [[(row, row + 32 * warp) for row in range(32)] for warp in range(4)]),
}


class FillTest(Sm100Test):
    @parameterized.product(shape=list(FILLS), swizzle=K_LAYOUTS, group=(1, 2))
    def test_copy(self, shape, swizzle, group):
        rows, row_bytes, parts = FILLS[shape]
        random = rng(f"{shape} {swizzle}")
        placing = Placing("k", swizzle)
        cells = random_cells(f"cp {shape}", group)
        image = np.zeros((group, SHARED), np.uint8)
        lane = 31 if shape == "4x256b" else 0
        want = cells.copy()
        for cta in range(group):
            matrix = random.integers(0, 1 << 16, (max(rows, 8), row_bytes // 2), dtype=np.uint16)
            put(image[cta], 0, matrix, placing)
            words = matrix.view(np.uint32)
            for part in parts:
                for row, to in part:
                    want[cta, lane + to, 12 : 12 + row_bytes // 4] = words[row]
        operation = f"""
        add.u64 %a_desc, %base, {placing.descriptor(0, row_bytes // 2, 2)};
        add.u32 %r0, %tmem, {lane << 16 | 12};
        tcgen05.cp.cta_group::{group}.{shape} [%r0], %a_desc;
        """
        (out,) = self.emulator.run(tensor_kernel(operation, cells=cells, image=image, group=group))
        np.testing.assert_array_equal(out, want)


# ----------------------------------------------------------------------------------------------------------------------
# shift


class ShiftTest(Sm100Test):
    SHIFT = "add.u32 %r0, %tmem, {};\ntcgen05.shift.cta_group::{}.down [%r0];\n"

    @parameterized.product(group=(1, 2), lane=(0, 32, 96))
    def test_rows_of_a_warp(self, group, lane):
        cells = random_cells(f"shift {lane}", group)
        want = cells.copy()
        want[:, lane : lane + 31, 12:20] = cells[:, lane + 1 : lane + 32, 12:20]
        operation = self.SHIFT.format(lane << 16 | 12, group)
        (out,) = self.emulator.run(tensor_kernel(operation, cells=cells, group=group))
        np.testing.assert_array_equal(out, want)

    def test_rows_that_move_up_as_one_comes_in(self):
        """As for a convolution: four warps' rows move by one, and the last rows are copied in behind, in that order."""
        cells = random_cells("shift and copy")
        matrix = rng("rows").integers(0, 1 << 16, (8, 16), dtype=np.uint16)
        image, placing = np.zeros((1, SHARED), np.uint8), Placing("k", K_LAYOUTS[0])
        put(image[0], 0, matrix, placing)
        want = cells.copy()
        for warp in range(4):
            rows = slice(32 * warp, 32 * warp + 31)
            want[:, rows, 12:20] = cells[:, 32 * warp + 1 : 32 * warp + 32, 12:20]
            want[:, 32 * warp + 31, 12:20] = matrix.view(np.uint32)[warp]
        operation = "".join(self.SHIFT.format(32 * warp << 16 | 12, 1) for warp in range(4))
        operation += f"""
        add.u64 %a_desc, %base, {placing.descriptor(0, 16, 2)};
        add.u32 %r0, %tmem, {31 << 16 | 12};
        tcgen05.cp.cta_group::1.4x256b [%r0], %a_desc;
        """
        (out,) = self.emulator.run(tensor_kernel(operation, cells=cells, image=image))
        np.testing.assert_array_equal(out, want)

    @parameterized.named_parameters(
        ("lane", 16 << 16, "an address whose lane is the first of a warp's, not lane 16"),
        ("columns", 508, "Columns 508 to 515 of tensor memory are not within an allocation"),
        ("unwritten", 288, "Lane 1, column 288 of tensor memory is read before anything was written there"),
    )
    def test_misuse(self, at, words):
        self.assert_refused(tensor_kernel(self.SHIFT.format(at, 1), cells=random_cells("misuse")), words)

    def test_code_for_a_family(self):
        """No family of devices has it."""
        made = tensor_kernel(self.SHIFT.format(0, 1), cells=random_cells("family"))
        ptx = made.ptx.replace("sm_100a", "sm_100f")
        made = Kernel(ptx, made.entry, made.arguments, made.grid, made.block, made.cluster, made.dynamic_shared)
        self.assert_refused(made, "it needs PTX for one architecture alone")


# ----------------------------------------------------------------------------------------------------------------------
# Allocation, and what goes wrong


class AllocationTest(Sm100Test):
    def test_addresses(self):
        """Columns side by side; what is given back is given out again."""
        lines = []
        for i, columns in enumerate((128, 128, 64, 32, 32)):
            lines += [f"tcgen05.alloc.cta_group::1.sync.aligned.b32 [%a_desc], {columns};", SYNC_WARP]
            lines += [f"ld.shared.b32 %r{i}, [slot];", f"st.global.b32 [%out+{4 * i}], %r{i};", SYNC_WARP]
        lines += ["tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r1, 128;"]
        lines += ["tcgen05.alloc.cta_group::1.sync.aligned.b32 [%a_desc], 32;", SYNC_WARP]
        lines += ["ld.shared.b32 %r5, [slot];"]
        lines += ["st.global.b32 [%out+20], %r5;"]
        for reg, columns in ((0, 128), (2, 64), (3, 32), (4, 32), (5, 32)):
            lines += [f"tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r{reg}, {columns};"]
        generic = "mov.u64 %a_desc, slot;\ncvta.shared.u64 %a_desc, %a_desc;\n"
        (out,) = self.emulator.run(warps_kernel(generic + "\n".join(lines), block=32))
        np.testing.assert_array_equal(out[:6], [0, 128, 256, 320, 352, 128])

    def test_waits_until_there_are_enough(self):
        """The second warp gets what the first one gives back."""
        first = ALLOCATE.format(512) + "barrier.sync 1, 64;\n"
        first += "st.shared.b32 [slots], 7;\nbarrier.arrive 2, 64;\n" + FREE.format(512)
        second = "barrier.sync 1, 64;\ntcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [slots+4], 256;\n"
        second += (
            SYNC_WARP
            + "barrier.sync 2, 64;\nld.shared.b32 %r0, [slots];\nld.shared.b32 %tmem, [slots+4];\nst.global.b32 [%out], %r0;\n"
        )
        body = in_warp(0, first, "L1") + in_warp(1, second + FREE.format(256), "L2")
        (out,) = self.emulator.run(warps_kernel(body, block=64))
        self.assertEqual(out[0], 7)

    def test_another_warp_gives_back(self):
        body = in_warp(0, ALLOCATE.format(64), "L1") + "bar.sync 0;\nld.shared.b32 %tmem, [slot];\n"
        self.emulator.run(warps_kernel(body + in_warp(1, FREE.format(64), "L2"), block=64))

    def test_pairs(self):
        """The same columns in both CTAs, and one waits for the other."""
        body = """
        mov.u32 %r0, 1000;
        @!%leads bra SPIN_END;
        SPIN: sub.u32 %r0, %r0, 1;
        setp.ne.u32 %done, %r0, 0;
        @%done bra SPIN;
        SPIN_END:
        bar.warp.sync -1;
        tcgen05.alloc.cta_group::2.sync.aligned.shared::cta.b32 [slot], 64;
        bar.warp.sync -1;
        ld.shared.b32 %r1, [slot];
        bar.warp.sync -1;
        tcgen05.alloc.cta_group::2.sync.aligned.shared::cta.b32 [slot], 32;
        bar.warp.sync -1;
        ld.shared.b32 %r2, [slot];
        tcgen05.relinquish_alloc_permit.cta_group::2.sync.aligned;
        mad.wide.u32 %row, %rank, 8, %out;
        st.global.v2.b32 [%row], {%r1, %r2};
        tcgen05.dealloc.cta_group::2.sync.aligned.b32 %r1, 64;
        tcgen05.dealloc.cta_group::2.sync.aligned.b32 %r2, 32;
        """
        (out,) = self.emulator.run(warps_kernel(body, block=32, ctas=2))
        np.testing.assert_array_equal(out[:4], [0, 64, 0, 64])

    def test_shared_address_of_either(self):
        """Both CTAs of a pair find the address at the place that each has named."""
        body = """
        mad.lo.u32 %r3, %rank, 4, 0;
        mov.u32 %r4, slots;
        add.u32 %r4, %r4, %r3;
        tcgen05.alloc.cta_group::2.sync.aligned.shared::cta.b32 [%r4], 128;
        bar.warp.sync -1;
        ld.shared.b32 %r1, [%r4];
        mad.wide.u32 %row, %rank, 4, %out;
        st.global.b32 [%row], %r1;
        tcgen05.dealloc.cta_group::2.sync.aligned.b32 %r1, 128;
        """
        (out,) = self.emulator.run(warps_kernel(body, block=32, ctas=2))
        np.testing.assert_array_equal(out[:2], [0, 0])

    @parameterized.named_parameters(
        ("not_a_power_of_two", ALLOCATE.format(96), "96 columns of tensor memory cannot be allocated"),
        ("too_few", ALLOCATE.format(16), "16 columns of tensor memory cannot be allocated"),
        ("too_many", ALLOCATE.format(1024), "1024 columns of tensor memory cannot be allocated"),
        (
            "growing",
            ALLOCATE.format(32) + SYNC_WARP + ALLOCATE.format(64),
            "64 columns of tensor memory are allocated after an all",
        ),
        (
            "relinquished",
            "tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;\n" + ALLOCATE.format(32),
            "is allocated after tcgen05.relinquish_alloc_permit",
        ),
        (
            "leak",
            ALLOCATE.format(64),
            "exits with tensor memory that it never deallocated: 64 columns from column 0 on",
        ),
        (
            "twice",
            ALLOCATE.format(64) + FREE.format(64) + FREE.format(64),
            "where no allocation of tensor memory begins",
        ),
        ("other_size", ALLOCATE.format(64) + FREE.format(32), "names 32 columns of an allocation of 64"),
        (
            "other_place",
            ALLOCATE.format(64) + "add.u32 %tmem, %tmem, 32;\n" + FREE.format(32),
            "names 32, where no allocation of tensor memory begins",
        ),
        (
            "two_groups",
            ALLOCATE.format(64) + "tcgen05.commit.cta_group::2.mbarrier::arrive::one.b64 [bar];",
            "tcgen05 instructions of .cta_group::1 and of .cta_group::2",
        ),
        (
            "some_lanes",
            "setp.gt.u32 %done, %thread, 7;\n@%done exit;\n" + ALLOCATE.format(64),
            "An instruction for all lanes of a warp is executed by 8 of them",
        ),
        (
            "disagreement",
            "add.u32 %r0, %thread, 32;\n" + ALLOCATE.format("%r0"),
            "The lanes of a warp disagree about the number of columns",
        ),
    )
    def test_misuse(self, body, words):
        self.assert_refused(warps_kernel(body, block=32), words)

    def test_a_peer_that_does_something_else(self):
        body = """
        @%leads bra OTHER;
        setp.eq.u32 %done, %rank, 0;
        @%done bra OTHER;
        tcgen05.alloc.cta_group::2.sync.aligned.shared::cta.b32 [slot], 64;
        bra END;
        OTHER:
        tcgen05.alloc.cta_group::2.sync.aligned.shared::cta.b32 [slot], 32;
        END:
        """
        self.assert_refused(warps_kernel(body, block=32, ctas=2), "have come to different tcgen05 instructions")

    def test_a_peer_that_has_exited(self):
        body = """
        setp.eq.u32 %done, %rank, 1;
        @%done exit;
        mov.u32 %r0, 100000;
        SPIN: sub.u32 %r0, %r0, 1;
        setp.ne.u32 %done, %r0, 0;
        @%done bra SPIN;
        tcgen05.alloc.cta_group::2.sync.aligned.shared::cta.b32 [slot], 64;
        """
        self.assert_refused(warps_kernel(body, block=32, ctas=2), "whose peer has exited")

    def test_a_pair_without_peer(self):
        body = "tcgen05.alloc.cta_group::2.sync.aligned.shared::cta.b32 [slot], 64;"
        self.assert_refused(warps_kernel(body, block=32), "in a cluster of an odd number of CTAs")

    def test_waits_for_ever(self):
        body = in_warp(0, ALLOCATE.format(512) + "bar.sync 0;", "L1")
        body += in_warp(1, "bar.sync 0;\ntcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [slots], 32;", "L2")
        self.assert_refused(warps_kernel(body, block=64), "Deadlock", "waits for tensor memory", "(32 columns)")


def without_races():
    """Nobody looks for them: what a kernel reads that has one."""
    return mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_RACES="0")


class AccessTest(WarpsTest):
    """What a warp may touch."""

    @parameterized.named_parameters(
        ("lanes_of_another", LOAD.format("%tmem"), "A warp reaches lanes 64 to 95 of tensor memory", "names lane 0."),
        (
            "between_lanes",
            "add.u32 %cell, %mine, 0x100000;\n" + LOAD.format("%cell"),
            "wants an address whose lane is a multiple of 32, not lane 80",
        ),
        (
            "columns",
            "add.u32 %cell, %mine, 64;\n" + LOAD.format("%cell"),
            "Columns 64 to 64 of tensor memory are not within an allocation of the CTA",
        ),
        (
            "beyond",
            "add.u32 %cell, %mine, 62;\ntcgen05.ld.sync.aligned.32x32b.x4.b32 {%r0, %r1, %r2, %r3}, [%cell];",
            "Columns 62 to 65 of tensor memory are not within an allocation",
        ),
        (
            "store_beyond",
            "add.u32 %cell, %mine, 60;\ntcgen05.st.sync.aligned.16x256b.x1.b32 [%cell], {%r0, %r1, %r2, %r3};",
            "Columns 60 to 67",
        ),
        (
            "second_half",
            "tcgen05.ld.sync.aligned.16x32bx2.x1.b32 {%r0}, [%mine], 64;",
            "Columns 64 to 64 of tensor memory are not within",
        ),
        (
            "different_addresses",
            "add.u32 %cell, %mine, %thread;\n" + LOAD.format("%cell"),
            "The lanes of a warp disagree about an address in tensor memory",
        ),
    )
    def test_misuse(self, text, *words):
        self.assert_refused(self.made(text), *words, "warp 2")

    def test_what_nobody_wrote(self):
        made = self.made(LOAD.format("%mine"), fill=False)
        self.assert_refused(made, "Lane 64, column 0 of tensor memory is read before anything was written there")

    def test_half_of_a_cell(self):
        """Of an element of 16 bits that has a column to itself, the upper half is nobody's."""
        text = "tcgen05.st.sync.aligned.32x32b.x1.unpack::16b.b32 [%mine], {%r0};\ntcgen05.wait::st.sync.aligned;\n"
        self.emulator.run(self.made(text + LOAD.format("%mine").replace(".b32", ".pack::16b.b32")))
        self.assert_refused(self.made(text + LOAD.format("%mine")), "is read before anything was written")

    def test_after_the_columns_were_given_back(self):
        text = "tcgen05.dealloc.cta_group::1.sync.aligned.b32 %tmem, 64;\n" + LOAD.format("%mine")
        self.assert_refused(self.made(text), "are not within an allocation of the CTA")

    def test_what_nobody_notices_on_a_device(self):
        """Of a thread block that is alone there: published kernels count on it."""
        gives_back = "tcgen05.dealloc.cta_group::1.sync.aligned.b32 %tmem, 64;\n"
        reads = LOAD.format("%mine") + "\ntcgen05.wait::ld.sync.aligned;\n"
        with mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_STRICT="0"):
            self.emulator.run(self.made(reads, fill=False))
            # What is left to report is that the columns are given back again.
            self.assert_refused(self.made(gives_back + reads), "where no allocation of tensor memory begins")

    def test_store_that_nobody_waited_for(self):
        """It is done some time, and not at once."""
        text = "tcgen05.st.sync.aligned.32x32b.x1.b32 [%mine], {%thread};\n" + LOAD.format("%mine")
        text += "\ntcgen05.wait::ld.sync.aligned;\n@%done bra HERE;\nHERE: mad.wide.u32 %row, %thread, 4, %out;\nst.global.b32 [%row+-256], %r0;"
        self.assert_refused(self.made(text), "Race", "lane 64, column 0 of tensor memory", "tcgen05.st")
        with without_races():
            (out,) = self.emulator.run(self.made(text))
            np.testing.assert_array_equal(out[:32], 5)
            # Published kernels count on a device where nobody has seen it late.
            with mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_STRICT="0"):
                (out,) = self.emulator.run(self.made(text))
            np.testing.assert_array_equal(out[:32], np.arange(64, 96))

    def test_product_that_nobody_waited_for(self):
        keep = "mad.wide.u32 %row, %thread, 4, %out;\nst.global.b32 [%row], %r0;"
        text = LOAD.format("%mine") + "tcgen05.wait::ld.sync.aligned;\n" + keep
        self.assert_refused(self.product(text), "Race", "of tensor memory", "tcgen05.mma", "tcgen05.ld")
        with without_races():
            (out,) = self.emulator.run(self.product(text))
        np.testing.assert_array_equal(out[:32], 5)  # as before
        (out,) = self.emulator.run(self.product(self.COMMIT + wait_for_barrier("W") + AFTER + text))
        np.testing.assert_array_equal(out[:32], 0)
        with without_races():
            self.assert_refused(self.product(text, fill=False), "is read before anything was written")

    def test_product_beyond_the_columns(self):
        self.assert_refused(self.product("", n=72), "Columns 0 to 71 of tensor memory are not within", "tcgen05.mma")

    def test_columns_given_back_before_the_product_was_done(self):
        text = "tcgen05.dealloc.cta_group::1.sync.aligned.b32 %tmem, 64;\nbar.sync 2, 32;"
        self.assert_refused(self.product(text), "Columns 0 to 63 of tensor memory are not within", "tcgen05.mma")

    def test_operands_that_nobody_wrote(self):
        made = self.product("")
        changed = made.ptx.replace("st.shared.b32 [box+252], 0;", "")
        self.assert_refused(
            Kernel(changed, made.entry, made.arguments, made.grid, made.block),
            "is read before anything was written",
            "mma",
        )
