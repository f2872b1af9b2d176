"""Codes of label maps, as people's programs store them."""

import hypothesis
from hypothesis import strategies as st
import nibabel as nib
import numpy as np
import pytest

from data.formats.label_maps import count_codes, label_codes, look_up, map_codes
from data.formats.nifti import read_nifti
from data.formats.scan_error import ScanError


def _saved(path, values, dtype):
  """By nibabel: floating point values under an integer header are scaled."""
  header = nib.Nifti1Header()
  header.set_data_dtype(dtype)
  nib.save(nib.Nifti1Image(values, np.eye(4), header), path)
  return path


@pytest.mark.parametrize('dtype', [np.uint8, np.int8, np.int16, np.uint16])
@pytest.mark.parametrize('highest', [2, 7, 13, 60, 117])
def test_floats_saved_under_an_integer_type_are_the_codes_they_were(
  dtype, highest, tmp_path
):
  codes = np.arange(highest + 1).repeat(2).reshape(2, -1, 1)
  path = _saved(tmp_path / 'a.nii.gz', codes.astype(float), dtype)
  slope = float(nib.load(path).dataobj.slope)
  assert slope != 1
  found = read_nifti(path, label=True)
  np.testing.assert_array_equal(found.voxels, codes)
  # Fine steps are exact to a thousandth; coarse ones are told.
  off = np.abs(np.asanyarray(nib.load(path).dataobj) - codes).max() > 1e-3
  note = f'saved with intensity scaling (scl_slope {slope:.3g}): rounded'
  assert found.notes == ((note,) if off else ())


@pytest.mark.parametrize('highest', [200, 850])
def test_codes_that_a_coarse_scaling_mixed_up_are_refused(highest, tmp_path):
  codes = np.linspace(0, highest, 40).round().reshape(2, -1, 1)
  path = _saved(tmp_path / 'a.nii.gz', codes, np.uint8)
  with pytest.raises(ScanError, match=r'intensity scaling.*as integers'):
    read_nifti(path, label=True)


@pytest.mark.parametrize('step', [0.0, 7 / 255, 1.0])
def test_fractions_are_refused_whatever_the_step(step):
  fractions = np.array([0, 0.4, 1.6, 2, 7]).reshape(1, 1, -1)
  with pytest.raises(ScanError, match='whole numbers'):
    label_codes(fractions, 'f', step)


def test_voxels_without_a_number_are_counted():
  voxels = np.array([[[np.nan, 1, np.nan, 2]]], np.float32)
  with pytest.raises(ScanError, match='2 voxels are NaN; set them to 0'):
    label_codes(voxels, 'f')


def test_infinite_codes_are_refused():
  with pytest.raises(ScanError, match='1 label voxels'):
    label_codes(np.array([[[np.inf, 1.0]]]), 'f')


def test_codes_above_255_are_mapped_before_any_cast():
  label = np.array([[0, 420, 850]], np.int32)
  classes = map_codes(label, {0: 0, 420: 3, 850: 7}, 'f')
  np.testing.assert_array_equal(classes, [[0, 3, 7]])
  assert classes.dtype == np.uint8


@pytest.mark.parametrize('stray', [421, -5, 10**8])
def test_unknown_codes_are_named_with_their_counts(stray):
  label = np.array([0, 420, stray, stray], np.int32)
  with pytest.raises(ScanError, match=rf'{stray} \(2 voxels\)'):
    map_codes(label, {0: 0, 420: 3}, 'f')


@hypothesis.given(
  st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=24)
)
def test_codes_are_counted_however_far_apart(values):
  label = np.resize(np.array(values, np.int32), (2, 3, 4))
  codes, counts = np.unique(label, return_counts=True)
  found = count_codes(label)
  assert list(found) == codes.tolist()
  assert list(found.values()) == counts.tolist()
  table = {code: place for place, code in enumerate(found)}
  indices = look_up(label, table, np.uint8)
  np.testing.assert_array_equal(codes[indices], label)
