"""The schedule of a decode step: what it says adds up."""

import jax
import numpy as np
from absl.testing import parameterized
from operations import int32

import jax_flash_mla as fm
from jax_flash_mla import _support

PARTS = _support.SIZES["dense_decode"]["max_ctas"]
TILE_ROWS = _support.SIZES["dense_decode"]["tile_rows"]


def units_of(length):
    return -(-max(0, int(length)) // 64)


def splits_of(units, tiles):
    """Deals the units out one by one and counts the parts that touch each request."""
    per_part = max(1, -(-int(units.sum()) // max(1, PARTS // tiles)))
    starts = np.cumsum(units) - units
    touched = [len({unit // per_part for unit in range(s, s + n)}) or 1 for s, n in zip(starts, units)]
    return np.concatenate([[0], np.cumsum(touched)])


class MetadataTest(parameterized.TestCase):
    @parameterized.parameters((1, 1), (128, 1), (16, 2), (1000, 8))
    def test_dense(self, rows, heads):
        rng = np.random.default_rng(rows)
        lengths = np.concatenate([rng.integers(0, 20_000, 37), [0, 1, 63, 64, 65, -5]]).astype(np.int32)
        metadata, num_splits = jax.jit(fm.get_mla_metadata, static_argnums=(1, 2))(int32(lengths), rows, heads)
        self.assertEqual((metadata.shape, num_splits.shape), ((43, 2), (44,)))
        self.assertEqual((metadata.dtype, num_splits.dtype), (np.int32, np.int32))
        units = np.array([units_of(x) for x in lengths])
        np.testing.assert_array_equal(metadata[:, 0], lengths)
        np.testing.assert_array_equal(metadata[:, 1], np.cumsum(units) - units)

        np.testing.assert_array_equal(num_splits, splits_of(units, -(-rows // TILE_ROWS) * heads))

    def test_sparse(self):
        metadata, num_splits = fm.get_mla_metadata(int32([5, 90, 3]), 2 * 128, 1, 128, is_fp8_kvcache=True, topk=2048)
        np.testing.assert_array_equal(metadata, [[5, 0], [90, 32], [3, 64]])
        # Two query tokens of 128 rows each, and 2048 keys for each request.
        np.testing.assert_array_equal(num_splits, splits_of(np.full(3, 32), 2 * -(-128 // TILE_ROWS)))

    def test_no_requests(self):
        metadata, num_splits = fm.get_mla_metadata(int32([]), 16, 1)
        self.assertEqual((metadata.shape, num_splits.tolist()), ((0, 2), [0]))

    def test_usable_under_vmap_and_inside_a_step(self):
        lengths = int32(np.arange(12).reshape(3, 4) * 70)
        batched = jax.vmap(lambda x: fm.get_mla_metadata(x, 16, 1))(lengths)
        for i in range(3):
            for got, want in zip(batched, fm.get_mla_metadata(lengths[i], 16, 1)):
                np.testing.assert_array_equal(got[i], want)
