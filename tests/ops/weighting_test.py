import jax.numpy as jnp
import numpy as np
import pytest

from dbdc_jax.ops import weighting


def _run(curves, clip=None):
  """Weights after each epoch of `curves [T, K]`."""
  state = weighting.init(len(curves[0]), clip)
  out = []
  for dice in curves:
    state = weighting.update(state, jnp.asarray(dice))
    out.append(np.asarray(weighting.weights(state)))
  return np.array(out)


def _loop(curves, clip=None):
  """The module's equations in plain float64 scalars."""
  count = len(curves[0])
  learn, unlearn, error = np.zeros(count), np.zeros(count), np.ones(count)
  previous, out = None, []
  for t, dice in enumerate(np.clip(curves, 1e-3, 1)):
    for k in range(count):
      g = 0.0
      rising = False
      if previous is not None:
        g = (dice[k] - previous[k]) * np.log(dice[k] / previous[k])
        rising = dice[k] > previous[k]
      learn[k] = 0.95 * learn[k] + (g / 20 if rising else 0)
      unlearn[k] = 0.95 * unlearn[k] + (0 if rising else g / 20)
      error[k] = 0.95 * error[k] + (1 - dice[k]) / 20
    previous = dice
    speed = ((unlearn + 1e-8) / (learn + 1e-8)) ** 0.2
    if clip:
      speed = np.clip(speed, *clip)
    omega = speed * error
    out.append(omega * count / omega.sum() if t else np.ones(count))
  return np.array(out)


@pytest.mark.parametrize('clip', [None, (0.5, 2.0)])
def test_equals_the_plain_loop(clip):
  curves = np.random.default_rng(0).uniform(0.05, 0.95, (30, 3))
  np.testing.assert_allclose(_run(curves, clip), _loop(curves, clip), rtol=1e-3)


def test_equal_curves_weigh_equally_and_sums_are_k():
  curve = np.random.default_rng(1).uniform(0.1, 0.9, 12)
  np.testing.assert_allclose(_run(np.stack([curve] * 4, 1)), 1, rtol=1e-5)
  mixed = np.random.default_rng(2).uniform(0.1, 0.9, (12, 3))
  np.testing.assert_allclose(_run(mixed).sum(1), 3, rtol=1e-5)


def test_fast_and_high_learner_ends_below_one():
  t = np.arange(20)
  curves = np.stack([0.9 - 0.7 * 0.7**t, 0.3 + 0.005 * t], 1)
  fast, slow = _run(curves)[-1]
  assert fast < 1 < slow


def test_one_dip_and_what_the_clip_makes_of_it():
  t = np.arange(12)
  curves = np.stack([0.2 + 0.04 * t] * 2, 1)
  curves[8, 0] -= 0.05  # A one-point dip below the epoch before.
  free, clipped = _run(curves), _run(curves, (0.5, 2.0))
  np.testing.assert_allclose(sorted(free[8]), [0.36, 1.64], atol=0.06)
  assert clipped[8].max() / clipped[8].min() < 2 * 1.1
  assert (free[8] / free[8][::-1]).max() > 3


def test_printed_equations_give_nan():
  """Equations 14 to 16 literally, on a curve that rises and falls."""
  dice = np.array([0.2, 0.5, 0.4, 0.6])
  logs = np.log(dice[1:] / dice[:-1])
  plus, minus = logs[logs > 0].sum(), logs[logs <= 0].sum()
  with np.errstate(invalid='ignore'):
    assert np.isnan(((plus + 1e-8) / (minus + 1e-8)) ** 0.2)
