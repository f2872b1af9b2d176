import numpy as np
import pytest

from data.phantoms import phantom
from data.preprocessing import appearance, preprocess
from data.task import Intensity

OWN, WINDOW = Intensity(None, 99.5), Intensity((-125.0, 275.0))
SPREADS = np.array([feature.spread for feature in appearance.FEATURES])
NAMES = [feature.name for feature in appearance.FEATURES]


def _subject(make, *arguments):
  image, _, affine = make(
    *arguments, seed=0, size='quick', difficulty=phantom.DIFFICULTY
  )
  image = image[0] if isinstance(image, tuple) else image
  return (
    preprocess.reorient(image.astype(np.float32), affine, 'axial'),
    preprocess.reoriented_spacing(affine, 'axial'),
  )


@pytest.fixture(scope='module')
def t2():
  return _subject(phantom.abdomen_mr, 0, 't2')


@pytest.fixture(scope='module')
def ct():
  return _subject(phantom.abdomen_ct, 0)


def _look(scan, intensity=OWN):
  return np.array(appearance.describe(*scan, intensity))


def _off(found, wanted):
  """Difference in units of what scans of a modality differ by."""
  return np.abs(found - wanted) / SPREADS


def test_gain_and_offset_do_not_matter(t2):
  image, spacing = t2
  wanted = _look(t2)
  for changed in (7 * image, image / 1000, image - 500, 3 * image + 40):
    assert _off(_look((changed, spacing)), wanted).max() < 0.01
  # 8 bits hold fewer grey values, not other ones.
  eight = np.round(255 * np.minimum(image / np.percentile(image, 99.9), 1))
  assert _off(_look((eight, spacing)), wanted).max() < 0.5


def test_the_field_of_view_around_the_body_does_not_matter(t2):
  image, spacing = t2
  wanted = _look(t2)
  air = np.pad(image, ((0, 0), (9, 9), (9, 9)), 'reflect') * 0 + image.min()
  air[:, 9:-9, 9:-9] = image
  assert _off(_look((air, spacing)), wanted).mean() < 0.3
  padded = np.where(air == image.min(), -3000, air)
  padded[:, 9:-9, 9:-9] = image
  assert _off(_look((padded, spacing)), wanted).mean() < 0.3


def test_the_size_of_voxels_hardly_matters(ct):
  """Each twice: the same picture in pixels of half the side."""
  image, spacing = ct
  fine = image.repeat(2, 1).repeat(2, 2)
  sides = [spacing[0], spacing[1] / 2, spacing[2] / 2]
  found = _off(_look((fine, sides), WINDOW), _look(ct, WINDOW))
  assert np.median(found) < 1


def test_what_is_cut_off_by_a_window_does_not_matter(ct):
  image, spacing = ct
  cut = np.clip(image, -125, 275)
  np.testing.assert_array_equal(
    _look((cut, spacing), WINDOW), _look(ct, WINDOW)
  )


def test_modalities_look_unlike(ct, t2):
  assert _off(_look(t2), _look(ct)).mean() > 2
  assert _off(_look(t2, WINDOW), _look(ct, WINDOW)).mean() > 3


def test_shells_and_levels_say_where_brightness_lies():
  """A bright rim of fat, then the same picture with a dark one."""
  brightest = []
  far = np.hypot(*(np.mgrid[:80, :80] - 39.5)) * 4
  for rim, inner in ((900, 300), (200, 700)):
    disk = np.where(far > 140, 0, np.where(far > 118, rim, inner))
    noise = np.random.default_rng(0).normal(0, 5, (6, *disk.shape))
    look = dict(zip(NAMES, _look((disk + noise, [8.0, 4.0, 4.0])), strict=True))
    outer, deep = look['shell from 6 mm'], look['shell from 28 mm']
    assert (outer > deep) == (rim > inner)
    brightest.append(look['depth 5'])
  assert brightest[0] < brightest[1]


@pytest.mark.parametrize('shape', [(1, 5, 5), (3, 2, 60), (40, 8, 8)])
def test_any_scan_has_finite_numbers(shape):
  image = np.random.default_rng(0).integers(0, 3, shape).astype(np.float32)
  for intensity in (OWN, WINDOW):
    for scan in (
      image,
      0 * image + (np.arange(image.size) == 3).reshape(shape),
    ):
      look = _look((scan, [2.0, 0.5, 0.5]), intensity)
      assert look.shape == SPREADS.shape and np.isfinite(look).all()
