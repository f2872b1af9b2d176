import jax
import jax.numpy as jnp
import numpy as np

from dbdc_jax.models.instance_norm import InstanceNorm


def test_each_sample_s_channel_has_mean_0_and_variance_1():
  """Of images and of volumes, and whatever the other samples are."""
  rng = np.random.default_rng(0)
  for shape in ((3, 6, 5, 2), (2, 4, 3, 5, 2)):
    x = rng.normal(3.0, 7.0, shape).astype(np.float32)
    out = np.asarray(jax.jit(InstanceNorm().apply)({}, x))
    axes = tuple(range(1, x.ndim - 1))
    np.testing.assert_allclose(out.mean(axes), 0, atol=1e-6)
    np.testing.assert_allclose(out.var(axes), 1, rtol=1e-4)
    x[1:] *= 9
    again = np.asarray(jax.jit(InstanceNorm().apply)({}, x))
    np.testing.assert_allclose(again[0], out[0], atol=1e-5)


def test_a_constant_is_0():
  out = InstanceNorm().apply({}, jnp.full((1, 2, 2, 1), 5.0))
  np.testing.assert_array_equal(out, 0)
