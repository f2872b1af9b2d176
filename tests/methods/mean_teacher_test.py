import jax
import jax.numpy as jnp
import numpy as np
import pixelwise
import pytest

from dbdc_jax.ops import teacher

KEY = jax.random.key(5)


@pytest.fixture
def method(monkeypatch):
  return pixelwise.build(monkeypatch, pixelwise.config('mean_teacher'))


def _start(method):
  """A teacher that differs from its student."""
  init = jax.jit(method.init)
  params, memory = init(jax.random.key(0))
  other, _ = init(jax.random.key(1))
  return params, {**memory, 'teacher': other}


def test_loss_is_that_of_a_loop(method):
  """Student on everything in one pass, teacher on noisy slices in another."""
  config, batch = pixelwise.config('mean_teacher'), pixelwise.batch()
  params, memory = _start(method)
  signals = pixelwise.signals()
  value, metrics, new, (_, of_memory) = pixelwise.evaluate(
    method, params, memory, batch, KEY, signals
  )
  images, labels, unlabeled, keys = pixelwise.views(config, batch, KEY)
  noisy = np.asarray(teacher.noisy(jnp.asarray(unlabeled), keys, 0.1))
  logits, student = pixelwise.passed(params, images, unlabeled)
  (target,) = pixelwise.passed(memory['teacher'], noisy)
  expected = {
    'sup_ce': pixelwise.cross_entropy(logits, labels) / 2,
    'sup_dice': pixelwise.dice(logits, labels) / 2,
    'consistency': np.array(
      [
        np.mean((pixelwise.softmax(s) - pixelwise.softmax(t)) ** 2)
        for s, t in zip(student, target, strict=True)
      ]
    ),
  }
  for name, terms in expected.items():
    np.testing.assert_allclose(metrics[name], terms, rtol=1e-4)
  total = expected['sup_ce'] + expected['sup_dice']
  total += 0.1 * 0.5 * expected['consistency']
  np.testing.assert_allclose(value, total.sum(), rtol=1e-4)
  # Neither the teacher nor the statistics are a way for the gradient.
  assert pixelwise.largest(of_memory) == 0
  assert set(new) == {'modulation', 'teacher', 'updates'}


def test_noise_is_cut_off_and_the_sample_s_own():
  keys = jax.random.split(KEY, (2, 3))
  zeros = jnp.zeros((2, 3, 32, 32, 1))
  noise = np.asarray(teacher.noisy(zeros, keys, 0.1))
  assert np.abs(noise).max() == np.float32(0.2)
  assert 0.08 < noise.std() < 0.1
  alone = teacher.noisy(zeros[1:, 2:], keys[1:, 2:], 0.1)
  np.testing.assert_array_equal(alone[0, 0], noise[1, 2])
  assert np.abs(teacher.noisy(zeros, keys, 0.1, 1) - noise).max() > 0


@pytest.mark.parametrize(('recipe', 'active'), [('dbdc', True), ('own', False)])
def test_supervised_epochs(monkeypatch, recipe, active):
  """Own: off in the first thirtieth of the run, whatever the warm-up says."""
  config = pixelwise.config('mean_teacher', recipe=recipe)
  method = pixelwise.build(monkeypatch, config)
  params, memory = _start(method)

  def consistency(**fields):
    _, metrics, _, _ = pixelwise.evaluate(
      method,
      params,
      memory,
      pixelwise.batch(),
      KEY,
      pixelwise.signals(**fields),
    )
    return np.asarray(metrics['consistency'])

  on = {'active': jnp.asarray(active), 'progress': jnp.float32(0.04)}
  assert consistency(**on).all()
  off = {'active': jnp.asarray(not active), 'progress': jnp.float32(0.03)}
  assert not consistency(**off).any()
