"""Matrix products with float32 accuracy."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from base import OperationTest
from operations import normal

from jax_flash_mla.reference import products

EQUATION = "xmk,xkn->xmn"


class ProductTest(OperationTest):
    __test__ = True

    def operands(self, x_dtype, y_dtype):
        rng = np.random.default_rng(0)
        size = jnp.asarray(2.0 ** rng.integers(-20, 20, (3, 5, 1)), jnp.float32)
        x = (normal(rng, (3, 5, 70), jnp.float32) * size).astype(x_dtype)
        return x, normal(rng, (3, 70, 4), jnp.float32).astype(y_dtype)

    def check(self, got, x, y):
        """Within the rounding of float32 sums, row by row: rows differ by 2^40 in size."""
        x, y = (np.asarray(v).astype(np.float64) for v in (x, y))
        bound = np.einsum(EQUATION, np.abs(x), np.abs(y))
        error = np.abs(np.asarray(got).astype(np.float64) - np.einsum(EQUATION, x, y))
        self.assertLess((error / bound).max(), 1e-6)
        self.assertEqual(got.dtype, jnp.float32)

    @parameterized.product(
        x_dtype=(jnp.float32, jnp.bfloat16, jnp.float16), y_dtype=(jnp.float32, jnp.bfloat16, jnp.float16)
    )
    def test_every_pair_of_dtypes(self, x_dtype, y_dtype):
        x, y = self.operands(x_dtype, y_dtype)
        if x_dtype == jnp.float16:
            x = jnp.clip(x, -1000, 1000)
        self.check(jax.jit(lambda x, y: products.product(EQUATION, x, y))(x, y), x, y)

    def test_three_parts_hold_all_bits(self):
        x, y = self.operands(jnp.float32, jnp.bfloat16)
        self.check(jax.jit(lambda x, y: products._in_three_parts(EQUATION, x, y))(x, y), x, y)
        # One column at a time nothing is summed: the product is that of float32.
        one = jnp.ones((3, 70, 1), jnp.bfloat16)
        columns = jax.jit(lambda x, y: products._in_three_parts("xmk,xkn->xmkn", x, y))(x, one)
        np.testing.assert_array_equal(columns[..., 0], x)
