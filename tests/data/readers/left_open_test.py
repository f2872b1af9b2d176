"""Label maps that leave something open, in the forms that users write them."""

import numpy as np
import pytest

from data.formats.scan_error import ScanError
from data.preprocessing import planes
from data.readers import left_open
from data.task import UNKNOWN, Intensity, Modality

CODES = {0: 0, 1: 1, 7: 2, 3: 3, 255: UNKNOWN}
# Slices of 5 mm along the file's last axis.
AFFINE = np.diag([1.0, 1.0, 5.0, 1.0])


def _kind(**fields):
  fields |= {'plane': planes.ACQUIRED}
  return Modality('ct', 'CT', 'folder', 'ct', CODES, Intensity(), **fields)


def _label():
  """`[4, 4, 6]`: liver on slices 1 and 4, spleen on slice 4."""
  label = np.zeros((4, 4, 6), np.uint8)
  label[1, 1, [1, 4]] = 1
  label[2, 2, 4] = 2
  return label


def _open(label, kind, case='a', affine=AFFINE):
  return left_open.leave_open(label, affine, kind, case, 'a.nii.gz')


def test_a_label_map_that_nothing_is_said_of_was_drawn_for_everything():
  found, drawn = _open(_label(), _kind(drawn={'b': (1,)}, sparse={'b': (0,)}))
  np.testing.assert_array_equal(found, _label())
  assert drawn is None


def test_classes_that_were_drawn():
  assert _open(_label(), _kind(drawn={'a': (1, 2)}))[1] == (1, 2)
  # All that there are is nothing to be told.
  assert _open(_label(), _kind(drawn={'a': (1, 2, 3)}))[1] is None
  # A case may be called as its file is, or as it is shown.
  kind = _kind(drawn={'x/y': (1, 2)})
  assert _open(_label(), kind, case='x%2Fy')[1] == (1, 2)


def test_a_class_that_was_not_drawn_must_not_be_there():
  with pytest.raises(ScanError, match='code') as caught:
    _open(_label(), _kind(drawn={'a': (1, 3)}))
  assert 'codes 7 of classes' in caught.value.reason
  assert caught.value.file == 'a.nii.gz'


def test_slices_without_a_label_were_not_drawn():
  label = _label()
  label[0, 0, 2] = UNKNOWN
  found, drawn = _open(label, _kind(sparse=True))
  assert drawn is None
  there = [n for n in range(6) if (found[..., n] != UNKNOWN).any()]
  assert there == [1, 4]
  np.testing.assert_array_equal(found[..., there], label[..., there])


def test_slices_that_are_listed_were_drawn():
  """Slice 2, too, on which nothing of interest was to be seen."""
  found, _ = _open(_label(), _kind(sparse={'a': (1, 2, 4)}))
  there = [n for n in range(6) if (found[..., n] != UNKNOWN).any()]
  assert there == [1, 2, 4] and not found[..., 2].any()


@pytest.mark.parametrize('axis', range(3))
def test_slices_are_those_of_the_acquisition(axis):
  """Whatever the file's axis, and whichever way it runs."""
  label = np.moveaxis(_label(), 2, axis)
  sides = np.ones(4)
  sides[axis] = -5.0
  found, _ = _open(label, _kind(sparse=True), affine=np.diag(sides))
  expected, _ = _open(_label(), _kind(sparse=True))
  np.testing.assert_array_equal(found, np.moveaxis(expected, 2, axis))


@pytest.mark.parametrize(
  ('slices', 'said'),
  [((1, 4, 6), '6 slices (0 to 5)'), ((1, 2), 'labels on slices 4')],
)
def test_slices_that_do_not_fit_are_refused(slices, said):
  with pytest.raises(ScanError) as caught:
    _open(_label(), _kind(sparse={'a': slices}))
  assert said in caught.value.reason and '"sparse"' in str(caught.value)


def test_entries_that_fit_no_scan_are_told():
  kind = _kind(drawn={'a': (1,), 'c': (1,)}, sparse={'x/y': (1,), 'z': (0,)})
  assert left_open.unmatched(kind, ['a', 'b', 'x%2Fy']) == ['c', 'z']
