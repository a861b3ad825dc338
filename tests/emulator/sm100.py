"""What the tests of SM100 have in common: the device, kernels around tensor memory, matrices in shared memory.

No GPU of that kind has run these kernels: what they are to give is computed here.
"""

import dataclasses
import os
import unittest
from unittest import mock

import numpy as np
from absl.testing import parameterized
from devices import Emulated, Input, Kernel, Output, has_emulator
from writing import fill_shared, kernel

LANES = 128
B_AT = 32 << 10  # where B lies in shared memory
SHARED = 64 << 10


@unittest.skipUnless(has_emulator(), "this build has no emulator")
class Sm100Test(parameterized.TestCase):
    """On a device of compute capability 10.0."""

    def setUp(self):
        super().setUp()
        self.enterContext(mock.patch.dict(os.environ, JAX_FLASH_MLA_EMULATOR_CAPABILITY="10.0"))
        self.emulator = Emulated()

    def assert_refused(self, made: Kernel, *words: str) -> None:
        """The report says these words."""
        with self.assertRaises(RuntimeError) as caught:
            self.emulator.run(made)
        for word in words:
            self.assertIn(word, str(caught.exception))


# ----------------------------------------------------------------------------------------------------------------------
# Matrices in shared memory

NO_SWIZZLE, PAIRS, SWIZZLE_128, SWIZZLE_64, SWIZZLE_32 = 0, 1, 2, 4, 6
K_LAYOUTS = (NO_SWIZZLE, SWIZZLE_32, SWIZZLE_64, SWIZZLE_128)
CHUNKS_OF_LINE = {NO_SWIZZLE: 1, PAIRS: 8, SWIZZLE_128: 8, SWIZZLE_64: 4, SWIZZLE_32: 2}


