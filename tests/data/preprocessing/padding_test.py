import numpy as np
import pytest

from data.phantoms import phantom
from data.phantoms.anatomy import DIFFICULTY
from data.preprocessing import padding, preprocess
from data.task import Intensity

HOW = {'seed': 0, 'size': 'quick', 'difficulty': DIFFICULTY}
ODD = (-3024, -32768, -2000)


def _heart(modality):
  return phantom.heart_subject(modality, 0, **HOW)[0].astype(np.float32)


@pytest.fixture(scope='module')
def ct():
  return _heart('ct')


@pytest.fixture(scope='module', params=['ct', 'mr'])
def image(request, ct):
  return ct if request.param == 'ct' else _heart('mr')


def _plain(image, percentile):
  return float(image.min()), float(np.percentile(image, percentile))


@pytest.mark.parametrize('percentile', [98.0, 99.5])
def test_a_clean_scan_keeps_its_minimum_and_percentile(image, percentile):
  assert padding.limits(image, percentile) == _plain(image, percentile)


def test_air_at_the_end_of_a_scanners_range_is_no_padding(ct):
  """Much of a CT may be exactly -1024; MR's background may be exactly 0."""
  clipped = np.maximum(ct, -1000)
  assert padding.limits(clipped, 98.0) == _plain(clipped, 98.0)
  mr = _heart('mr')
  masked = np.where(np.percentile(mr, 40) > mr, 0, mr)
  assert padding.limits(masked, 98.0)[0] == 0


@pytest.mark.parametrize('value', ODD)
def test_one_odd_voxel_changes_nothing(image, value):
  odd = image.copy()
  odd[5, 5, 5] = value
  low, high = padding.limits(odd, 98.0)
  assert low == _plain(image, 98.0)[0]
  assert high == pytest.approx(_plain(image, 98.0)[1], rel=1e-3)


@pytest.mark.parametrize('value', [*ODD, 32767, 65535])
@pytest.mark.parametrize('columns', [2, 20])
def test_padding_of_either_end_changes_nothing(image, columns, value):
  """It is as dark as the darkest voxel of the rest."""
  padded = image.copy()
  padded[:columns] = value
  dark = image.copy()
  dark[:columns] = image[columns:].min()
  np.testing.assert_allclose(padding.limits(padded, 98.0), _plain(dark, 98.0))


def test_padding_of_two_values_and_odd_voxels_below_it(ct):
  padded = ct.copy()
  padded[:3], padded[3:6] = -2000, -3024
  padded[10, 10, 10] = -32768
  assert padding.limits(padded, 98.0)[0] == ct[6:].min()


def test_a_drawing_of_few_values_is_left_alone():
  drawn = np.zeros((10, 10, 10))
  drawn[3:6], drawn[7:] = 50, 100
  assert padding.limits(drawn, 99.5) == (0, 100)


def test_a_padded_scan_is_prepared_like_a_clean_one(ct):
  """What is 0 in [0, 1] is dark; the rest keeps its values."""
  padded, clean = ct.copy(), ct.copy()
  padded[:5], clean[:5] = -2000, ct[5:].min()
  dirty, clean = (
    preprocess.to_unit(x, Intensity(None, 98.0)) for x in (padded, clean)
  )
  np.testing.assert_array_equal(dirty, clean)
  assert not dirty[:5].any()
