"""What the emulator has to find out, and what its report says: where it happened, and what it was."""

import unittest

import numpy as np
from absl.testing import parameterized
from devices import Input, Kernel, Output, TensorMap, has_emulator
from reports import ReportTest
from writing import BARRIERS, FAULTY, kernel

LINE = 77
NUMBERS = np.arange(16, dtype=np.uint32)

# All of this happens in CTA 1, warp 2.
ELSEWHERE = """
mov.u32 %r90, %ctaid.x;
setp.ne.u32 %p90, %r90, 1;
shr.u32 %r91, %thread, 5;
setp.ne.u32 %p91, %r91, 2;
or.pred %p90, %p90, %p91;
@%p90 bra OUT;
"""


def faulty(body: str, before: str = "", functions: str = "", shared: str = BARRIERS, **more) -> Kernel:
    """A kernel that does `before` everywhere, and `body` in one warp of one CTA, at a line of its own."""
    text = f".loc 1 5 0\n{before}\n{ELSEWHERE}\n.loc 1 {LINE} 3\n{body}\n.loc 1 99 0\nOUT:\n"
    more.setdefault("arguments", {"a": Input(NUMBERS), "out": Output((16,), np.uint32)})
    arguments = more.pop("arguments")
    more = {"grid": 3, "block": 96} | more
    return kernel(arguments, text, shared=FAULTY + shared, functions=functions, **more)


