import jax
import jax.numpy as jnp
import numpy as np
import pixelwise
import pytest

from dbdc_jax.methods import ict
from dbdc_jax.runtime import parallel

KEY = jax.random.key(5)


def test_neighbours_are_mixed_by_their_share():
  x = np.random.default_rng(0).normal(size=(2, 6, 3, 3, 1)).astype(np.float32)
  share = np.random.default_rng(1).uniform(size=(2, 3)).astype(np.float32)
  mixed = ict.mix(jnp.asarray(x), jnp.asarray(share))
  for k in range(2):
    for i in range(3):
      s = share[k, i]
      expected = (1 - s) * x[k, 2 * i] + s * x[k, 2 * i + 1]
      np.testing.assert_allclose(mixed[k, i], expected, rtol=1e-5, atol=1e-6)


def test_shares_have_the_moments_of_beta():
  """Mean 1/2 and variance 1 / (4 (2 a + 1)), for a = 0.2."""
  keys = jax.random.split(KEY, (1, 4000))
  found = np.asarray(jax.jit(lambda k: ict.shares(k, 0.2))(keys))
  assert found.shape == (1, 2000)
  assert (found >= 0).all() and (found <= 1).all()
  # Five standard errors.
  assert abs(found.mean() - 0.5) < 5 * np.sqrt(1 / 5.6 / 2000)
  assert abs(found.var() - 1 / 5.6) < 0.015


def test_an_odd_number_of_slices_is_refused_twice():
  """Before a run by the loop, and by the loss whoever calls it."""
  keys = jax.random.split(KEY, (2, 3))
  with pytest.raises(ValueError, match='multiple of twice the number'):
    ict.shares(keys, 0.2)
  multiple = ict.build(pixelwise.config('ict')).traits.multiple
  parallel.check_batch(8, multiple)
  with pytest.raises(ValueError, match=r'in groups of 2: .* is 8 '):
    parallel.check_batch(6, multiple)


def test_loss_is_that_of_a_loop(monkeypatch):
  """Student on labelled slices and mixtures, teacher on slices alone."""
  config, batch = pixelwise.config('ict'), pixelwise.batch()
  method = pixelwise.build(monkeypatch, config)
  init = jax.jit(method.init)
  params, memory = init(jax.random.key(0))
  memory['teacher'], _ = init(jax.random.key(1))
  _, metrics, _, (_, of_memory) = pixelwise.evaluate(
    method, params, memory, batch, KEY, pixelwise.signals()
  )
  images, labels, unlabeled, keys = pixelwise.views(config, batch, KEY)
  share = np.asarray(ict.shares(keys, 0.2), float)[..., None, None, None]
  blend = lambda x: (1 - share) * x[:, ::2] + share * x[:, 1::2]
  logits, student = pixelwise.passed(params, images, blend(unlabeled))
  (answers,) = pixelwise.passed(memory['teacher'], unlabeled)
  squares = (
    pixelwise.softmax(student) - blend(pixelwise.softmax(answers))
  ) ** 2
  for k in range(pixelwise.K):
    np.testing.assert_allclose(
      metrics['consistency'][k], squares[k].mean(), rtol=1e-3
    )
  np.testing.assert_allclose(
    metrics['sup_ce'], pixelwise.cross_entropy(logits, labels) / 2, rtol=1e-4
  )
  assert pixelwise.largest(of_memory) == 0
