import jax
import jax.numpy as jnp
import numpy as np
import pixelwise

from dbdc_jax.methods.common import co_training


def divergence(z, w):
  """Symmetric, pixel by pixel."""
  p, q = (pixelwise.softmax(x).reshape(-1, x.shape[-1]) for x in (z, w))
  pairs = zip(p, q, strict=True)
  both = [
    np.sum(a * np.log(a / b)) / 2 + np.sum(b * np.log(b / a)) / 2
    for a, b in pairs
  ]
  return np.mean(both)


def sorted_share(z, share):
  """Which pixels the most confident share of each class is, by sorting."""
  p = pixelwise.softmax(z)
  labels, best = p.argmax(-1), p.max(-1)
  kept = np.zeros(labels.shape, bool)
  for c in range(z.shape[-1]):
    mine = np.sort(best[labels == c])[::-1]
    if len(mine):
      limit = mine[int(np.ceil(share * len(mine))) - 1]
      kept |= (labels == c) & (best >= limit)
  return labels, kept


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
      _, wanted = sorted_share(z[k], share)
      assert (kept[k] >= wanted).all()
      # Ties of a step: few.
      assert kept[k].sum() <= wanted.sum() + 0.02 * wanted.size


def test_divergence_is_0_of_equals_and_never_negative():
  z, w = np.random.default_rng(0).normal(size=(2, 5, 4))
  same, found = (co_training.symmetric_divergence(z, x) for x in (z, w))
  np.testing.assert_array_equal(same, 0)
  assert (np.asarray(found) > 0).all()
  np.testing.assert_allclose(
    np.mean(found), divergence(z[None], w[None]), rtol=1e-5
  )
