import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dbdc_jax.models import fit
from dbdc_jax.models.unet import UNet

K, SIDE = 2, 16


@pytest.fixture(scope='module')
def network():
  net = UNet(num_classes=3, num_modalities=K, width=2)
  images = jax.random.uniform(jax.random.key(1), (8, SIDE, SIDE, 1))
  ids = jnp.zeros(8, jnp.int32)
  variables = net.init(jax.random.key(0), images, ids, False)
  # Modality 0 has seen these images often enough to know them.
  step = jax.jit(
    lambda v: net.apply(v, images, ids, True, mutable=['modulation'])[1]
  )
  for _ in range(400):
    variables = {**variables, **step(variables)}
  gap = jax.jit(lambda x, m: fit.statistics_gap(net, variables, x, m))
  return net, variables, images, gap


def test_outputs_are_the_networks(network):
  net, variables, images, gap = network
  ids = jnp.zeros(8, jnp.int32)
  logits, taps, _ = gap(images, ids)
  plain = net.apply(variables, images, ids, False)
  np.testing.assert_allclose(logits, plain, rtol=1e-5, atol=1e-5)
  assert [t.shape[1] for t in taps] == [SIDE // 4, SIDE // 2, SIDE]


def test_the_gap_is_small_where_the_bank_knows_the_images(network):
  """And grows with what is done to them; another row does not know them."""
  _, _, images, gap = network
  ids = jnp.zeros(8, jnp.int32)
  known = float(gap(images, ids)[2])
  assert abs(known) < 0.01  # Rounding may take it below 0.
  dark = float(gap(0.3 * images, ids)[2])
  inverted = float(gap(1 - images**4, ids)[2])
  assert dark > 0.1 and inverted > 0.1
  assert float(gap(images, ids + 1)[2]) > 0.1


@pytest.mark.parametrize(
  'numbers', [(0.0, 1.0, 0.0, 1.0), (0.3, 0.5, -0.2, 1.5), (1.0, 2.0, 0.0, 0.7)]
)
def test_divergence_is_the_integral(numbers):
  mean, var, known_mean, known_var = numbers
  p = scipy.stats.norm(mean, var**0.5)
  q = scipy.stats.norm(known_mean, known_var**0.5)
  x = np.linspace(mean - 12, mean + 12, 20001)
  slow = np.trapezoid(p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), x)
  fast = fit.normal_divergence(*map(jnp.float32, numbers))
  np.testing.assert_allclose(fast, slow, atol=1e-4)


def test_similarity_is_the_mean_over_foreground_pixels():
  rng = np.random.default_rng(0)
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  embeddings = unit(rng.normal(size=(2, 3, 4, 5))).astype(np.float32)
  bank = unit(rng.normal(size=(3, 5))).astype(np.float32)
  classes = rng.integers(0, 3, (2, 3, 4))
  slow = [
    embeddings[at] @ bank[classes[at]] for at in np.argwhere(classes).tolist()
    for at in [tuple(at)]
  ]  # fmt: skip
  found = fit.prototype_similarity(embeddings, jnp.asarray(classes), bank)
  np.testing.assert_allclose(found, np.mean(slow), rtol=1e-5)
  nothing = jnp.zeros_like(jnp.asarray(classes))
  assert fit.prototype_similarity(embeddings, nothing, bank) == -1
