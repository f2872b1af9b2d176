import numpy as np
import pytest

from dbdc_jax.reporting import projection


def _clusters(count, dims):
  rng = np.random.default_rng(0)
  centres = 10 * rng.normal(size=(4, dims))
  which = np.repeat(np.arange(4), count)
  return centres[which] + rng.normal(size=(4 * count, dims)), which


@pytest.mark.parametrize(('count', 'dims'), [(30, 16), (5, 8)])
def test_neighbours_stay_neighbours(count, dims):
  points, which = _clusters(count, dims)
  flat = projection.plane(points)
  gaps = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
  np.fill_diagonal(gaps, np.inf)
  assert np.mean(which[gaps.argmin(1)] == which) > 0.95


def test_the_same_points_lie_where_they_lay():
  points, _ = _clusters(10, 4)
  first, again = projection.plane(points), projection.plane(points)
  np.testing.assert_array_equal(first, again)
  np.testing.assert_allclose(first.max(0), -first.min(0), atol=1e-6)
  np.testing.assert_allclose(np.abs(first).max(), 1)


@pytest.mark.parametrize('shape', [(1, 3), (2, 1), (3, 5), (6, 4), (9, 1)])
def test_few_or_equal_or_narrow_points_have_places_too(shape):
  points = np.random.default_rng(0).normal(size=shape)
  for some in (points, np.ones(shape)):
    flat = projection.plane(some)
    assert flat.shape == (shape[0], 2) and np.isfinite(flat).all()
    assert np.abs(flat).max() <= 1 + 1e-9
