import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pixelwise
import pytest
from scipy import integrate, special, stats

from dbdc_jax.methods import evil

KEY = jax.random.key(5)


@pytest.mark.parametrize('alpha', [(1.0, 1.0, 1.0), (2.5, 1.2, 4.0)])
def test_divergence_is_the_integral_over_the_simplex(alpha):
  """KL[Dir(alpha) | Dir(1)], three classes, by quadrature."""
  dirichlet, even = stats.dirichlet(alpha), stats.dirichlet(np.ones(3))

  def integrand(y, x):
    p = np.array([x, y, max(1 - x - y, 0.0)])
    density = dirichlet.pdf(p / p.sum())
    return density * np.log(density / even.pdf(p / p.sum()))

  edge = 1e-9
  expected, _ = integrate.dblquad(
    integrand, edge, 1 - 2 * edge, edge, lambda x: 1 - x - edge, epsabs=1e-4
  )
  found = evil.divergence(jnp.asarray(alpha))
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_expected_cross_entropy_is_that_of_samples():
  """psi(S) - psi(alpha_y) is the mean of -ln p_y under the distribution."""
  alpha = np.array([3.0, 1.5, 2.0, 9.0])
  draws = stats.dirichlet(alpha).rvs(200_000, random_state=0)
  for y in range(4):
    found = evil.evidential_loss(jnp.asarray(alpha), jnp.arange(4) == y, 0.0)
    np.testing.assert_allclose(found, -np.log(draws[:, y]).mean(), rtol=1e-2)


def test_evidence_for_the_right_class_alone_costs_nothing():
  """The divergence sees the other classes' evidence, which is then 0."""
  limit = jnp.asarray([1e6, 1.0, 1.0])
  loss = evil.evidential_loss(limit, jnp.arange(3) == 0, 1.0)
  np.testing.assert_allclose(loss, 0, atol=1e-4)
  assert evil.evidential_loss(limit, jnp.arange(3) == 1, 1.0) > 10


@pytest.mark.parametrize('classes', [5, 8])
def test_evidence_and_uncertainty_are_bounded(classes):
  extreme = itertools.product((-1e4, 1e4), repeat=classes)
  alpha = evil.strengths(jnp.asarray(list(extreme)))
  np.testing.assert_allclose(alpha.min() - 1, np.exp(-4), rtol=1e-4)
  np.testing.assert_allclose(alpha.max() - 1, np.exp(4), rtol=1e-5)
  one_hot = evil.strengths(jnp.asarray([1e4] + [-1e4] * (classes - 1)))
  least = {5: 0.084, 8: 0.128}[classes]
  np.testing.assert_allclose(evil.uncertainty(one_hot), least, atol=5e-4)
  np.testing.assert_allclose(
    evil.beliefs(alpha).sum(-1) + evil.uncertainty(alpha), 1, rtol=1e-5
  )


def test_pixels_that_are_left_out_have_no_gradient_but_count():
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(2, 1, 4, 4, 3)), jnp.float32)
  labels = jnp.asarray(rng.integers(0, 3, (2, 1, 4, 4)))
  keep = jnp.asarray(rng.random((2, 1, 4, 4)) < 0.5)
  loss = lambda z: evil.kept_cross_entropy(z, labels, keep)
  gradient = np.asarray(jax.grad(lambda z: loss(z).sum())(logits))
  assert (gradient[~np.asarray(keep)] == 0).all()
  assert (gradient[np.asarray(keep)] != 0).all()
  for k in range(2):
    p = pixelwise.softmax(np.asarray(logits[k]))
    own = np.take_along_axis(p, np.asarray(labels[k])[..., None], -1)[..., 0]
    expected = -np.log(own)[np.asarray(keep[k])].sum() / 16
    np.testing.assert_allclose(loss(logits)[k], expected, rtol=1e-5)


