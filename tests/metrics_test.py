import numpy as np
import pytest
from scipy.spatial.distance import cdist

from dbdc_jax.evaluation import metrics

SPACING = (3.0, 1.0, 0.5)


def _random(seed, shape=(6, 7, 8), p=0.3):
  return np.random.default_rng(seed).random(shape) < p


def _surface(mask):
  """Voxels with a background 6-neighbour or at the volume's edge."""
  out = []
  for place in np.argwhere(mask):
    for axis in range(3):
      for step in (-1, 1):
        other = place.copy()
        other[axis] += step
        inside = (other >= 0).all() and (other < mask.shape).all()
        if not inside or not mask[tuple(other)]:
          out.append(tuple(place))
  return np.array(sorted(set(out)))


def _brute(a, b, spacing):
  d = cdist(_surface(a) * spacing, _surface(b) * spacing)
  return d.min(1), d.min(0)


@pytest.mark.parametrize('seed', range(4))
def test_equal_to_brute_force_on_random_masks(seed):
  a, b = _random(seed), _random(seed + 10)
  forward, backward = _brute(a, b, SPACING)
  both = np.concatenate([forward, backward])
  expected = max(np.percentile(forward, 95), np.percentile(backward, 95))
  assert metrics.hd95(a, b, SPACING) == pytest.approx(expected)
  assert metrics.assd(a, b, SPACING) == pytest.approx(both.mean())
  assert metrics.nsd(a, b, SPACING, 1.0) == pytest.approx((both <= 1).mean())
  voxels = np.concatenate(_brute(a, b, (1, 1, 1)))
  assert metrics.hd95_union_voxel(a, b) == pytest.approx(
    np.percentile(voxels, 95)
  )


def test_tree_and_distance_transform_agree():
  a, b = _random(1), _random(2)
  tree = metrics.surface_distances(a, b, SPACING)
  transform = metrics.surface_distances(a, b, SPACING, tree_limit=0)
  for x, y in zip(tree[:2], transform[:2], strict=True):
    np.testing.assert_allclose(np.sort(x), np.sort(y), atol=1e-6)


def test_shifted_box_is_as_far_as_it_was_shifted():
  a, b = np.zeros((2, 20, 40, 40), bool)
  a[5:10, 10:20, 10:20] = True
  b[5:10, 14:24, 10:20] = True
  assert metrics.hd95(a, b, (2.0, 1.5, 1.0)) == pytest.approx(6.0)


def test_concentric_spheres_are_their_radii_apart():
  grid = np.stack(np.meshgrid(*[np.arange(-24, 25)] * 3), -1)
  r = np.linalg.norm(grid, axis=-1)
  assert metrics.assd(r < 12, r < 18, (1, 1, 1)) == pytest.approx(6, abs=0.3)


def test_dice_from_one_histogram():
  rng = np.random.default_rng(0)
  p, r = rng.integers(0, 4, (2, 5, 6, 7)).astype(np.uint8)
  expected = [
    2 * ((p == c) & (r == c)).sum() / ((p == c).sum() + (r == c).sum())
    for c in range(4)
  ]
  found = metrics.dice(p, r, 5)
  np.testing.assert_allclose(found[:4], expected)
  assert np.isnan(found[4])


def test_empty_masks_follow_the_rule():
  full, empty = _random(0), np.zeros((6, 7, 8), bool)
  diagonal = np.linalg.norm(np.array([6, 7, 8]) * SPACING)
  for a, b in ((full, empty), (empty, full)):
    assert metrics.hd95(a, b, SPACING) == pytest.approx(diagonal)
    assert metrics.assd(a, b, SPACING) == pytest.approx(diagonal)
    assert metrics.nsd(a, b, SPACING, 1e9) == 0
  assert np.isnan(metrics.hd95(empty, empty, SPACING))
  assert np.isnan(metrics.nsd(empty, empty, SPACING, 1.0))


def test_the_same_mask_is_at_no_distance():
  a = _random(3)
  assert metrics.hd95(a, a, SPACING) == 0
  assert metrics.nsd(a, a, SPACING, 0.0) == 1
