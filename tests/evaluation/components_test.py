import fractions
import itertools

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from dbdc_jax.evaluation import components

CLASSES = ('background', 'a', 'b', 'c')


def _parts(mask):
  """Components by flooding, 6 neighbours, in the order of their first voxel."""
  left = {tuple(map(int, place)) for place in np.argwhere(mask)}
  parts = []
  for start in sorted(left):
    if start not in left:
      continue
    part, edge = set(), {start}
    while edge:
      part |= edge
      left -= edge
      edge = {
        tuple(place[i] + step * (i == axis) for i in range(3))
        for place in edge
        for axis in range(3)
        for step in (-1, 1)
      } & left
    parts.append(part)
  return parts


def _largest(classes, kept):
  out = classes.copy()
  for index in kept:
    parts = _parts(classes == index)
    for part in parts:
      if part is not max(parts, key=len):
        for place in part:
          out[place] = 0
  return out


def _dice(prediction, reference, index):
  p, r = prediction == index, reference == index
  total = int(p.sum() + r.sum())
  return fractions.Fraction(2 * int((p & r).sum()), total) if total else None


def _choice(scans, labelled=(1, 2, 3)):
  chooser = components.Chooser(CLASSES, labelled)
  for scan in scans:
    chooser.add(*scan, labelled)
  return chooser.choice()


def _random(seed, count=4):
  rng = np.random.default_rng(seed)
  shares = (0.5, 0.25, 0.15, 0.1)
  draw = lambda: rng.choice(4, (3, 5, 6), p=shares).astype(np.uint8)
  # Some of a scan's own labels, and errors.
  for _ in range(count):
    reference = draw()
    wrong = rng.random(reference.shape) < 0.4
    yield np.where(wrong, draw(), reference), reference


@given(st.integers(0, 10_000), st.sets(st.integers(1, 3)))
def test_largest_equals_flooding(seed, kept):
  ((classes, _),) = _random(seed, 1)
  before = classes.copy()
  found = components.largest(classes, kept)
  np.testing.assert_array_equal(found, _largest(classes, kept))
  np.testing.assert_array_equal(classes, before)
  # Doing it twice changes nothing; a class that was not asked for is as it was.
  np.testing.assert_array_equal(components.largest(found, kept), found)
  for index in {1, 2, 3} - kept:
    np.testing.assert_array_equal(found == index, classes == index)


@given(st.integers(0, 10_000))
def test_a_choice_is_where_the_mean_dice_rises(seed):
  scans = list(_random(seed))
  found = _choice(scans)
  for index, name in enumerate(CLASSES[1:], 1):
    after = [_dice(_largest(p, [index]), r, index) for p, r in scans]
    before = [_dice(p, r, index) for p, r in scans]
    mean = [sum(way) / len(scans) for way in (before, after)]
    assert found[name]['keep_largest'] == (mean[1] > mean[0])
    assert found[name]['dice'] == pytest.approx(float(100 * mean[0]))
    assert found[name]['dice_of_largest'] == pytest.approx(float(100 * mean[1]))
    assert found[name]['scans'] == len(scans)


def test_the_scans_order_says_nothing():
  scans = list(_random(3))
  wanted = _choice(scans)
  for order in itertools.permutations(scans):
    assert _choice(order) == wanted


def _volume(*blocks, shape=(6, 8, 8)):
  """(class, corner, corner) each."""
  out = np.zeros(shape, np.uint8)
  for index, low, high in blocks:
    out[tuple(map(slice, low, high))] = index
  return out


ORGAN = (1, (1, 1, 1), (4, 5, 4))
ISLAND = (1, (5, 7, 7), (6, 8, 8))
SECOND = (1, (1, 1, 5), (4, 4, 8))


def test_an_island_goes_where_the_reference_has_none():
  entry = _choice([(_volume(ORGAN, ISLAND), _volume(ORGAN))])['a']
  assert entry['keep_largest'] and entry['dice_of_largest'] == 100


def test_an_organ_in_two_pieces_keeps_both():
  """Both kidneys under one label, with an island besides."""
  kidneys = ORGAN, SECOND
  entry = _choice([(_volume(*kidneys, ISLAND), _volume(*kidneys))])['a']
  assert not entry['keep_largest']
  assert entry['dice_of_largest'] < 75 < entry['dice']


def test_one_scan_that_loses_more_than_others_gain_decides():
  gains = _volume(ORGAN, ISLAND), _volume(ORGAN)
  loses = _volume(ORGAN, SECOND), _volume(ORGAN, SECOND)
  assert _choice([gains, gains])['a']['keep_largest']
  assert not _choice([gains, gains, loses])['a']['keep_largest']