@unittest.skipUnless(has_emulator(), "this build has no emulator")
class FaultTest(ReportTest):
    def assert_reported(self, made: Kernel, *words: str, opcode: str = "", line: int = LINE) -> None:
        """The report says these words, and where it was."""
        report = self.report(made)
        for word in (*words, "kernel test_kernel", "CTA (1, 0, 0), warp 2", f"faulty.cu:{line}", f"'{opcode}"):
            self.assertIn(word, report)

    @parameterized.named_parameters(
        ("read_behind", "ld.global.b32 %r0, [%a+64];", "Cannot read 4 bytes at 0x", "ld.global.b32"),
        ("read_across", "ld.global.b64 %d0, [%a+64];", "Cannot read 8 bytes at 0x", "ld.global.b64"),
        ("read_before", "ld.global.b32 %r0, [%a+-4];", "Cannot read 4 bytes at 0x", "ld.global.b32"),
        ("write_behind", "st.global.v4.b32 [%out+64], {1, 2, 3, 4};", "Cannot write 16 bytes", "st.global.v4.b32"),
        ("null", "mov.b64 %d1, 0;\nld.b32 %r0, [%d1];", "there is no allocation", "ld.b32"),
        ("atomic_behind", "red.global.add.u32 [%out+64], 1;", "Cannot atomically change 4 bytes", "red.global.add.u32"),
        (
            "read_only",
            "st.global.b32 [%a+8], 5;",
            "offset 8 of an allocation of 64 bytes, which is read-only",
            "st.global",
        ),
        ("atomic_read_only", "atom.global.add.u32 %r0, [%a], 5;", "which is read-only", "atom.global.add.u32"),
        (
            "constant",
            "mov.u64 %d0, fixed;\nst.global.b32 [%d0], 1;",
            "offset 0 of fixed (8 bytes), which is read-",
            "st.global",
        ),
        (
            "unwritten",
            "ld.global.b32 %r0, [%out+12];",
            "Offset 12 of an allocation of 64 bytes is read before",
            "ld.global.b32",
        ),
        (
            "half_written",
            "st.global.u16 [%out+4], 1;\nld.global.b32 %r0, [%out+4];",
            "Offset 6 of an alloc",
            "ld.global.b32",
        ),
        (
            "atomic_unwritten",
            "atom.global.add.u32 %r0, [%out], 5;",
            "is read before anything was written",
            "atom.global",
        ),
        ("misaligned", "ld.global.b32 %r0, [%a+2];", "which is no multiple of 4", "ld.global.b32"),
        ("misaligned_vector", "ld.global.v2.b64 {%d0, %d1}, [%a+8];", "which is no multiple of 16", "ld.global.v2.b64"),
        ("parameter", "ld.param.b64 %d1, [out+16];", "Cannot read 8 bytes", "ld.param.b64"),
    )
    def test_global(self, body, words, opcode):
        constant = BARRIERS + ".const .align 4 .b32 fixed[2] = {1, 2};\n"
        self.assert_reported(faulty(body, shared=constant), words, opcode=opcode)

    @parameterized.named_parameters(
        ("read_behind", "ld.shared.b32 %r0, [box+64];", "outside of the 80 bytes", "ld.shared.b32"),
        ("write_behind", "mov.u64 %d0, box;\nst.shared.b64 [%d0+4000], %d0;", "shared offset 4016", "st.shared.b64"),
        ("write_before", "mov.u32 %r0, box;\nst.shared.b32 [%r0+-64], 1;", "shared offset -48", "st.shared.b32"),
        (
            "unwritten",
            "ld.shared.b32 %r0, [box+8];",
            "Shared offset 24 is read before anything was written",
            "ld.shared.b32",
        ),
        (
            "half_written",
            "st.shared.u8 [box], 1;\nld.shared.u16 %r0, [box];",
            "Shared offset 17 is read",
            "ld.shared.u16",
        ),
        ("misaligned", "mov.u32 %r0, box;\nld.shared.b32 %r0, [%r0+1];", "no multiple of 4", "ld.shared.b32"),
        ("atomic", "atom.shared.add.u32 %r0, [box+64], 1;", "outside of the 80 bytes", "atom.shared.add.u32"),
        ("generic", "mov.u64 %d0, box;\ncvta.shared.u64 %d0, %d0;\nst.b32 [%d0+70], 1;", "no multiple of 4", "st.b32"),
        (
            "no_such_cta",
            "mov.u32 %r0, box;\nmapa.shared::cluster.u32 %r1, %r0, 1;",
            "mapa names CTA 1 of a cluster of 1",
            "mapa",
        ),
        (
            "matrix",
            "mov.u32 %r0, box;\nldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r0+56];",
            "no multiple",
            "ldmatrix",
        ),
        (
            "local",
            ".local .b32 mine[2];\nmov.u64 %d0, mine;\nld.local.b32 %r0, [%d0+4000];",
            "of its local memory",
            "ld.local",
        ),
    )
    def test_shared_and_local(self, body, words, opcode):
        self.assert_reported(faulty(body), words, opcode=opcode)

    def test_local_memory_that_nobody_wrote(self):
        body = """
        .local .align 4 .b8 mine[8];
        st.local.b16 [mine+4], 7;
        ld.local.u16 %r0, [mine+4];
        ld.local.b32 %r0, [mine+4];
        """
        self.assert_reported(
            faulty(body), "reads offset 6 of its local memory before anything was written", opcode="ld.local.b32"
        )

    def test_local_memory_of_an_earlier_call(self):
        """What a function wrote is gone when it is called again."""
        function = """
        .func keeps(.param .b32 first) {
          .reg .b32 %r;
          .reg .pred %p;
          .local .align 4 .b8 mine[4];
          ld.param.b32 %r, [first];
          setp.ne.b32 %p, %r, 0;
          @%p st.local.b32 [mine], %r;
          .loc 1 33 0
          ld.local.b32 %r, [mine];
          ret;
        }
        """
        calls = "".join(f"{{\n.param .b32 p;\nst.param.b32 [p], {first};\ncall keeps, (p);\n}}\n" for first in (1, 0))
        made = faulty(calls, functions=function)
        self.assert_reported(made, "of its local memory before", opcode="ld.local.b32", line=33)

    @parameterized.named_parameters(
        ("trap", "trap;", "trapped", "trap"),
        (
            "tensor_of_nothing",
            "tex.1d.v4.f32.s32 {%f0, %f1, %f2, %f3}, [%d0, {%r0}];",
            "does not know 'tex.1d.v4.f32.s32'",
            "tex",
        ),
        (
            *("wmma", "wmma.load.c.sync.aligned.m16n16k16.global.row.f16 {%r0, %r1, %r2, %r3}, [%a];"),
            *("does not know 'wmma.load.c.sync.aligned.m16n16k16.global.row.f16' (line ", "wmma"),
        ),
        (
            "im2col",
            "cp.async.bulk.tensor.3d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes "
            "[%r0], [%d0, {%r1, %r2, %r3}], [%r4], {%h0};",
            "it copies in im2col mode",
            "cp.async.bulk.tensor.3d",
        ),
        ("pairs", "red.shared::cluster.add.noftz.f16x2 [%r0], %r1;", "an H200 adds these", "red.shared::cluster"),
        ("form", "mad.hi.sat.u32 %r0, %r1, %r2, %r3;", "does not know 'mad.hi.sat.u32'", "mad.hi.sat.u32"),
        (
            "shape",
            "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%g0, %g1}, {%g2}, {%g3}, {%g0, %g1};",
            "does not know",
            "mma",
        ),
    )
    def test_instruction(self, body, words, opcode):
        self.assert_reported(faulty(body), words, opcode=opcode)

    @parameterized.parameters(
        "ld.global.v8.b32 {%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7}, [%a];",
        "ld.global.v4.b64 {%d0, %d1, %d2, %d3}, [%a];",
        "ld.global.L2::evict_last.v8.f32 {%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7}, [%a];",
        "st.global.v8.b32 [%out], {%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7};",
        "max.f32 %f0, %f1, %f2, %f3;",
        "min.ftz.NaN.abs.f32 %f0, %f1, %f2, %f3;",
        "cvt.rn.satfinite.e2m3x2.f32 %h0, %f0, %f1;",
        "cvt.rn.f16x2.e3m2x2 %r0, %h0;",
        "cvt.rp.satfinite.ue8m0x2.f32 %h0, %f0, %f1;",
        "cvt.rn.satfinite.tf32.f32 %r0, %f0;",
        "cp.async.bulk.global.shared::cta.bulk_group.cp_mask [%out], [%r0], 16, %h0;",
    )
    def test_what_sm90_does_not_have(self, instruction):
        opcode = instruction.split()[0]
        self.assert_reported(faulty(instruction), f"The emulator does not know '{opcode}'", opcode=opcode)

    def test_unknown_instructions_are_no_fault_where_nobody_comes(self):
        body = "setp.eq.u32 %p0, %thread, 1000;\n@%p0 wmma.load.c.sync.aligned.m16n16k16.global.row.f16 {%r0, %r1, %r2, %r3}, [%a];"
        self.emulator.run(faulty(body + "\nst.global.b32 [%out], 1;"))

    # What nvcc makes of a table of function pointers.
    TABLE = """
    .func one(.param .b32 p) { ret; }
    .func two(.param .b32 p) { ret; }
    .global .align 8 .u64 table[2] = {one, two};
    """

    @parameterized.named_parameters(
        (
            "call",
            "{\n.param .b32 p;\nst.param.b32 [p], 1;\nproto: .callprototype _ (.param .b32 _);\n"
            "call %d0, (p), proto;\n}",
            "does not know 'call' (line ",
            "call",
        ),
        ("read", "ld.b32 %r0, [%d0];", "at 0x300000000000010: there is no allocation", "ld.b32"),
    )
    def test_addresses_of_functions(self, use, words, opcode):
        body = "ld.global.u64 %d0, [table+8];\nst.global.b32 [%out], 1;\n"
        self.emulator.run(faulty(body, functions=self.TABLE))
        self.assert_reported(faulty(body + use, functions=self.TABLE), words, opcode=opcode)

    def test_where_lanes_are_named(self):
        body = "setp.eq.u32 %p0, %thread, 69;\nsetp.eq.or.u32 %p0, %thread, 90, %p0;\n@%p0 ld.global.b32 %r0, [%a+64];"
        self.assertIn("lanes 5, 26", self.report(faulty(body)))

    ASSERTION = """
    .extern .func __assertfail(.param .b64 message, .param .b64 file, .param .b32 line, .param .b64 function, .param .b64 size);
    .global .align 1 .b8 message[7] = {105, 32, 60, 32, 115, 122, 0};
    .global .align 1 .b8 file[5] = {102, 46, 99, 117, 0};
    """

    def test_assertion(self):
        body = """
        mov.u64 %d0, message;
        cvta.global.u64 %d0, %d0;
        mov.u64 %d1, file;
        cvta.global.u64 %d1, %d1;
        {
        .param .b64 p0;
        .param .b64 p1;
        .param .b32 p2;
        .param .b64 p3;
        .param .b64 p4;
        st.param.b64 [p0], %d0;
        st.param.b64 [p1], %d1;
        st.param.b32 [p2], 123;
        st.param.b64 [p3], %d1;
        st.param.b64 [p4], 1;
        call.uni __assertfail, (p0, p1, p2, p3, p4);
        }
        """
        made = faulty(body, functions=self.ASSERTION)
        self.assert_reported(made, "Assertion failed: i < sz", "f.cu:123", opcode="call")

    def test_line_of_a_function_that_is_called(self):
        function = """
        .func deep(.param .b64 place) {
          .reg .b64 %d;
          .reg .b32 %r;
          .loc 1 31 0
          ld.param.b64 %d, [place];
          .loc 1 32 0
          ld.global.b32 %r, [%d+64];
          ret;
        }
        """
        body = "{\n.param .b64 p;\nst.param.b64 [p], %a;\ncall deep, (p);\n}"
        self.assert_reported(faulty(body, functions=function), "Cannot read 4 bytes", opcode="ld.global", line=32)

    @parameterized.named_parameters(
        (
            "overflow",
            "mbarrier.init.shared.b64 [bar], 20;\nmbarrier.arrive.shared.b64 _, [bar], 21;",
            "awaits",
            "mbarrier.arrive",
        ),
        (
            "missing",
            "mbarrier.arrive.shared.b64 _, [bar];",
            "At shared offset 0 no mbarrier was initialised",
            "mbarrier.arrive",
        ),
        (
            *(
                "written_over",
                "mbarrier.init.shared.b64 [bar], 99;\nbar.warp.sync -1;\nst.shared.b32 [bar], 1;\n"
                "bar.warp.sync -1;\nmbarrier.arrive.shared.b64 _, [bar];",
            ),
            *("Something wrote over the mbarrier at shared offset 0", "mbarrier.arrive"),
        ),
        ("count", "mbarrier.init.shared.b64 [bar], 0;", "cannot expect 0 arrivals", "mbarrier.init"),
        ("misaligned", "mbarrier.init.shared.b64 [box+4], 1;", "not aligned to 8 bytes", "mbarrier.init"),
        (
            *(
                "invalid",
                "mbarrier.init.shared.b64 [bar], 1;\nbar.warp.sync -1;\n@%p0 mbarrier.inval.shared.b64 [bar];",
            ),
            *("no mbarrier was initialised", "mbarrier.inval"),
        ),
        (
            *(
                "transactions",
                "mbarrier.init.shared.b64 [bar], 1;\nmbarrier.expect_tx.relaxed.cta.shared.b64 [bar], 1048000;",
            ),
            *("beyond 2^20 - 1", "mbarrier.expect_tx"),
        ),
    )
    def test_mbarrier(self, body, words, opcode):
        self.assert_reported(faulty("setp.lt.u32 %p0, %thread, 70;\n" + body), words, opcode=opcode)

    @parameterized.named_parameters(
        (
            "size",
            "cp.async.bulk.global.shared::cta.bulk_group [%out], [%r0], 24;",
            "no multiple of 16",
            "cp.async.bulk",
        ),
        (
            "destination",
            "cp.async.bulk.global.shared::cta.bulk_group [%out+8], [%r0], 16;",
            "not aligned to 16",
            "cp.async.bulk",
        ),
        (
            "source",
            "cp.async.bulk.global.shared::cta.bulk_group [%out], [%r0+4], 16;",
            "not aligned to 16",
            "cp.async.bulk",
        ),
        (
            "unwritten",
            "cp.async.bulk.global.shared::cta.bulk_group [%out], [%r0], 32;",
            "Shared offset 16 is read",
            "cp.async.bulk",
        ),
        ("behind", "cp.async.ca.shared.global [%r0], [%a+64], 16;", "Cannot read 16 bytes", "cp.async.ca"),
        ("too_many", "cp.async.ca.shared.global [%r0], [%a], 8, 9;", "more than the 8", "cp.async.ca"),
        ("misaligned", "cp.async.ca.shared.global [%r0], [%a+4], 8;", "not aligned to 8", "cp.async.ca"),
        (
            *(
                "no_barrier",
                "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r0], [%a], 16, [bar];",
            ),
            *("no mbarrier was initialised", "cp.async.bulk"),
        ),
        (
            *(
                "no_map",
                "mov.b64 %d0, %m;\ncp.async.bulk.prefetch.tensor.1d.L2.global.tile [%d0, {%r1}];\n"
                "cp.async.bulk.tensor.1d.global.shared::cta.tile.bulk_group [%d0, {%r1}], [%r2];",
            ),
            *("There is no tensor map", "cp.async.bulk.tensor"),
        ),
    )
    def test_copies(self, body, words, opcode):
        # What a copy does wrong is told where the copy was issued, though it is done later.
        body = f"mov.u32 %r0, box;\nmov.u32 %r2, smem;\nmov.b32 %r1, 0;\n{body}\n.loc 1 80 0\ncp.async.wait_all;\ncp.async.bulk.wait_group 0;"
        numbers = {
            "a": Input(np.zeros(16, np.uint32)),
            "m": Input(np.zeros(32, np.uint32)),
            "out": Output((32,), np.uint32),
        }
        self.assert_reported(faulty(body, arguments=numbers, dynamic_shared=128), words, opcode=opcode)

    IN_A_CLUSTER = """
    mov.u32 %r1, 0;
    mov.u32 %r2, box;
    mapa.shared::cluster.u32 %r3, %r2, %r1;
    mov.u32 %r4, bar;
    mapa.shared::cluster.u32 %r5, %r4, %r1;
    mov.u32 %r6, smem;
    mov.b16 %h0, 9;
    mov.b32 %r7, 5;
    mbarrier.init.shared.b64 [bar], 1;
    fence.mbarrier_init.release.cluster;
    bar.warp.sync -1;
    """
    FIRST_WAITS = """
    mov.u32 %r0, %cluster_ctarank;
    setp.eq.u32 %p0, %r0, 0;
    @%p0 barrier.cluster.arrive;
    @%p0 barrier.cluster.wait;
    """
    BULK = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
    BOX = "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"

    @parameterized.named_parameters(
        ("read_behind", "ld.shared::cluster.b32 %r0, [%r3+4000];", "4 bytes at shared offset 4016", "ld.shared"),
        ("write_before", "st.shared::cluster.b32 [%r3+-64], %r7;", "4 bytes at shared offset -48", "st.shared"),
        ("atomic_behind", "red.shared::cluster.add.u32 [%r3+4000], 1;", "at shared offset 4016", "red.shared"),
        ("misaligned", "ld.shared::cluster.b32 %r0, [%r3+2];", "which is no multiple of 4", "ld.shared::cluster"),
        (
            "no_such_cta",
            "mov.u32 %r1, 2;\nmapa.shared::cluster.u32 %r0, %r2, %r1;",
            "names CTA 2 of a cluster of 2",
            "mapa",
        ),
        (
            "address_of_no_cta",
            "add.u32 %r3, %r3, 0x5000000;\nld.shared::cluster.b32 %r0, [%r3];",
            "is in CTA 5 of the cluster, which has 2",
            "ld.shared::cluster",
        ),
        (
            "store_behind",
            "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r3+4000], %r7, [%r5];",
            "4 bytes at shared offset 4016",
            "st.async",
        ),
        (
            "store_misaligned",
            "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%r3+4], {%r7, %r7}, [%r5];",
            "is not aligned to 8 bytes",
            "st.async",
        ),
        (
            "store_without_barrier",
            "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r3], %r7, [%r5+8];",
            "At shared offset 8 no mbarrier was initialised",
            "st.async",
        ),
        ("multicast", f"{BULK} [%r6], [%a], 16, [bar], %h0;", "CTA 3 of the cluster, which has 2", "cp.async.bulk"),
        (
            "multicast_of_a_box",
            f"{BOX}.multicast::cluster [%r6], [%map, {{0, 0}}], [bar], %h0;",
            "CTA 3 of the cluster, which has 2",
            "cp.async.bulk.tensor",
        ),
        (
            "box_misaligned",
            f"{BOX} [%r6+64], [%map, {{0, 0}}], [bar];",
            "is not aligned to 128 bytes",
            "cp.async.bulk.tensor",
        ),
        ("box_behind", f"{BOX} [%r6+256], [%map, {{0, 0}}], [bar];", "are outside of", "cp.async.bulk.tensor"),
    )
    def test_in_a_cluster(self, body, words, opcode):
        """The second of two CTAs does it; the first waits for it."""
        arguments = {
            "a": Input(NUMBERS),
            "out": Output((16,), np.uint32),
            "map": TensorMap("a", "uint32", (4, 4), (16,), (4, 4)),
        }
        made = faulty(
            self.IN_A_CLUSTER + body + "\n.loc 1 80 0\nbar.warp.sync -1;",
            before=self.FIRST_WAITS,
            arguments=arguments,
            grid=2,
            cluster=2,
            dynamic_shared=256,
        )
        self.assert_reported(made, words, opcode=opcode)

    def test_tensor_of_another_rank(self):
        tensor = TensorMap("a", "uint32", (4, 4), (16,), (4, 4))
        body = "mov.u32 %r2, smem;\nmov.b32 %r1, 0;\n"
        body += "cp.async.bulk.tensor.1d.global.shared::cta.tile.bulk_group [%map, {%r1}], [%r2];"
        made = faulty(body, arguments={"a": Input(NUMBERS), "map": tensor}, dynamic_shared=128)
        self.assert_reported(
            made, "The tensor map has a rank of 2, the instruction one of 1", opcode="cp.async.bulk.tensor"
        )

    @parameterized.product(kind=("float32_ftz", "tfloat32", "tfloat32_ftz"), operation=("min", "max"))
    def test_extremes_of_rounded_types(self, kind, operation):
        tensor = TensorMap("a", kind, (4, 4), (16,), (4, 4))
        opcode = f"cp.reduce.async.bulk.tensor.2d.global.shared::cta.{operation}"
        body = f"mov.u32 %r1, 0;\nmov.u32 %r2, smem;\n{opcode}.tile.bulk_group [%map, {{%r1, %r1}}], [%r2];"
        made = faulty(body, arguments={"a": Input(NUMBERS), "map": tensor}, dynamic_shared=128)
        self.assert_reported(made, "The reduction does not exist for the type of the tensor's elements", opcode=opcode)

    def test_tensor_in_memory_that_is_gone(self):
        tensor = TensorMap("a", "uint32", (4, 5), (16,), (4, 4))
        body = "mov.u32 %r2, smem;\nmov.b32 %r1, 1;\nmbarrier.init.shared.b64 [bar], 1;\n"
        body += "fence.mbarrier_init.release.cluster;\nbar.warp.sync -1;\n"
        body += "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r2], [%map, {0, %r1}], [bar];"
        made = faulty(body, arguments={"a": Input(NUMBERS), "map": tensor}, dynamic_shared=128)
        self.assert_reported(made, "Cannot read 16 bytes", opcode="cp.async.bulk.tensor")

    @parameterized.named_parameters(
        (
            "lanes_of_a_warpgroup",
            "setp.lt.u32 %p0, %thread, 70;\n@%p0 wgmma.fence.sync.aligned;",
            "Lanes that have to",
            "wgmma",
        ),
        ("warps_of_a_warpgroup", "wgmma.fence.sync.aligned;", "fewer than four warps", "wgmma"),
        ("own_mask", "mov.b32 %r0, 0xff;\nbar.warp.sync %r0;", "own member mask does not name", "bar.warp.sync"),
        (
            "guarded",
            "setp.lt.u32 %p0, %thread, 70;\n@%p0 bar.warp.sync -1;",
            "kept from it by its guard",
            "bar.warp.sync",
        ),
        ("barrier_number", "mov.b32 %r0, 16;\nbarrier.sync %r0;", "There is no barrier 16", "barrier.sync"),
        ("barrier_count", "mov.b32 %r0, 40;\nbar.sync 1, %r0;", "cannot expect 40 threads", "bar.sync"),
        ("wait_before_arrival", "barrier.cluster.wait;", "without having arrived", "barrier.cluster.wait"),
        (
            "second_arrival",
            "barrier.cluster.arrive;\nbarrier.cluster.arrive;",
            "twice without waiting",
            "barrier.cluster.arrive",
        ),
    )
    def test_together(self, body, words, opcode):
        self.assert_reported(faulty(body), words, opcode=opcode)

    def test_barrier_told_two_counts(self):
        before = "shr.u32 %r0, %thread, 5;\nsetp.eq.u32 %p0, %r0, 0;\n@%p0 bar.arrive 3, 96;\n"
        made = faulty("barrier.sync 3, 64;", before)
        self.assert_reported(made, "Barrier 3 was told to expect 96 threads, and now 64", opcode="barrier.sync")

    def test_exited_cta(self):
        """The CTA 0 is gone when the CTA 1 reads what it had."""
        before = """
        mov.u32 %r1, box;
        st.shared.b32 [%r1], 5;
        barrier.cluster.arrive;
        barrier.cluster.wait;
        mov.u32 %r2, %cluster_ctarank;
        setp.eq.u32 %p0, %r2, 0;
        @%p0 exit;
        mov.u32 %r3, 0;
        SPIN:
        nanosleep.u32 100;
        add.u32 %r3, %r3, 1;
        setp.lt.u32 %p1, %r3, 200;
        @%p1 bra SPIN;
        mov.b32 %r4, 0;
        """
        body = "mapa.shared::cluster.u32 %r5, %r1, %r4;\nld.shared::cluster.b32 %r6, [%r5];"
        made = faulty(body, before, grid=2, cluster=2)
        self.assert_reported(
            made, "CTA 0 of the cluster, whose shared memory this is, has exited", opcode="ld.shared::cluster"
        )