@dataclasses.dataclass(frozen=True)
class Placing:
    """How a matrix lies in shared memory. `major`: the dimension along which it is contiguous, "k" or "mn"."""

    major: str = "k"
    swizzle: int = SWIZZLE_128

    def steps(self, k_bytes: int, itemsize: int) -> tuple[int, int]:
        """The leading and the stride offset of a dense one, in bytes."""
        atom = 8 * 16 * CHUNKS_OF_LINE[self.swizzle]
        if self.major == "k":
            return (128, 128 * k_bytes // 16) if self.swizzle == NO_SWIZZLE else (0, atom)
        lines = 4 if self.swizzle == PAIRS else 8
        groups = k_bytes // itemsize // lines
        if self.swizzle == NO_SWIZZLE:
            return 128, 128 * groups
        return atom * lines // 8 * groups, atom * lines // 8

    def offsets(self, rows: int, k: int, itemsize: int) -> np.ndarray:
        """Where each element's first byte lies."""
        leading, stride = self.steps(k * itemsize, itemsize)
        width, per_chunk = CHUNKS_OF_LINE[self.swizzle], 16 // itemsize
        row, at = np.meshgrid(np.arange(rows), np.arange(k), indexing="ij")
        line, along = (row, at) if self.major == "k" else (at, row)
        chunk, within = along // per_chunk, along % per_chunk * itemsize
        lines = 4 if self.swizzle == PAIRS else 8
        out = line % lines * 16 * width + within
        if self.swizzle == NO_SWIZZLE:
            out += line // 8 * (stride if self.major == "k" else leading)
            out += chunk * (leading if self.major == "k" else stride)
        else:
            out += line // lines * stride + chunk % width * 16 + chunk // width * leading
        if self.swizzle == PAIRS:
            return out ^ ((out >> 7 & 3) << 5)
        return out ^ ((out >> 7 & (width - 1)) << 4)

    def descriptor(self, at: int, k: int, itemsize: int) -> int:
        """That of a matrix that begins at an offset, to be added to the address of shared memory in 16 bytes."""
        leading, stride = self.steps(k * itemsize, itemsize)
        return at >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | 1 << 46 | self.swizzle << 61


def put(image: np.ndarray, at: int, matrix: np.ndarray, placing: Placing) -> None:
    """Writes a matrix [rows, k] into an image of shared memory."""
    raw = np.ascontiguousarray(matrix).view(np.uint8).reshape(*matrix.shape, matrix.itemsize)
    places = placing.offsets(*matrix.shape, matrix.itemsize)
    for byte in range(matrix.itemsize):
        image[at + places + byte] = raw[..., byte]


# ----------------------------------------------------------------------------------------------------------------------
# Kernels


def wait_for_barrier(label: str, address: str = "bar", parity: int = 0) -> str:
    return f"""
    {label}:
    mbarrier.try_wait.parity.shared::cta.b64 %done, [{address}], {parity};
    @!%done bra {label};
    """


def cells_of_row(instruction: str, columns: int) -> str:
    """Loads or stores the columns of a thread's lane, by way of its row of an array at %row."""
    lines = []
    for first in range(0, columns, 32):
        registers = ", ".join(f"%r{i}" for i in range(32))
        quads = [f"{{{', '.join(f'%r{4 * i + j}' for j in range(4))}}}" for i in range(8)]
        address = [f"add.u32 %cell, %mine, {first};"]
        places = [f"[%row+{4 * (first + 4 * i)}]" for i in range(8)]
        if instruction == "st":
            lines += [f"ld.global.v4.b32 {quad}, {place};" for quad, place in zip(quads, places)]
            lines += [*address, f"tcgen05.st.sync.aligned.32x32b.x32.b32 [%cell], {{{registers}}};"]
        else:
            lines += [*address, f"tcgen05.ld.sync.aligned.32x32b.x32.b32 {{{registers}}}, [%cell];"]
            lines += ["tcgen05.wait::ld.sync.aligned;"]
            lines += [f"st.global.v4.b32 {place}, {quad};" for quad, place in zip(quads, places)]
    return "\n".join(lines)


def halves_of_row(columns: int) -> str:
    """Likewise the lower halves of columns, two of them in a word."""
    lines = []
    for first in range(0, columns, 2):
        lines += [f"add.u32 %cell, %mine, {first};"]
        lines += ["tcgen05.ld.sync.aligned.32x32b.x1.pack::16b.b32 {%r0}, [%cell];", "tcgen05.wait::ld.sync.aligned;"]
        lines += [f"st.global.b32 [%row+{2 * first}], %r0;"]
    return "\n".join(lines)


DECLARATIONS = """
.reg .b32 %tmem, %mine, %cell, %rank, %warp;
.reg .b64 %row, %base, %part, %a_desc, %b_desc;
.reg .pred %done, %first, %leads;
mov.u32 %rank, %ctaid.x;
setp.eq.u32 %first, %thread, 0;
setp.eq.u32 %leads, %rank, 0;
and.pred %leads, %leads, %first;
shr.u32 %warp, %thread, 5;
"""
SLOT_AND_BARRIER = ".shared .align 8 .b64 bar;\n.shared .align 4 .b32 slot;\n"


def tensor_kernel(
    operation: str,
    *,
    cells: np.ndarray,
    image: np.ndarray | None = None,
    group: int = 1,
    halves: bool = False,
    arguments: dict | None = None,
    finish: str = "",
) -> Kernel:
    """Fills tensor memory with cells [CTA, 128, columns], lets one thread do something, and dumps it.

    `image`: of shared memory, [CTA, bytes]. `operation` is done by thread 0 of CTA 0: what it leaves undone is waited for
    by tcgen05.commit. It finds the address of tensor memory in %tmem, that of shared memory in units of 16 bytes in %base.
    `halves`: only the lower halves of columns are dumped, as uint16. `finish` is done by all before the end.
    """
    ctas, lanes, columns = cells.shape
    assert lanes == LANES and columns % 32 == 0
    given = {"cells": Input(cells.astype(np.uint32)), **(arguments or {})}
    if image is not None:
        given["image"] = Input(image)
    given["out"] = Output((ctas, LANES, columns), np.uint16 if halves else np.uint32)
    sync = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" if ctas > 1 else "bar.sync 0;"

    def row(array: str, bytes_: int) -> str:
        """The thread's row of an array."""
        return f"""
        mad.lo.u32 %cell, %rank, {LANES}, %thread;
        mad.wide.u32 %row, %cell, {bytes_}, %{array};
        """

    fill = ""
    if image is not None:
        fill = f"mad.wide.u32 %part, %rank, {image.shape[1]}, %image;\n" + fill_shared("part", image.shape[1], LANES)
        fill += "fence.proxy.async.shared::cta;"
    multicast = ".multicast::cluster" if ctas > 1 else ""
    mask = f"mov.b16 %h0, {(1 << ctas) - 1};" if ctas > 1 else ""
    body = f"""
    {DECLARATIONS}
    {fill}
    setp.eq.u32 %done, %warp, 0;
    @!%done bra ALLOCATED;
    tcgen05.alloc.cta_group::{group}.sync.aligned.shared::cta.b32 [slot], 512;
    tcgen05.relinquish_alloc_permit.cta_group::{group}.sync.aligned;
    ALLOCATED:
    @%first mbarrier.init.shared::cta.b64 [bar], 1;
    {sync}
    ld.shared.b32 %tmem, [slot];
    shl.b32 %mine, %warp, 21;
    add.u32 %mine, %mine, %tmem;
    {row("cells", 4 * columns)}
    {cells_of_row("st", columns)}
    tcgen05.wait::st.sync.aligned;
    tcgen05.fence::before_thread_sync;
    {sync}
    @!%leads bra ISSUED;
    tcgen05.fence::after_thread_sync;
    {"mov.u64 %base, smem;" if image is not None else "mov.u64 %base, 0;"}
    shr.u64 %base, %base, 4;
    and.b64 %base, %base, 0x3FFF;
    {operation}
    {mask}
    tcgen05.commit.cta_group::{group}.mbarrier::arrive::one.shared::cluster{multicast}.b64 [bar]{", %h0" if mask else ""};
    ISSUED:
    {wait_for_barrier("WAIT")}
    tcgen05.fence::after_thread_sync;
    {row("out", (2 if halves else 4) * columns)}
    {halves_of_row(columns) if halves else cells_of_row("ld", columns)}
    {finish}
    {sync}
    setp.eq.u32 %done, %warp, 0;
    @!%done bra FREED;
    tcgen05.dealloc.cta_group::{group}.sync.aligned.b32 %tmem, 512;
    FREED:
    """
    return kernel(
        given,
        body,
        block=LANES,
        grid=ctas,
        cluster=ctas,
        shared=SLOT_AND_BARRIER,
        dynamic_shared=0 if image is None else image.shape[1],
        target="sm_100a",
    )
