"""What tests of warps that share tensor memory have in common: the kernels, and their instructions."""

import numpy as np
from devices import Kernel, Output
from sm100 import DECLARATIONS, SLOT_AND_BARRIER, Sm100Test
from writing import FAULTY, kernel


def warps_kernel(
    body: str, *, block: int = 128, ctas: int = 1, arguments: dict | None = None, shared: str = ""
) -> Kernel:
    """A kernel whose warps find their number in %warp; `body` ends wherever it likes."""
    given = arguments or {"out": Output((64,), np.uint32)}
    return kernel(
        given,
        f"{DECLARATIONS}\n{body}",
        block=block,
        grid=ctas,
        cluster=ctas,
        shared=FAULTY
        + SLOT_AND_BARRIER
        + ".shared .align 4 .b32 slots[8];\n.shared .align 16 .b8 box[1024];\n"
        + shared,
        target="sm_100a",
    )


SYNC_WARP = "bar.warp.sync -1;\n"
BEFORE, AFTER = "tcgen05.fence::before_thread_sync;\n", "tcgen05.fence::after_thread_sync;\n"
ALLOCATE = "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [slot], {};\n" + SYNC_WARP
ALLOCATE += "ld.shared.b32 %tmem, [slot];\n"
FREE = "tcgen05.dealloc.cta_group::1.sync.aligned.b32 %tmem, {};\n"


def in_warp(number: int, text: str, label: str) -> str:
    return f"setp.ne.u32 %done, %warp, {number};\n@%done bra {label};\n{text}\n{label}:\n"


LOAD = "tcgen05.ld.sync.aligned.32x32b.x1.b32 {{%r0}}, [{}];"


class WarpsTest(Sm100Test):
    """All warps have the address of 64 columns in %tmem, and of their own lanes of these in %mine."""

    COMMIT = "@%first tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [bar];\n"
    PRODUCT = """
    mov.u32 %r1, box;
    shr.u32 %r1, %r1, 4;
    cvt.u64.u32 %a_desc, %r1;
    add.u64 %a_desc, %a_desc, {};
    setp.eq.u32 %done, 0, 1;
    @%first tcgen05.mma.cta_group::1.kind::f16 [%tmem], %a_desc, %a_desc, {}, %done;
    """

    def made(self, text: str, warp: int = 2, fill: bool = True) -> Kernel:
        body = in_warp(0, "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [slot], 64;", "ALLOCATED")
        body += "bar.sync 0;\nld.shared.b32 %tmem, [slot];\nshl.b32 %mine, %warp, 21;\nadd.u32 %mine, %mine, %tmem;\n"
        if fill:
            body += ".loc 1 500 0\nmov.u32 %r0, 5;\n"
            body += "\n".join(
                f"add.u32 %cell, %mine, {c};\ntcgen05.st.sync.aligned.32x32b.x1.b32 [%cell], {{%r0}};"
                for c in range(64)
            )
            body += "\ntcgen05.wait::st.sync.aligned;\n" + BEFORE
        body += "@%first mbarrier.init.shared::cta.b64 [bar], 1;\nbar.sync 0;\n" + AFTER
        lines = (f".loc 1 {number} 0\n{line}" for number, line in enumerate(text.splitlines(), 1))
        body += in_warp(warp, "\n".join(lines), "OUT") + ".loc 1 999 0\nbar.sync 0;\n"
        return warps_kernel(body + in_warp(0, FREE.format(64), "FREED"))

    def product(self, after: str, m: int = 128, n: int = 64, fill: bool = True) -> Kernel:
        text = "".join(f"st.shared.b32 [box+{i}], 0;\n" for i in range(0, 256, 4))
        text += "fence.proxy.async.shared::cta;\n" + SYNC_WARP
        text += self.PRODUCT.format(*self.descriptors(m, n))
        return self.made(text + after, warp=0, fill=fill)

    @staticmethod
    def descriptors(m: int = 128, n: int = 64) -> tuple[int, int]:
        """Of the matrices, which begin with the box, and of the product."""
        # All rows of A and B are the same eight: strides are zero.
        return 1 << 46 | 8 << 16, 1 << 4 | 1 << 7 | 1 << 10 | n // 8 << 17 | m // 16 << 24
