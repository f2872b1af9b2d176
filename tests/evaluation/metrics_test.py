import itertools

from hypothesis import given
from hypothesis import strategies as st
import masks
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
  found = masks.compare(a, b, SPACING, 1.0)
  assert found['hd95'] == pytest.approx(expected)
  assert found['assd'] == pytest.approx(both.mean())
  assert found['nsd'] == pytest.approx((both <= 1).mean())
  voxels = np.concatenate(_brute(a, b, (1, 1, 1)))
  assert masks.compare(a, b, (1, 1, 1))['hd95_union'] == pytest.approx(
    np.percentile(voxels, 95)
  )


def test_tree_and_distance_transform_agree():
  a, b = _random(1), _random(2)
  pair = metrics.surfaces(a.view(np.uint8), b.view(np.uint8), 2)[0]
  tree = metrics.distances(pair, SPACING)
  transform = metrics.distances(pair, SPACING, tree_limit=0)
  for x, y in zip(tree[:2], transform[:2], strict=True):
    np.testing.assert_allclose(np.sort(x), np.sort(y), atol=1e-6)


def test_shifted_box_is_as_far_as_it_was_shifted():
  a, b = np.zeros((2, 20, 40, 40), bool)
  a[5:10, 10:20, 10:20] = True
  b[5:10, 14:24, 10:20] = True
  assert masks.compare(a, b, (2.0, 1.5, 1.0))['hd95'] == pytest.approx(6.0)


def test_concentric_spheres_are_their_radii_apart():
  grid = np.stack(np.meshgrid(*[np.arange(-24, 25)] * 3), -1)
  r = np.linalg.norm(grid, axis=-1)
  assert masks.compare(r < 12, r < 18, (1, 1, 1))['assd'] == pytest.approx(
    6, abs=0.3
  )


def test_dice_from_one_histogram():
  rng = np.random.default_rng(0)
  p, r = rng.integers(0, 4, (2, 5, 6, 7)).astype(np.uint8)
  expected = [
    2 * ((p == c) & (r == c)).sum() / ((p == c).sum() + (r == c).sum())
    for c in range(4)
  ]
  found = metrics.dice_of(metrics.joint_histogram(p, r, 5))
  np.testing.assert_allclose(found[:4], expected)
  assert np.isnan(found[4])


def test_empty_masks_follow_the_rule():
  full, empty = _random(0), np.zeros((6, 7, 8), bool)
  diagonal = np.linalg.norm(np.array([6, 7, 8]) * SPACING)
  for a, b in ((full, empty), (empty, full)):
    found = masks.compare(a, b, SPACING, 1e9)
    assert found['hd95'] == pytest.approx(diagonal)
    assert found['assd'] == pytest.approx(diagonal)
    assert found['nsd'] == 0
  found = masks.compare(empty, empty, SPACING, 1.0)
  assert np.isnan(found['hd95'])
  assert np.isnan(found['nsd'])


def test_the_same_mask_is_at_no_distance():
  a = _random(3)
  found = masks.compare(a, a, SPACING)
  assert found['hd95'] == 0
  assert found['nsd'] == 1


