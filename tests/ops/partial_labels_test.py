"""Against pixel by pixel references, and what nobody drew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.task import UNKNOWN
from dbdc_jax.ops import losses, partial_labels

K, B, SIDE, C = 2, 3, 5, 4


def _case(seed=0):
  """Logits, labels and what was drawn: one slice wholly, others in part."""
  rng = np.random.default_rng(seed)
  drawn = np.array(
    [
      [[1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 1, 1]],
      [[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]],
    ],
    bool,
  )
  labels = rng.integers(0, C, (K, B, SIDE, SIDE))
  # What was not drawn is not in the label map.
  there = np.take_along_axis(drawn, labels.reshape(K, B, -1), -1)
  labels = np.where(there.reshape(labels.shape), labels, 0)
  labels[rng.random(labels.shape) < 0.2] = UNKNOWN
  logits = rng.normal(0, 2, (*labels.shape, C)).astype(np.float32)
  return logits, labels.astype(np.int32), drawn


def test_what_is_unknown_is_what_label_maps_say():
  assert partial_labels.UNKNOWN == UNKNOWN


def _on_device(*arrays):
  return tuple(map(jnp.asarray, arrays))


def _sets(labels, drawn):
  """Pixel by pixel, which classes it may be."""
  out = np.zeros((*labels.shape, C), bool)
  for k, b, r, c in np.ndindex(labels.shape):
    label, asked = labels[k, b, r, c], drawn[k, b]
    if label == UNKNOWN:
      out[k, b, r, c] = True
    elif label == 0:
      out[k, b, r, c] = [True, *~asked[1:]]
    else:
      out[k, b, r, c, label] = True
  return out


def test_the_loss_is_of_what_a_pixel_may_be():
  logits, labels, drawn = _case()
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  surprise = -np.log((p * _sets(labels, drawn)).sum(-1))
  expected = [surprise[k][labels[k] != UNKNOWN].mean() for k in range(K)]
  found = partial_labels.cross_entropy(*_on_device(logits, labels, drawn))
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  np.testing.assert_array_equal(
    partial_labels.possible(*_on_device(labels, drawn)), _sets(labels, drawn)
  )


def test_where_all_was_drawn_it_is_cross_entropy():
  logits, labels, _ = _on_device(*_case())
  labels = labels % C
  everything = jnp.ones((K, B, C), bool)
  np.testing.assert_allclose(
    partial_labels.cross_entropy(logits, labels, everything),
    losses.cross_entropy(logits, labels),
    rtol=1e-6,
  )
  assert partial_labels.known(labels, everything).all()
  assert partial_labels.judged(labels, everything).all()


def _loss(logits, labels, drawn, present):
  asked = partial_labels.asked(logits, drawn, present)
  told = partial_labels.judged(labels, drawn)
  seen = partial_labels.seen(present, told)
  dice = losses.dice(asked, labels, seen, counted=told)
  return (partial_labels.cross_entropy(asked, labels, drawn) + dice).sum()


def test_what_nobody_drew_has_exactly_no_gradient():
  """A pixel, and a class in all scans of a modality; all else has some."""
  logits, labels, drawn = _on_device(*_case())
  drawn = drawn.at[0, :, 3].set(False).at[0, 0, 0].set(False)
  labels = labels.at[0].set(jnp.where(labels[0] == 3, 0, labels[0]))
  present = jnp.array([[True, True, True, False], [True] * C])
  gradient = np.asarray(jax.grad(_loss)(logits, labels, drawn, present))
  unseen = np.asarray(labels == UNKNOWN)
  np.testing.assert_array_equal(gradient[unseen], 0)
  np.testing.assert_array_equal(gradient[0, ..., 3], 0)
  assert (gradient[0][~unseen[0]][:, :3] != 0).all()
  assert (gradient[1][~unseen[1]] != 0).all()


def test_what_a_pixel_may_be_is_one():
  """How it is shared out among the classes changes nothing."""
  labels = jnp.zeros((1, 1, 1, 1), jnp.int32)
  drawn = jnp.array([[[False, True, False, False]]])
  loss = lambda x: partial_labels.cross_entropy(x, labels, drawn).sum()
  gradient = jax.grad(loss)(jnp.zeros((1, 1, 1, 1, C))).ravel()
  np.testing.assert_allclose(gradient, [-1 / 12, 1 / 4, -1 / 12, -1 / 12], 1e-6)
  shares = ([0.3, 0.4, 0.2, 0.1], [0.1, 0.4, 0.05, 0.45])
  first, second = (
    loss(jnp.log(jnp.array(p)).reshape(1, 1, 1, 1, C)) for p in shares
  )
  np.testing.assert_allclose(first, -np.log(0.6), rtol=1e-6)
  np.testing.assert_allclose(first, second, rtol=1e-6)
  assert not partial_labels.known(labels, drawn).any()


@pytest.mark.parametrize('linear', [False, True])
def test_dice_of_a_class_is_of_the_slices_that_it_was_drawn_in(linear):
  logits, labels, drawn = _case()
  told = np.asarray(partial_labels.judged(*_on_device(labels, drawn)))
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  g = np.eye(C + 1, dtype=bool)[np.minimum(labels, C)][..., :C]
  expected = []
  for k in range(K):
    terms = []
    for c in range(C):
      here = told[k, ..., c]
      if here.any():
        mine, its = p[k, ..., c][here], g[k, ..., c][here]
        size = (mine if linear else mine**2).sum() + its.sum()
        both = (mine * its).sum()
        epsilon = losses.DICE_EPSILON
        terms.append(1 - (2 * both + epsilon) / (size + epsilon))
    expected.append(np.mean(terms))
  logits, labels, counted = _on_device(logits, labels, told)
  present = partial_labels.seen(jnp.ones((K, C), bool), counted)
  found = losses.dice(logits, labels, present, linear=linear, counted=counted)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_training_dsc_leaves_out_what_nobody_drew():
  logits, labels, drawn = _case()
  told = np.asarray(partial_labels.judged(*_on_device(labels, drawn)))
  chosen = logits.argmax(-1)
  both, sizes = losses.dice_counts(*_on_device(logits, labels, told))
  for k, c in np.ndindex(K, C):
    mine = (chosen[k] == c) & told[k, ..., c]
    its = (labels[k] == c) & told[k, ..., c]
    assert both[k, c] == (mine & its).sum()
    assert sizes[k, c] == mine.sum() + its.sum()