@pytest.mark.parametrize(
  'scan',
  [
    # Nothing there, nothing found.
    (_volume(), _volume()),
    # Missed.
    (_volume(), _volume(ORGAN)),
    # Found where the reference has none: no DSC but 0 either way.
    (_volume(ORGAN, ISLAND), _volume()),
    # In one piece.
    (_volume(ORGAN), _volume(SECOND)),
  ],
  ids=['absent', 'missed', 'invented', 'whole'],
)
def test_a_tie_keeps_the_output(scan):
  entry = _choice([scan, scan])['a']
  assert not entry['keep_largest'] and entry['dice'] == entry['dice_of_largest']


def _rows(parts, missed):
  """Parts of (length, how much of it is right), and what was not found."""
  prediction = np.zeros((1, 2 * len(parts) + 1, 20), np.uint8)
  reference = prediction.copy()
  for row, (length, right) in enumerate(parts):
    prediction[0, 2 * row, :length] = reference[0, 2 * row, :right] = 1
  reference[0, -1, :missed] = 1
  return prediction, reference


def test_gains_and_losses_that_cancel_are_a_tie():
  falls = _rows([(14, 1), (10, 5), (10, 0)], 0)
  stays = _rows([(4, 1)], 5)
  rises = _rows([(14, 3), *[(10, 0)] * 4], 3)
  # From 0.3, 0.2, 0.1 to 0.1, 0.2, 0.3: as floats, 0.6 to 0.6000000000000001.
  for order in itertools.permutations((falls, stays, rises)):
    entry = _choice(order)['a']
    assert entry['dice'] == entry['dice_of_largest'] == 20
    assert not entry['keep_largest']


def test_without_scans_nothing_is_decided():
  assert _choice([])['a'] == {
    'scans': 0,
    'dice': None,
    'dice_of_largest': None,
    'keep_largest': False,
  }


def test_classes_without_labels_are_not_decided():
  """Where only some modalities' labels have an organ."""
  scan = _volume(ORGAN, ISLAND), _volume(ORGAN)
  found = _choice([scan], labelled=(0, 2, 3))
  assert list(found) == ['b', 'c']
  assert components.kept(found, CLASSES) == []
  found = _choice([scan], labelled=(0, 1, 3))
  assert list(found) == ['a', 'c'] and components.kept(found, CLASSES) == [1]


def test_parts_that_touch_by_a_corner_are_two():
  """Also from slice to slice, however thick: neighbours share a face."""
  touching = (1, (4, 5, 4), (5, 6, 5))
  found = components.largest(_volume(ORGAN, touching), [1])
  np.testing.assert_array_equal(found, _volume(ORGAN))
  stacked = (1, (4, 4, 3), (5, 5, 4))
  both = _volume(ORGAN, stacked)
  np.testing.assert_array_equal(components.largest(both, [1]), both)


def test_a_vessel_that_jumps_between_thick_slices_is_left_to_the_reference():
  """Its slices do not touch: all but one would go."""
  places = (0, 0, 0), (1, 2, 2), (2, 4, 4), (3, 6, 6)
  pieces = [
    (1, p, tuple(x + s for x, s in zip(p, (1, 2, 2), strict=True)))
    for p in places
  ]
  vessel = _volume(*pieces)
  assert (components.largest(vessel, [1]) > 0).sum() == 4
  assert not _choice([(vessel, vessel)])['a']['keep_largest']


def test_another_class_may_cut_an_organ_in_two():
  """A false wall through the organ: its smaller half would go."""
  cut = _volume(ORGAN, (2, (1, 3, 1), (4, 4, 4)))
  found = _choice([(cut, _volume(ORGAN))])
  assert not found['a']['keep_largest'] and not found['b']['keep_largest']
  kept = components.largest(cut, [1])
  np.testing.assert_array_equal(kept == 2, cut == 2)
  # What is removed is background, and not the class beside it.
  assert set(np.unique(kept[cut == 1])) == {0, 1}


def test_equal_parts_keep_the_first():
  two = _volume((3, (0, 0, 0), (1, 1, 2)), (3, (4, 4, 4), (5, 5, 6)))
  found = components.largest(two, [1, 3])
  np.testing.assert_array_equal(found, _volume((3, (0, 0, 0), (1, 1, 2))))


@pytest.mark.parametrize('kept', [(), (1, 2, 3)])
def test_an_empty_map_stays_empty(kept):
  assert not components.largest(_volume(), kept).any()
