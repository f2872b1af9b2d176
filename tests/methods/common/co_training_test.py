from arrays import jaxed
import jax
import jax.numpy as jnp
import numpy as np
import pixelwise

from dbdc_jax.methods.common import co_training


def test_of_each_class_the_most_confident_are_kept():
  """At least the share, and every pixel that is surer than a kept one."""
  rng = np.random.default_rng(1)
  z = rng.normal(size=(2, 3, 20, 20, 4)).astype(np.float32) * 4
  z[..., 0] += 8  # A class that is sure, and large.
  labels = z.argmax(-1)
  for share in (0.2, 0.8, 1.0):
    kept = np.asarray(
      jax.jit(co_training.confident)(z, labels, jnp.float32(share))
    )
    for k in range(2):
      _, wanted = pixelwise.sorted_share(z[k], share)
      assert (kept[k] >= wanted).all()
      # Ties of a step: few.
      assert kept[k].sum() <= wanted.sum() + 0.02 * wanted.size


def test_divergence_is_0_of_equals_and_never_negative():
  z, w = np.random.default_rng(0).normal(size=(2, 5, 4))
  same, found = (jaxed(co_training.symmetric_divergence)(z, x) for x in (z, w))
  np.testing.assert_array_equal(same, 0)
  assert (np.asarray(found) > 0).all()
  np.testing.assert_allclose(
    np.mean(found), pixelwise.divergence(z[None], w[None]), rtol=1e-5
  )
