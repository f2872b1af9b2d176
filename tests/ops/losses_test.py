from arrays import jaxed
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dbdc_jax.ops import losses
from dbdc_jax.runtime import parallel

K, B, S, C = 2, 4, 5, 3


def _data(seed=0):
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(K, B, S, S, C)).astype(np.float32)
  labels = rng.integers(0, C, (K, B, S, S)).astype(np.int32)
  labels[0, :2] = 0  # Classes are spread unevenly over samples.
  return logits, labels


def _softmax(x):
  e = np.exp(x.astype(np.float64))
  return e / e.sum(-1, keepdims=True)


def test_cross_entropy_equals_the_plain_loop():
  logits, labels = _data()
  p = _softmax(logits)
  for k in range(K):
    nll = [
      -np.log(p[k][place][labels[k][place]])
      for place in np.ndindex(*labels[k].shape)
    ]
    found = jaxed(losses.cross_entropy)(logits, labels)[k]
    np.testing.assert_allclose(found, np.mean(nll), rtol=1e-5)


def test_dice_equals_the_plain_loop_and_leaves_absent_classes_out():
  logits, labels = _data()
  present = np.array([[True, True, False], [True, True, True]])
  p = _softmax(logits)
  for k in range(K):
    scores = []
    for c in np.flatnonzero(present[k]):
      g = labels[k] == c
      scores.append(
        1
        - (2 * p[k][..., c][g].sum() + 1e-5)
        / ((p[k][..., c] ** 2).sum() + g.sum() + 1e-5)
      )
    found = jaxed(losses.dice)(logits, labels, present)[k]
    np.testing.assert_allclose(found, np.mean(scores), rtol=1e-5)


def test_pooled_counts_give_the_dice_of_the_whole_epoch():
  present = np.ones((K, C), bool)
  batches = [_data(seed) for seed in range(3)]
  counts = sum(jaxed(losses.dice_counts)(*batch) for batch in batches)
  logits, labels = (np.concatenate(x, 1) for x in zip(*batches, strict=True))
  p = logits.argmax(-1)
  for k in range(K):
    scores = [
      2
      * ((p[k] == c) & (labels[k] == c)).sum()
      / ((p[k] == c).sum() + (labels[k] == c).sum())
      for c in range(1, C)
    ]
    found = jaxed(losses.pooled_dice)(counts, present)[k]
    np.testing.assert_allclose(found, np.mean(scores), rtol=1e-5)


@pytest.mark.parametrize('name', ['cross_entropy', 'dice'])
def test_devices_give_the_value_and_gradient_of_one(name):
  logits, labels = _data()
  present = jnp.ones((K, C), bool)

  def loss(x, y):
    if name == 'dice':
      return losses.dice(x, y, present).sum()
    return losses.cross_entropy(x, y).sum()

  value, gradient = jaxed(jax.value_and_grad(loss))(logits, labels)
  split = lambda a: np.moveaxis(a[:, :, None], 1, 0)  # One sample a device.
  many = jax.pmap(jax.value_and_grad(loss), parallel.AXIS)
  values, gradients = many(split(logits), split(labels))
  np.testing.assert_allclose(values, value, rtol=1e-5)
  # The transpose of a sum over devices is a sum over devices.
  joined = np.moveaxis(np.asarray(gradients)[:, :, 0], 0, 1) / 4
  np.testing.assert_allclose(joined, gradient, atol=1e-6)


def test_unsure_pixels_count_in_the_mean_alone():
  """As if their cross entropy were 0; in Dice as if they were not there."""
  logits, labels = map(jnp.asarray, _data())
  sure = jax.random.bernoulli(jax.random.key(0), 0.4, labels.shape)
  found = losses.cross_entropy(logits, labels, sure)
  dice = losses.dice(
    logits, labels, jnp.ones((K, C), bool), counted=sure[..., None]
  )
  for k in range(K):
    kept = np.asarray(sure[k])
    some, classes = logits[k][kept][None], labels[k][kept][None]
    share = kept.mean()
    whole = losses.cross_entropy(some, classes)[0]
    np.testing.assert_allclose(found[k], share * whole, rtol=1e-5)
    alone = losses.dice(some, classes, jnp.ones((1, C), bool))[0]
    np.testing.assert_allclose(dice[k], alone, rtol=1e-5)


def test_masked_mean_selects_instead_of_multiplying():
  values = jnp.array([[1.0, jnp.nan, 3.0]])
  mask = jnp.array([[True, False, True]])
  np.testing.assert_allclose(losses.masked_mean(values, mask), [2.0])
  nothing = losses.masked_mean(values, jnp.zeros((1, 3), bool))
  np.testing.assert_array_equal(nothing, [0.0])


def test_a_class_that_cannot_be_labelled_is_in_no_loss():
  """As if the network had never had it: losses, gradients and Dice."""
  labelable = np.array([[True, True, False, True], [True] * 4])
  logits = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 4))
  labels = jax.random.randint(jax.random.key(1), (2, 3, 4, 4), 0, 2)
  present = jnp.asarray(labelable)

  def loss(x):
    x = losses.only_labelable(x, labelable, jnp.arange(2))
    return losses.cross_entropy(x, labels) + losses.dice(x, labels, present)

  kept = jnp.asarray([0, 1, 3])
  plain = losses.cross_entropy(logits[:1, ..., kept], labels[:1])
  plain += losses.dice(
    logits[:1, ..., kept], labels[:1], jnp.ones((1, 3), bool)
  )
  np.testing.assert_allclose(loss(logits)[0], plain[0], rtol=1e-5)
  gradient = jax.grad(lambda x: loss(x).sum())(logits)
  assert not gradient[0, ..., 2].any() and gradient[1, ..., 2].any()
  hard = losses.only_labelable(logits, labelable, jnp.arange(2)).argmax(-1)
  assert not (hard[0] == 2).any() and (hard[1] == 2).any()


def test_complete_labels_leave_logits_alone():
  logits = jnp.ones((2, 3, 4))
  same = losses.only_labelable(logits, np.ones((2, 4), bool), jnp.arange(2))
  assert same is logits
