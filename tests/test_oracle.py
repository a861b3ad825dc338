"""The oracle against first principles: finite differences, and another library's e4m3."""

import ml_dtypes
import numpy as np
import oracle
from absl.testing import parameterized


def difference(f, x, step=1e-6):
    """Central differences of a scalar function of an array."""
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        gradient[i] = (f(up) - f(down)) / (2 * step)
    return gradient


class OracleTest(parameterized.TestCase):
    @parameterized.parameters(None, 0.7, -np.inf)
    def test_row_gradient(self, sink):
        rng = np.random.default_rng(0)
        q, keys, values = rng.standard_normal(5), rng.standard_normal((4, 5)), rng.standard_normal((4, 3))
        d_out, d_lse, scale = rng.standard_normal(3), rng.standard_normal(), 0.6

        def loss(q=q, keys=keys, values=values, sink=sink):
            out, _, lse = oracle.attend_row(q, keys, values, scale, sink)
            return out @ d_out + lse * d_lse

        d_q, d_keys, d_values, d_sink = oracle.attend_row_gradient(q, keys, values, scale, sink, d_out, d_lse)
        np.testing.assert_allclose(d_q, difference(lambda x: loss(q=x), q), atol=1e-8)
        np.testing.assert_allclose(d_keys, difference(lambda x: loss(keys=x), keys), atol=1e-8)
        np.testing.assert_allclose(d_values, difference(lambda x: loss(values=x), values), atol=1e-8)
        if sink is not None and np.isfinite(sink):
            np.testing.assert_allclose(d_sink, difference(lambda x: loss(sink=x[()]), np.array(sink)), atol=1e-8)

    def test_infinite_sinks(self):
        rng = np.random.default_rng(1)
        row = rng.standard_normal(5), rng.standard_normal((4, 5)), rng.standard_normal((4, 3)), 0.6
        np.testing.assert_array_equal(oracle.attend_row(*row, np.inf)[0], 0)
        np.testing.assert_array_equal(oracle.attend_row(*row, -np.inf)[0], oracle.attend_row(*row)[0])

    def test_e4m3(self):
        codes = np.arange(256, dtype=np.uint8)
        np.testing.assert_array_equal(oracle.E4M3, codes.view(ml_dtypes.float8_e4m3fn).astype(np.float64))

    def test_rounding_to_e4m3(self):
        finite = oracle.E4M3[:127]
        middles = (finite[1:] + finite[:-1]) / 2
        near = [np.nextafter(middles.astype(np.float32), np.float32(side)) for side in (-1000, 1000)]
        x = np.concatenate([finite, middles, *near]).astype(np.float32)
        x = np.concatenate([x, -x])
        np.testing.assert_array_equal(oracle._nearest_e4m3(x), x.astype(ml_dtypes.float8_e4m3fn).view(np.uint8))