@unittest.skipUnless(has_emulator(), "this build has no emulator")
class LaunchTest(ReportTest):
    def test_text_that_is_no_ptx(self):
        made = faulty("add.u32 %r0, %r1 %r2;")
        with self.assertRaisesRegex(RuntimeError, r"(?i)line \d+"):
            self.emulator.run(made)

    def test_register_that_is_not_declared(self):
        with self.assertRaisesRegex(RuntimeError, "%undeclared7"):
            self.emulator.run(faulty("add.u32 %r0, %r1, %undeclared7;"))

    def test_initial_value_that_is_nowhere(self):
        shared = ".extern .global .b32 elsewhere;\n.global .u64 table[2] = {0,\nelsewhere};\n"
        with self.assertRaisesRegex(RuntimeError, r"PTX line \d+: the initial value of 'table' names 'elsewhere'"):
            self.emulator.run(faulty("add.u32 %r0, %r1, 1;", shared=shared))

    def test_kernel_that_is_not_there(self):
        made = faulty("add.u32 %r0, %r1, 1;")
        other = Kernel(made.ptx, "another", made.arguments)
        with self.assertRaisesRegex(ValueError, "another"):
            self.emulator.run(other)

    @parameterized.named_parameters(
        ("stride", dict(strides=(24,))),
        ("rank", dict(dims=(4,) * 6, strides=(16,) * 5, box=(4,) * 6)),
        ("box", dict(box=(4, 300))),
        ("no_box", dict(box=(4, 0))),
        ("narrow", dict(box=(2, 4))),
        ("swizzle", dict(box=(16, 4), swizzle=1)),
        ("steps", dict(element_strides=(1, 9))),
        ("offset", dict(offset=8)),
        ("fill", dict(fill=1)),
        ("interleave", dict(interleave=1)),
        ("no_size", dict(dims=(0, 4))),
    )
    def test_tensor_map(self, changes):
        """The driver calls these CUDA_ERROR_INVALID_VALUE."""
        values = dict(dims=(16, 4), strides=(64,), box=(4, 4)) | changes
        made = faulty(
            "add.u32 %r0, %r1, 1;", arguments={"a": Input(NUMBERS), "map": TensorMap("a", "uint32", **values)}
        )
        with self.assertRaises(ValueError):
            self.emulator.run(made)


if __name__ == "__main__":
    unittest.main()
