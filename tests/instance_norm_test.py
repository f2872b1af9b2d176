import jax.numpy as jnp
import numpy as np

from dbdc_jax.models.instance_norm import InstanceNorm


def test_each_channel_of_each_sample_has_mean_0_and_variance_1():
  rng = np.random.default_rng(0)
  x = 5 + 3 * rng.normal(size=(2, 7, 8, 3))
  found = np.asarray(InstanceNorm().apply({}, jnp.asarray(x)))
  for n, c in np.ndindex(2, 3):
    mine = x[n, ..., c]
    expected = (mine - mine.mean()) / np.sqrt(mine.var() + 1e-5)
    np.testing.assert_allclose(found[n, ..., c], expected, atol=1e-5)


def test_of_volumes_too_and_of_one_value():
  x = np.random.default_rng(0).normal(size=(1, 2, 3, 4, 2))
  found = InstanceNorm().apply({}, jnp.asarray(x))
  np.testing.assert_allclose(found.mean((1, 2, 3)), 0, atol=1e-6)
  one = InstanceNorm().apply({}, jnp.full((2, 1, 1, 3), 7.0))
  np.testing.assert_array_equal(one, 0)
