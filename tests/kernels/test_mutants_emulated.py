"""Whether the emulator misses each instruction of the kernels that orders something."""

import collections
import json
import unittest

from jax_flash_mla import _ffi, _support
from kernels import mutants

# Of each.
KINDS = (*("mbarrier.arrive", "mbarrier.try_wait", "fence.proxy.async", "fence.mbarrier_init"),)
WGMMA = ("wgmma.fence", "wgmma.commit_group", "wgmma.wait_group", "barrier.sync")
TCGEN05 = ("tcgen05.commit", "tcgen05.wait::st", "tcgen05.wait::ld", "tcgen05.fence")
BLOCK, CLUSTER = "bar.sync", "barrier.cluster.arrive"
BOXES, COPIES, WARPS = "mbarrier.arrive.expect_tx", "cp.async.mbarrier.arrive", "bar.warp.sync"


class MutantsTest(unittest.TestCase):
    """Tests of a kernel."""

    __test__ = False
    target: mutants.Target
    name: str  # as its instructions have it
    kinds: tuple[str, ...]  # of instructions that it has besides
    products: tuple[str, ...] = WGMMA  # and for its matrix products

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.caught = mutants.all_caught_by(cls.target)

    def test_each_is_missed_or_known_to_be_harmless(self):
        survivors = collections.Counter(site.key for site, by in self.caught.items() if not by)
        summary = collections.Counter(by or "nothing" for by in self.caught.values())
        print(f"{len(self.caught)} instructions left out, caught by:")
        for by, count in summary.most_common():
            print(f"  {count:3} {by}")
        listed = mutants.harmless(self.name)
        self.assertEqual(survivors - listed, {}, "left out, these make no difference")
        self.assertEqual(listed - survivors, {}, "these are listed as harmless, but are missed or are no longer there")

    def test_known_by_their_subject(self):
        """Reports are about what they should be about, none about the emulator itself."""
        known = {"", "wrong results", *mutants.SUBJECTS.values()}
        self.assertEqual({by for by in self.caught.values() if by not in known}, set())

    def test_all_kinds_are_there(self):
        opcodes = " ".join(site.opcode for site in self.caught)
        for kind in KINDS + self.kinds + self.products:
            self.assertIn(kind, opcodes)


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class DenseDecodeMutantsTest(MutantsTest):
    __test__ = True
    target, name, kinds = mutants.DENSE_DECODE, "dense_decode_kernel", (BLOCK, BOXES, COPIES, WARPS)


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class SparseDecodeMutantsTest(MutantsTest):
    __test__ = True
    target, name, kinds = mutants.SPARSE_DECODE, "sparse_decode_kernel", (BLOCK, COPIES, WARPS, "cp.async.wait_all")


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class SparseDecodePairsMutantsTest(MutantsTest):
    __test__ = True
    target, name = mutants.SPARSE_DECODE_PAIRS, "sparse_decode_kernel of pairs"
    kinds = (CLUSTER, BOXES, COPIES, WARPS, "cp.async.wait_all", "mbarrier.arrive.shared::cluster")


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class SparsePrefillMutantsTest(MutantsTest):
    __test__ = True
    target, name, kinds = mutants.SPARSE_PREFILL, "sparse_prefill_kernel", (BLOCK, COPIES)


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class SparseBackwardMutantsTest(MutantsTest):
    __test__ = True
    target, name, kinds = mutants.SPARSE_BACKWARD, "sparse_backward_kernel", (BLOCK, COPIES)


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class OrderedSparseBackwardMutantsTest(MutantsTest):
    __test__ = True
    target, name, kinds = mutants.ORDERED_SPARSE_BACKWARD, "sparse_backward_kernel", (COPIES,)


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class MhaForwardMutantsTest(MutantsTest):
    __test__ = True
    target, name, kinds = mutants.MHA_FORWARD, "mha_forward_kernel", (BLOCK, BOXES, WARPS)


@unittest.skipUnless(
    _ffi.EMULATOR and "sm100" in _support.KERNELS["mha"], "this build has no emulator, or no kernels for sm100"
)
class MhaForwardSm100MutantsTest(MutantsTest):
    __test__ = True
    target, name, kinds = mutants.MHA_FORWARD_SM100, "mha_forward_kernel on SM100", (BLOCK, BOXES, WARPS)
    products = TCGEN05


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class MhaBackwardMutantsTest(MutantsTest):
    __test__ = True
    target, name = mutants.MHA_BACKWARD, "mha_backward_kernel"
    kinds = (BLOCK, BOXES, WARPS, "cp.async.bulk.commit_group", "cp.async.bulk.wait_group")


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class MhaBackward128MutantsTest(MutantsTest):
    __test__ = True
    target, name = mutants.MHA_BACKWARD_128, "mha_backward_kernel of 128 dimensions"
    kinds = MhaBackwardMutantsTest.kinds


@unittest.skipUnless(_ffi.EMULATOR, "this build has no emulator")
class KernelsTest(unittest.TestCase):
    def test_every_kernel_that_orders_anything_has_mutants(self):
        """Of those that are instances of the same template, one has."""
        with_mutants = {test.name for test in MutantsTest.__subclasses__()}
        kernels = {site.key[0] for site in mutants.sites("")}
        self.assertEqual(kernels - with_mutants, set())


class HarmlessTest(unittest.TestCase):
    def test_reasons(self):
        for entry in json.loads(mutants.HARMLESS.read_text()):
            self.assertEqual(set(entry), {"kernel", "opcode", "source", "count", "why"})
            self.assertGreater(len(entry["why"].split()), 5)


if __name__ == "__main__":
    unittest.main()