def _ellipsoid(centre, radii):
  grid = np.indices((24, 28, 20))
  whole = np.prod(radii)
  scaled = [
    (axis - c) * (whole // r)
    for axis, c, r in zip(grid, centre, radii, strict=True)
  ]
  return sum(x**2 for x in scaled) <= whole**2


def _lesion_and_speck():
  a, b = _ellipsoid((11, 13, 9), (6, 8, 5)), _ellipsoid((12, 14, 9), (5, 9, 4))
  b[20:22, 2:4, 16:18] = True
  return a, b


def _noise_at_the_edges():
  rng = np.random.default_rng(0)
  return rng.random((9, 10, 8)) < 0.4, rng.random((9, 10, 8)) < 0.3


def _boxes(shape, first, second):
  masks = np.zeros((2, *shape), bool)
  masks[(0, *itertools.starmap(slice, first))] = True
  masks[(1, *itertools.starmap(slice, second))] = True
  return masks


FIXTURES = {
  'lesion': _lesion_and_speck(),
  'noise': _noise_at_the_edges(),
  'apart': _boxes(
    (16, 12, 10), [(0, 5), (2, 9), (3, 10)], [(9, 16), (0, 6), (0, 4)]
  ),
  'one slice': _boxes(
    (1, 20, 20), [(0, 1), (3, 12), (4, 15)], [(0, 1), (5, 14), (4, 13)]
  ),
  'one voxel': _boxes(
    (8, 8, 8), [(1, 2), (2, 3), (3, 4)], [(5, 6), (6, 7), (4, 5)]
  ),
}
SIDES, TOLERANCE = (1.5, 0.8, 2.5), 1.5
# What other packages say of them (prediction, reference), once each:
# MONAI 1.6.1: DiceMetric, HausdorffDistanceMetric(percentile=95) (the larger
# direction), SurfaceDistanceMetric(symmetric=True) (mean over both surfaces),
# SurfaceDiceMetric([1.5]) (share of surface voxels). All in float32.
MONAI = {
  'lesion': (0.7710280418, 3.0, 1.4715539217, 0.5199999810),
  'noise': (0.3458333313, 1.7000000477, 0.7987164855, 0.8395833373),
  'apart': (0.0, 19.2534523010, 13.4774742126, 0.0),
  'one slice': (0.6999999881, 5.0, 0.6200355887, 0.8000000119),
  'one voxel': (0.0, 7.2449984550, 7.2449984550, 0.0),
}
# medpy 0.5.2: dc, hd95 in mm and in voxels (95th percentile of the union of
# both directions), assd (mean over both surfaces).
MEDPY = {
  'lesion': (0.7710280373831776, 3.0, 2.0, 1.471554004445871),
  'noise': (0.3458333333333333, 1.7, 1.4142135623730951, 0.7987164755611628),
  'apart': (0.0, 18.480775077011593, 11.104007013572845, 13.47747326671711),
  'one slice': (0.7, 3.0697561951345733, 2.0, 0.620035571252467),
  'one voxel': (0.0, 7.244998274671983, 5.744562646538029, 7.244998274671983),
}
# surface-distance 0.1: dice, robust Hausdorff distance at 95 %. Its surfaces
# run between voxels and weigh by area: other distances, by up to a voxel.
SURFACE_DISTANCE = {
  'lesion': (0.7710280373831776, 3.0),
  'noise': (0.3458333333333333, 0.8),
  'apart': (0.0, 18.46645607581487),
  'one slice': (0.7, 2.968164415931166),
  'one voxel': (0.0, 7.244998274671983),
}


def _all(a, b, spacing=SIDES):
  return masks.compare(a, b, spacing, TOLERANCE)


def _dice(a, b):
  joint = metrics.joint_histogram(a.astype(np.uint8), b.astype(np.uint8), 2)
  return metrics.dice_of(joint)[1]


@pytest.mark.parametrize('name', FIXTURES)
def test_same_numbers_as_monai(name):
  a, b = FIXTURES[name]
  ours = _all(a, b)
  found = _dice(a, b), ours['hd95'], ours['assd'], ours['nsd']
  assert found == pytest.approx(MONAI[name], rel=1e-6)


@pytest.mark.parametrize('name', FIXTURES)
def test_same_numbers_as_medpy(name):
  a, b = FIXTURES[name]
  ours = _all(a, b)
  voxels = masks.compare(a, b, (1, 1, 1))['hd95_union']
  found = _dice(a, b), ours['hd95_union'], voxels
  assert (*found, ours['assd']) == pytest.approx(MEDPY[name], rel=1e-12)


@pytest.mark.parametrize('name', FIXTURES)
def test_within_a_voxel_of_surface_distance(name):
  a, b = FIXTURES[name]
  dice, hd95 = SURFACE_DISTANCE[name]
  assert _dice(a, b) == pytest.approx(dice)
  assert abs(_all(a, b)['hd95'] - hd95) <= max(SIDES)


@pytest.mark.parametrize('factor', [1.0, 0.7])
def test_a_sphere_and_its_shifted_copy(factor):
  """Along the shift's axis the copies are apart by it, and nowhere more."""
  grid = np.indices((40, 40, 40)) - 18
  a, b = ((grid**2).sum(0) <= 14**2), np.roll(grid, 6, 1)
  b = (b**2).sum(0) <= 14**2
  ours = _all(a, b, (factor,) * 3)
  # A point at angle t to the axis is 6 |cos t| away: the 95th percentile is
  # that of cos t, uniform on a sphere; half of 6 is the mean.
  assert ours['hd95'] == pytest.approx(6 * factor * 0.95, abs=0.35 * factor)
  assert ours['assd'] == pytest.approx(3 * factor, abs=0.25 * factor)
  assert ours['nsd'] == pytest.approx(1.5 / factor / 6, abs=0.1)


def test_a_full_volume_has_its_edge_as_surface():
  full = np.ones((5, 6, 7), bool)
  assert metrics.surface(full).sum() == 5 * 6 * 7 - 3 * 4 * 5
  inner = np.zeros_like(full)
  inner[1:-1, 1:-1, 1:-1] = True
  assert masks.compare(full, full, SIDES)['hd95'] == 0
  # Corners are a diagonal away, faces a side.
  forward = _brute(full, inner, SIDES)[0]
  assert masks.compare(full, inner, SIDES)['hd95'] == pytest.approx(
    np.percentile(forward, 95)
  )


def test_one_slice_is_all_surface():
  mask = np.zeros((1, 9, 9), bool)
  mask[0, 2:7, 2:7] = True
  np.testing.assert_array_equal(metrics.surface(mask), mask)


def test_surfaces_of_a_label_map_are_those_of_its_masks():
  rng = np.random.default_rng(5)
  p, r = rng.integers(0, 4, (2, 8, 9, 7)).astype(np.uint8)
  p[p == 3], r[r == 2] = 0, 0
  pairs = metrics.surfaces(p, r, 6)
  assert len(pairs) == 5
  for index, pair in enumerate(pairs, 1):
    ours = metrics.from_distances(metrics.distances(pair, SIDES), 1.0)
    alone = masks.compare(p == index, r == index, SIDES, 1.0)
    assert ours == pytest.approx(alone, nan_ok=True)


@st.composite
def _pairs(draw):
  """Two masks that are not empty, and a spacing."""
  shape = draw(st.tuples(*[st.integers(1, 6)] * 3))
  rng = np.random.default_rng(draw(st.integers(0, 10**6)))
  masks = rng.random((2, *shape)) < draw(st.sampled_from([0.1, 0.5, 0.9]))
  masks[:, *(n // 2 for n in shape)] = True
  sides = st.sampled_from([0.5, 0.8, 1.0, 3.0])
  return *masks, draw(st.tuples(*[sides] * 3))


@given(_pairs())
def test_both_orders_give_the_same(pair):
  a, b, spacing = pair
  assert _all(a, b, spacing) == pytest.approx(_all(b, a, spacing))


@given(_pairs(), st.permutations(range(3)), st.sampled_from(range(3)))
def test_axes_may_be_swapped_and_turned(pair, axes, turned):
  a, b, spacing = pair
  other = [np.flip(m.transpose(axes), turned) for m in (a, b)]
  moved = _all(*other, [spacing[axis] for axis in axes])
  assert moved == pytest.approx(_all(a, b, spacing))


@given(_pairs(), st.tuples(*[st.integers(0, 3)] * 3))
def test_place_in_the_volume_does_not_matter(pair, offset):
  a, b, spacing = pair
  pads = [(before, 3 - before) for before in offset]
  moved = [np.pad(mask, pads) for mask in (a, b)]
  assert _all(*moved, spacing) == pytest.approx(_all(a, b, spacing))


@given(_pairs())
def test_any_pair_is_as_brute_force_says(pair):
  a, b, spacing = pair
  forward, backward = _brute(a, b, spacing)
  both = np.concatenate([forward, backward])
  larger = max(np.percentile(forward, 95), np.percentile(backward, 95))
  assert _all(a, b, spacing) == pytest.approx(
    {
      'hd95': larger,
      'assd': both.mean(),
      'nsd': (both <= TOLERANCE).mean(),
      'hd95_union': np.percentile(both, 95),
    }
  )
