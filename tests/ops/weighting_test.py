import jax.numpy as jnp
import numpy as np
import pytest

from dbdc_jax.ops import weighting


def _run(curves, clip=None, smoothing=1e-8):
  """Weights after each epoch of `curves [T, K]`."""
  state = weighting.init(len(curves[0]), clip)
  out = []
  for dice in curves:
    state = weighting.update(state, jnp.asarray(dice))
    out.append(np.asarray(weighting.weights(state, smoothing)))
  return np.array(out)


def _loop(curves, clip=None, smoothing=1e-8):
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
    speed = ((unlearn + smoothing) / (learn + smoothing)) ** 0.2
    if clip:
      speed = np.clip(speed / np.prod(speed) ** (1 / count), *clip)
    omega = speed * error
    out.append(omega * count / omega.sum() if t else np.ones(count))
  return np.array(out)


@pytest.mark.parametrize('smoothing', [1e-8, 1e-4])
@pytest.mark.parametrize('clip', [None, (0.9, 1.1)])
def test_equals_the_plain_loop(clip, smoothing):
  curves = np.random.default_rng(0).uniform(0.05, 0.95, (30, 3))
  found, wanted = (f(curves, clip, smoothing) for f in (_run, _loop))
  np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_the_clip_leaves_learning_speeds_apart():
  """Rising curves: both speeds are far below any bound, their ratio is not."""
  t = np.arange(16)
  curves = np.stack([0.9 - 0.7 * 0.8**t, 0.2 + 0.02 * t], 1)
  free, clipped = _run(curves), _run(curves, (0.5, 2.0))
  np.testing.assert_allclose(clipped, free, rtol=1e-4)
  ratio = free[-1, 1] / free[-1, 0]
  tight = _run(curves, (0.95, 1 / 0.95))[-1]
  assert 1.2 < tight[1] / tight[0] < ratio


def test_a_dip_of_noise_moves_no_weight_with_the_smoothing():
  """0.876 to 0.875, among equal curves; as printed it tips them."""
  curve = 0.876 - 0.6 * 0.6 ** np.arange(14)
  curves = np.stack([curve] * 2, 1)
  curves[-2:, 0] = 0.876, 0.875
  curves[-2:, 1] = 0.876
  for smoothing, low, high in ((1e-8, 0.1, 0.9), (1e-4, 0.0, 1e-3)):
    moved = np.abs(_run(curves, smoothing=smoothing)[-1] - 1).max()
    assert low <= moved <= high, (smoothing, moved)


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
  free, clipped = _run(curves), _run(curves, (0.8, 1.25))
  np.testing.assert_allclose(sorted(free[8]), [0.36, 1.64], atol=0.06)
  assert clipped[8].max() / clipped[8].min() < 1.25**2 * 1.1
  assert (free[8] / free[8][::-1]).max() > 3


def test_printed_equations_give_nan():
  """Equations 14 to 16 literally, on a curve that rises and falls."""
  dice = np.array([0.2, 0.5, 0.4, 0.6])
  logs = np.log(dice[1:] / dice[:-1])
  plus, minus = logs[logs > 0].sum(), logs[logs <= 0].sum()
  with np.errstate(invalid='ignore'):
    assert np.isnan(((plus + 1e-8) / (minus + 1e-8)) ** 0.2)
