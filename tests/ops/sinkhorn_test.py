import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from dbdc_jax.ops.sinkhorn import sinkhorn
from dbdc_jax.runtime import parallel


def _scores(n=60, c=5, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(-1, 1, (n, c)).astype(np.float32)


def _loop(scores, epsilon, iterations):
  """Columns to N/C, then rows to 1, in plain float64."""
  p = np.exp(scores.astype(np.float64) / epsilon)
  for _ in range(iterations):
    p *= len(p) / p.shape[1] / p.sum(0)
    p /= p.sum(1, keepdims=True)
  return p


def test_equals_the_plain_loop():
  scores = _scores()
  np.testing.assert_allclose(
    sinkhorn(scores), _loop(scores, 0.05, 3), atol=1e-5
  )


def test_rows_sum_to_one_and_masses_converge_to_equal_shares():
  scores = _scores(n=100)
  soft = sinkhorn(scores, 0.5, 200)
  np.testing.assert_allclose(soft.sum(1), 1, atol=1e-5)
  np.testing.assert_allclose(soft.sum(0), 20, rtol=1e-3)


@pytest.mark.parametrize('seed', range(3))
def test_low_entropy_limit_is_the_best_balanced_assignment(seed):
  scores = _scores(n=20, c=4, seed=seed)
  hard = np.argmax(sinkhorn(scores, 0.002, 5000), 1)
  # Five copies of each class make it a square assignment problem.
  _, best = linear_sum_assignment(-np.repeat(scores, 5, axis=1))
  np.testing.assert_array_equal(hard, best // 5)


def test_a_constant_changes_nothing():
  scores = _scores()
  np.testing.assert_allclose(sinkhorn(scores + 3), sinkhorn(scores), atol=1e-4)


def test_small_epsilon_does_not_overflow():
  assert np.isfinite(sinkhorn(jnp.ones((8, 3)), 0.01)).all()
  assert np.isfinite(sinkhorn(_scores(), 0.01)).all()


def test_masked_pixels_and_classes_are_as_if_absent():
  scores = _scores()
  rows, classes = np.arange(60) % 3 > 0, np.array([1, 1, 0, 1, 1], bool)
  soft = np.asarray(sinkhorn(scores, mask=rows, class_mask=classes))
  alone = sinkhorn(scores[rows][:, classes])
  np.testing.assert_allclose(soft[rows][:, classes], alone, atol=1e-5)
  assert not soft[~rows].any() and not soft[:, ~classes].any()


def test_no_gradient_and_all_masked_stays_finite():
  scores = jnp.asarray(_scores())
  gradient = jax.grad(lambda s: jnp.sum(sinkhorn(s) ** 2))(scores)
  assert not gradient.any()
  assert np.isfinite(sinkhorn(scores, mask=jnp.zeros(60, bool))).all()


def test_pixels_spread_over_devices():
  scores = _scores()
  split = jax.pmap(sinkhorn, parallel.AXIS)(scores.reshape(4, 15, 5))
  np.testing.assert_allclose(split.reshape(60, 5), sinkhorn(scores), atol=1e-5)


def test_imbalanced_and_collapsed_embeddings_stay_finite():
  rng = np.random.default_rng(0)
  collapsed = 1 - 1e-4 * rng.random((200, 5)).astype(np.float32)
  soft = np.asarray(sinkhorn(collapsed))
  np.testing.assert_allclose(soft.sum(1), 1, atol=1e-5)
  np.testing.assert_allclose(soft.sum(0), 40, rtol=1e-2)