def _edl(z, labels, annealing):
  """Mean EDL per modality, by SciPy, pixel by pixel."""
  out = []
  for k in range(len(z)):
    values = []
    pixels = zip(z[k].reshape(-1, z.shape[-1]), labels[k].ravel(), strict=True)
    for pixel, y in pixels:
      alpha = np.exp(np.tanh(pixel) / 0.25) + 1
      other = np.where(np.arange(len(alpha)) == y, 1.0, alpha)
      total = other.sum()
      kl = special.gammaln(total) - special.gammaln(other).sum()
      kl -= special.gammaln(len(alpha))
      kl += np.sum((other - 1) * (special.psi(other) - special.psi(total)))
      expected = special.psi(alpha.sum()) - special.psi(alpha[y])
      values.append(expected + annealing * kl)
    out.append(np.mean(values))
  return np.array(out)


def test_loss_is_that_of_a_loop(monkeypatch):
  config = pixelwise.config('evil', ssl__threshold=0.1, epochs=10)
  method, batch = pixelwise.build(monkeypatch, config), pixelwise.batch()
  params, memory = jax.jit(method.init)(jax.random.key(0))
  _, metrics, _, (_, of_memory) = pixelwise.evaluate(
    method,
    params,
    memory,
    batch,
    KEY,
    pixelwise.signals(progress=jnp.float32(0.3)),
  )
  images, labels, unlabeled, _ = pixelwise.views(config, batch, KEY)
  first, second = (
    pixelwise.passed(params[name], images, unlabeled)
    for name in ('net1', 'net2')
  )
  evidence = [np.exp(np.tanh(z) / 0.25) for z in first]
  strength = [(e + 1).sum(-1, keepdims=True) for e in evidence]
  sure = pixelwise.C / strength[1][..., 0] < 0.1
  assert 0 < sure.sum() < sure.size
  own = np.take_along_axis(
    pixelwise.softmax(second[1]), first[1].argmax(-1)[..., None], -1
  )[..., 0]
  crossed = np.where(sure, -np.log(own), 0).mean((1, 2, 3))
  belief = evidence[0] / strength[0]
  # In the third of ten epochs two are done.
  annealing = 2 * 2 / 10
  expected = {
    'sup_dice': pixelwise.dice(belief, labels, power=1) / 2,
    'sup_edl': _edl(first[0], labels, annealing) / 2,
    'sup2_ce': pixelwise.cross_entropy(second[0], labels) / 2,
    'sup2_dice': pixelwise.dice(second[0], labels, power=1) / 2,
    'cross_edl': _edl(first[1], second[1].argmax(-1), annealing),
    'cross2_ce': crossed,
  }
  assert metrics.keys() == expected.keys() | {'dice_counts'}
  for name, terms in expected.items():
    np.testing.assert_allclose(metrics[name], terms, rtol=2e-3, err_msg=name)
  assert pixelwise.largest(of_memory) == 0


def test_prediction_is_the_mean_of_the_distribution(monkeypatch):
  method = pixelwise.build(monkeypatch, pixelwise.config('evil'))
  params, memory = jax.jit(method.init)(jax.random.key(0))
  images = np.random.default_rng(0).normal(size=(1, 16, 16, 1))
  z = images * np.asarray(params['net1']['w']) + np.asarray(params['net1']['b'])
  alpha = np.exp(np.tanh(z) / 0.25) + 1
  logits = jax.jit(method.predict)(params, memory, images, np.zeros(1, int))
  np.testing.assert_allclose(
    jax.nn.softmax(logits), alpha / alpha.sum(-1, keepdims=True), rtol=1e-3
  )


def test_the_second_network_is_an_ordinary_one(monkeypatch):
  method = pixelwise.build(monkeypatch, pixelwise.config('evil'))
  params, memory = jax.jit(method.init)(jax.random.key(0))
  images = np.random.default_rng(0).normal(size=(1, 16, 16, 1))
  z = images * np.asarray(params['net2']['w']) + np.asarray(params['net2']['b'])
  logits = jax.jit(method.second)(params, memory, images, np.zeros(1, int))
  np.testing.assert_allclose(logits, z, atol=1e-4)
