import jax
import numpy as np

from dbdc_jax.ops import local_correlation

SHAPE = (1, 10, 11, 12)


def _draw(seed):
  return np.random.default_rng(seed).uniform(size=SHAPE).astype(np.float32)


def test_it_is_the_squared_coefficient_of_each_window():
  a, b = _draw(0), 0.5 * _draw(0) + 0.5 * _draw(1)
  found = np.asarray(jax.jit(local_correlation.local_correlation)(a, b))[0]
  padded = [np.pad(x[0].astype(float), 4) for x in (a, b)]
  for place in ((5, 5, 5), (0, 0, 0), (9, 3, 11)):
    window = tuple(slice(p, p + 9) for p in place)
    x, y = (v[window].ravel() for v in padded)
    expected = np.corrcoef(x, y)[0, 1] ** 2
    np.testing.assert_allclose(found[place], expected, rtol=1e-3)


def test_any_line_is_perfect_and_a_constant_nothing():
  """Inside: outside of the volume is 0, which no line goes through."""
  a = _draw(0)
  correlate = jax.jit(local_correlation.local_correlation)
  inner = (slice(None), slice(4, -4), slice(4, -4), slice(4, -4))
  found = np.asarray(correlate(a, 0.9 - 0.7 * a))
  np.testing.assert_allclose(found[inner], 1, rtol=1e-3)
  np.testing.assert_allclose(correlate(a, a), 1, rtol=1e-3)
  found = np.asarray(correlate(a, np.full_like(a, 0.5)))
  assert found[inner].max() < 0.05
  assert found.min() >= 0
