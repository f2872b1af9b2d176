import jax
import jax.numpy as jnp
import numpy as np

from dbdc_jax.models.blocks import Doubling


def test_doubling_is_a_transposed_convolution():
  """Each pixel leaves a 2 x 2 square of its own."""
  x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
  layer = Doubling(2, jnp.float32)
  variables = layer.init(jax.random.key(0), jnp.asarray(x))
  kernel = np.asarray(variables['params']['kernel'])
  variables['params']['bias'] = jnp.array([1.0, 2.0])
  expected = np.zeros((2, 6, 8, 2))
  for n, r, c in np.ndindex(2, 3, 4):
    for a, b in np.ndindex(2, 2):
      expected[n, 2 * r + a, 2 * c + b] = x[n, r, c] @ kernel[a, b] + [1, 2]
  found = layer.apply(variables, jnp.asarray(x))
  np.testing.assert_allclose(found, expected, atol=1e-5)
