import jax
import jax.numpy as jnp
import numpy as np
import pixelwise

from dbdc_jax.methods.common import supervision


def test_labeled_terms_are_cross_entropy_and_dice():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(2, 3, 4, 4, 5))
  labels = rng.integers(0, 5, (2, 3, 4, 4))
  for power in (1, 2):
    found = supervision.labeled_terms(
      pixelwise.step(pixelwise.config('cps'), pixelwise.signals()),
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


def test_the_gate_opens_for_each_modality_alone():
  """Where it is shut, not even a NaN comes back."""
  on = jnp.array([True, False])[:, None]
  loss = lambda x: jnp.sum(
    supervision.gate(x, on) * jnp.array([[2.0], [jnp.nan]])
  )
  gradient = jax.grad(loss)(jnp.ones((2, 3)))
  np.testing.assert_array_equal(gradient, [[2, 2, 2], [0, 0, 0]])
