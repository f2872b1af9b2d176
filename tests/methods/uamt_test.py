import jax
import jax.numpy as jnp
import numpy as np
import pixelwise
import pytest

from dbdc_jax.methods import uamt
from dbdc_jax.ops import teacher

KEY = jax.random.key(5)


@pytest.mark.parametrize('classes', [2, 5, 8])
def test_entropy_is_largest_where_all_classes_are_alike(classes):
  """0 for one class, ln C for all: the mask's unit is that of C classes."""
  even, one = np.full(classes, 1 / classes), np.eye(classes)[0]
  found = uamt.entropy(jnp.asarray([one, even]))
  np.testing.assert_allclose(found, [0, np.log(classes)], atol=1e-4)


@pytest.mark.parametrize('classes', [2, 8])
def test_threshold_rises_from_three_quarters_to_all_of_ln_c(classes):
  for progress in (0.0, 0.5, 1.0):
    share = 0.75 + 0.25 * np.exp(-5 * (1 - progress) ** 2)
    # Distributions between one class and all alike, and their entropies.
    t = np.linspace(0, 1, 400)[:, None]
    p = (1 - t) * np.eye(classes)[0] + t / classes
    entropy = -np.sum(p * np.log(p + 1e-6), -1)
    expected = entropy < share * np.log(classes)
    found = uamt.certain(jnp.asarray(p), jnp.float32(progress))
    # Rounding may decide at the threshold itself.
    assert np.sum(np.asarray(found) != expected) <= 1
    assert 0 < expected.sum() <= 400


def test_loss_is_that_of_a_loop(monkeypatch):
  """Only certain pixels count, and they are divided by their number and C."""
  config = pixelwise.config('uamt', ssl__passes=3, ssl__noise=0.4)
  method, batch = pixelwise.build(monkeypatch, config), pixelwise.batch()
  init = jax.jit(method.init)
  params, memory = init(jax.random.key(0))
  memory['teacher'], _ = init(jax.random.key(1))
  _, metrics, _, (_, of_memory) = pixelwise.evaluate(
    method,
    params,
    memory,
    batch,
    KEY,
    pixelwise.signals(progress=jnp.float32(0.3)),
  )
  images, _, unlabeled, keys = pixelwise.views(config, batch, KEY)
  answers = []
  for number in range(4):
    noisy = teacher.noisy(jnp.asarray(unlabeled), keys, 0.4, number)
    (logits,) = pixelwise.passed(memory['teacher'], np.asarray(noisy))
    answers.append(pixelwise.softmax(logits))
  mean = np.mean(answers[1:], 0)
  entropy = -np.sum(mean * np.log(mean + 1e-6), -1)
  limit = 0.75 + 0.25 * np.exp(-5 * 0.7**2)
  mask = entropy < limit * np.log(pixelwise.C)
  _, student = pixelwise.passed(params, images, unlabeled)
  squares = (pixelwise.softmax(student) - answers[0]) ** 2
  for k in range(pixelwise.K):
    # Both kinds of pixels are there, or the mask would not be seen.
    assert 0 < mask[k].sum() < mask[k].size
    expected = squares[k][mask[k]].sum() / (pixelwise.C * mask[k].sum())
    np.testing.assert_allclose(metrics['consistency'][k], expected, rtol=1e-3)
  assert pixelwise.largest(of_memory) == 0
