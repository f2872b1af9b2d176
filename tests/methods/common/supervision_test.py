import jax
import jax.numpy as jnp
import numpy as np
import pixelwise

from dbdc_jax.methods.common import supervision


def test_labeled_terms_are_cross_entropy_and_dice():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(2, 3, 4, 4, 5))
  labels = rng.integers(0, 5, (2, 3, 4, 4))
  step = pixelwise.step(pixelwise.config('cps'), pixelwise.signals())
  step = step._replace(batch={'labeled': {}})
  for power in (1, 2):
    found = supervision.labeled_terms(
      step,
      jnp.asarray(logits),
      jnp.asarray(labels),
      name='a',
      share=0.5,
      linear_dice=power == 1,
    )
    assert found.keys() == {'a_ce', 'a_dice'}
    expected = pixelwise.cross_entropy(logits, labels) / 2
    np.testing.assert_allclose(found['a_ce'], expected, rtol=1e-4)
    expected = pixelwise.dice(logits, labels, power) / 2
    np.testing.assert_allclose(found['a_dice'], expected, rtol=1e-4)


def test_a_class_that_a_modality_never_shows_is_no_pseudo_label():
  logits = np.random.default_rng(0).normal(size=(2, 1, 8, 8, 3))
  present = jnp.array([[True, True, True], [True, False, True]])
  found = np.asarray(supervision.pseudo_labels(jnp.asarray(logits), present))
  np.testing.assert_array_equal(found[0], logits[0].argmax(-1))
  np.testing.assert_array_equal(found[1], logits[1][..., ::2].argmax(-1) * 2)


def test_a_pseudo_label_is_one_of_what_a_pixel_may_be():
  logits = np.random.default_rng(0).normal(size=(2, 1, 8, 8, 3))
  possible = np.ones((2, 1, 8, 8, 3), bool)
  possible[0, ..., 1], possible[1, ..., :2] = False, False
  present = jnp.ones((2, 3), bool)
  known = jnp.asarray(logits), present, jnp.asarray(possible)
  found = np.asarray(supervision.pseudo_labels(*known))
  np.testing.assert_array_equal(found[0], logits[0][..., ::2].argmax(-1) * 2)
  np.testing.assert_array_equal(found[1], 2)
  p = np.exp(logits[0][..., ::2])
  sure = np.asarray(supervision.probabilities(*known))
  np.testing.assert_allclose(sure[0], (p / p.sum(-1, keepdims=True)).max(-1))
  np.testing.assert_allclose(sure[1], 1)


def test_the_gate_opens_for_each_modality_alone():
  """Where it is shut, not even a NaN comes back."""
  on = jnp.array([True, False])[:, None]
  loss = lambda x: jnp.sum(
    supervision.gate(x, on) * jnp.array([[2.0], [jnp.nan]])
  )
  gradient = jax.grad(loss)(jnp.ones((2, 3)))
  np.testing.assert_array_equal(gradient, [[2, 2, 2], [0, 0, 0]])
